"""``cascade annotate-export``: predicted masks for people to correct."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.command_line.options import add_output
from cascade.command_line.outputs import refuse_to_replace, say
from cascade.command_line.parser import OK, PARTIAL, CommandParser, command
from cascade.errors import ConfigError, DataError
from cascade.version import __version__

if TYPE_CHECKING:
    import numpy as np

_TABLE = "predictions.csv"
_NEEDED = ("path", "error", "mask")


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade annotate-export",
        "Write the masks of cascade predict --save_masks as pre-annotations of Label Studio "
        "(brushes) and as COCO (run lengths). Corrected ones come back with cascade prepare "
        "--masks. Inputs that failed are left out, and the exit code is then 3.",
        example="cascade predict images --output predictions --save_masks\n"
        "  cascade annotate-export predictions --output annotations",
    )
    parser.add_argument(
        "predictions", type=str, help=f"folder with {_TABLE} and masks, of cascade predict"
    )
    add_output(
        parser,
        "folder for label_studio.json, label_studio.xml and coco.json",
        default="annotations",
    )
    parser.add_argument(
        "--root",
        type=str,
        default=None,
        help="folder that names of images begin at, such as Label Studio's "
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT; by default the deepest that holds all of them",
    )
    parser.add_argument(
        "--image_prefix",
        type=str,
        default="/data/local-files/?d=",
        help="what stands before each name in Label Studio, such as https://images.example/; by "
        "default the address of its local files",
    )
    parser.add_argument(
        "--model_version",
        type=str,
        default=f"cascade {__version__}",
        help="what Label Studio calls the model",
    )
    return parser


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    from cascade.data.annotation_export import (
        COCO_FILE,
        STUDIO_FILE,
        STUDIO_SETUP_FILE,
        write_annotations,
    )

    folder = Path(arguments.output)
    files = (STUDIO_FILE, STUDIO_SETUP_FILE, COCO_FILE)
    refuse_to_replace(arguments, *(folder / name for name in files))
    source = Path(arguments.predictions)
    rows, failed = _rows(source)
    names = _names([row["path"] for row in rows], arguments.root)
    count = write_annotations(
        folder,
        _masks(source, rows, names),
        prefix=arguments.image_prefix,
        model_version=arguments.model_version,
    )
    say(f"written: {', '.join(files)} in {folder}, {count} images, {failed} failed ones left out")
    say("correct them and export them as EXPORTED.json")
    return PARTIAL if failed else OK


def _rows(folder: Path) -> tuple[list[dict[str, str]], int]:
    """The rows of predictions that have a mask, and how many failed.

    Raises:
        ConfigError: they were predicted without writing masks.
        DataError: the table is missing, of another command, or holds failures only.
    """
    from cascade.data.tables import read_csv

    table = folder / _TABLE
    columns, rows = read_csv(table)
    missing = [name for name in _NEEDED if name not in columns]
    if missing:
        raise DataError(
            f"{table}: has no column {', '.join(missing)}; give the folder of cascade predict"
        )
    fine = [row for row in rows if not row["error"]]
    if not fine:
        raise DataError(f"{table}: all {len(rows)} predictions failed, e.g. {rows[0]['error']}")
    bare = [row["path"] for row in fine if not row["mask"]]
    if bare:
        raise ConfigError(
            f"{table}: {len(bare)} predictions have no mask, e.g. {bare[0]}; predict again with "
            "--save_masks --overwrite"
        )
    return fine, len(rows) - len(fine)


def _names(paths: Sequence[str], root: str | None) -> list[str]:
    """Paths from the root, with ``/``.

    Raises:
        ConfigError: one lies elsewhere.
        DataError: two rows are of one image.
    """
    files = [_whole(path) for path in paths]
    base = _whole(root or os.path.commonpath([file.parent for file in files]))
    outside = [str(file) for file in files if not file.is_relative_to(base)]
    if outside:
        raise ConfigError(f"--root {root}: {outside[0]} does not lie in it; name a folder above")
    names = [file.relative_to(base).as_posix() for file in files]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{_TABLE}: has two rows of {twice}; keep one")
    return names


def _whole(path: str) -> Path:
    """A path from the root of the disk; links stay, because a tool shows what the user named."""
    return Path(os.path.normpath(Path(path).absolute()))


def _masks(
    folder: Path, rows: Sequence[Mapping[str, str]], names: Sequence[str]
) -> Iterator[tuple[str, np.ndarray]]:
    from cascade.imaging import read_mask
    from cascade.progress import progress

    pairs = list(zip(names, rows, strict=True))
    for name, row in progress(pairs, description="encoding"):
        mask = read_mask(folder / row["mask"], predicted=True)
        size = f"{mask.shape[1]} x {mask.shape[0]}"
        expected = f"{row.get('width', '')} x {row.get('height', '')}"
        if expected not in (size, " x "):
            raise DataError(
                f"{folder / row['mask']}: has {size} pixels, but {row['path']} has {expected}; "
                "predict again with --save_masks --overwrite"
            )
        yield name, mask
