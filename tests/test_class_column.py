"""Classes of any names in any column of a table."""

from __future__ import annotations

import csv

import pytest

from cascade.command_line.main import main
from cascade.command_line.parser import OK, USAGE
from cascade.data.class_column import ClassColumn
from cascade.data.synthetic import SyntheticConfig, write_synthetic_dataset
from cascade.data.tables import read_table
from cascade.errors import ConfigError, DataError

KINDS = {"benign": ("Nevus", "dermatofibroma"), "malignant": ("melanoma", "BCC")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tables whose column ``kind`` holds four classes, and ``class`` words of no meaning."""
    path = tmp_path_factory.mktemp("data")
    write_synthetic_dataset(
        path, SyntheticConfig(count_train=24, count_test=8, sizes=((64, 80),), seed=2)
    )
    for name in ("train_data.csv", "test_data.csv"):
        with (path / name).open(newline="") as file:
            rows = list(csv.DictReader(file))
        for number, row in enumerate(rows):
            row["kind"] = KINDS[row["class"]][number % 2]
            row["truth"], row["class"] = row["class"], f"group {number % 3}"
        with (path / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def test_declared_classes_are_malignant_and_each_word_is_the_diagnosis(folder):
    table = read_table(folder / "train_data.csv", classes=ClassColumn("kind", ("MELANOMA", "bcc")))
    for record in table:
        assert record.label == record.attributes["truth"]
        assert record.attributes["diagnosis"] == record.attributes["kind"]


@pytest.mark.parametrize(
    ("column", "malignant", "message"),
    [
        ("kinds", ("melanoma",), r"no column 'kinds'.*did you mean.*kind"),
        ("kind", ("melanoma", "sarcoma"), r"nowhere sarcoma.*BCC, Nevus"),
        ("kind", ("melanoma", "bcc", "nevus", "dermatofibroma"), "all classes of kind"),
    ],
)
def test_a_wrong_declaration_names_what_the_table_holds(folder, column, malignant, message):
    with pytest.raises(DataError, match=message):
        read_table(folder / "train_data.csv", classes=ClassColumn(column, malignant))


def test_an_empty_cell_is_named_by_its_row(folder, tmp_path):
    lines = (folder / "train_data.csv").read_text().splitlines()
    lines[2] = lines[2].replace("Nevus", "").replace("dermatofibroma", "")
    lines[2] = lines[2].replace("melanoma,", ",").replace("BCC", "")
    path = tmp_path / "t.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"kind is empty in 1 rows: 3"):
        read_table(path, classes=ClassColumn("kind", ("melanoma",)), check_files=False,
                   images=folder / "images_all")  # fmt: skip


def test_malignant_classes_must_be_declared():
    with pytest.raises(ConfigError, match="--malignant"):
        ClassColumn("kind", ())


@pytest.mark.parametrize(
    "flags", [["--classes", "kind"], ["--malignant", "melanoma"]], ids=lambda words: words[0]
)
def test_one_flag_without_the_other_is_refused(folder, tmp_path, capsys, flags):
    words = ["cls-train", "--data_path", str(folder), "--output", str(tmp_path / "m")]
    assert main([*words, *flags]) == USAGE
    assert "--malignant" in capsys.readouterr().err


def test_a_classifier_of_declared_classes_tells_them(folder, tmp_path, capsys):
    from cascade.models.classifier import Classifier

    words = ["cls-train", "--data_path", str(folder), "--output", str(tmp_path / "m"), "-e", "1"]
    words += ["-a", "timm/test_resnet", "--image_size", "32", "--batch_size", "4"]
    words += ["--validation_fraction", "0.4", "--splits", str(tmp_path / "splits.json")]
    words += ["--device", "cpu"]
    assert main([*words, "--classes", "kind", "--malignant", "melanoma", "BCC"]) == OK
    assert "--diagnosis_weight 1" in capsys.readouterr().err
    classifier = Classifier.load(tmp_path / "m" / "best.safetensors", device="cpu")
    assert set(classifier.diagnoses.malignant) == {"melanoma", "basal cell carcinoma"}
    assert set(classifier.diagnoses.benign) == {"melanocytic nevus", "dermatofibroma"}
