"""How a public data set is prepared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cascade.config import check_settings, setting
from cascade.data.sources.division import SplitBy
from cascade.data.sources.folder import Link
from cascade.errors import ConfigError

Indeterminate = Literal["exclude", "benign", "malignant", "error"]


@dataclass(frozen=True)
class PrepareConfig:
    """How a public data set is prepared."""

    link: Link = setting("copy", "how images get into images_all; a link needs no space")
    indeterminate: Indeterminate = setting(
        "exclude", "what becomes of diagnoses between the classes, such as actinic keratosis"
    )
    split: SplitBy = setting(
        "auto",
        "test table: source takes the data set's own, random draws groups, auto takes the data "
        "set's own if it is there",
    )
    test_fraction: float = setting(
        0.2, "share of images drawn for the test table", minimum=0.0, maximum=1.0
    )
    seed: int = setting(0, "seed of the draw", minimum=0)
    skip_missing: bool = setting(False, "leave out rows whose image is missing, and count them")
    without_labels: bool = setting(
        False, "write tables without classes, which suffice to train the segmenter"
    )
    overwrite: bool = setting(False, "replace a data set that was prepared before")
    append: bool = setting(False, "add to a data set that was prepared before")

    def __post_init__(self) -> None:
        check_settings(self)
        if self.overwrite and self.append:
            raise ConfigError("overwrite and append exclude each other; give one of them")
