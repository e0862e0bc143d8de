import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cascade.commands.datasets.check import main
from cascade.data.check import CheckOptions, check_dataset
from cascade.data.check_images import corner_darkness
from cascade.data.check_report import measure_shortcuts
from cascade.data.splits import make_splits, write_splits
from cascade.data.tables import read_table
from cascade.errors import DataError

SHAPE = (130, 160)


def picture(seed, shape=SHAPE):
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC))


def lesion(shape=SHAPE):
    mask = np.zeros(shape, np.uint8)
    mask[40:90, 50:110] = 255
    return mask


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)


def write_table(folder, name, rows):
    lines = ["name,class,group_id", *(",".join(row) for row in rows)]
    (folder / name).write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Ten sound training and four sound test images with masks."""
    folder = tmp_path_factory.mktemp("sound")
    rows = []
    for number in range(14):
        name = f"i{number:02}.png"
        save(folder / "images_all" / name, picture(number))
        save(folder / "masks_all" / name, lesion())
        rows.append((name, "malignant" if number % 2 else "benign", f"g{number}"))
    write_table(folder, "train_data.csv", rows[:10])
    write_table(folder, "test_data.csv", rows[10:])
    return folder


@pytest.fixture
def dataset(sound, tmp_path):
    """A copy of the sound data that a test may spoil."""
    return Path(shutil.copytree(sound, tmp_path / "data"))


def codes(report, severity=None):
    return {finding.code for finding in report.findings if severity in (None, finding.severity)}


def names_of(report, code):
    return [name for finding in report.findings if finding.code == code for name in finding.names]


def test_sound_data_has_no_errors_or_warnings(dataset):
    write_splits(dataset / "splits.json", make_splits(read_table(dataset / "train_data.csv")))
    report = check_dataset(dataset)
    unexpected = [item for item in report.findings if item.code != "shortcut"]
    assert unexpected == []
    assert report.ok
    counted = {item.name: (item.images, item.malignant, item.masks) for item in report.tables}
    assert counted["train_data.csv"] == (10, 5, 10)
    assert counted["test_data.csv"] == (4, 2, 4)
    assert counted["splits: train"][0] + counted["splits: validation"][0] == 10


def test_missing_and_unlisted_files_are_reported(dataset):
    (dataset / "images_all" / "i03.png").unlink()
    (dataset / "masks_all" / "i04.png").unlink()
    save(dataset / "images_all" / "extra.jpg", picture(50))
    save(dataset / "masks_all" / "extra2_segmentation.png", lesion())
    report = check_dataset(dataset)
    assert not report.ok
    assert names_of(report, "image_missing") == ["i03.png"]
    assert names_of(report, "mask_missing") == ["i04.png"]
    assert names_of(report, "image_unlisted") == ["extra.jpg"]
    assert names_of(report, "mask_unlisted") == ["extra2_segmentation.png"]


def test_damaged_images_are_errors_and_the_rest_is_still_checked(dataset):
    (dataset / "images_all" / "i00.png").write_bytes(b"")
    (dataset / "images_all" / "i01.png").write_text("<html>not found</html>")
    report = check_dataset(dataset)
    assert sorted(names_of(report, "image_unreadable")) == ["i00.png", "i01.png"]
    assert codes(report, "error") == {"image_unreadable"}
    assert report.shortcuts[0].benign + report.shortcuts[0].malignant == 8


def test_mask_faults_are_told_apart(dataset):
    masks = dataset / "masks_all"
    save(masks / "i00.png", lesion((65, 80)))
    save(masks / "i01.png", np.zeros(SHAPE, np.uint8))
    save(masks / "i02.png", np.full(SHAPE, 255, np.uint8))
    soft = lesion()
    soft[40, 50:110] = 200
    save(masks / "i03.png", soft)
    save(masks / "i04.png", np.full(SHAPE, 100, np.uint8))
    save(masks / "i05.png", lesion() // 255)
    report = check_dataset(dataset)
    assert names_of(report, "mask_unusable") == ["i00.png", "i04.png"]
    assert names_of(report, "mask_empty") == ["i01.png"]
    assert names_of(report, "mask_full") == ["i02.png"]
    assert names_of(report, "mask_values") == ["i03.png (3 gray levels)"]
    size = next(item for item in report.findings if item.names == ("i00.png",))
    assert "80 x 65" in size.message


def test_copies_across_train_and_test_are_errors(dataset):
    save(dataset / "images_all" / "i12.png", picture(3)[:, ::-1])
    save(dataset / "images_all" / "i13.png", picture(5))
    report = check_dataset(dataset)
    assert codes(report, "error") == {"duplicates_tables"}
    found = names_of(report, "duplicates_tables")
    assert found[0].startswith("i03.png = i12.png (near")
    assert found[1].startswith("i05.png = i13.png (file, 0 bits")
    assert any("i03.png = i12.png" in name for name in names_of(report, "duplicates_class"))
    assert len(report.duplicates) == 2


def test_copies_in_one_table_are_judged_by_group_and_split(dataset):
    save(dataset / "images_all" / "i01.png", picture(0))
    report = check_dataset(dataset)
    assert codes(report, "warning") >= {"duplicates_groups", "duplicates_class"}
    assert report.ok
    table = read_table(dataset / "train_data.csv")
    splits = make_splits(table, fraction=0.4)
    first, second = splits.train[0], splits.validation[0]
    save(dataset / "images_all" / second, np.asarray(Image.open(dataset / "images_all" / first)))
    write_splits(dataset / "splits.json", splits)
    assert "duplicates_splits" in codes(check_dataset(dataset), "error")


def test_shared_groups_between_tables_are_errors(dataset):
    text = (dataset / "test_data.csv").read_text().replace("g12", "g3")
    (dataset / "test_data.csv").write_text(text)
    report = check_dataset(dataset)
    assert names_of(report, "leak_tables") == ["group_id:g3"]


def test_groups_on_both_sides_of_a_split_are_errors(dataset):
    write_splits(dataset / "splits.json", make_splits(read_table(dataset / "train_data.csv")))
    text = (dataset / "train_data.csv").read_text()
    for number in range(10):
        text = text.replace(f",g{number}\n", ",same\n")
    (dataset / "train_data.csv").write_text(text)
    report = check_dataset(dataset)
    assert names_of(report, "leak_splits") == ["group_id:same"]
    (dataset / "splits.json").write_text("{}")
    assert "splits" in codes(check_dataset(dataset), "error")


def test_a_bad_table_is_an_error_and_the_other_is_still_checked(dataset):
    text = (dataset / "train_data.csv").read_text().replace("malignant", "yes")
    (dataset / "train_data.csv").write_text(text)
    report = check_dataset(dataset)
    assert codes(report, "error") == {"table"}
    assert [item.name for item in report.tables] == ["test_data.csv"]
    assert "image_unlisted" not in codes(report)
    assert check_dataset(dataset, CheckOptions(label_map={"yes": "malignant"})).ok


def test_one_class_and_one_table_are_reported(dataset):
    (dataset / "test_data.csv").unlink()
    text = (dataset / "train_data.csv").read_text().replace("malignant", "benign")
    (dataset / "train_data.csv").write_text(text)
    report = check_dataset(dataset)
    assert codes(report, "warning") == {"one_class", "image_unlisted", "mask_unlisted"}
    assert codes(report, "note") == {"table_absent"}
    assert {item.auc for item in report.shortcuts} == {None}


def test_shortcuts_are_rank_aucs_with_ties_and_direction():
    labels = np.array([0, 0, 0, 1, 1])
    values = {"up": [1, 2, 3, 3, 9], "down": [9, 8, 7, 1, 2], "flat": [4] * 5}
    found = {item.feature: item for item in measure_shortcuts("t", labels, values)}
    pairs = [(one > zero) + 0.5 * (one == zero) for one in (3, 9) for zero in (1, 2, 3)]
    assert found["up"].auc == pytest.approx(np.mean(pairs))
    assert found["up"].direction == "larger is malignant"
    assert found["down"].auc == 1.0
    assert found["down"].direction == "smaller is malignant"
    assert found["flat"].auc == 0.5
    assert (found["up"].benign, found["up"].malignant) == (3, 2)


def test_size_that_gives_the_class_away_is_a_warning(dataset):
    for number in range(1, 10, 2):
        name = f"i{number:02}.png"
        save(dataset / "images_all" / name, picture(number, (200, 260)))
        save(dataset / "masks_all" / name, lesion((200, 260)))
    report = check_dataset(dataset)
    messages = [item.message for item in report.findings if item.code == "shortcut"]
    assert any(
        "image size (pixels) alone" in message and "1.000" in message for message in messages
    )


def test_corner_darkness_looks_at_the_corners_only():
    image = np.full((100, 150, 3), 255, np.uint8)
    assert corner_darkness(image) == 0.0
    image[10:90] = 0
    image[:, 10:140] = 0
    assert corner_darkness(image) == 0.0
    image[:10, :10] = 0
    assert corner_darkness(image) == pytest.approx(0.25)
    assert corner_darkness(np.zeros((1, 1, 3), np.uint8)) == 1.0


def test_command_prints_a_summary_and_writes_reports(dataset, tmp_path, capsys):
    output = tmp_path / "out"
    assert main([str(dataset), "--output", str(output)]) == 0
    text = capsys.readouterr().out
    assert "train_data.csv" in text
    assert "errors: 0" in text
    document = json.loads((output / "check.json").read_text())
    assert document["ok"] is True
    assert {item["feature"] for item in document["shortcuts"]} == {
        "image size (pixels)",
        "file size (bytes)",
        "corner darkness",
    }
    page = (output / "check.html").read_text()
    assert "http" not in page.replace("http-equiv", "")


def test_command_ends_with_3_on_errors_and_escapes_names(dataset, tmp_path, capsys):
    name = "<script>alert(1)<_script>.png"
    table = dataset / "train_data.csv"
    table.write_text(table.read_text() + f"{name},benign,\n")
    assert main([str(dataset), "--output", str(tmp_path / "out"), "--skip-duplicates"]) == 3
    assert name in capsys.readouterr().out
    page = (tmp_path / "out" / "check.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_command_ends_with_2_on_wrong_use(tmp_path, dataset, capsys):
    with pytest.raises(DataError, match=r"train_data\.csv"):
        check_dataset(tmp_path / "data" / "images_all")
    assert main([str(tmp_path / "none")]) == 2
    assert main([str(dataset), "--threshold", "99"]) == 2
    with pytest.raises(SystemExit) as caught:
        main([str(dataset), "--treshold", "3"])
    assert caught.value.code == 2
    assert "--threshold" in capsys.readouterr().err


def test_tables_without_classes_are_checked_for_all_else(dataset):
    for name in ("train_data.csv", "test_data.csv"):
        rows = [line.split(",") for line in (dataset / name).read_text().splitlines()]
        (dataset / name).write_text("\n".join(f"{row[0]},{row[2]}" for row in rows) + "\n")
    report = check_dataset(dataset)
    assert report.ok
    assert codes(report, "warning") == {"no_classes"}
    assert [(item.benign, item.malignant, item.masks) for item in report.tables] == [
        (0, 0, 10), (0, 0, 4),
    ]  # fmt: skip
    assert report.shortcuts == ()
