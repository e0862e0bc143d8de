import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score
from tiny_training import interrupted, spy_trainings

from cascade.command_line import main as console
from cascade.config import ClassificationTrainConfig, ClassifierConfig
from cascade.data.datasets import ClassificationDataset
from cascade.data.synthetic import SyntheticConfig, write_synthetic_dataset
from cascade.data.tables import read_table
from cascade.errors import ConfigError, DataError
from cascade.files import write_csv
from cascade.lesion.masking import MaskPolicy
from cascade.metrics.classification import roc_auc
from cascade.metrics.intervals import paired_difference
from cascade.models.classifier import Classifier
from cascade.models.ensemble import load_classifier
from cascade.pipeline.stages import classify
from cascade.training import cross_validation as module
from cascade.training.cross_validation import cross_validate_classifier
from cascade.training.images_seen import image_marks
from cascade.training.joining import (
    EQUAL,
    SEARCHED,
    compare_runs,
    join_runs,
    nested_scores,
    search_weights,
)
from cascade.training.out_of_fold import (
    OutOfFold,
    read_out_of_fold,
    require_same_images,
    write_out_of_fold,
)

CONFIG = ClassifierConfig(architecture="timm/test_resnet", size=32)
TRAINING = ClassificationTrainConfig(
    epochs=1, batch_size=8, learning_rate=0.002, weight_decay=0.01, optimizer="adamw",
    precision="fp32", augmentation="none",
)  # fmt: skip
POLICY = MaskPolicy.from_mode("hard_crop", margin=0.3)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Twenty-four images; each lesion was photographed twice."""
    folder = tmp_path_factory.mktemp("data") / "dataset"
    config = SyntheticConfig(count_train=24, count_test=4, sizes=((48, 56),))
    write_synthetic_dataset(folder, config)
    rows, counts = [], {"benign": 0, "malignant": 0}
    for place, record in enumerate(read_table(folder / "train_data.csv")):
        group = f"{record.label} {counts[record.label] // 2}"
        counts[record.label] += 1
        source = "odd" if place % 2 else "=even"
        rows.append({"name": record.name, "class": record.label, "group_id": group,
                     "source": source})  # fmt: skip
    write_csv(folder / "train_data.csv", list(rows[0]), rows)
    return read_table(folder / "train_data.csv")


def run(table, folder, **changes):
    parts = {
        "folds": 2, "config": CONFIG, "training": TRAINING, "device": "cpu", "policy": POLICY,
        "validation_fraction": 0.4, **changes,
    }  # fmt: skip
    return cross_validate_classifier(table, output=folder, **parts)


@pytest.fixture(scope="module")
def done(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cross_validation") / "run"
    return folder, run(table, folder)


@pytest.fixture(scope="module")
def other(table, tmp_path_factory):
    """The same folds, another training."""
    folder = tmp_path_factory.mktemp("cross_validation") / "other"
    return folder, run(table, folder, training=replace(TRAINING, seed=1, learning_rate=0.01))


@pytest.fixture
def trainings(monkeypatch):
    return spy_trainings(monkeypatch, module, "train_classifier")


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_image_is_scored_exactly_once_in_the_order_of_the_table(done, table):
    folder, result = done
    rows = rows_of(folder / "out_of_fold.csv")
    assert list(rows[0]) == [
        "name", "class", "label", "group", "source", "fold", "logit", "probability",
    ]  # fmt: skip
    assert [row["name"] for row in rows] == table.names()
    assert [row["class"] for row in rows] == [record.label for record in table]
    assert [int(row["label"]) for row in rows] == table.labels().tolist()
    assert [row["group"] for row in rows] == table.groups()
    assert {row["fold"] for row in rows} == {"0", "1"}
    assert {row["source"] for row in rows} == {"odd", "'=even"}  # safe to open in a spreadsheet
    assert set(read_out_of_fold(folder / "out_of_fold.csv").sources) == {"odd", "=even"}
    assert result.scores.names == tuple(table.names())


def test_each_score_is_that_of_the_one_network_that_never_saw_the_image(done, table):
    folder, result = done
    networks = [Classifier.load(folder / f"fold_{n}" / "best.safetensors", device="cpu")
                for n in range(2)]  # fmt: skip
    seen = [set(network.provenance["trained_on"]) for network in networks]
    data = ClassificationDataset(table.records, size=32, policy=POLICY)
    crops = np.stack([data.crop(index).pixels for index in range(len(data))])
    judged = np.stack([network.predict_proba(crops)[:, 1] for network in networks])
    assert np.abs(judged[0] - judged[1]).max() > 1e-3  # else the comparison would prove nothing
    for index, name in enumerate(table.names()):
        (mark,) = image_marks([name])
        (unseen,) = [number for number in range(2) if mark not in seen[number]]
        assert result.scores.folds[index] == unseen
        assert result.scores.probabilities[index] == pytest.approx(judged[unseen, index], abs=1e-5)
    odds = 1 / (1 + np.exp(-result.scores.logits))
    np.testing.assert_allclose(odds, result.scores.probabilities, atol=1e-6)


def test_no_group_is_on_both_sides_of_a_fold_or_of_its_inner_division(done, table):
    group = dict(zip(table.names(), table.groups(), strict=True))
    folder, result = done
    for number in range(2):
        fold = module.make_folds(table, 2, seed=0)[number]
        inner = module.inner_splits(table, fold, fraction=0.4, seed=0)
        assert inner.digest in (folder / f"fold_{number}" / "config.yaml").read_text()
        scored = np.array(result.scores.names)[result.scores.folds == number]
        sides = [{group[name] for name in side} for side in (inner.train, inner.validation, scored)]
        assert all(sides)
        assert sum(map(len, sides)) == len(set.union(*sides)) == len(set(group.values()))


def test_the_summary_holds_what_sklearn_computes(done, table):
    folder, result = done
    stored = json.loads((folder / "cross_validation.json").read_text())
    labels, scores = result.scores.labels, result.scores.probabilities
    whole = stored["out_of_fold"]
    assert whole["n"] == len(table)
    assert whole["n_groups"] == len(set(table.groups())) == 12
    assert whole["roc_auc"] == pytest.approx(roc_auc_score(labels, scores))
    assert whole["brier"] == pytest.approx(brier_score_loss(labels, scores))
    low, high = whole["intervals"]["roc_auc"]
    assert low <= whole["roc_auc"] <= high
    assert {"average_precision", "ece"} <= set(whole)
    for number, fold in enumerate(stored["folds"]):
        rows = result.scores.folds == number
        assert (fold["fold"], fold["n"]) == (number, rows.sum())
        assert fold["roc_auc"] == pytest.approx(roc_auc_score(labels[rows], scores[rows]))


def test_the_ensemble_has_all_folds_with_equal_weights_and_knows_what_it_saw(done, table):
    folder, result = done
    ensemble = load_classifier(folder / "ensemble.safetensors", device="cpu")
    assert ensemble.weights == (0.5, 0.5)
    assert ensemble.policy == POLICY
    assert ensemble.provenance["trained_on"] == image_marks(table.names())
    assert ensemble.metrics["out_of_fold"]["roc_auc"] == result.metrics["roc_auc"]
    crops = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    members = [Classifier.load(folder / f"fold_{n}" / "best.safetensors", device="cpu")
               for n in range(2)]  # fmt: skip
    expected = np.mean([item.predict_proba(crops) for item in members], axis=0)
    np.testing.assert_allclose(ensemble.predict_proba(crops), expected, atol=1e-6)
    malignant = result.scores.probabilities[result.scores.labels == 1]
    for target, cutoff in ensemble.operating_points.items():
        assert np.mean(malignant >= cutoff) >= float(target)


def test_scores_over_several_views_are_the_means_that_prediction_gives(table, tmp_path):
    folder = tmp_path / "run"
    result = run(table, folder, tta="flips")
    network = Classifier.load(folder / "fold_0" / "best.safetensors", device="cpu")
    rows = np.flatnonzero(result.scores.folds == 0)
    held_out = table.subset([result.scores.names[row] for row in rows])
    assert held_out.names() == [result.scores.names[row] for row in rows]
    data = ClassificationDataset(held_out.records, size=32, policy=POLICY)
    crops = [data.crop(index) for index in range(len(data))]
    averaged = classify(network, crops, tta="flips")[:, 1]
    assert np.abs(averaged - classify(network, crops)[:, 1]).max() > 1e-4
    np.testing.assert_allclose(result.scores.probabilities[rows], averaged, atol=1e-5)
    odds = 1 / (1 + np.exp(-result.scores.logits))
    np.testing.assert_allclose(odds, result.scores.probabilities, atol=1e-6)
    with pytest.raises(ConfigError, match="tta was 'flips', is None"):
        run(table, folder, resume=True)
    with pytest.raises(ConfigError, match=r"many.*none, flips, dihedral"):
        run(table, tmp_path / "other", tta="many")


def test_a_stopped_run_goes_on_and_ends_with_the_same_scores(table, tmp_path, trainings, done):
    folder, _ = done
    with interrupted(module, "train_classifier", call=2):
        run(table, tmp_path / "run")
    assert not (tmp_path / "run" / "out_of_fold.csv").exists()
    kept = tmp_path / "run" / "fold_0" / "best.safetensors"
    before = kept.stat().st_mtime_ns
    trainings.clear()
    run(table, tmp_path / "run", resume=True)
    assert trainings == ["fold_1"]
    assert kept.stat().st_mtime_ns == before
    for name in ("out_of_fold.csv", "cross_validation.json"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / name).read_bytes()
    trainings.clear()
    run(table, tmp_path / "run", resume=True)
    assert trainings == []


def test_overwriting_forgets_the_earlier_run_at_once(table, tmp_path):
    folder = tmp_path / "run"
    (folder / "fold_0").mkdir(parents=True)
    for name in ("config.yaml", "out_of_fold.csv", "ensemble.safetensors", "fold_0/finished"):
        (folder / name).touch()
    with interrupted(module, "train_classifier", call=1):
        run(table, folder, overwrite=True)
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {"config.yaml"}


def test_folds_of_one_class_and_starts_that_saw_the_table_are_refused(
    table, tmp_path, trainings, done
):
    model = done[0] / "fold_0" / "best.safetensors"
    with pytest.raises(DataError, match="were used to train it"):
        run(table, tmp_path / "run", initial_model=model)
    records = [record for record in table if record.label == "benign"]
    records += [record for record in table if record.label == "malignant"][:4]
    few = replace(table, records=tuple(records))
    with pytest.raises(DataError, match=r"part of fold 0 .* is all benign"):
        run(few, tmp_path / "run")
    assert trainings == []
    assert not (tmp_path / "run").exists()


def scores_of(count=6, **changes):
    generator = np.random.default_rng(0)
    probabilities = generator.random(count).astype(np.float32).astype(np.float64)
    parts = {
        "names": tuple(f"image {index}" for index in range(count)),
        "labels": np.arange(count) % 2,
        "groups": tuple(f"-{index}" for index in range(count)),
        "folds": np.arange(count) // 2 % 3,
        "logits": np.log(probabilities / (1 - probabilities)).astype(np.float32).astype(float),
        "probabilities": probabilities,
        **changes,
    }
    return OutOfFold(**parts)


def test_scores_are_read_back_to_the_last_bit(tmp_path):
    scores = scores_of()
    write_out_of_fold(tmp_path / "s.csv", scores)
    again = read_out_of_fold(tmp_path / "s.csv")
    assert (again.names, again.groups, again.sources) == (scores.names, scores.groups, None)
    for field in ("labels", "folds", "logits", "probabilities"):
        np.testing.assert_array_equal(getattr(again, field), getattr(scores, field))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("probability", "score", "no column probability"),
        ("image 1,", "image 0,", "more than one row for image 0"),
        ("malignant", "bad", "neither benign nor malignant for image 1"),
        ("image 2,benign,0,'-2,1,", "image 2,benign,0,'-2,one,", "fold of image 2 is 'one'"),
    ],
)
def test_a_damaged_file_of_scores_is_refused_with_what_is_wrong(tmp_path, old, new, named):
    path = tmp_path / "s.csv"
    write_out_of_fold(path, scores_of())
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=rf"s\.csv.*{named}"):
        read_out_of_fold(path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"names": ("image 0", "image 1", "image 2", "image 3", "image 4", "new")}, "image 5, new"),
        ({"folds": np.array([0, 0, 1, 1, 2, 0])}, "different folds for 1 images, e.g. image 5"),
        ({"labels": np.array([0, 1, 0, 1, 0, 0])}, "different labels for 1 images"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused_with_the_difference(changes, named):
    with pytest.raises(DataError, match=f"a and b.*{named}"):
        require_same_images([scores_of(), scores_of(**changes)], ["a", "b"])


def invented(count=240, *, noises=(0.6, 3.0), seed=0):
    """Systems with known noise over groups of two, in four folds."""
    generator = np.random.default_rng(seed)
    labels = (np.arange(count) // 2 % 3 == 0).astype(np.int64)
    scores = [1 / (1 + np.exp(-(2.0 * labels - 1 + generator.normal(0, noise, count))))
              for noise in noises]  # fmt: skip
    groups = [f"g{index // 2}" for index in range(count)]
    return np.array(scores), labels, groups, np.arange(count) // 2 % 4


def auc(labels, scores):
    return roc_auc_score(labels, scores)


def test_the_search_finds_the_better_of_two_systems():
    scores, labels, groups, _ = invented()
    weights = search_weights(scores[::-1], labels, groups)
    assert weights.sum() == pytest.approx(1.0)
    assert weights[1] > 0.8 > weights[0] >= 0
    assert search_weights(scores[:1], labels, groups).tolist() == [1.0]


@pytest.mark.parametrize(
    ("scores", "labels", "named"),
    [([[0.1, 0.2]], [0, 1, 1], "scores are"), ([[0.1, 1.2]], [0, 1], "no.*probability|probability"),
     ([[0.1, 0.2]], [1, 1], "one class")],
)  # fmt: skip
def test_a_search_over_what_is_no_scores_is_refused(scores, labels, named):
    with pytest.raises(DataError, match=named):
        search_weights(np.array(scores), np.array(labels))


def test_the_nested_score_uses_no_weights_that_its_own_fold_chose():
    """The labels of one fold are turned round: its scores must stay, those of others may change."""
    scores, labels, groups, folds = invented(80, noises=(1.0, 1.2))
    before = compare_runs(["a", "b"], scores, labels, groups, folds, seed=0, resamples=20)
    turned = np.where(folds == 2, 1 - labels, labels)
    _, after = nested_scores(scores, turned, groups, folds)
    assert before.fold_weights[2] == after[2]
    assert before.fold_weights[0] != after[0]
    mean = np.empty(labels.size)
    for number, weights in before.fold_weights.items():
        mean[folds == number] = np.array(weights) @ scores[:, folds == number]
    assert before.metrics[SEARCHED]["roc_auc"] == pytest.approx(auc(labels, mean))
    assert before.metrics[EQUAL]["roc_auc"] == pytest.approx(auc(labels, scores.mean(axis=0)))
    difference, low, high = paired_difference(
        roc_auc, labels, mean, scores.mean(axis=0), groups, 0, resamples=20
    )
    found = before.differences[f"{SEARCHED} less {EQUAL}"]
    assert [found["difference"], *found["interval"]] == pytest.approx([difference, low, high])


def test_joined_runs_give_the_weighted_mean_of_their_ensembles(done, other, tmp_path):
    path = tmp_path / "joined.safetensors"
    comparison = join_runs([done[0], other[0]], path, searched=False)
    joined = load_classifier(path, device="cpu")
    weights = (0.5, 0.5)
    crops = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    expected = sum(
        weight * result.ensemble.predict_proba(crops)
        for weight, (_, result) in zip(weights, (done, other), strict=True)
    )
    np.testing.assert_allclose(joined.predict_proba(crops), expected, atol=1e-5)
    assert joined.provenance["trained_on"] == done[1].ensemble.provenance["trained_on"]
    assert comparison.metrics[str(done[0])]["roc_auc"] == done[1].metrics["roc_auc"]


def test_the_commands_do_what_the_functions_do(table, done, other, tmp_path, capsys, monkeypatch):
    """The flags resume the run that the function made, so they describe exactly the same run."""
    evaluated = []
    monkeypatch.setattr(
        "cascade.commands.evaluation.cls_eval.report",
        lambda _, evaluation, **__: evaluated.append(evaluation),
    )

    def command(*words):
        code = console.main([str(word) for word in words])
        return code, capsys.readouterr().out

    folder, result = done
    flags = ["--data_path", table.path.parent, "--device", "cpu"]
    code, shown = command(
        "cls-train", *flags, "--folds", 2, "--epochs", 1, "--architecture", "timm/test_resnet",
        "--image_size", 32, "--augmentation", "none", "--validation_fraction", 0.4,
        "--learning_rate", 0.002, "--weight_decay", 0.01, "--optimizer", "adamw",
        "--batch_size", 8, "--precision", "fp32", "--mask_mode", "hard_crop", "--margin", 0.3,
        "--output", folder, "--resume",
    )  # fmt: skip
    assert code == 0
    assert f"{result.metrics['roc_auc']:.4f}" in shown
    assert not (table.path.parent / "splits.json").exists()

    joined = tmp_path / "joined.safetensors"
    code, shown = command("ensemble", folder, other[0], "--weights", "search", "--output", joined)
    assert code == 0
    assert "searched mean" in shown
    assert command("ensemble", folder, other[0], "--output", joined)[0] == 2  # not unasked
    assert command("ensemble", folder, "--output", tmp_path / "one.safetensors")[0] == 2

    score = ["cls-eval", *flags, "--path", joined, "--output", tmp_path / "results"]
    assert command(*score, "--table", "train_data.csv")[0] == 2  # all of it was seen
    assert command(*score)[0] == 0
    assert len(evaluated[0].cases) == 4
