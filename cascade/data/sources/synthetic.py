"""Invented images as a source: drawn straight into the project's layout."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from cascade.data.sources.folder import PROVENANCE, check_output, staged
from cascade.data.sources.summary import FORMAT
from cascade.data.synthetic import SyntheticConfig, write_synthetic_dataset
from cascade.files import write_json

NAME = "synthetic"


def prepare_synthetic(
    output: str | os.PathLike[str], config: SyntheticConfig, *, overwrite: bool = False
) -> dict[str, dict[str, int]]:
    """Draw a data set of invented lesions, all of it or nothing.

    Args:
        output: the folder that gets the data set.
        config: what to draw.
        overwrite: replace a data set that was prepared before.

    Returns:
        Images by table and class.

    Raises:
        DataError: the output is in use or cannot be written to.
    """
    target = Path(output)
    check_output(target, overwrite=overwrite, append=False)
    with staged(target, append=False) as stage:
        counts = write_synthetic_dataset(stage, config)
        run = {"source": NAME, "options": asdict(config), "counts": counts}
        write_json(stage / PROVENANCE, {"format": FORMAT, "runs": [run]})
    return counts
