"""Masks as files of annotation tools: pre-annotations of Label Studio, and COCO.

:mod:`cascade.data.sources.annotations` reads both back, pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from cascade.data.sources.annotations import LESION
from cascade.data.sources.mask_codes import brush_code, coco_text
from cascade.files import write_json, write_text
from cascade.imaging.run_lengths import run_lengths

STUDIO_FILE = "label_studio.json"
STUDIO_SETUP_FILE = "label_studio.xml"
COCO_FILE = "coco.json"
_CONTROL, _OBJECT = "mask", "image"
_SETUP = f"""\
<View>
  <Image name="{_OBJECT}" value="${_OBJECT}" zoom="true" zoomControl="true"/>
  <BrushLabels name="{_CONTROL}" toName="{_OBJECT}">
    <Label value="{LESION}" background="#00a0a0"/>
  </BrushLabels>
</View>
"""


def write_annotations(
    folder: Path,
    masks: Iterable[tuple[str, np.ndarray]],
    *,
    prefix: str,
    model_version: str,
) -> int:
    """Write ``label_studio.json``, its labelling setup ``label_studio.xml``, and ``coco.json``.

    An image without a lesion has a task and an entry in COCO's images, but no region.

    Args:
        folder: where to.
        masks: path of each image with ``/``, and its ``(H, W)`` bool mask as displayed.
        prefix: what stands before an image's path, escaped as in a URL, in Label Studio.
        model_version: what Label Studio shows as the model's.

    Returns:
        How many images were written.
    """
    tasks: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    regions: list[dict[str, Any]] = []
    for number, (name, mask) in enumerate(masks, start=1):
        tasks.append(_task(number, prefix + quote(name), mask, model_version))
        height, width = mask.shape
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        if mask.any():
            regions.append(_coco_region(number, mask))
    write_json(folder / STUDIO_FILE, tasks, indent=None)
    write_text(folder / STUDIO_SETUP_FILE, _SETUP)
    categories = [{"id": 1, "name": LESION, "supercategory": ""}]
    document = {"images": images, "annotations": regions, "categories": categories}
    write_json(folder / COCO_FILE, document, indent=None)
    return len(images)


def _task(number: int, address: str, mask: np.ndarray, model_version: str) -> dict[str, Any]:
    region = {
        "id": f"{LESION}-{number}",
        "type": "brushlabels",
        "from_name": _CONTROL,
        "to_name": _OBJECT,
        "original_height": mask.shape[0],
        "original_width": mask.shape[1],
        "image_rotation": 0,
        "value": {"format": "rle", "rle": brush_code(mask), "brushlabels": [LESION]},
    }
    result = [region] if mask.any() else []
    prediction = {"model_version": model_version, "result": result}
    return {"data": {_OBJECT: address}, "predictions": [prediction]}


def _coco_region(number: int, mask: np.ndarray) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    return {
        "id": number,
        "image_id": number,
        "category_id": 1,
        "iscrowd": 0,
        "area": int(np.count_nonzero(mask)),
        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "segmentation": {
            "size": list(mask.shape),
            "counts": coco_text(run_lengths(mask).tolist()),
        },
    }
