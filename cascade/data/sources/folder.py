"""Filling a data set folder all at once or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from cascade.data.sources.packed import PackedImage
from cascade.data.sources.rows import Split
from cascade.data.spreadsheet import listed
from cascade.data.tables import read_csv
from cascade.errors import DataError
from cascade.imaging import read_mask, write_mask

Link = Literal["copy", "hardlink", "symlink"]

IMAGES, MASKS, PROVENANCE = "images_all", "masks_all", "prepare.json"
TABLES: dict[Split, str] = {"train": "train_data.csv", "test": "test_data.csv"}
ENTRIES = (IMAGES, MASKS, PROVENANCE, *TABLES.values())
"""What a prepared folder holds; tables come last, so they never name files that are not there."""


def check_output(output: Path, *, overwrite: bool, append: bool) -> None:
    """Refuse a folder that holds something that would be lost or mixed up.

    Raises:
        DataError: the folder holds a data set and neither option is given, or the data set there
            is not one that this program wrote, or it holds files of somebody else.
    """
    present = [name for name in ENTRIES if os.path.lexists(output / name)]
    if append and not all((output / name).exists() for name in (IMAGES, PROVENANCE)):
        raise DataError(f"{output}: there is no prepared data set to append to")
    if append or not present:
        return
    if not overwrite:
        raise DataError(
            f"{output}: already holds {', '.join(present)}; choose another folder (--output), "
            "--append to add to it, or --overwrite to replace it"
        )
    if PROVENANCE not in present:
        raise DataError(
            f"{output}: holds a data set that was not prepared by this command (no {PROVENANCE}), "
            "so --overwrite would destroy it; move it away first"
        )
    foreign = _foreign_files(output)
    if foreign:
        raise DataError(
            f"{output}: --overwrite would remove files that no table names: {listed(foreign)}; "
            "move them away first"
        )


def _foreign_files(output: Path) -> list[str]:
    """Images and masks that are in neither table."""
    known: set[str] = set()
    for name in TABLES.values():
        if (output / name).exists():
            known |= {row["name"] for row in read_csv(output / name)[1]}
    stems = {Path(name).stem for name in known}
    found = [f"{IMAGES}/{name}" for name in _names(output / IMAGES) if name not in known]
    masks = [name for name in _names(output / MASKS) if Path(name).stem not in stems]
    return sorted(found + [f"{MASKS}/{name}" for name in masks])


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def check_apart(source: Path, output: Path) -> None:
    """Refuse to write among the originals.

    Raises:
        DataError: the output is the input or lies in it, or the input lies in what is written.
    """
    inside, outside = source.resolve(), output.resolve()
    own = [outside / IMAGES, outside / MASKS]
    if outside.is_relative_to(inside) or any(inside.is_relative_to(folder) for folder in own):
        raise DataError(
            f"{output}: lies in the input {source} or holds it; originals are never touched, so "
            "choose an output elsewhere"
        )


@contextlib.contextmanager
def staged(output: Path, *, append: bool) -> Iterator[Path]:
    """Give an empty folder whose contents move into ``output`` if the block succeeds.

    Without ``append`` the entries there are replaced; with it images and masks are added. If
    anything fails, ``output`` is as it was.

    Raises:
        DataError: the folder cannot be written to, or the disk is full.
    """
    existed = output.is_dir()
    stage = None
    try:
        output.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(dir=output, prefix=".prepare-"))
        (stage / "new").mkdir()
        yield stage / "new"
        _move_in(stage, output, append=append)
    except OSError as error:
        raise DataError(f"{output}: could not be written ({error.strerror or error})") from error
    finally:
        if stage:
            shutil.rmtree(stage, ignore_errors=True)
        if not existed and output.is_dir() and not any(output.iterdir()):
            output.rmdir()


def _move_in(stage: Path, output: Path, *, append: bool) -> None:
    """Move everything in ``stage/new`` to ``output``, or nothing."""
    done: list[tuple[Path, Path]] = []
    folders = (IMAGES, MASKS) if append else ()
    moves = [(output / name, stage / "old" / name) for name in ENTRIES if name not in folders]
    moves = [(place, aside) for place, aside in moves if os.path.lexists(place)]
    for name in ENTRIES:
        new = stage / "new" / name
        inner = _names(new) if name in folders else []
        moves += [(new / file, output / name / file) for file in inner]
        if new.exists() and name not in folders:
            moves.append((new, output / name))
    (stage / "old").mkdir()
    try:
        for start, end in moves:
            end.parent.mkdir(exist_ok=True)
            start.rename(end)
            done.append((start, end))
    except BaseException:
        for start, end in reversed(done):
            end.rename(start)
        raise


def place(original: Path, target: Path, link: Link) -> None:
    """Copy or link one file; the original is never changed.

    Raises:
        DataError: the original cannot be read or linked.
    """
    try:
        if link == "copy":
            shutil.copyfile(original, target)
        elif link == "hardlink":
            os.link(original.resolve(), target)
        else:
            target.symlink_to(original.resolve())
    except OSError as error:
        advice = "" if link == "copy" else "; --link copy always works"
        raise DataError(f"{original}: cannot {link} ({error.strerror}){advice}") from error


def place_packed(image: PackedImage, target: Path) -> None:
    """Write one image of an open container as a file."""
    target.write_bytes(image.container.encoded(image.key))


def place_mask(original: Path, target: Path, link: Link) -> None:
    """Place a mask as PNG; a bitmap is converted without loss, other formats to 0 and 255.

    Raises:
        DataError: the mask cannot be read, linked or converted.
        ImageError: a JPEG or TIFF is not a mask, see :func:`cascade.imaging.read_mask`.
    """
    suffix = original.suffix.lower()
    if suffix == ".png":
        place(original, target, link)
        return
    if suffix != ".bmp":
        write_mask(target, read_mask(original))
        return
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(original) as mask:
            mask.convert("L").save(target)
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{original}: is not a readable mask ({error})") from error
