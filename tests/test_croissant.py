"""Croissant descriptions: what they say of a data set, and that the validator accepts it."""

import json
import shutil

import pytest

from cascade.commands.datasets.croissant import main
from cascade.data.tables import read_csv
from cascade.files import file_digest, write_csv


@pytest.fixture
def described(dataset_folder, tmp_path):
    """A copy of the drawn data set with its description."""
    folder = tmp_path / "dataset"
    shutil.copytree(dataset_folder, folder)
    words = [str(folder), "--output", str(folder / "croissant.json"), "--license", "CC0-1.0"]
    assert main(words) == 0
    return folder, json.loads((folder / "croissant.json").read_text())


def test_tables_have_digests_columns_are_fields_and_splits_are_record_sets(described):
    folder, document = described
    files = {item["name"]: item for item in document["distribution"]}
    assert files.keys() == {"train_data.csv", "test_data.csv", "images_all", "masks_all"}
    for name in ("train_data.csv", "test_data.csv"):
        assert files[name]["sha256"] == file_digest(folder / name)
    columns = read_csv(folder / "train_data.csv")[0]
    train, test = document["recordSet"]
    assert (train["name"], test["name"]) == ("train", "test")
    assert [field["name"] for field in train["field"]] == columns
    assert "12 images" in train["description"]
    assert document["license"] == "CC0-1.0"


def test_the_validator_accepts_it_and_reads_the_rows(described):
    croissant = pytest.importorskip("mlcroissant")
    folder, _ = described
    dataset = croissant.Dataset(jsonld=str(folder / "croissant.json"))
    rows = list(dataset.records("train"))
    expected = read_csv(folder / "train_data.csv")[1]
    assert [row["train/name"].decode() for row in rows] == [row["name"] for row in expected]


def test_columns_and_folders_of_any_name_are_accepted(dataset_folder, tmp_path, capsys):
    croissant = pytest.importorskip("mlcroissant")
    folder = tmp_path / "Häufige Läsionen 痣"
    shutil.copytree(dataset_folder, folder)
    for name in ("train_data.csv", "test_data.csv"):
        columns, rows = read_csv(folder / name)
        more = {"Größe in mm": "3,5", "Größe  in mm": "4", "Größe_in_mm": "5"}
        write_csv(folder / name, [*columns, *more], [{**row, **more} for row in rows])
    assert main([str(folder), "--output", str(folder / "croissant.json")]) == 0
    assert "move it" not in capsys.readouterr().out
    first = next(iter(croissant.Dataset(str(folder / "croissant.json")).records("train")))
    values = [value.decode() for name, value in first.items() if "mm" in name]
    assert values == ["3,5", "4", "5"]


def test_a_description_elsewhere_is_told_to_be_moved(dataset_folder, tmp_path, capsys):
    assert main([str(dataset_folder), "--output", str(tmp_path / "c.json")]) == 0
    assert f"move it to {dataset_folder}, where its paths begin" in capsys.readouterr().out


def test_a_folder_without_tables_is_refused(tmp_path, capsys):
    assert main([str(tmp_path), "--output", str(tmp_path / "c.json")]) == 2
    assert "has neither train_data.csv nor test_data.csv" in capsys.readouterr().err
