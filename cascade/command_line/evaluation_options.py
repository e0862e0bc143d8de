"""What the three evaluating commands share."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cascade.command_line.options import add_data, add_device, add_switch, data_folders
from cascade.command_line.outputs import say, say_table
from cascade.command_line.parser import CommandParser
from cascade.errors import ConfigError

if TYPE_CHECKING:
    from cascade.data.tables import Table
    from cascade.evaluation.html import ReportSection
    from cascade.evaluation.overlays import Sketch
    from cascade.evaluation.stages import Evaluation


def add_evaluation(parser: CommandParser, *, output: str) -> None:
    """Add the flags of every evaluation."""
    add_device(parser)
    add_data(parser, table="test_data.csv")
    parser.add_argument(
        "--output", type=str, default=output, help="folder for numbers, plots and the page"
    )
    parser.add_argument(
        "--batch_size", type=int, default=1, help="images at a time; try 32 on CUDA"
    )
    parser.add_argument(
        "--num_workers", type=int, default=2, help="threads that read images ahead; 0 reads in turn"
    )
    parser.add_argument(
        "--image_size",
        type=int,
        default=None,
        help="checked against the model's own side in pixels, which never changes after training",
    )
    parser.add_argument(
        "--tta",
        type=Literal["none", "flips", "dihedral"],
        default="none",
        help="test-time augmentation: average 1, 4 or 8 views",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap intervals")
    add_switch(parser, "--allow_seen", "evaluate on images that the model was trained on")


def check_unseen(provenance: Mapping[str, Any], table: Table, *, model: str, allowed: bool) -> None:
    """Refuse images that the model was trained on, unless that was asked for."""
    from cascade.training.run import require_unseen

    if not allowed:
        for stage in provenance.values():
            require_unseen(stage, table.names(), model=model)


def check_size(arguments: Any, sizes: Mapping[str, int]) -> None:
    """Refuse an ``--image_size`` that is not the model's.

    Raises:
        ConfigError: a network would see something else than in training.
    """
    wanted = arguments.image_size
    if wanted is not None and wanted not in sizes.values():
        own = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ConfigError(
            f"--image_size {wanted}: the model was trained at {own} pixels and keeps that; leave "
            "the flag out, or train another model"
        )


def report(
    arguments: Any,
    evaluation: Evaluation,
    *,
    title: str,
    models: Sequence[str],
    sketch: Sketch | None = None,
    about_model: Mapping[str, Any] | None = None,
    more: Sequence[ReportSection] = (),
) -> None:
    """Print the numbers and write the evaluation's files.

    ``about_model`` joins their ``about``, ``more`` the sections of the page.
    """
    from cascade.evaluation.report import write_evaluation
    from cascade.evaluation.safeguard_report import safeguard_lines
    from cascade.evaluation.score_table import (
        STAGE_HEADERS,
        classification_lines,
        segmentation_lines,
        stage_rows,
    )

    metrics = evaluation.metrics
    for name, lines in (
        ("segmentation", segmentation_lines),
        ("classification", classification_lines),
    ):
        if name in metrics:
            say(f"{name}:")
            for line in lines(metrics[name]):
                say(line)
            say()
    if "stages" in metrics:
        say_table(STAGE_HEADERS, stage_rows(metrics["stages"]))
        say()
    for line in (safeguards := safeguard_lines(metrics.get("safeguards", {}))):
        say(line)
    if safeguards:
        say()
    folder = Path(arguments.output)
    about = {
        "model": " and ".join("/".join(Path(path).parts[-2:]) for path in models),
        **(about_model or {}),
        "data": " + ".join(
            f"{folder.name}/{Path(arguments.table).name}" for folder in data_folders(arguments)
        ),
        "images": len(evaluation.cases),
        "test-time augmentation": arguments.tta,
        "date": datetime.date.today().isoformat(),
    }
    write_evaluation(folder, evaluation, title=title, about=about, sketch=sketch, more=more)
    say(f"written: {folder / 'report.html'}, metrics.json, predictions.csv and plots")
