"""``cascade prepare``: from a data set on disk, or from nothing, to ``dataset/``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cascade.command_line.options import add_output
from cascade.command_line.outputs import say
from cascade.command_line.parser import OK, CommandParser, command, default_folder, settings
from cascade.data.sources.own_data import OwnData
from cascade.data.sources.selection import PrepareConfig
from cascade.errors import ConfigError

DESCRIPTION = """\
Turn a data set on disk, a folder or a ZIP or tar archive, into images_all, masks_all,
train_data.csv and test_data.csv. Originals are only read. Nothing is downloaded. Public data sets:
isic2016, isic2017, isic2018_task1, ham10000 (also isic2018_task3), isic2019, isic2020, isic2024,
isic_client (a folder of the isic client), bcn20000, milk10k, derm7pt, ph2; clinical images:
pad_ufes_20, ddi, fitzpatrick17k; reduced images in arrays: dermamnist, siim_arrays. Your own data:
folders, any images in class folders, with or without train, valid and test; table, any images with
a table (CSV, TSV, Excel, OpenDocument, Parquet). And synthetic, which draws invented lesions and
needs no input."""

EXAMPLE = """\
cascade prepare --source ham10000 --input downloads/HAM10000 --output dataset
  cascade prepare --source folders --input downloads/moles --malignant melanoma --output dataset
  cascade prepare --source table --input images --table list.xlsx --malignant mel --output dataset
  cascade prepare --source synthetic --count 200 --output demo"""

_ONLY_SYNTHETIC = {"count": 200, "malignant_fraction": 0.4, "lesions_per_patient": 0}
_ONLY_REAL = ("link", "indeterminate", "split", "skip_missing", "without_labels", "append")


def build_parser() -> CommandParser:
    """The parser of this command."""
    parser = CommandParser("cascade prepare", DESCRIPTION, example=EXAMPLE)
    parser.add_argument("name", nargs="?", default=None, help="the source, instead of --source")
    parser.add_argument("--source", default=None, help="name of the data set, see above")
    parser.add_argument("--input", type=str, default=None, help="folder, or ZIP or tar archive")
    add_output(parser, "folder of the data set", default=str(default_folder("dataset")))
    parser.add_argument(
        "--labels", type=str, default=None, help="metadata table with classes, for isic2018_task1"
    )
    parser.add_argument(
        "--masks",
        type=str,
        default=None,
        help="folder of masks, if they are not beside the images, or COCO or Label Studio JSON",
    )
    parser.add_settings(OwnData)
    parser.add_settings(PrepareConfig)
    parser.add_argument(
        "--count",
        type=int,
        default=_ONLY_SYNTHETIC["count"],
        help="synthetic: images to draw, training and test together",
    )
    parser.add_argument(
        "--malignant_fraction",
        type=float,
        default=_ONLY_SYNTHETIC["malignant_fraction"],
        help="synthetic: share of malignant images",
    )
    parser.add_argument(
        "--lesions_per_patient",
        type=int,
        default=_ONLY_SYNTHETIC["lesions_per_patient"],
        help="synthetic: 4 or more lesions of one look for each patient, one of them odd; "
        "--malignant_fraction is then the share of the odd ones that are malignant",
    )
    return parser


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    if arguments.name and arguments.source and arguments.name != arguments.source:
        raise ConfigError(f"two sources: {arguments.name} and {arguments.source}; give one")
    source = arguments.source or arguments.name
    if not source:
        raise ConfigError("name a data set with --source, for instance --source synthetic")
    lines = _draw(arguments) if source == "synthetic" else _convert(source, arguments)
    for line in lines:
        say(line)
    say(f"prepared {source} in {arguments.output}")
    return OK


def _draw(arguments: Any) -> list[str]:
    from cascade.data.sources.prepare import prepare_synthetic
    from cascade.data.synthetic import SyntheticConfig

    _refuse(arguments, {name: getattr(PrepareConfig, name) for name in _ONLY_REAL}, "synthetic")
    _refuse(arguments, {"input": None, "labels": None}, "synthetic")
    own = [f"--{name}" for name in settings(OwnData, arguments).given()]
    if own:
        raise ConfigError(f"{', '.join(own)} does not apply to the source synthetic; leave it out")
    test = round(arguments.count * arguments.test_fraction)
    if arguments.count < 1 or test >= arguments.count:
        raise ConfigError(
            f"count {arguments.count} with test_fraction {arguments.test_fraction} leaves no "
            "training image; raise the one or lower the other"
        )
    config = SyntheticConfig(
        count_train=arguments.count - test,
        count_test=test,
        malignant_fraction=arguments.malignant_fraction,
        lesions_per_patient=arguments.lesions_per_patient,
        seed=arguments.seed,
    )
    counts = prepare_synthetic(arguments.output, config, overwrite=arguments.overwrite)
    return [
        f"{split}: " + ", ".join(f"{n} {label}" for label, n in count.items())
        for split, count in counts.items()
    ]


def _convert(source: str, arguments: Any) -> list[str]:
    from cascade.data.sources.prepare import prepare

    _refuse(arguments, _ONLY_SYNTHETIC, source)
    if arguments.input is None:
        raise ConfigError(f"--input: name the folder of {source}, or its archive")
    config = settings(PrepareConfig, arguments)
    labels = Path(arguments.labels) if arguments.labels else None
    choices = settings(OwnData, arguments)
    summary = prepare(
        source, arguments.input, arguments.output, config, labels=labels, choices=choices
    )
    return summary.lines()


def _refuse(arguments: Any, defaults: dict[str, Any], source: str) -> None:
    """Refuse flags that would have no effect."""
    given = [f"--{name}" for name, default in defaults.items() if arguments[name] != default]
    if given:
        raise ConfigError(f"{', '.join(given)} does not apply to the source {source}; leave it out")
