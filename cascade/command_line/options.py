"""Flags that several commands share, and what they resolve to."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cascade.command_line.parser import CommandParser, default_folder
from cascade.errors import ConfigError, DataError
from cascade.lesion.policy import MaskPolicy

if TYPE_CHECKING:
    from cascade.data.splits import Splits
    from cascade.data.tables import Table

log = logging.getLogger(__name__)

MaskMode = Literal[
    "whole", "crop", "hard_crop", "feathered_crop", "hard_full", "feathered_full",
    "background_full", "background_crop",
]  # fmt: skip


def add_data(parser: CommandParser, *, table: str | None) -> None:
    """Add ``--data_path`` and, for commands that read a table, ``--table`` and ``--skip_missing``.

    Args:
        parser: where to add them.
        table: the default table's file name.
    """
    parser.add_argument(
        "--data_path",
        type=str,
        default=str(default_folder("dataset")),
        help="folder with images_all, masks_all and the tables",
    )
    parser.add_argument(
        "--more_data",
        type=str,
        nargs="+",
        default=[],
        help="more folders like it, joined with the first",
    )
    if table is not None:
        parser.add_argument(
            "--table", type=str, default=table, help="table in the data folder, or a path"
        )
        add_switch(
            parser, "--skip_missing", "leave out and count rows whose image or mask is missing"
        )


def add_device(parser: CommandParser) -> None:
    """Add ``--device``."""
    parser.add_argument(
        "--device",
        "-d",
        type=str,
        default="auto",
        help="auto (CUDA where there is one, else the CPU), cpu, cuda or cuda:N",
    )


def add_runtime(parser: CommandParser) -> None:
    """Add ``--runtime``, ``--threads`` and ``--precision``; see :func:`runtime_options`."""
    parser.add_argument(
        "--runtime",
        type=Literal["auto", "torch", "onnx", "openvino"],
        default="auto",
        help="what computes: torch runs a .safetensors file, onnx and openvino a folder of cascade "
        "export; auto goes by the model",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=None,
        help="threads of an exported cascade; by default OMP_NUM_THREADS, else all cores",
    )
    parser.add_argument(
        "--precision",
        type=Literal["float32", "bfloat16"],
        default="float32",
        help="arithmetic of openvino; bfloat16 is faster and coarser",
    )


def runtime_options(arguments: Any) -> dict[str, Any]:
    """What :meth:`cascade.Cascade.load` is to be told about who computes."""
    names = ("device", "runtime", "threads", "precision")
    return {name: arguments[name] for name in names}


def add_cutoff(parser: CommandParser) -> None:
    """Add ``--cutoff``."""
    parser.add_argument(
        "--cutoff",
        type=float,
        default=None,
        help="probability from which a case is malignant; by default the one in the file",
    )


def add_operating_point(parser: CommandParser) -> None:
    """Add ``--operating_point``."""
    parser.add_argument(
        "--operating_point",
        type=float,
        default=None,
        help="instead of --cutoff: the stored cutoff that reached this sensitivity on the "
        "validation part, such as 0.90",
    )


def add_coverage(parser: CommandParser) -> None:
    """Add ``--coverage``."""
    parser.add_argument(
        "--coverage",
        type=float,
        default=0.9,
        help="share of the images of each class whose set of possible classes is to hold the true "
        "one, in (0, 1]",
    )


def add_start(parser: CommandParser) -> None:
    """Add the start of a single training: its division and an earlier training to go on from."""
    add_splits(parser)
    parser.add_argument(
        "--initial_model",
        type=str,
        default=None,
        help="trained model of the same architecture to go on from, for instance with larger "
        "images; its weights replace those of --encoder_weights",
    )


def add_splits(parser: CommandParser) -> None:
    """Add ``--splits``."""
    parser.add_argument(
        "--splits",
        type=str,
        default=None,
        help="file of the train and validation division, made if absent; by default splits.json in "
        "the data folder; both stages must use the same one",
    )


def add_masks(parser: CommandParser) -> None:
    """Add ``--masks``, those that cut training crops; see :func:`with_crop_masks`."""
    parser.add_argument(
        "--masks",
        type=str,
        default="truth",
        help="masks that cut the training crops: truth (masks_all), or a folder of predicted masks "
        "such as out-of-fold masks from cascade oof-masks",
    )


def add_training(parser: CommandParser, *, output: str) -> None:
    """Add what all training commands have beside their settings."""
    parser.add_argument(
        "--encoder_weights",
        "--weights",
        type=str,
        default="none",
        help="weights to start from: none (random), imagenet (downloaded; trains much better), or "
        "a local .pth or .safetensors file",
    )
    parser.add_argument(
        "--output",
        type=str,
        default=str(default_folder("models") / output),
        help="folder for best.safetensors, last.safetensors, history.csv and config.yaml",
    )
    parser.add_argument(
        "--validation_fraction",
        type=float,
        default=0.15,
        help="share of the training table that validates, in [0, 1]",
    )
    add_switch(parser, "--resume", "go on with the run in the output folder")
    add_switch(parser, "--overwrite", "replace the run in the output folder")


def add_switch(parser: CommandParser, flag: str, help: str) -> None:
    """Add a flag that is off unless given; a YAML file may set it to true or false."""
    parser.add_argument(flag, action="store_true", default=False, help=help)


def add_mask_policy(parser: CommandParser) -> None:
    """Add the flags of :class:`cascade.lesion.masking.MaskPolicy`."""
    default = MaskPolicy()
    parser.add_argument(
        "--mask_mode",
        type=MaskMode,
        default=default.mode,
        help="what the classifier sees: the whole image, a crop with margin, a crop or the full "
        "frame without background (hard edge, or feathered beyond a dilated mask), or the "
        "background only",
    )
    add_crop_shape(parser)
    parser.add_argument(
        "--on_empty",
        type=Literal["whole", "abstain", "raise"],
        default=default.on_empty,
        help="without a lesion: classify the whole image, give no label, or stop",
    )


def add_crop_shape(parser: CommandParser) -> None:
    """Add how wide a crop's margin and soft edge are."""
    default = MaskPolicy()
    parser.add_argument(
        "--margin",
        type=float,
        default=default.margin,
        help="skin on each side of the crop, as a fraction of the lesion's longer side",
    )
    parser.add_argument(
        "--dilation",
        type=float,
        default=default.dilation,
        help="growth of the mask before feathering, same unit",
    )
    parser.add_argument(
        "--feather", type=float, default=default.feather, help="width of the soft edge, same unit"
    )


def mask_policy(arguments: Any) -> MaskPolicy:
    """The policy that the flags describe."""
    return MaskPolicy.from_mode(
        arguments.mask_mode,
        margin=arguments.margin,
        dilation=arguments.dilation,
        feather=arguments.feather,
        on_empty=arguments.on_empty,
    )


def load_table(arguments: Any, *, labels: bool = True) -> Table:
    """Read the table that the flags name.

    Args:
        arguments: parsed flags with ``data_path``, ``table`` and ``skip_missing``.
        labels: whether each image needs a class.

    Raises:
        DataError: the folder or table is missing, or not usable.
    """
    from cascade.data.joined import join_tables

    return join_tables(
        [
            _read(folder, arguments.table, labels=labels, skip=arguments.skip_missing)
            for folder in data_folders(arguments)
        ]
    )


def data_folders(arguments: Any) -> list[Path]:
    """The folders that ``--data_path`` and ``--more_data`` name."""
    return [Path(arguments.data_path), *map(Path, arguments.more_data)]


def _read(folder: Path, name: str, *, labels: bool, skip: bool) -> Table:
    from cascade.data.tables import read_table

    if not folder.is_dir():
        raise DataError(
            f"--data_path {folder}: there is no such folder; make one with prepare_dataset.py, for "
            "instance: cascade prepare --source synthetic"
        )
    path = folder / name
    mask_folder = folder / "masks_all"
    return read_table(
        path if path.is_file() else Path(name),
        images=folder / "images_all",
        masks=mask_folder if mask_folder.is_dir() else None,
        require_labels=labels,
        skip_missing=skip,
    )


def with_masks(arguments: Any, table: Table) -> Table:
    """The records that have a mask; with ``--skip_missing`` the others are counted and left out.

    Raises:
        DataError: masks are missing and were not to be skipped, or there is none at all.
    """
    masked = table.with_mask()
    missing = sorted(set(table.names()) - set(masked.names()))
    if missing and not (arguments.skip_missing and len(masked)):
        raise DataError(
            f"{table.path}: {len(missing)} of {len(table)} images have no mask in masks_all, e.g. "
            f"{', '.join(missing[:3])}; add them, or leave these images out with --skip_missing"
        )
    if missing:
        log.warning("warning: %d images without a mask are left out", len(missing))
    return masked


def with_crop_masks(arguments: Any, table: Table, policy: MaskPolicy) -> Table:
    """The table with the masks of ``--masks``, or as it is where crops need none."""
    if not policy.uses_mask:
        return table
    if arguments.masks == "truth":
        return with_masks(arguments, table)
    return table.with_masks_from(arguments.masks)


def stored_splits(arguments: Any, table: Table) -> Splits:
    """Read the division that models were trained with; it is never made here.

    Raises:
        DataError: there is no such file, or it is not one of this table.
    """
    from cascade.data.splits import read_splits, require_fitting

    path = arguments.splits or Path(arguments.data_path) / "splits.json"
    splits = read_splits(path)
    require_fitting(splits, table, source=path)
    return splits


def load_splits(arguments: Any, table: Table) -> Splits:
    """Read the division that both stages share, or make it; refuse one that leaks into the test."""
    from cascade.data.splits import load_or_make_splits

    folders = data_folders(arguments)
    if arguments.splits is None and len(folders) > 1:
        raise ConfigError(
            "--splits FILE is needed with --more_data: the division belongs to no folder alone"
        )
    refuse_leak_into_test(arguments, table)
    return load_or_make_splits(
        table,
        Path(arguments.splits or folders[0] / "splits.json"),
        fraction=arguments.validation_fraction,
        seed=arguments.seed,
    )


def refuse_leak_into_test(arguments: Any, table: Table) -> None:
    """Compare a training table with the test tables beside it, if there are any.

    Raises:
        LeakageError: they share a patient, a lesion, a group or an image.
    """
    from cascade.data.splits import require_disjoint
    from cascade.data.tables import read_table

    for test in (folder / "test_data.csv" for folder in data_folders(arguments)):
        if test.is_file() and arguments.table != test.name:
            require_disjoint(table, read_table(test, check_files=False, require_labels=False))
