import csv
import json
import os

import layouts
import numpy as np
import pytest
from PIL import Image

from cascade.commands.datasets.prepare import main
from cascade.data.grouping import group_names
from cascade.data.sources import folder as folder_module
from cascade.data.sources.folder import staged
from cascade.data.sources.prepare import PrepareConfig, prepare
from cascade.data.splits import require_disjoint
from cascade.data.tables import read_table
from cascade.errors import ConfigError, DataError, LeakageError
from cascade.files import file_digest


def snapshot(root):
    """Bytes, mode and time of every file."""
    return {
        path.relative_to(root): (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def run(tmp_path, name, **options):
    getattr(layouts, name)(tmp_path / "in")
    return prepare(name, tmp_path / "in", tmp_path / "out", PrepareConfig(**options))


def fill(folder, *, append):
    with staged(folder, append=append) as stage:
        (stage / "images_all").mkdir()
        (stage / "images_all" / "new.jpg").write_text("x")
        (stage / "train_data.csv").write_text("x")


def many_patients(root, *, count=120):
    """A download with patients of several images."""
    generator = np.random.default_rng(0)
    stems = [f"ISIC_{number:07d}" for number in range(count)]
    for stem in stems:
        layouts.text(root / f"{stem}.jpg", stem)
    patients = generator.integers(count // 3, size=count)
    lines = ["isic_id,diagnosis_1,patient_id,lesion_id"]
    for number, (stem, patient) in enumerate(zip(stems, patients, strict=True)):
        label = "Malignant" if number % 4 == 0 else "Benign"
        own = f"IP_{patient}" if number % 5 else ""
        lesion = f"IL_{patient}_{generator.integers(2)}" if number % 3 else ""
        lines.append(f"{stem},{label},{own},{lesion}")
    layouts.text(root / "metadata.csv", *lines)


@pytest.mark.parametrize("name", ["isic2016", "isic2017", "ham10000", "ph2", "isic2020"])
def test_prepared_folder_is_read_by_read_table(tmp_path, name):
    summary = run(tmp_path, name, test_fraction=0.5)
    tables = [read_table(tmp_path / "out" / f"{split}_data.csv") for split in ("train", "test")]
    assert sum(map(len, tables)) == summary.total
    require_disjoint(*tables)
    masks = [record.mask_path for table in tables for record in table]
    assert sum(path is not None for path in masks) == summary.masks
    assert summary.masks == (0 if name == "isic2020" else summary.total)


@pytest.mark.parametrize("link", ["copy", "hardlink", "symlink"])
def test_originals_are_never_touched(tmp_path, link):
    layouts.ph2(tmp_path / "in")
    before = snapshot(tmp_path / "in")
    prepare("ph2", tmp_path / "in", tmp_path / "out", PrepareConfig(link=link, test_fraction=0.5))
    assert snapshot(tmp_path / "in") == before
    mask = np.zeros((8, 10), np.uint8)
    mask[2:6, 3:7] = 255
    written = np.asarray(Image.open(tmp_path / "out" / "masks_all" / "IMD002.png"))
    assert np.array_equal(written, mask), "a bitmap became an equal PNG"
    image = tmp_path / "out" / "images_all" / "IMD002.bmp"
    assert image.read_bytes() == next((tmp_path / "in").rglob("IMD002.bmp")).read_bytes()
    assert image.is_symlink() == (link == "symlink")
    assert (image.stat().st_nlink == 2) == (link == "hardlink")


def test_official_sides_that_share_a_lesion_are_refused(tmp_path):
    layouts.isic2018_task3(tmp_path / "in")
    path = tmp_path / "in" / "ISIC2018_Task3_Training_LesionGroupings.csv"
    test_row = {"image": "ISIC_0024550", "lesion_id": "HAM_0", "diagnosis_confirm_type": "x"}
    layouts.table(path, [*rows(path), test_row])
    with pytest.raises(LeakageError, match="lesion_id:HAM_0; use --split random"):
        prepare("isic2018_task3", tmp_path / "in", tmp_path / "out")


def test_drawn_split_keeps_groups_together_and_classes_in_proportion(tmp_path):
    many_patients(tmp_path / "in")
    prepare("isic_client", tmp_path / "in", tmp_path / "out")
    written = (tmp_path / "out" / "test_data.csv").read_bytes()
    for seed in (0, 1):
        out = tmp_path / str(seed)
        prepare("isic_client", tmp_path / "in", out, PrepareConfig(seed=seed, link="hardlink"))
        assert ((out / "test_data.csv").read_bytes() == written) == (seed == 0)
    train, test = (rows(tmp_path / "out" / f"{split}_data.csv") for split in ("train", "test"))
    names = group_names([*train, *test], [row["name"] for row in (*train, *test)])
    assert not set(names[: len(train)]) & set(names[len(train) :])
    assert 0.12 < len(test) / 120 < 0.28
    share = sum(row["class"] == "malignant" for row in test) / len(test)
    assert 0.12 < share < 0.38


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("isic2020", {"split": "source"}, "--split random"),
        ("ham10000", {"indeterminate": "error"}, r"ISIC_0024302 \(HAM10000_metadata.csv row 4\)"),
        ("ph2", {"append": True}, "no prepared data set to append to"),
    ],
)
def test_what_a_source_cannot_give_is_refused_and_nothing_is_written(
    tmp_path, name, options, words
):
    with pytest.raises(DataError, match=words):
        run(tmp_path, name, **options)
    assert not list(tmp_path.glob("out/*"))


def test_options_that_do_not_go_together_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="exclude each other"):
        PrepareConfig(overwrite=True, append=True)
    layouts.ph2(tmp_path / "other")
    with pytest.raises(ConfigError, match="only isic2018_task1"):
        prepare("ph2", tmp_path / "other", tmp_path / "out", labels=tmp_path / "x.csv")
    run(tmp_path, "isic2018_task1", without_labels=True)
    with pytest.raises(DataError, match="with and without classes"):
        prepare("ph2", tmp_path / "other", tmp_path / "out", PrepareConfig(append=True))


def test_indeterminate_and_undiagnosed_images_are_left_out_and_counted(tmp_path):
    summary = run(tmp_path, "isic2019")
    assert summary.excluded == {
        "indeterminate: actinic keratosis": 2,
        "unknown: none of the others": 2,
    }
    assert summary.counts["train"] == {"benign": 4, "malignant": 3}
    assert "excluded: 2 indeterminate: actinic keratosis" in summary.lines()


@pytest.mark.parametrize("label", ["benign", "malignant"])
def test_indeterminate_images_can_be_given_a_class(tmp_path, label):
    run(tmp_path, "ham10000", indeterminate=label, test_fraction=0.0)
    found = {row["diagnosis"]: row["class"] for row in rows(tmp_path / "out" / "train_data.csv")}
    assert found["actinic keratosis or intraepithelial carcinoma"] == label


def test_missing_images_are_all_listed_and_nothing_is_written(tmp_path):
    layouts.ham10000(tmp_path / "in")
    for number in (0, 3, 4):
        next((tmp_path / "in").rglob(f"ISIC_002430{number}.jpg")).unlink()
    with pytest.raises(
        DataError, match="3 of 9 images are missing: ISIC_0024300, ISIC_0024303, ISIC_0024304"
    ):
        prepare("ham10000", tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    config = PrepareConfig(skip_missing=True, test_fraction=0.0)
    summary = prepare("ham10000", tmp_path / "in", tmp_path / "out", config)
    assert (summary.total, len(summary.missing)) == (6, 3)


def test_repeated_row_is_refused(tmp_path):
    layouts.isic_client(tmp_path / "in")
    path = tmp_path / "in" / "metadata.csv"
    layouts.table(path, [*rows(path), rows(path)[0]])
    with pytest.raises(
        DataError,
        match=r"more than one row: ISIC_1234560; .* row 2 and metadata.csv row \d+; remove",
    ):
        prepare("isic_client", tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "=cmd", ""])
def test_unsafe_name_is_refused(tmp_path, name):
    layouts.isic_client(tmp_path / "in")
    path = tmp_path / "in" / "metadata.csv"
    layouts.table(path, [{**rows(path)[0], "isic_id": name}])
    with pytest.raises(DataError):
        prepare("isic_client", tmp_path / "in", tmp_path / "out")


def test_provenance_tells_source_tables_licences_and_options(tmp_path):
    run(tmp_path, "isic_client", test_fraction=0.4)
    first = rows(tmp_path / "out" / "train_data.csv")[0]
    assert (first["license"], first["attribution"]) == ("CC-0", "Somebody's Clinic")
    (entry,) = json.loads((tmp_path / "out" / "prepare.json").read_text())["runs"]
    assert entry["source"] == "isic_client"
    assert entry["tables"] == {"metadata.csv": file_digest(tmp_path / "in" / "metadata.csv")}
    assert entry["licences"] == {"CC-0": 3, "CC-BY": 2}
    assert entry["attributions"] == ["Somebody's Clinic"]
    assert entry["options"]["test_fraction"] == 0.4
    assert entry["excluded"] == {"indeterminate: Indeterminate proliferations": 1} | {
        "unknown: no diagnosis": 1
    }


def test_folder_in_use_is_refused_and_stays_as_it_was(tmp_path):
    run(tmp_path, "ph2", test_fraction=0.5)
    before = snapshot(tmp_path / "out")
    with pytest.raises(DataError, match=r"already holds images_all, .*--append.*--overwrite"):
        prepare("ph2", tmp_path / "in", tmp_path / "out")
    with pytest.raises(DataError, match="4 names are in the data set already: IMD002, IMD003"):
        run(tmp_path, "ph2", append=True)
    assert snapshot(tmp_path / "out") == before


def test_overwrite_replaces_a_prepared_data_set(tmp_path):
    run(tmp_path, "ph2", test_fraction=0.5)
    layouts.isic2020(tmp_path / "other")
    layouts.text(tmp_path / "out" / "splits.json", "{}")
    config = PrepareConfig(overwrite=True, test_fraction=0.0)
    summary = prepare("isic2020", tmp_path / "other", tmp_path / "out", config)
    assert any("splits.json belongs to the former tables" in line for line in summary.lines())
    assert {path.suffix for path in (tmp_path / "out" / "images_all").iterdir()} == {".jpg"}
    assert not (tmp_path / "out" / "test_data.csv").exists()
    assert not list((tmp_path / "out").glob(".prepare-*"))


def test_overwrite_spares_a_data_set_of_somebody_else(tmp_path):
    layouts.text(tmp_path / "out" / "train_data.csv", "name,class", "a.jpg,benign")
    with pytest.raises(DataError, match="was not prepared by this command"):
        run(tmp_path, "ph2", overwrite=True)


def test_overwrite_spares_images_that_were_added_by_hand(tmp_path):
    run(tmp_path, "ph2", test_fraction=0.5)
    layouts.picture(tmp_path / "out" / "images_all" / "own.jpg")
    with pytest.raises(DataError, match=r"no table names: images_all/own.jpg"):
        run(tmp_path, "ph2", overwrite=True)


def test_append_merges_two_sources_and_keeps_the_source_column(tmp_path):
    run(tmp_path, "ph2", test_fraction=0.5)
    before = rows(tmp_path / "out" / "train_data.csv")
    layouts.isic_client(tmp_path / "other")
    config = PrepareConfig(append=True, test_fraction=0.4)
    prepare("isic_client", tmp_path / "other", tmp_path / "out", config)
    train, test = (rows(tmp_path / "out" / f"{split}_data.csv") for split in ("train", "test"))
    assert len(train) + len(test) == 9
    assert {row["source"] for row in (*train, *test)} == {"ph2", "isic_client"}
    assert [{**row, "license": "", "attribution": ""} for row in before] == [
        row for row in train if row["source"] == "ph2"
    ]
    runs = json.loads((tmp_path / "out" / "prepare.json").read_text())["runs"]
    assert [entry["source"] for entry in runs] == ["ph2", "isic_client"]
    assert len(read_table(tmp_path / "out" / "train_data.csv")) == len(train)


def test_append_puts_new_images_of_a_known_patient_on_its_side(tmp_path):
    layouts.isic2020(tmp_path / "in")
    config = PrepareConfig(test_fraction=0.5)
    prepare("isic2020", tmp_path / "in", tmp_path / "out", config)
    known = {row["patient_id"]: "test" for row in rows(tmp_path / "out" / "test_data.csv")}
    stems = [f"ISIC_999999{number}" for number in range(6)]
    for stem in stems:
        layouts.picture(tmp_path / "more" / f"{stem}.jpg")
    layouts.archive_metadata(tmp_path / "more" / "metadata.csv", stems, ["Benign", "Malignant"] * 3)
    config = PrepareConfig(append=True, test_fraction=0.0)
    prepare("isic_client", tmp_path / "more", tmp_path / "out", config)
    for split in ("train", "test"):
        for row in rows(tmp_path / "out" / f"{split}_data.csv"):
            assert known.get(row["patient_id"], "train") == split


@pytest.mark.parametrize("output", [".", "dataset"])
def test_writing_into_the_input_is_refused(tmp_path, output):
    layouts.ph2(tmp_path / "in")
    before = snapshot(tmp_path / "in")
    with pytest.raises(DataError, match="originals are never touched"):
        prepare("ph2", tmp_path / "in", tmp_path / "in" / output)
    assert snapshot(tmp_path / "in") == before


@pytest.mark.parametrize("append", [False, True])
def test_failure_in_the_middle_leaves_the_folder_as_it_was(tmp_path, monkeypatch, append):
    run(tmp_path, "ph2", test_fraction=0.5)
    layouts.isic2020(tmp_path / "other")
    before = snapshot(tmp_path / "out")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module.shutil, "copyfile", full)
    config = PrepareConfig(overwrite=not append, append=append)
    with pytest.raises(DataError, match="No space left on device"):
        prepare("isic2020", tmp_path / "other", tmp_path / "out", config)
    assert snapshot(tmp_path / "out") == before
    assert not list((tmp_path / "out").glob(".prepare-*"))


@pytest.mark.parametrize("append", [False, True])
def test_failure_while_moving_in_is_undone(tmp_path, monkeypatch, append):
    run(tmp_path, "ph2", test_fraction=0.5)
    before = snapshot(tmp_path / "out")
    rename = type(tmp_path).rename

    def failing(path, target):
        if "new" in path.parts and os.fspath(target).endswith("train_data.csv"):
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(type(tmp_path), "rename", failing)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "out", append=append)
    assert snapshot(tmp_path / "out") == before


def test_task1_without_classes_trains_the_segmenter_only(tmp_path):
    layouts.isic2018_task1(tmp_path / "in")
    with pytest.raises(DataError, match="--labels"):
        prepare("isic2018_task1", tmp_path / "in", tmp_path / "out")
    prepare("isic2018_task1", tmp_path / "in", tmp_path / "out", PrepareConfig(without_labels=True))
    table = read_table(tmp_path / "out" / "train_data.csv", require_labels=False)
    assert not table.labelled
    assert len(table.with_mask()) == 3


@pytest.mark.parametrize("named", [["--source", "ph2"], ["ph2"]])
def test_command_prepares_and_prints_a_summary(tmp_path, capsys, named):
    layouts.ph2(tmp_path / "in")
    flags = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert main([*named, *flags, "--test-fraction=0.5"]) == 0
    out = capsys.readouterr().out
    assert "train: 1 benign, 1 malignant" in out
    assert "masks: 4 of 4 images have one" in out


def test_command_draws_synthetic_images_all_or_nothing(tmp_path, capsys):
    flags = ["--source", "synthetic", "--count", "10", "--output", str(tmp_path / "out")]
    assert main(flags) == 0
    assert "train: 5 benign, 3 malignant" in capsys.readouterr().out
    assert len(read_table(tmp_path / "out" / "test_data.csv")) == 2
    before = snapshot(tmp_path / "out")
    assert main(flags) == 2
    assert snapshot(tmp_path / "out") == before
    assert main([*flags, "--overwrite", "--seed", "5"]) == 0
    assert snapshot(tmp_path / "out") != before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "name a data set with --source"),
        (["--source", "ham10000"], "--input: name the folder"),
        (["--source", "hamm10000", "--input", "."], "did you mean ham10000"),
        (["ph2", "--source", "isic2020"], "two sources"),
        (["--source", "ph2", "--input", ".", "--count", "3"], "--count does not apply"),
        (["--source", "synthetic", "--input", "x"], "--input does not apply"),
        (["--source", "synthetic", "--append"], "--append does not apply"),
        (["--source", "synthetic", "--count", "0"], "leaves no training image"),
        (["--source", "ph2", "--input", "/nonexistent"], "does not exist"),
    ],
)
def test_wrong_usage_ends_with_one_line_and_code_2(tmp_path, capsys, flags, message):
    assert main([*flags, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
