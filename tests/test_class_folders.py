"""Class folders become a data set in one command."""

import csv

import layouts
import numpy as np
import pytest
from PIL import Image

from cascade.commands.datasets.prepare import main
from cascade.data.sources.own_data import OwnData, class_key, class_meaning
from cascade.data.sources.prepare import PrepareConfig, prepare
from cascade.data.tables import read_table
from cascade.errors import ConfigError, DataError
from cascade.imaging import read_mask


def tree(root, *folders, count=4):
    """Folders of images that are numbered anew in each."""
    for place, folder in enumerate(folders):
        for number in range(count):
            layouts.picture(root / folder / f"{number}.jpg", seed=100 * place + number)


def run(tmp_path, *malignant, **options):
    choices = OwnData(malignant=malignant)
    config = PrepareConfig(**options)
    return prepare("folders", tmp_path / "in", tmp_path / "out", config, choices=choices)


def classes(tmp_path, split):
    with (tmp_path / "out" / f"{split}_data.csv").open() as file:
        return {row["name"]: row["class"] for row in csv.DictReader(file)}


def test_class_folders_become_a_data_set(tmp_path):
    tree(tmp_path / "in", "benign", "Malignant")
    summary = run(tmp_path, test_fraction=0.5)
    both = classes(tmp_path, "train") | classes(tmp_path, "test")
    expected = {f"benign_{n}.jpg": "benign" for n in range(4)}
    assert both == expected | {f"Malignant_{n}.jpg": "malignant" for n in range(4)}
    assert summary.counts["test"] == {"benign": 2, "malignant": 2}
    for name, pixels in (("benign_1.jpg", "benign/1.jpg"), ("Malignant_1.jpg", "Malignant/1.jpg")):
        written = (tmp_path / "out" / "images_all" / name).read_bytes()
        assert written == (tmp_path / "in" / pixels).read_bytes()


@pytest.mark.parametrize("wrapper", ["", "archive/melanoma_set"])
@pytest.mark.parametrize("order", ["{part}/{name}", "{name}/{part}", "{part}/{name}/images"])
def test_given_parts_decide_the_tables(tmp_path, wrapper, order):
    for part in ("train", "Valid", "test"):
        for name in ("benign", "malignant"):
            folder = order.format(part=part, name=name)
            tree(tmp_path / "in" / wrapper, folder, count=2)
    summary = run(tmp_path)
    assert summary.counts == {
        "train": {"benign": 4, "malignant": 4}, "test": {"benign": 2, "malignant": 2},
    }  # fmt: skip
    assert all("test" in name for name in classes(tmp_path, "test"))
    told = "Valid (4) -> train_data.csv, test (4) -> test_data.csv, train (4) -> train_data.csv"
    assert told in "".join(summary.lines())
    assert len(read_table(tmp_path / "out" / "train_data.csv")) == 8


def test_names_that_do_not_repeat_stay_as_they_are(tmp_path):
    layouts.picture(tmp_path / "in" / "benign" / "a.jpg")
    layouts.picture(tmp_path / "in" / "malignant" / "b.PNG")
    run(tmp_path, test_fraction=0.0)
    assert classes(tmp_path, "train") == {"a.jpg": "benign", "b.PNG": "malignant"}


def test_names_of_classes_are_explained_by_malignant(tmp_path):
    tree(tmp_path / "in", "Melanoma", "naevus", "bcc", "benign", "unknown")
    with pytest.raises(DataError, match=r"Melanoma, bcc, naevus are neither .*--malignant"):
        run(tmp_path)
    summary = run(tmp_path, "melanoma", "BCC", test_fraction=0.0)
    assert summary.counts["train"] == {"benign": 8, "malignant": 8}
    assert summary.excluded == {"unknown: unknown": 4}
    told = "malignant: Melanoma, bcc; benign: benign, naevus; left out: unknown"
    assert told in summary.lines()[0]


def test_a_malignant_class_that_is_not_there_is_an_error_that_lists_the_classes(tmp_path):
    tree(tmp_path / "in", "melanoma", "nevus")
    with pytest.raises(DataError, match=r"named melanom; did you mean melanoma.*melanoma, nevus"):
        run(tmp_path, "melanom")
    with pytest.raises(ConfigError, match="other class"):
        class_meaning(["benign", "x"], ["Benign"], place="p")


def test_files_that_systems_leave_behind_are_no_images(tmp_path):
    tree(tmp_path / "in", "benign", "malignant")
    for name in ("._0.jpg", "Thumbs.db", ".DS_Store", "desktop.ini"):
        layouts.text(tmp_path / "in" / "benign" / name, "junk")
    layouts.text(tmp_path / "in" / "__MACOSX" / "benign" / "0.jpg", "junk")
    assert run(tmp_path).total == 8


def test_images_outside_the_parts_or_classes_do_not_vanish(tmp_path):
    tree(tmp_path / "in", "train/benign", "train/malignant", "extra")
    with pytest.raises(DataError, match=r"4 images lie beside the folder train.*extra/0.jpg"):
        run(tmp_path)
    tree(tmp_path / "in2", "benign", "malignant", ".")
    summary = prepare("folders", tmp_path / "in2", tmp_path / "out")
    assert summary.excluded == {"unknown: not in a class folder": 4}


def test_a_data_set_that_lies_there_twice_is_taken_once(tmp_path):
    for root in ("in", "in/data"):
        tree(tmp_path / root, "train/benign", "test/malignant", "train/malignant", "test/benign")
    summary = run(tmp_path)
    assert summary.total == 16
    assert "16 images lie there twice" in "".join(summary.warnings)
    layouts.picture(tmp_path / "in" / "data" / "train" / "benign" / "0.jpg", seed=7)
    with pytest.raises(DataError, match="two data sets"):
        run(tmp_path, overwrite=True)


def test_images_without_class_folders_are_for_the_segmenter(tmp_path):
    tree(tmp_path / "in", ".")
    layouts.outline(tmp_path / "in" / "masks" / "1.png")
    summary = run(tmp_path, without_labels=True, test_fraction=0.0)
    assert (summary.counts["train"], summary.masks) == ({"unlabelled": 4}, 1)
    assert summary.notes == ("no class folders",)
    table = read_table(tmp_path / "out" / "train_data.csv", require_labels=False)
    assert [record.label for record in table] == [None] * 4


def test_folders_without_classes_are_refused(tmp_path):
    tree(tmp_path / "in", ".")
    with pytest.raises(DataError, match=r"no class folders.*--source table.*--without_labels"):
        run(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        prepare("folders", tmp_path / "empty", tmp_path / "out")


@pytest.mark.parametrize(
    "mask", ["m_mask.png", "m_segmentation.tif", "m_lesion.bmp", "masks/m.jpg"]
)
def test_masks_beside_the_images_are_found_in_each_format(tmp_path, mask):
    tree(tmp_path / "in", "malignant", "benign", count=1)
    Image.new("RGB", (40, 40)).save(tmp_path / "in" / "benign" / "m.jpg")
    pixels = np.zeros((40, 40), np.uint8)
    pixels[8:24, 8:32] = 255
    path = tmp_path / "in" / "benign" / mask
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
    layouts.outline(tmp_path / "in" / "malignant" / "9_mask.png")
    summary = run(tmp_path, test_fraction=0.0)
    (record,) = (r for r in read_table(tmp_path / "out" / "train_data.csv") if r.mask_path)
    assert record.stem == "benign_m"
    assert np.array_equal(read_mask(record.mask_path), pixels > 0)
    warnings = "".join(summary.warnings)
    assert "belong to no image (1): malignant/9_mask.png" in warnings
    assert ("cut at the middle: 1" in warnings) == mask.endswith("jpg")


@pytest.mark.parametrize("folder", ["in/masks", "in/drawn", "elsewhere"])
def test_masks_of_repeated_names_stay_with_their_folder(tmp_path, folder):
    tree(tmp_path / "in", "benign", "malignant")
    layouts.outline(tmp_path / folder / "benign" / "1.png")
    choices = OwnData(masks=None if folder == "in/masks" else str(tmp_path / folder))
    config = PrepareConfig(test_fraction=0.0)
    summary = prepare("folders", tmp_path / "in", tmp_path / "out", config, choices=choices)
    assert summary.masks == 1
    assert not [text for text in summary.warnings if "look like masks" in text]
    table = read_table(tmp_path / "out" / "train_data.csv")
    assert [record.name for record in table.with_mask()] == ["benign_1.jpg"]


@pytest.mark.parametrize(
    ("word", "key"), [("1.0", "1"), ("1,0", "1"), ("1.5", "1.5"), (" Mel ", "mel"), ("10", "10")]
)
def test_a_class_is_the_same_however_it_is_written(word, key):
    assert class_key(word) == key


def test_command_says_what_it_understood_and_what_comes_next(tmp_path, capsys):
    tree(tmp_path / "in", "melanoma", "nevus")
    out = tmp_path / "out"
    flags = ["--source", "folders", "--input", str(tmp_path / "in"), "--output", str(out)]
    assert main([*flags, "--malignant", "melanoma"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "understood: class folders, malignant: melanoma; benign: nevus"
    assert lines[-1] == f"next: cascade check {out} --output check"


def test_malignant_does_not_apply_to_a_public_source(tmp_path):
    layouts.ph2(tmp_path / "in")
    choices = OwnData(malignant=("x",))
    with pytest.raises(ConfigError, match="--malignant does not apply to the source ph2"):
        prepare("ph2", tmp_path / "in", tmp_path / "out", choices=choices)


def test_what_could_belong_to_the_data_and_is_not_used_is_named(tmp_path):
    tree(tmp_path / "in", "benign", "malignant")
    for name in ("_annotations.coco.json", "readme.txt"):
        layouts.text(tmp_path / "in" / name, "{}")
    warnings = "; ".join(run(tmp_path).warnings)
    assert "name one that holds masks with --masks (1): _annotations.coco.json" in warnings
    assert "readme" not in warnings


def test_images_of_every_format_are_taken(tmp_path):
    tree(tmp_path / "in", "benign", "malignant")
    for number, kind in enumerate(("avif", "jp2", "gif")):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / "benign" / f"x{number}.{kind}")
    (tmp_path / "in" / "benign" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    run(tmp_path)
    both = classes(tmp_path, "train") | classes(tmp_path, "test")
    assert {"x0.avif", "x1.jp2", "x2.gif", "IMG_1.HEIC"} <= {name.split("_", 1)[1] for name in both}
