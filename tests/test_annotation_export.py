"""``cascade annotate-export``: masks go to annotation tools and come back pixel by pixel."""

import json
import re

import layouts
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from cascade.commands.datasets import annotate_export
from cascade.data.sources.annotations import read_annotations
from cascade.data.sources.mask_codes import brush_code, brush_mask, coco_counts, coco_text
from cascade.data.sources.own_data import OwnData
from cascade.data.sources.prepare import PrepareConfig, prepare
from cascade.data.tables import read_table
from cascade.errors import DataError
from cascade.files import write_csv
from cascade.imaging import read_mask, write_mask
from cascade.imaging.run_lengths import run_lengths
from cascade.pipeline.rows import COLUMNS

RING = np.zeros((5, 7), bool)
RING[1:4, 2:6] = True
RING[2, 3] = False
BRUSHES = [
    (RING, "0000008c391bfe2300bfff6c023ff8c027ffb6017fff0f8000"),
    (np.ones((200, 100), bool), "00013880391bffffffffe70fffe0"),
]
"""Masks as ``mask2rle`` of label-studio-converter 0.0.59 encodes them."""

SHAPE = (40, 56)


def noise(seed):
    return np.random.default_rng(seed).random(SHAPE) < 0.5


def rows(*names, folder="in", **more):
    return [
        {"name": name, "path": f"{folder}/{name}", "mask": f"masks/{n}.png", **more}
        for n, name in enumerate(names)
    ]


@pytest.fixture
def predictions(tmp_path, monkeypatch):
    """Writes images, masks and a table as ``cascade predict --save_masks`` does; their masks."""
    monkeypatch.chdir(tmp_path)

    def write(masks, **more):
        table = rows(*masks, **more)
        for row, mask in zip(table, masks.values(), strict=True):
            path = tmp_path / row["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", mask.shape[::-1], (len(path.name), 9, 9)).save(path)
            write_mask(tmp_path / "predictions" / row["mask"], mask)
        write_csv(tmp_path / "predictions" / "predictions.csv", COLUMNS, table)
        return tmp_path / "predictions"

    return write


MASKS = {
    "benign/a b.png": noise(1),
    "benign/äöü%.jpg": noise(2),
    "malignant/c.png": ~np.zeros(SHAPE, bool),
    "malignant/none.png": np.zeros(SHAPE, bool),
}


def submitted(path):
    """What Label Studio exports when somebody submits all predictions as they are."""
    tasks = json.loads(path.read_text(encoding="utf-8"))
    for number, task in enumerate(tasks, start=1):
        task["id"] = number
        task["annotations"] = [{"result": task["predictions"][0]["result"]}]
    path.write_text(json.dumps(tasks), encoding="utf-8")


@pytest.mark.parametrize(("mask", "code"), BRUSHES, ids=["ring", "long"])
def test_brushes_are_those_of_the_converter_of_label_studio(mask, code):
    expected = list(bytes.fromhex(code))
    assert brush_code(mask) in (expected, expected[:-1]), "it ends in a whole byte of zeros"
    assert np.array_equal(brush_mask(expected, mask.shape), mask)


@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 300))))
def test_what_is_written_is_what_was_read(mask):
    assert np.array_equal(brush_mask(brush_code(mask), mask.shape), mask)
    counts = run_lengths(mask).tolist()
    assert coco_counts(coco_text(counts)) == counts


@pytest.mark.parametrize("file", ["label_studio.json", "coco.json"])
def test_masks_that_come_back_equal_those_that_went_out(predictions, tmp_path, file):
    source = predictions(MASKS)
    assert annotate_export.main([str(source), "--output", "out"]) == 0
    if file == "label_studio.json":
        submitted(tmp_path / "out" / file)
    config = PrepareConfig(test_fraction=0.0)
    choices = OwnData(masks=str(tmp_path / "out" / file))
    summary = prepare("folders", tmp_path / "in", tmp_path / "data", config, choices=choices)
    assert summary.warnings == ()
    found = {
        record.name.rpartition(".")[0]: read_mask(record.mask_path, predicted=True)
        for record in read_table(tmp_path / "data" / "train_data.csv")
        if record.mask_path
    }
    assert found.keys() == {"a b", "äöü%", "c"}, "and none for an image without a lesion"
    for name, mask in MASKS.items():
        if mask.any():
            assert np.array_equal(found[name.split("/")[1].rpartition(".")[0]], mask)


def test_coco_has_box_area_and_size(predictions, tmp_path):
    predictions({"x/ring.png": RING, "y.png": np.zeros((3, 4), bool)})
    annotate_export.main(["predictions", "--output", "out"])
    document = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert document["images"] == [
        {"id": 1, "file_name": "x/ring.png", "height": 5, "width": 7},
        {"id": 2, "file_name": "y.png", "height": 3, "width": 4},
    ]
    (region,) = document["annotations"]
    assert region["image_id"] == 1
    assert region["bbox"] == [2, 1, 4, 3]
    assert region["area"] == 11
    assert region["segmentation"]["size"] == [5, 7]


def test_label_studio_finds_its_images_and_its_control(predictions, tmp_path):
    predictions({"benign/a b.png": RING})
    flags = ["predictions", "--output", "out", "--root", ".", "--model_version", "m 2"]
    annotate_export.main(flags)
    (task,) = json.loads((tmp_path / "out" / "label_studio.json").read_text())
    assert task["data"] == {"image": "/data/local-files/?d=in/benign/a%20b.png"}
    (prediction,) = task["predictions"]
    assert prediction["model_version"] == "m 2"
    (region,) = prediction["result"]
    assert (region["original_width"], region["original_height"]) == (7, 5)
    setup = (tmp_path / "out" / "label_studio.xml").read_text()
    assert f'<BrushLabels name="{region["from_name"]}" toName="{region["to_name"]}">' in setup
    assert f'<Label value="{region["value"]["brushlabels"][0]}"' in setup
    assert f'value="${next(iter(task["data"]))}"' in setup


def test_predictions_that_nobody_looked_at_are_no_masks(predictions, tmp_path):
    predictions({"a.png": RING})
    annotate_export.main(["predictions", "--output", "out"])
    with pytest.raises(DataError, match="predictions that nobody has looked at"):
        read_annotations(tmp_path / "out" / "label_studio.json")


def test_failed_inputs_are_left_out_and_told(predictions, tmp_path, capsys):
    source = predictions({"a.png": RING})
    table = [*rows("a.png"), {"name": "b.png", "path": "in/b.png", "error": "b.png: is broken"}]
    write_csv(source / "predictions.csv", COLUMNS, table)
    assert annotate_export.main(["predictions", "--output", "out"]) == 3
    assert "1 images, 1 failed ones left out" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "out" / "coco.json").read_text())["images"]) == 1


@pytest.mark.parametrize(
    ("table", "flags", "message"),
    [
        ([{"path": "in/a.png", "error": "broken"}], [], "all 1 predictions failed, e.g. broken"),
        ([{"path": "in/a.png"}], [], "1 predictions have no mask, e.g. in/a.png.*--save_masks"),
        (rows("a.png", "a.png"), [], "two rows of a.png"),
        (rows("a.png"), ["--root", "elsewhere"], "--root elsewhere: .*in/a.png does not lie in it"),
        (rows("a.png"), [], "masks/0.png"),
    ],
    ids=["failed", "bare", "twice", "root", "missing"],
)
def test_predictions_that_cannot_be_used_are_refused(
    tmp_path, monkeypatch, capsys, table, flags, message
):
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "predictions" / "predictions.csv", COLUMNS, table)
    assert annotate_export.main(["predictions", "--output", "out", *flags]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_mask_of_another_size_than_its_image_is_refused(predictions, tmp_path, capsys):
    predictions({"a.png": RING}, width="7", height="5")
    assert annotate_export.main(["predictions", "--output", "out"]) == 0
    write_mask(tmp_path / "predictions" / "masks" / "0.png", RING[:3])
    assert annotate_export.main(["predictions", "--output", "other"]) == 2
    assert "0.png: has 7 x 3 pixels, but in/a.png has 7 x 5" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_folder_of_another_command_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    layouts.text(tmp_path / "predictions" / "predictions.csv", "name,label\na,b\n")
    assert annotate_export.main(["predictions"]) == 2
    assert "has no column path, error, mask" in capsys.readouterr().err
