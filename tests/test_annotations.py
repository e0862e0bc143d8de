"""Masks that are written as numbers: run lengths, polygons, and the files of annotation tools."""

import json

import layouts
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from cascade.data.sources.annotations import cell_mask, read_annotations
from cascade.data.sources.mask_codes import (
    brush_mask,
    coco_counts,
    coco_mask,
    pairs_mask,
    polygon_mask,
)
from cascade.data.sources.own_data import OwnData
from cascade.data.sources.prepare import PrepareConfig, prepare
from cascade.data.tables import read_table
from cascade.errors import DataError
from cascade.imaging import read_mask
from cascade.imaging.run_lengths import run_lengths

MASKS = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))
SHAPE = (90, 70)
LESION = np.zeros(SHAPE, bool)
LESION[10:75, 20:60] = True
LESION[30:40, 30:35] = False
COCO_CODE = (
    "bh1Q2i0000000000000000000cNA??AA??AA??AA??AA??n000"
    "0000000000000000000000000000000000000000000000jk0"
)
"""``LESION`` as the library pycocotools 2.0.11 encodes it."""


def compressed(counts):
    """COCO's text of run lengths."""
    text = ""
    for place, count in enumerate(counts):
        value, more = count - (counts[place - 2] if place > 2 else 0), True
        while more:
            letter, value = value & 0x1F, value >> 5
            more = value != (-1 if letter & 0x10 else 0)
            text += chr(letter + (0x20 if more else 0) + 48)
    return text


def pairs(mask):
    """Kaggle's pairs of start and length."""
    counts = run_lengths(mask).tolist()
    starts = np.cumsum([0, *counts])[1::2] + 1
    return [n for pair in zip(starts.tolist(), counts[1::2], strict=False) for n in pair]


def brushed(mask, *, repeat=True):
    """Label Studio's bytes: a picture with four channels, in runs or value by value."""
    channels = np.zeros((*mask.shape, 4), np.uint8)
    channels[..., 3] = mask * 255
    values = channels.reshape(-1).tolist()
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{width - 1:04b}" for width in (3, 4, 8, 16))
    place = 0
    while place < len(values):
        end = place + 1
        while repeat and end < len(values) and values[end] == values[place] and end - place < 256:
            end += 1
        bits += f"{int(repeat)}10{end - place - 1:08b}{values[place]:08b}"
        place = end
    bits += "0" * (-len(bits) % 8)
    return [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]


@given(MASKS)
def test_coco_counts_give_the_mask_compressed_and_not(mask):
    counts = run_lengths(mask).tolist()
    assert coco_counts(compressed(counts)) == counts
    assert np.array_equal(coco_mask(counts, mask.shape), mask)
    assert np.array_equal(coco_mask(compressed(counts), mask.shape), mask)


def test_coco_code_of_another_library_is_read():
    assert np.array_equal(coco_mask(COCO_CODE, SHAPE), LESION)


@given(MASKS, st.booleans())
def test_brush_of_label_studio_gives_the_mask(mask, repeat):
    assert np.array_equal(brush_mask(brushed(mask, repeat=repeat), mask.shape), mask)


def test_pairs_give_the_mask_column_by_column():
    assert np.array_equal(pairs_mask(pairs(LESION), SHAPE), LESION)
    assert np.array_equal(pairs_mask([1, 2], (3, 2)), [[1, 0], [1, 0], [0, 0]])


def test_pairs_row_by_row_are_two_readings():
    with pytest.raises(DataError, match="column by column, as on Kaggle, or row by row"):
        pairs_mask(pairs(LESION.T), SHAPE)


@pytest.mark.parametrize("code", [[1], [0, 3], [1, 3, 2, 3], [5, 3], [1, 0]])
def test_pairs_that_fit_no_mask_are_refused(code):
    with pytest.raises(DataError, match=r"is odd|overlap or leave"):
        pairs_mask(code, (3, 2))


@pytest.mark.parametrize("code", ["\x10", "R", "~" * 30, [1, "x"], [3], [7, -1], [2**70]])
def test_counts_that_fit_no_mask_are_refused(code):
    with pytest.raises(DataError):
        coco_mask(code, (3, 2))


@pytest.mark.parametrize("cut", [0, 3, 8, 12])
def test_brush_that_is_cut_off_or_of_another_size_is_refused(cut):
    code = brushed(LESION[8:12, 18:22])
    with pytest.raises(DataError, match="brush cannot be read"):
        brush_mask(code[:cut], (4, 4))
    with pytest.raises(DataError, match="it covers 16 pixels, not 15"):
        brush_mask(code, (5, 3))


def test_polygon_holds_the_pixels_whose_centre_it_holds():
    corners = np.array([[2.0, 1.0], [7.0, 1.0], [7.0, 5.0], [2.0, 5.0]])
    expected = np.zeros((8, 10), bool)
    expected[1:5, 2:7] = True
    assert np.array_equal(polygon_mask(corners, (8, 10)), expected)
    beyond = polygon_mask(np.array([[-5.0, -5], [50, -5], [50, 50], [-5, 50]]), (8, 10))
    assert beyond.all()


@given(st.lists(st.tuples(st.floats(-3, 15), st.floats(-3, 15)), min_size=3, max_size=8))
def test_polygon_agrees_with_a_count_of_crossings_for_each_pixel(points):
    points = np.round(np.array(points), 3) + 1e-4  # no corner at the height of a centre
    mask = polygon_mask(points, (9, 11))
    for row, column in np.ndindex(9, 11):
        crossings = 0
        for (x, y), (to_x, to_y) in zip(points, np.roll(points, -1, axis=0), strict=True):
            if (y <= row + 0.5) != (to_y <= row + 0.5):
                crossings += x + (row + 0.5 - y) / (to_y - y) * (to_x - x) <= column + 0.5
        assert mask[row, column] == crossings % 2


@pytest.mark.parametrize(
    "points", [[[1, 1], [2, 2]], [[1, 1], [2, 2], [float("nan"), 3]], [[1, 2, 3]]]
)
def test_polygon_that_is_none_is_refused(points):
    with pytest.raises(DataError, match="polygon"):
        polygon_mask(np.array(points, float), (5, 5))


def dataset(tmp_path, masks=None, **choices):
    """Prepare two images in class folders with these annotations."""
    for name in ("benign/a.png", "malignant/b.png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SHAPE[::-1], "red" if name[0] == "b" else "blue").save(path)
    if masks is not None:
        (tmp_path / "in" / "masks.json").write_text(json.dumps(masks))
        choices["masks"] = "masks.json"
    source = "table" if choices.keys() - {"masks"} else "folders"
    config = PrepareConfig(test_fraction=0.0, overwrite=True)
    return prepare(source, tmp_path / "in", tmp_path / "out", config, choices=OwnData(**choices))


def written(tmp_path):
    """The masks of the data set, by image."""
    table = read_table(tmp_path / "out" / "train_data.csv")
    return {item.name: read_mask(item.mask_path) for item in table if item.mask_path}


SQUARE = [[20.0, 10.0, 60.0, 10.0, 60.0, 75.0, 20.0, 75.0]]
BOX = np.zeros(SHAPE, bool)
BOX[10:75, 20:60] = True


def coco(*segmentations, categories=("lesion",)):
    height, width = SHAPE
    return {
        "images": [
            {"id": 5, "file_name": "x/A.png", "width": width, "height": height},
            {"id": 6, "file_name": "away.jpg", "width": width, "height": height},
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(categories)],
        "annotations": [
            {"id": n, "image_id": 5, "category_id": n % len(categories), "segmentation": code}
            for n, code in enumerate(segmentations)
        ],
    }


def studio(*regions, **task):
    height, width = SHAPE
    result = [
        {"type": kind, "original_width": width, "original_height": height, "value": value}
        for kind, value in regions
    ]
    result.append({"type": "choices", "value": {"choices": ["benign"]}})
    data = {"image": "/data/upload/1/0a1b2c3d-a.png"}
    return {"id": 1, "data": data, "annotations": [{"result": result}], **task}


def brush(mask, label="lesion"):
    return "brushlabels", {"format": "rle", "rle": brushed(mask), "brushlabels": [label]}


def polygon(label="lesion"):
    corners = np.array(SQUARE[0]).reshape(4, 2) / [SHAPE[1], SHAPE[0]] * 100
    return "polygonlabels", {"points": corners.tolist(), "polygonlabels": [label]}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (SQUARE, BOX),
        ({"size": list(SHAPE), "counts": COCO_CODE}, LESION),
        ({"size": list(SHAPE), "counts": run_lengths(LESION).tolist()}, LESION),
    ],
    ids=["polygon", "compressed", "counts"],
)
def test_coco_becomes_masks(tmp_path, code, expected):
    summary = dataset(tmp_path, coco(code))
    assert summary.masks == 1
    assert np.array_equal(written(tmp_path)["a.png"], expected)


@pytest.mark.parametrize(
    ("region", "expected"), [(brush(LESION), LESION), (polygon(), BOX)], ids=["brush", "polygon"]
)
def test_label_studio_becomes_masks(tmp_path, region, expected):
    summary = dataset(tmp_path, [studio(region)])
    assert summary.masks == 1
    assert np.array_equal(written(tmp_path)["a.png"], expected)


def test_parts_of_one_lesion_are_joined_and_other_labels_left_out(tmp_path):
    first, second = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    first[10:20, 10:20], second[50:60, 30:60] = True, True
    hair = np.ones(SHAPE, bool)
    dataset(tmp_path, [studio(brush(first), brush(second), brush(hair, "hair"))])
    assert np.array_equal(written(tmp_path)["a.png"], first | second)
    with pytest.raises(DataError, match="several labels: hair, mole"):
        dataset(tmp_path, [studio(brush(first, "mole"), brush(hair, "hair"))])
    with pytest.raises(DataError, match="several labels: hair, mole"):
        dataset(tmp_path, coco(SQUARE, SQUARE, categories=("hair", "mole")))


ANNOTATION = studio(polygon())["annotations"][0]


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"images": []}, "neither COCO"),
        ([1], "an entry lacks"),
        ([{"data": {}}], "names no image"),
        (coco([[1, 2, 3]]), "an entry lacks"),
        (coco([[1, 2, 3, 4]]), "three points"),
        (coco({"size": [1, 1], "counts": "x"}), "not those of COCO|do not|no mask|cut off"),
        ([studio(polygon(), annotations=[ANNOTATION] * 2)], "task 1 has 2 annotations"),
        ([studio(("rectanglelabels", {"x": 1, "width": 5}))], "rectanglelabels, which is no mask"),
        ([studio(polygon()), studio(polygon())], "two tasks are of"),
        ([studio(brush(LESION.T[:5]))], "brush cannot be read"),
    ],
)
def test_annotations_that_cannot_be_meant_are_refused(tmp_path, masks, message):
    with pytest.raises(DataError, match=message):
        dataset(tmp_path, masks)
    assert not (tmp_path / "out").exists()


def test_annotated_images_that_are_not_there_are_named(tmp_path):
    masks = coco(SQUARE)
    masks["annotations"].append({"image_id": 6, "category_id": 0, "segmentation": SQUARE})
    warnings = "".join(dataset(tmp_path, masks).warnings)
    assert "annotated images that are not there (1): away.jpg" in warnings


def test_annotation_of_an_image_of_another_size_is_refused(tmp_path):
    masks = coco(SQUARE)
    masks["images"][0]["width"] = 71
    with pytest.raises(DataError, match=r"masks.json: x/A.png: its image has 71 x 90 pixels, but"):
        dataset(tmp_path, masks)


def test_annotation_and_file_of_one_image_are_refused(tmp_path):
    layouts.outline(tmp_path / "in" / "benign" / "a_mask.png")
    with pytest.raises(DataError, match=r"x/A.png: has a mask, and .*a_mask.png is another"):
        dataset(tmp_path, coco(SQUARE))


def test_cancelled_and_empty_annotations_are_no_masks(tmp_path):
    cancelled = {**ANNOTATION, "was_cancelled": True}
    layouts.text(tmp_path / "a.json", json.dumps([studio(annotations=[cancelled, {"result": []}])]))
    assert read_annotations(tmp_path / "a.json") == {}


@pytest.mark.parametrize(
    "cell",
    [
        " ".join(map(str, pairs(LESION))),
        json.dumps({"size": SHAPE, "counts": COCO_CODE}),
        json.dumps(run_lengths(LESION).tolist()),
    ],
    ids=["pairs", "coco", "counts"],
)
@pytest.mark.parametrize("column", ["EncodedPixels", "outline"])
def test_run_lengths_in_a_column_become_masks(tmp_path, cell, column):
    rows = [{"file": "a", "class": "benign", column: cell}, {"file": "b", "class": "malignant"}]
    layouts.table(tmp_path / "in" / "list.csv", rows)
    choices = {"mask_column": column} if column == "outline" else {}
    summary = dataset(tmp_path, table="list.csv", **choices)
    assert summary.masks == 1
    assert np.array_equal(written(tmp_path)["a.png"], LESION)
    assert f"masks in the column {column}" in "".join(summary.notes)


def test_cell_that_is_no_mask_is_refused_with_its_row():
    assert cell_mask(" -1 ", "x") is None
    assert cell_mask("", "x") is None
    for text in ("yes", "{}", "5", "1,2", '{"size": 5, "counts": ""}', "[1"):
        with pytest.raises(DataError, match=r"list.csv row 2: .* is no mask"):
            cell_mask(text, "list.csv row 2")
