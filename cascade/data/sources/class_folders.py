"""Class folders: ``benign/1.jpg``, with or without ``train``, ``valid`` and ``test`` above."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from cascade.data.sources.own_data import PLAIN, OwnData, class_key, class_meaning, told
from cascade.data.sources.own_files import OwnFiles, left_out_warnings
from cascade.data.sources.rows import Source, SourceRow, SourceTable, Split
from cascade.data.sources.source_files import Layout
from cascade.data.spreadsheet import listed
from cascade.errors import DataError
from cascade.files import file_digest

SPLITS: Mapping[str, Split] = {
    "train": "train", "training": "train", "valid": "train", "validation": "train",
    "val": "train", "test": "test", "testing": "test",
}  # fmt: skip
"""What a folder above or below the classes means."""


class Place(NamedTuple):
    """Where an image lies: above which part, in which part, in which class (or in none)."""

    above: tuple[str, ...]
    split: str
    name: str
    rest: tuple[str, ...]


def read_folders(layout: Layout, choices: OwnData | None = None) -> SourceTable:
    """Read images whose classes are the names of their folders; without these they have none.

    Raises:
        DataError: there are no images, images lie beside train and test folders, or a class is
            neither plain nor explained by ``choices.malignant``.
    """
    choices = choices or OwnData()
    malignant = choices.malignant
    files = OwnFiles(layout, choices.masks)
    plain = {*PLAIN, *map(class_key, malignant)}
    places = _places(files, plain)
    places, copies = _without_copies(files, places)
    words = {place.name for place in places.values() if place.name}
    meaning = class_meaning(words, malignant, place=str(layout.root)) if words else {}
    names = files.names(list(places))
    rows = [
        SourceRow(
            stem=names[path],
            label=meaning[class_key(place.name)] if place.name else "unknown",
            split=SPLITS[place.split.lower()] if place.split else "train",
            where=str(path.relative_to(layout.root)),
            image=path,
            mask=files.mask(path),
            attributes={"diagnosis": _diagnosis(place.name) if words else ""},
        )
        for path, place in places.items()
    ]
    return SourceTable(
        tuple(rows),
        (),
        has_labels=bool(words),
        why_no_labels=f"{layout.root}: holds no class folders such as benign and malignant; with "
        "the classes in a table, use --source table",
        warnings=(*copies, *left_out_warnings(files)),
        mask_files=files.mask_files,
        notes=_notes(
            places,
            f"class folders, {told(words, meaning)}" if words else "no class folders",
            renamed=any(n != p.stem for p, n in names.items()),
        ),
    )


def _diagnosis(name: str) -> str:
    if not name:
        return "not in a class folder"
    return "" if class_key(name) in PLAIN else name


def _places(files: OwnFiles, plain: set[str]) -> dict[Path, Place]:
    """Where each image lies."""
    parts = {path: files.parts(path) for path in files.images}
    at = {
        path: next((n for n, name in enumerate(own) if name.lower() in SPLITS), None)
        for path, own in parts.items()
    }
    if all(place is None for place in at.values()):
        depth = _wrapping(list(parts.values()), plain)
        return {
            path: Place(own[:depth], "", "".join(own[depth : depth + 1]), own[depth + 1 :])
            for path, own in parts.items()
        }
    beside = [path.relative_to(files.root) for path, place in at.items() if place is None]
    if beside:
        inside = next(own[place] for path, own in parts.items() if (place := at[path]) is not None)
        raise DataError(
            f"{files.root}: {len(beside)} images lie beside the folder {inside} and not in it: "
            f"{listed(beside, limit=3)}; move them, or name one of the folders with --input"
        )
    below = any(len(own) > (at[path] or 0) + 1 for path, own in parts.items())
    places = {}
    for path, own in parts.items():
        split = at[path] or 0
        if below:
            name, above = "".join(own[split + 1 : split + 2]), own[:split]
        else:  # benign/train/1.jpg
            name, above = "".join(own[max(split - 1, 0) : split]), own[: max(split - 1, 0)]
        places[path] = Place(above, own[split], name, own[split + 2 :])
    return places


def _wrapping(parts: list[tuple[str, ...]], plain: set[str]) -> int:
    """How many folders are around everything and are no class."""
    depth = 0
    while all(len(own) > depth for own in parts):
        names = {own[depth] for own in parts}
        if len(names) > 1 or class_key(names.pop()) in plain:
            break
        depth += 1
    return depth


def _without_copies(
    files: OwnFiles, places: dict[Path, Place]
) -> tuple[dict[Path, Place], tuple[str, ...]]:
    """Take a data set once that an archive holds twice, as ``train/`` and as ``data/train/``.

    Raises:
        DataError: the two differ.
    """
    first: dict[tuple[object, ...], Path] = {}
    kept: dict[Path, Place] = {}
    for path, place in sorted(places.items(), key=lambda item: (len(item[1].above), item[0])):
        other = first.setdefault((*place[1:], path.name), path)
        if other == path or places[other].above == place.above:
            kept[path] = place
        elif file_digest(other) != file_digest(path):
            raise DataError(
                f"{files.root}: {other.relative_to(files.root)} and "
                f"{path.relative_to(files.root)} differ, so there are two data sets; name one of "
                "them with --input"
            )
    if len({place.above for place in kept.values()}) > 1:
        folders = sorted({"/".join(place.above) or "." for place in kept.values()})
        raise DataError(
            f"{files.root}: holds several data sets, in {listed(folders)}; name one with --input"
        )
    copies = len(places) - len(kept)
    warning = f"{copies} images lie there twice, in two equal folders; each is taken once"
    return {path: kept[path] for path in sorted(kept)}, (warning,) if copies else ()


def _notes(places: Mapping[Path, Place], classes: str, *, renamed: bool) -> tuple[str, ...]:
    notes = [classes]
    counts = Counter(place.split for place in places.values())
    if "" not in counts:
        tables = {"train": "train_data.csv", "test": "test_data.csv"}
        notes.append(
            "parts "
            + ", ".join(
                f"{name} ({n}) -> {tables[SPLITS[name.lower()]]}"
                for name, n in sorted(counts.items())
            )
        )
    if renamed:
        notes.append("file names repeat in several folders, so each is called FOLDERS_NAME")
    return tuple(notes)


FOLDERS = Source(
    "folders",
    "class folders",
    "of the data set",
    read_folders,
    takes=("malignant", "masks"),
    labels=PLAIN,
    size="yours",
    classes="yours",
    masks="if present",
)
