"""Flags that several commands share, and what they resolve to."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cascade.command_line.parser import CommandParser, default_folder
from cascade.errors import ConfigError, DataError
from cascade.lesion.policy import MaskPolicy

if TYPE_CHECKING:
    from cascade.data.class_column import ClassColumn
    from cascade.data.splits import Splits
    from cascade.data.tables import Table

log = logging.getLogger(__name__)

MaskMode = Literal[
    "whole", "crop", "hard_crop", "feathered_crop", "hard_full", "feathered_full",
    "background_full", "background_crop",
]  # fmt: skip


def add_output(
    parser: CommandParser,
    content: str,
    *,
    default: str | None = None,
    required: bool = False,
    resume: bool = False,
) -> None:
    """Add ``--output``, ``--overwrite`` and, for what can be gone on with, ``--resume``.

    Args:
        parser: where to add them.
        content: what is written, a file or a folder for several.
        default: where to, unless the user names another place.
        required: the user must name a place.
        resume: whether the command can go on from earlier results.
    """
    parser.add_argument(
        "--output",
        type=str,
        required=required,
        default=default,
        help=f"where results go: {content}",
    )
    parser.add_shared("overwrite", *(["resume"] if resume else []))


def add_model(
    parser: CommandParser, content: str, *, required: bool = False, default: str = ""
) -> None:
    """Add ``--model``, also known as ``--path``.

    Args:
        parser: where to add it.
        content: what the file must hold.
        required: it must be given.
        default: what is taken where it is not given.
    """
    parser.add_argument(
        "--model",
        "--path",
        type=str,
        required=required,
        default=None,
        help=f"file of {content}{default and f'; by default {default}'}; --path is the same flag",
    )


def add_any_cascade(parser: CommandParser) -> None:
    """Add ``--model`` for the commands that take the default cascade where none is named."""
    add_model(
        parser,
        "a cascade, folder of an exported one, or fast, the small one that comes with the library",
        default="the default one that comes with it",
    )


def add_data(parser: CommandParser, *, table: str) -> None:
    """Add the data folders and the table, which is ``table`` by default; see :func:`load_table`."""
    parser.add_shared(
        "more_data",
        "classes",
        "malignant",
        "skip_missing",
        data_path=str(default_folder("dataset")),
        table=table,
    )


def add_runtime(parser: CommandParser) -> None:
    """Add ``--device`` and who computes on it; see :func:`runtime_options`."""
    parser.add_shared("device", "runtime", "threads")
    parser.add_argument(
        "--precision",
        type=Literal["float32", "bfloat16"],
        default="float32",
        help="arithmetic of openvino and torch; bfloat16 is faster and coarser",
    )


def runtime_options(arguments: Any) -> dict[str, Any]:
    """What :meth:`cascade.Cascade.load` is to be told about who computes."""
    names = ("device", "runtime", "threads", "precision")
    return {name: arguments[name] for name in names}


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
            _read(
                flag,
                folder,
                arguments.table,
                labels=labels,
                skip=arguments.skip_missing,
                classes=class_column(arguments),
            )
            for flag, folder in zip(
                ("--data_path", *["--more_data"] * len(arguments.more_data)),
                data_folders(arguments),
                strict=True,
            )
        ]
    )


def data_folders(arguments: Any) -> list[Path]:
    """The folders that ``--data_path`` and ``--more_data`` name."""
    return [Path(arguments.data_path), *map(Path, arguments.more_data)]


def class_column(arguments: Any) -> ClassColumn | None:
    """What ``--classes`` and ``--malignant`` say.

    Raises:
        ConfigError: one was given without the other.
    """
    from cascade.data.class_column import ClassColumn

    if arguments.classes is None:
        if arguments.malignant:
            raise ConfigError("--malignant names classes of a column; give that with --classes")
        return None
    return ClassColumn(arguments.classes, tuple(arguments.malignant))


def _read(
    flag: str,
    folder: Path,
    name: str,
    *,
    labels: bool,
    skip: bool,
    classes: ClassColumn | None,
) -> Table:
    from cascade.data.tables import read_table

    if not folder.is_dir():
        raise DataError(
            f"{flag} {folder}: there is no such folder; make one with prepare_dataset.py, for "
            "instance: cascade prepare --source synthetic"
        )
    path = folder / name
    mask_folder = folder / "masks_all"
    return read_table(
        Path(name) if Path(name).is_file() and not path.is_file() else path,
        images=folder / "images_all",
        masks=mask_folder if mask_folder.is_dir() else None,
        classes=classes,
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
    if not len(masked):
        raise DataError(
            f"{table.path}: none of the {len(table)} images has a mask in masks_all; add masks. A "
            "classifier can do with those of cascade segment (--masks), or with --mask_mode whole"
        )
    if missing and not arguments.skip_missing:
        raise DataError(
            f"{table.path}: {len(missing)} of {len(table)} images have no mask in masks_all, e.g. "
            f"{', '.join(missing[:3])}; add them, or leave these images out with --skip_missing"
        )
    if missing:
        log.warning("warning: %d images without a mask are left out", len(missing))
    return masked


def with_pseudo_masks(folder: str, table: Table, splits: Splits) -> Table:
    """The records with a mask, for training images one of the folder where they have no other.

    Raises:
        DataError: the folder is missing, or has no mask for any of these images.
    """
    from cascade.data.spreadsheet import listed
    from cascade.imaging import read_mask

    validating = set(splits.validation)
    bare = [item.name for item in table if not item.mask_path and item.name not in validating]
    found = table.subset(bare).with_masks_found_in(folder)
    if not len(found):
        raise DataError(
            f"--pseudo_masks {folder}: holds no STEM.png for any of the {len(bare)} training "
            "images that have no mask of their own"
        )
    empty = [record.name for record in found if not read_mask(record.mask_path or "").any()]
    if empty:
        raise DataError(
            f"--pseudo_masks {folder}: {len(empty)} of {len(found)} masks are empty, e.g. "
            f"{listed(empty)}; nobody should learn from them; remove them, or make masks with "
            "cascade segment --agreement, which leaves such images out"
        )
    predicted = {record.name: record for record in found}
    records = [predicted.get(item.name, item) for item in table]
    known = replace(table, records=tuple(item for item in records if item.mask_path))
    log.info(
        "%d images learn from predicted masks, %d have no mask and are left out",
        len(found), len(table) - len(known),
    )  # fmt: skip
    return known


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
            named = class_column(arguments)
            other = read_table(test, classes=named, check_files=False, require_labels=False)
            require_disjoint(table, other)
