"""The chain that makes the default cascade, on invented images with tiny networks."""

import csv
import json

import pytest

from cascade.command_line import main as console
from cascade.command_line.main import module_of
from cascade.commands.training import default_model, default_steps
from cascade.commands.training.default_model import build_parser, steps
from cascade.data.splits import read_splits
from cascade.data.synthetic import SyntheticConfig, write_synthetic_dataset
from cascade.models.artifact import read_document
from cascade.pipeline import Cascade
from cascade.training import calibration

SEGMENTER = """
encoder: tu-test_resnet
decoder_channels: [16, 16, 8, 8, 8]
image_size: 32
epochs: 1
batch_size: 8
optimizer: adamw
learning_rate: 0.002
momentum: 0.9
weight_decay: 0.01
"""
CLASSIFIER = """
architecture: timm/test_resnet
image_size: 32
epochs: 1
batch_size: 8
mask_mode: crop
source_balance: 0.5
whole_image_share: 0.1
"""


def write_data(folder, prefix, seed, *, masks):
    config = SyntheticConfig(
        count_train=20, count_test=8, seed=seed, sizes=((72, 96),), masks=masks
    )
    write_synthetic_dataset(folder, config)
    for path in [*folder.glob("*/synthetic_*")]:
        path.rename(path.with_name(path.name.replace("synthetic", prefix)))
    for table in folder.glob("*.csv"):
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            row["name"] = row["name"].replace("synthetic", prefix)
            row["source"] = prefix
            for column in {"patient_id", "lesion_id", "group_id"} & set(row):
                row[column] = f"{prefix}-{row[column]}"
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    """Few drawn images, and a third of the images for validation."""
    monkeypatch.setattr(default_steps, "AGREEMENT", 0.01)
    monkeypatch.setattr(default_steps, "INT8_DIFFERENCE", 1)
    monkeypatch.setattr(default_model, "VALIDATION_FRACTION", 0.3)
    monkeypatch.setattr(calibration, "NON_LESIONS_OF_A_KIND", 2)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("default_model")
    write_data(folder / "data" / "isic", "isic", 1, masks=True)
    write_data(folder / "data" / "ham10000", "ham", 2, masks=False)
    recipes = folder / "recipes"
    recipes.mkdir()
    (recipes / "segmenter.yaml").write_text(SEGMENTER)
    (recipes / "segmenter_large.yaml").write_text(SEGMENTER.replace("size: 32", "size: 64"))
    (recipes / "segmenter_lite.yaml").write_text(SEGMENTER)
    (recipes / "segmenter_student.yaml").write_text(SEGMENTER.replace("size: 32", "size: 64"))
    for name in ("student_long", "student_scale"):
        recipe = SEGMENTER.replace("size: 32", "size: 64")
        (recipes / f"segmenter_{name}.yaml").write_text(recipe)
    (recipes / "segmenter_fast.yaml").write_text(SEGMENTER)
    (recipes / "out_of_fold.yaml").write_text(SEGMENTER + "folds: 2\nvalidation_fraction: 0.3\n")
    (recipes / "classifier.yaml").write_text(CLASSIFIER)
    (recipes / "classifier_160.yaml").write_text(CLASSIFIER + "diagnosis_weight: 0.5\n")
    (recipes / "classifier_192.yaml").write_text(CLASSIFIER.replace("size: 32", "size: 64"))
    (recipes / "classifier_192_strong.yaml").write_text(CLASSIFIER + "seed: 1\n")
    names = ("224", "224_second", "224_long", "224_mixed", "224_balanced", "224_consistent")
    for number, name in enumerate(names):
        recipe = CLASSIFIER.replace("size: 32", "size: 48") + f"seed: {number}\n"
        (recipes / f"classifier_{name}.yaml").write_text(recipe)
    return folder


def flags(folder, *more):
    return ["default-model", "--data", str(folder / "data"), "--output", str(folder / "run"),
            "--model", str(folder / "default.safetensors"), "--card", str(folder / "card.md"),
            "--fast", str(folder / "fast_onnx"),
            "--recipes", str(folder / "recipes"), "--encoder_weights", "none",
            "--classifier_weights", "none", "--device", "cpu", *more]  # fmt: skip


@pytest.mark.slow
def test_one_command_makes_a_cascade_and_its_card_and_keeps_finished_steps(
    workplace, capsys, caplog
):
    assert console.main(flags(workplace)) == 0
    cascade = Cascade.load(workplace / "default.safetensors", device="cpu")
    assert cascade.segmenter.size == 64
    assert cascade.classifier.size == 48
    assert cascade.safeguards.conformal is not None
    fast = Cascade.load(workplace / "fast_onnx")
    assert (fast.segmenter.size, fast.classifier.size) == (32, 48)
    student = read_document(workplace / "run" / "segmenter_student" / "best.safetensors")
    settings = student["provenance"]["segmenter"]["settings"]
    assert settings["initial_model"] == "best.safetensors"
    assert any((workplace / "run" / "pseudo_masks").iterdir())
    card = (workplace / "card.md").read_text()
    metrics = json.loads((workplace / "run" / "evaluation_both" / "metrics.json").read_text())
    assert metrics["classification"]["n"] == 16
    assert "not a medical device" in card.casefold()
    both = read_splits(workplace / "run" / "splits.json")
    first = read_splits(workplace / "run" / "splits_isic.json")
    assert set(first.validation) < set(both.validation)
    assert set(first.train) < set(both.train)
    written = (workplace / "run" / "classifier" / "best.safetensors").stat().st_mtime_ns
    (workplace / "run" / "card.finished").unlink()
    (workplace / "card.md").unlink()
    assert console.main(flags(workplace)) == 0
    assert (workplace / "card.md").read_text() == card
    assert (workplace / "run" / "classifier" / "best.safetensors").stat().st_mtime_ns == written


def test_a_list_of_the_commands_runs_none(workplace, capsys, tmp_path):
    assert console.main([*flags(workplace, "--list"), "--output", str(tmp_path / "x")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == [
        "seg-train", "seg-train", "seg-train", "segment", "seg-train", "seg-train", "seg-train",
        "seg-train",
        "oof-masks", "segment", "cls-train", "cls-train", "cls-train",
        "average", "cls-train", "cls-train", "average", "cls-train", "average", "cls-train",
        "cls-train", "cls-train", "cls-train", "average",
        "calibrate", "evaluate", "evaluate", "evaluate", "card",
        "calibrate", "export", "evaluate", "evaluate", "evaluate",
    ]  # fmt: skip
    assert not (tmp_path / "x").exists()


def test_each_recipe_that_comes_with_the_library_is_read_by_its_command(tmp_path):
    arguments = build_parser().parse_args(["--data", str(tmp_path)])
    trainings = [step for step in steps(arguments) if step.run is not None]
    assert len(trainings) == 18
    for step in trainings:
        module = module_of(step.command)
        given = module.build_parser().parse_args(list(step.flags))
        assert given.epochs < 20


def test_segmenters_of_isic_alone_learn_from_no_other_masks(workplace, capsys):
    assert console.main([*flags(workplace, "--list"), "--without_pseudo_masks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    trainings = [line for line in lines if "seg-train" in line]
    assert len(trainings) == 7
    assert not any("ham10000" in line for line in trainings)
    assert not any("pseudo_masks" in line for line in lines)
    assert any("--segmenter_data isic_task1 --classifier_data" in line for line in lines)


def test_missing_data_is_named(workplace, capsys, tmp_path):
    new = [
        "--model",
        str(tmp_path / "new.safetensors"),
        "--card",
        str(tmp_path / "new.md"),
        "--fast",
        str(tmp_path / "new_onnx"),
    ]
    folders = ["--data", str(tmp_path), "--output", str(tmp_path)]
    code = console.main([*flags(workplace), *folders, *new])
    assert code == 2
    assert "there is no isic/train_data.csv" in capsys.readouterr().err
