"""``cascade fit-metadata``: the fit on a finished cascade, what it keeps, and its evaluation."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, roc_auc_score
from tiny_training import SEGMENTER

from cascade.command_line import main as console
from cascade.config import ClassifierConfig
from cascade.data.splits import make_splits, write_splits
from cascade.data.synthetic import SyntheticConfig, write_synthetic_dataset
from cascade.data.tables import read_csv, read_table
from cascade.evaluation.metadata import with_metadata
from cascade.evaluation.model_card import write_model_card
from cascade.evaluation.stages import Evaluation
from cascade.files import write_csv
from cascade.lesion.masking import MaskPolicy
from cascade.models.artifact import read_artifact, tensors_digest
from cascade.models.classifier import Classifier
from cascade.models.segmenter import Segmenter
from cascade.pipeline import Cascade
from cascade.reliability import Metadata, Safeguards
from cascade.training.metadata import fit_on_out_of_fold, fit_on_validation
from cascade.training.out_of_fold import COLUMNS, OutOfFold


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set in which the malignant are old, a cascade that knows nothing, and its fit."""
    path = tmp_path_factory.mktemp("metadata")
    config = SyntheticConfig(count_train=64, count_test=16, seed=3, sizes=((48, 64),))
    write_synthetic_dataset(path / "data", config)
    generator = np.random.default_rng(0)
    for name in ("train_data.csv", "test_data.csv"):
        columns, rows = read_csv(path / "data" / name)
        for row in rows:
            middle = 70 if row["class"] == "malignant" else 40
            row["age"] = str(int(np.clip(generator.normal(middle, 12), 5, 90)))
            row["sex"], row["site"] = "", "back"
        rows[0]["age"] = ""
        write_csv(path / "data" / name, columns, rows)
    table = read_table(path / "data" / "train_data.csv")
    splits = make_splits(table, fraction=0.5, seed=0)
    write_splits(path / "data" / "splits.json", splits)
    torch.manual_seed(0)
    classifier = Classifier.build(
        ClassifierConfig(architecture="timm/test_resnet", size=32),
        policy=MaskPolicy.from_mode("crop"),
    )
    classifier.provenance["splits"] = {"digest": splits.digest}
    Cascade(Segmenter.build(SEGMENTER).eval(), classifier.eval()).save(path / "plain.safetensors")
    assert fit(path) == 0
    return path


def fit(folder, *flags, model="plain.safetensors", output="fused.safetensors"):
    return console.main([
        "fit-metadata", "--model", str(folder / model), "--data_path", str(folder / "data"),
        "--output", str(folder / output), "--device", "cpu", *flags,
    ])  # fmt: skip


def test_nothing_but_the_fusion_is_added(folder):
    before, after = (
        read_artifact(folder / name) for name in ("plain.safetensors", "fused.safetensors")
    )
    assert tensors_digest(before.tensors) == tensors_digest(after.tensors)
    added = dict(after.stages)
    fusion = added.pop("safeguards")
    assert added == before.stages
    assert list(fusion) == ["metadata"]
    assert {"age", "age_squared", "posterior torso"} <= set(fusion["metadata"]["coefficients"])
    facts = after.metrics["classifier"]["metadata"]
    assert facts["images"] == len(read_table(folder / "data" / "train_data.csv")) // 2
    assert facts["known"]["sex"] == 0
    assert facts["held_out"]["log_loss"] < facts["image_alone"]["log_loss"], "age tells the classes"


def test_a_fit_through_python_is_that_of_the_command(folder):
    table = read_table(folder / "data" / "train_data.csv")
    splits = make_splits(table, fraction=0.5, seed=0)
    cascade = Cascade.load(folder / "plain.safetensors", device="cpu")
    result = fit_on_validation(cascade, table, splits)
    stored = Cascade.load(folder / "fused.safetensors", device="cpu").safeguards.metadata
    assert stored.coefficients == pytest.approx(dict(result.fusion.coefficients))
    again = fit_on_validation(
        Cascade.load(folder / "fused.safetensors", device="cpu"), table, splits
    )
    assert again.fusion.coefficients == pytest.approx(dict(stored.coefficients))


def test_an_evaluation_compares_on_the_same_images(folder, capsys):
    output = folder / "evaluation"
    flags = ("--data_path", str(folder / "data"), "--output", str(output), "--device", "cpu")
    assert console.main(["evaluate", "--model", str(folder / "fused.safetensors"), *flags]) == 0
    metrics = json.loads((output / "metrics.json").read_text())
    found = metrics["metadata"]
    assert found["image_alone"]["roc_auc"] == metrics["classification"]["roc_auc"]
    fusion = Cascade.load(folder / "fused.safetensors", device="cpu").safeguards.metadata
    with (output / "predictions.csv").open() as file:
        alone = {row["name"]: float(row["image_probability"]) for row in csv.DictReader(file)}
    _, rows = read_csv(folder / "data" / "test_data.csv")
    labels = [int(row["class"] == "malignant") for row in rows]
    fused = [fusion.probability(alone[row["name"]], Metadata.of(row)) for row in rows]
    expected = roc_auc_score(labels, fused)
    assert found["with_metadata"]["roc_auc"] == pytest.approx(expected, abs=1e-6)
    assert found["with_metadata"]["brier"] == pytest.approx(brier_score_loss(labels, fused))
    change = found["differences"]["roc_auc"]
    assert change["difference"] == pytest.approx(expected - found["image_alone"]["roc_auc"])
    assert change["interval"][0] > 0
    assert found["used"] == {"age": len(rows) - 1, "sex": 0, "site": len(rows)}
    said = capsys.readouterr().out
    assert "The probability with metadata ranks better than that of the image alone." in said
    assert "Age, sex and site beside the image" in (output / "report.html").read_text()
    card = folder / "card.md"
    write_model_card(card, model=folder / "fused.safetensors", evaluations=[output])
    written = card.with_name("card_details.md").read_text(encoding="utf-8")
    assert f"| ROC AUC | {found['image_alone']['roc_auc']:.4f} | {expected:.4f} |" in written
    assert max(map(len, written.splitlines())) < 2000, "no list of calibration scores"


def test_without_a_fusion_or_metadata_nothing_is_compared(folder):
    evaluation = Evaluation(())
    assert with_metadata(evaluation, Safeguards()) is evaluation
    fused = Cascade.load(folder / "fused.safetensors", device="cpu").safeguards
    assert with_metadata(evaluation, fused) is evaluation


def test_scores_of_a_cross_validation_are_calibrated_first(folder):
    table = read_table(folder / "data" / "train_data.csv")
    labels = table.labels()
    logits = np.random.default_rng(1).normal(0, 5, len(labels)) + 4 * labels + 3
    scores = OutOfFold(
        tuple(table.names()), labels, tuple(table.groups()), np.zeros(len(labels), np.int64),
        logits, 1 / (1 + np.exp(-logits)),
    )  # fmt: skip
    result = fit_on_out_of_fold(table, scores)
    assert result.facts["images"] == len(labels)
    assert result.facts["image_alone"]["log_loss"] < 0.7, "far too sure before"
    order = np.random.default_rng(2).permutation(len(labels))
    shuffled = OutOfFold(
        tuple(scores.names[row] for row in order), labels[order],
        tuple(scores.groups[row] for row in order), scores.folds, logits[order],
        scores.probabilities[order],
    )  # fmt: skip
    again = fit_on_out_of_fold(table, shuffled)
    assert again.fusion.coefficients == pytest.approx(dict(result.fusion.coefficients))


def test_the_command_takes_such_scores(folder):
    table = read_table(folder / "data" / "train_data.csv")
    rows = [
        dict(zip(COLUMNS, (item.name, item.label, int(item.label == "malignant"), item.group, 0,
                           0.1, 0.5), strict=True))
        for item in table
    ]  # fmt: skip
    write_csv(folder / "out_of_fold.csv", COLUMNS, rows)
    assert (
        fit(folder, "--scores", str(folder / "out_of_fold.csv"), output="of_fold.safetensors") == 0
    )
    facts = read_artifact(folder / "of_fold.safetensors").metrics["classifier"]["metadata"]
    assert facts["images"] == len(table)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [("age", "abc", "age is 'abc'; give years"), ("site", "moon", "site is 'moon'; choose from")],
)
def test_a_wrong_cell_is_named(folder, capsys, column, value, said):
    path = folder / "data" / "train_data.csv"
    whole = path.read_bytes()
    columns, rows = read_csv(path)
    for row in rows:
        row[column] = value
    write_csv(path, columns, rows)
    try:
        assert fit(folder, output="never.safetensors") == 2
    finally:
        path.write_bytes(whole)
    error = capsys.readouterr().err
    assert said in error
    assert "train_data.csv: " in error
    assert not (folder / "never.safetensors").exists()


def test_an_exported_cascade_is_refused(folder, capsys):
    (folder / "exported").mkdir()
    (folder / "exported" / "cascade.json").write_text("{}")
    assert fit(folder, model="exported", output="never.safetensors") == 2
    assert "name the .safetensors file that it was exported from" in capsys.readouterr().err


def test_another_division_is_refused(folder, capsys):
    table = read_table(folder / "data" / "train_data.csv")
    write_splits(folder / "other.json", make_splits(table, fraction=0.4, seed=7))
    assert fit(folder, "--splits", str(folder / "other.json"), output="never.safetensors") == 2
    assert "another division" in capsys.readouterr().err
