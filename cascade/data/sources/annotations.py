"""Masks of annotation files: COCO, Label Studio and the cells of a table."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from cascade.data.locate import IMAGE_SUFFIXES
from cascade.data.sources.mask_codes import (
    Shape,
    brush_mask,
    coco_mask,
    pairs_mask,
    polygon_mask,
)
from cascade.data.spreadsheet import listed
from cascade.errors import DataError
from cascade.files import read_json
from cascade.imaging import read_shape

LESION = "lesion"
"""The label that is taken where a file has several."""

Part = Callable[[Shape], np.ndarray]
"""Draws a part of a mask in an image of a shape."""


@dataclass(frozen=True)
class DrawnMask:
    """A mask that is described, not saved as an image: all parts together.

    ``where`` is the file and the entry, ``shape`` the ``(H, W)`` that it says the image has.
    """

    where: str
    parts: tuple[Part, ...]
    shape: Shape | None = None

    def pixels(self, image: Path) -> np.ndarray:
        """Draw the mask of an image, ``(H, W)`` bool.

        Raises:
            DataError: the description is damaged or is of an image of another size.
        """
        shape = read_shape(image)
        if self.shape and self.shape != shape:
            raise DataError(
                f"{self.where}: its image has {self.shape[1]} x {self.shape[0]} pixels, but "
                f"{image} has {shape[1]} x {shape[0]}"
            )
        try:
            parts = [part(shape) for part in self.parts]
        except DataError as error:
            raise DataError(f"{self.where}: {error}") from error
        return np.logical_or.reduce(parts)


def read_annotations(path: Path) -> dict[str, DrawnMask]:
    """Read COCO or Label Studio JSON.

    Returns:
        The mask of each image that has one, by the image's name in the file.

    Raises:
        DataError: the file is neither, or an entry has no single meaning.
    """
    document = read_json(path)
    try:
        if isinstance(document, dict) and {"images", "annotations"} <= document.keys():
            return _coco(document, path)
        if isinstance(document, list) and all("data" in task for task in document):
            return _label_studio(document, path)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path}: an entry lacks what it must have ({type(error).__name__}: {error})"
        ) from error
    raise DataError(
        f"{path}: is neither COCO (images and annotations) nor a list of Label Studio's tasks"
    )


def cell_mask(text: str, where: str) -> DrawnMask | None:
    """The mask in a cell of a table, ``None`` in an empty one.

    That is COCO's run lengths with their size as JSON, uncompressed counts as a list, or pairs of
    start and length as on Kaggle, where ``-1`` means none.

    Raises:
        DataError: the cell holds something else.
    """
    text = text.strip()
    if text.casefold() in ("", "-1", "nan", "none", "null"):
        return None
    if re.fullmatch(r"\d{1,12}(\s+\d{1,12})+", text):
        numbers = [int(number) for number in text.split()]
        return DrawnMask(where, (functools.partial(pairs_mask, numbers),))
    try:
        code = json.loads(text)
        if isinstance(code, dict):
            return DrawnMask(where, *_coco_part(code))
        if isinstance(code, list):
            return DrawnMask(where, (functools.partial(coco_mask, code),))
    except (ValueError, KeyError, TypeError):
        pass
    raise DataError(
        f"{where}: {text[:40]!r} is no mask; expected pairs of start and length, or COCO's size "
        "and counts as JSON"
    )


def _coco_part(code: Mapping[str, Any]) -> tuple[tuple[Part], Shape]:
    height, width = (int(side) for side in code["size"])
    return (functools.partial(coco_mask, code["counts"]),), (height, width)


def _one_label(names: set[str], path: Path) -> set[str]:
    """The labels to take: the only one, or that of the lesion.

    Raises:
        DataError: there are several others.
    """
    lesion = {name for name in names if name.casefold() == LESION}
    if len(names) > 1 and len(lesion) != 1:
        raise DataError(
            f"{path}: has several labels: {listed(sorted(names))}; call the one of the lesion "
            f"{LESION!r}, or leave the others out"
        )
    return lesion or names


def _coco(document: Mapping[str, Any], path: Path) -> dict[str, DrawnMask]:
    images = {image["id"]: image for image in document["images"]}
    names = {entry["id"]: str(entry["name"]) for entry in document.get("categories", [])}
    marked = [entry for entry in document["annotations"] if entry.get("segmentation")]
    label = {
        entry.get("category_id"): str(names.get(entry.get("category_id"), "")) for entry in marked
    }
    taken = _one_label(set(label.values()), path)
    parts: dict[Any, list[Part]] = {}
    for entry in marked:
        if entry["image_id"] not in images:
            raise DataError(f"{path}: annotation {entry.get('id')} is of no image in the file")
        if label[entry.get("category_id")] not in taken:
            continue
        code, own = entry["segmentation"], parts.setdefault(entry["image_id"], [])
        if isinstance(code, dict):
            own.append(_coco_part(code)[0][0])
        else:
            own += [
                functools.partial(polygon_mask, np.asarray(flat, float).reshape(-1, 2))
                for flat in code
            ]
    masks: dict[str, DrawnMask] = {}
    for key, own in parts.items():
        name = str(images[key]["file_name"])
        shape = (int(images[key]["height"]), int(images[key]["width"]))
        if name in masks:
            raise DataError(f"{path}: two images are named {name}; keep one")
        masks[name] = DrawnMask(f"{path.name}: {name}", tuple(own), shape)
    return masks


def _label_studio(tasks: Sequence[Mapping[str, Any]], path: Path) -> dict[str, DrawnMask]:
    regions: dict[str, Sequence[Mapping[str, Any]]] = {}
    if any(task.get("predictions") for task in tasks) and not any(
        task.get("annotations") for task in tasks
    ):
        raise DataError(
            f"{path}: holds predictions that nobody has looked at; correct and submit them in "
            "Label Studio and export the project as JSON"
        )
    for task in tasks:
        name, marked = _task_image(task, path), _regions(task, path)
        if marked and regions.setdefault(name, marked) is not marked:
            raise DataError(f"{path}: two tasks are of {name}; keep one")
    labels = {_region_label(region) for own in regions.values() for region in own}
    taken = _one_label(labels, path)
    masks = {}
    for name, own in regions.items():
        kept = [region for region in own if _region_label(region) in taken]
        shapes = {(int(r["original_height"]), int(r["original_width"])) for r in kept}
        if len(shapes) > 1:
            raise DataError(f"{path.name}: {name}: its regions are of images of several sizes")
        if kept:
            parts = tuple(_region_part(region) for region in kept)
            masks[name] = DrawnMask(f"{path.name}: {name}", parts, shapes.pop())
    return masks


def _task_image(task: Mapping[str, Any], path: Path) -> str:
    """The image of a task; uploaded ones and local files have a path of the server."""
    found = [
        name
        for text in (task.get("file_upload"), *task["data"].values())
        if isinstance(text, str)
        and (name := unquote(text).split("?d=")[-1]).lower().endswith(IMAGE_SUFFIXES)
    ]
    if not found:
        raise DataError(f"{path}: task {task.get('id')} names no image")
    return found[0]


def _regions(task: Mapping[str, Any], path: Path) -> list[Mapping[str, Any]]:
    """The brushes and polygons of the one annotation of a task."""
    given = [
        [region for region in annotation["result"] if "original_width" in region]
        for annotation in task.get("annotations", [])
        if not annotation.get("was_cancelled")
    ]
    given = [regions for regions in given if regions]
    if len(given) > 1:
        raise DataError(
            f"{path}: task {task.get('id')} has {len(given)} annotations; keep the one that counts"
        )
    for region in given[0] if given else []:
        value = region["value"]
        turned = region.get("image_rotation") or value.get("rotation")
        if turned or not ("points" in value or value.get("format") == "rle"):
            raise DataError(
                f"{path}: task {task.get('id')} holds a {'turned ' if turned else ''}"
                f"{region.get('type')}, which is no mask; draw a brush or polygon"
            )
    return given[0] if given else []


def _region_label(region: Mapping[str, Any]) -> str:
    value = region["value"]
    return str((value.get("brushlabels") or value.get("polygonlabels") or [""])[0])


def _region_part(region: Mapping[str, Any]) -> Part:
    value = region["value"]
    if "points" in value:
        size = np.array([float(region["original_width"]), float(region["original_height"])])
        return functools.partial(polygon_mask, np.asarray(value["points"], float) / 100 * size)
    return functools.partial(brush_mask, value["rle"])
