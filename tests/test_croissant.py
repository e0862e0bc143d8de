"""Croissant descriptions: what they say of a data set, and that the validator accepts it."""

import json
import shutil

import pytest

from cascade.commands.datasets.croissant import main
from cascade.data.tables import read_csv
from cascade.files import file_digest


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


def test_a_folder_without_tables_is_refused(tmp_path, capsys):
    assert main([str(tmp_path), "--output", str(tmp_path / "c.json")]) == 2
    assert "has neither train_data.csv nor test_data.csv" in capsys.readouterr().err
