"""What a cascade says about itself, against counts from predictions.csv."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from conftest import FakeClassifier, FakeSegmenter, plain_detector
from scipy.stats import norm
from sklearn.metrics import brier_score_loss, roc_auc_score

from cascade.commands.evaluation import evaluate, score
from cascade.errors import DataError
from cascade.evaluation.model_card import write_model_card
from cascade.evaluation.report import write_evaluation
from cascade.evaluation.safeguard_metrics import measure_operating_points
from cascade.evaluation.safeguard_report import (
    SAFEGUARD_TITLE,
    safeguard_lines,
    safeguard_tables,
)
from cascade.evaluation.stages import evaluate_cascade
from cascade.files import write_json
from cascade.models.artifact import Artifact, read_document, write_artifact
from cascade.pipeline import Cascade
from cascade.reliability import ConformalScores, MaskQualityLimits, Safeguards

POINTS = {"0.80": 0.62, "0.95": 0.55}
SETS = ConformalScores(
    tuple(np.linspace(0.36, 0.6, 29).tolist()), tuple(np.linspace(0.53, 0.7, 24).tolist())
)
OF_SAFEGUARDS = (
    "mask_issues",
    "prediction_set",
    "out_of_distribution_score",
    "masked_crop_probability",
)


class Feeling(FakeSegmenter):
    """Its features are the mean colour of the image."""

    def predict_with_features(self, images):
        return self.predict(images), (images.mean(axis=(1, 2)) / 255).astype(np.float32)


def guarded(**changes):
    """A cascade with all safeguards; each of them flags some of the images."""
    classifier = FakeClassifier()
    classifier.operating_points = POINTS
    guards = Safeguards(
        conformal=SETS,
        mask_quality_limits=LIMITS,
        out_of_distribution=plain_detector(0.19, mean=(0.5,) * 3),
    )
    return Cascade(Feeling(), classifier, cutoff=0.6, safeguards=replace(guards, **changes))


LIMITS = MaskQualityLimits(lowest_expected_iou=0.84, smallest_area=0.2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The header of a cascade's file, for a card and a digest."""
    path = tmp_path_factory.mktemp("model") / "cascade.safetensors"
    stages = {"segmenter": {"config": {}}, "classifier": {"config": {}, "operating_points": POINTS}}
    tensors = {"segmenter.a": np.zeros(3, np.float32), "classifier.b": np.ones(2, np.float32)}
    write_artifact(path, Artifact(stages, tensors, {"segmenter": {}, "classifier": {}}, {}))
    return path


@pytest.fixture(scope="module")
def run(dataset_folder, model, tmp_path_factory):
    """Folder and standard output of ``cascade evaluate``."""
    folder, said = tmp_path_factory.mktemp("evaluation"), io.StringIO()
    flags = ["--path", model, "--data_path", dataset_folder, "--table", "train_data.csv"]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(evaluate, "load_cascade", lambda _: guarded())
        patch.setattr(evaluate, "check_unseen", lambda *_, **__: None)  # loads torch
        assert evaluate.main([str(flag) for flag in [*flags, "--output", folder]]) == 0
    return folder, said.getvalue()


@pytest.fixture(scope="module")
def found(run):
    return json.loads((run[0] / "metrics.json").read_text())["safeguards"]


@pytest.fixture(scope="module")
def rows(run):
    with (run[0] / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def column(rows, name):
    return np.array([float(row[name]) for row in rows])


def wilson(right, groups):
    """The shares p from which the one seen is 1.96 standard deviations of p away."""
    share, spread = np.mean(right), norm.ppf(0.975) ** 2 / len(set(groups))
    roots = np.roots([1 + spread, -(2 * share + spread), share**2])
    return pytest.approx(sorted(np.real(roots)), abs=1e-7)


def test_mask_quality_is_counted_with_what_the_crops_would_have_given(rows, found):
    groups = [row["group"] for row in rows]
    quality, labels = found["mask_quality"], [row["class"] == "malignant" for row in rows]
    low = [row for row in rows if row["mask_issues"]]
    assert 2 < len(low) < len(rows) - 2
    assert (quality["n"], quality["low_quality"], quality["no_lesion"]) == (len(rows), len(low), 0)
    assert quality["whole_image"] == len(low)
    assert quality["share"] == pytest.approx(len(low) / len(rows))
    assert quality["intervals"]["share"] == wilson(
        [bool(row["mask_issues"]) for row in rows], groups
    )
    for kind, chosen in (("low_quality", True), ("trusted", False)):
        ious = [float(row["iou"]) for row in rows if bool(row["mask_issues"]) is chosen]
        assert quality["mean_iou"][kind]["n"] == len(ious)
        assert quality["mean_iou"][kind]["mean_iou"] == pytest.approx(np.mean(ious))
    with_fallback = column(rows, "probability_malignant")
    without = np.array(
        [float(row["masked_crop_probability"] or row["probability_malignant"]) for row in rows]
    )
    assert (with_fallback != without).sum() == len(low)
    compared = quality["classification"]
    assert compared["n"] == len(rows)
    assert compared["undefined"] == {}
    for name, metric in (("roc_auc", roc_auc_score), ("brier", brier_score_loss)):
        first, second = metric(labels, with_fallback), metric(labels, without)
        assert compared["with_fallback"][name] == pytest.approx(first)
        assert compared["without_fallback"][name] == pytest.approx(second)
        change = compared["with_minus_without"][name]
        assert change["difference"] == pytest.approx(first - second)
        assert change["interval"][0] <= change["difference"] <= change["interval"][1]


def test_reasons_are_counted_by_kind_without_their_numbers(rows, found):
    counts = sorted(found["mask_quality"]["reasons"].values())
    words = ("expected IoU", "share of the image")
    assert counts == sorted(sum(word in row["mask_issues"] for row in rows) for word in words)
    assert any("; " in row["mask_issues"] for row in rows), "one mask has both reasons"


def test_sets_hold_a_class_whose_probability_is_at_least_its_rank(rows, found):
    conformal = found["conformal"]
    assert conformal["asked"] == 0.9
    assert [level["asked"] for level in conformal["levels"]] == [0.8, 0.9, 0.95]
    malignant = column(rows, "probability_malignant")
    labels = [row["class"] for row in rows]
    chances = {"benign": 1 - malignant, "malignant": malignant}
    for level in conformal["levels"]:
        held = {}
        for name, scores in (("benign", SETS.benign), ("malignant", SETS.malignant)):
            rank = math.ceil(round((len(scores) + 1) * level["asked"], 9))
            limit = sorted(scores)[-rank] if rank <= len(scores) else 0.0
            held[name] = chances[name] >= limit
        single = held["benign"] != held["malignant"]  # none at all stands for both
        right = [held[name][place] or not single[place] for place, name in enumerate(labels)]
        assert level["n"] == len(rows)
        assert level["abstained"] == pytest.approx(np.mean(~single))
        for name in held:
            own = [ok for ok, label in zip(right, labels, strict=True) if label == name]
            assert level["coverage"][name] == pytest.approx(np.mean(own))
            groups = [row["group"] for row in rows if row["class"] == name]
            assert level["intervals"][name] == wilson(own, groups)
        answered = [ok for ok, one in zip(right, single, strict=True) if one]
        assert level["accuracy_if_answered"] == (
            pytest.approx(np.mean(answered)) if answered else None
        )
        if level["asked"] == 0.9:
            shown = [row["prediction_set"] for row in rows]
            both = "benign malignant"
            one = ["malignant" if held["malignant"][i] else "benign" for i in range(len(rows))]
            assert shown == [one[i] if single[i] else both for i in range(len(rows))]
            assert 0 < single.sum() < len(rows)


def test_out_of_distribution_images_are_counted(rows, found):
    outside = column(rows, "out_of_distribution_score") > 1
    assert 0 < outside.sum() < len(rows)
    counted = found["out_of_distribution"]
    assert (counted["n"], counted["detected"]) == (len(rows), outside.sum())
    assert counted["share"] == pytest.approx(outside.mean())
    assert counted["intervals"]["share"] == wilson(outside, [row["group"] for row in rows])
    assert counted["false_alarm"] == 0.01


def test_operating_points_are_counted(rows, found):
    malignant = np.array([row["class"] == "malignant" for row in rows])
    groups = np.array([row["group"] for row in rows])
    assert list(found["operating_points"]) == list(POINTS)
    for target, cutoff in POINTS.items():
        point, called = (
            found["operating_points"][target],
            column(rows, "probability_malignant") >= cutoff,
        )
        assert point["cutoff"] == cutoff
        assert point["sensitivity"] == pytest.approx(called[malignant].mean())
        assert point["specificity"] == pytest.approx((~called)[~malignant].mean())
        assert point["confusion_matrix"][1] == [(~called)[malignant].sum(), called[malignant].sum()]
        assert point["intervals"]["sensitivity"] == wilson(called[malignant], groups[malignant])
        assert point["intervals"]["specificity"] == wilson(~called[~malignant], groups[~malignant])
        low, high = point["intervals"]["sensitivity"]
        assert point["target_within_interval"] is (low <= float(target) <= high)


def test_photographs_of_one_lesion_are_one_case_for_the_interval():
    labels, scores = np.array([1] * 10), np.linspace(0, 1, 10)
    alone, shared = (
        measure_operating_points({"0.9": 0.5}, labels, scores, groups)["0.9"]
        for groups in ([f"g{number}" for number in range(10)], ["a"] * 5 + ["b"] * 5)
    )
    assert alone["intervals"]["sensitivity"] == wilson(scores >= 0.5, range(10))
    assert shared["intervals"]["sensitivity"] == wilson(scores >= 0.5, "ab")
    assert alone["specificity"] is alone["intervals"]["specificity"] is None
    assert set(alone["undefined"]) == {"specificity"}


def test_crops_of_low_mask_quality_are_judged_as_a_cascade_without_limits_would(table):
    tta = "flips"
    limited = evaluate_cascade(guarded(), table, tta=tta, batch_size=5)
    without = evaluate_cascade(guarded(mask_quality_limits=None), table, tta=tta, batch_size=5)
    assert any(case.mask_issues for case in limited.cases)
    for case, other in zip(limited.cases, without.cases, strict=True):
        assert (case.masked_crop_probability is not None) == bool(case.mask_issues)
        judged = (
            case.probability
            if case.masked_crop_probability is None
            else case.masked_crop_probability
        )
        assert judged == other.probability
        assert case.prediction["mask_quality"] == other.prediction["mask_quality"]
    assert "mask_quality" not in without.metrics["safeguards"]


def test_a_bare_cascade_says_nothing_about_safeguards(table, model, tmp_path):
    evaluation = evaluate_cascade(Cascade(Feeling(), FakeClassifier()), table)
    assert set(evaluation.metrics) == {"segmentation", "classification", "stages"}
    fewer = {"segmentation": evaluation.metrics["segmentation"]}  # for the sake of fewer plots
    write_evaluation(tmp_path, replace(evaluation, metrics=fewer), title="t", about={"data": "d"})
    assert SAFEGUARD_TITLE not in (tmp_path / "report.html").read_text("utf-8")
    with (tmp_path / "predictions.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            assert [row[name] for name in OF_SAFEGUARDS] == [""] * 4
            assert 0 < float(row["mask_quality"]) <= 1
    card = tmp_path / "card.md"
    (tmp_path / "predictions.csv").unlink()  # from which operating points would be counted
    write_model_card(card, model=model, evaluations=[tmp_path])
    assert SAFEGUARD_TITLE not in card.with_name("card_details.md").read_text("utf-8")


def test_without_classes_there_are_reasons_instead_of_numbers(table):
    nameless = replace(table, records=tuple(replace(item, label=None) for item in table))
    found = evaluate_cascade(guarded(), nameless).metrics["safeguards"]
    compared = found["mask_quality"]["classification"]
    assert compared["n"] == 0
    assert compared["with_fallback"] == {"roc_auc": None, "brier": None}
    assert set(compared["undefined"]) == {"roc_auc", "brier", "with_minus_without"}
    assert found["mask_quality"]["low_quality"] > 0
    assert found["mask_quality"]["mean_iou"]["trusted"]["n"] > 0
    assert found["conformal"]["levels"] == []
    assert "no image" in found["conformal"]["undefined"]["levels"]
    assert found["operating_points"]["0.80"]["target_within_interval"] is None
    text = str(safeguard_tables(found)) + str(safeguard_lines(found))
    assert "None" not in text
    assert not re.search(r"\bnan\b", text)


def test_one_class_or_no_mask_of_low_quality_gives_no_difference(table):
    benign = table.subset(record.name for record in table if record.label == "benign")
    compared = evaluate_cascade(guarded(), benign).metrics["safeguards"]["mask_quality"][
        "classification"
    ]
    assert compared["with_fallback"]["roc_auc"] is compared["with_minus_without"]["roc_auc"] is None
    assert compared["with_minus_without"]["brier"]["difference"] != 0
    assert "images are benign" in compared["undefined"]["roc_auc"]
    quiet = evaluate_cascade(guarded(mask_quality_limits=MaskQualityLimits()), table).metrics[
        "safeguards"
    ]["mask_quality"]
    assert quiet["low_quality"] == 0
    assert quiet["mean_iou"]["low_quality"] == {"n": 0, "mean_iou": None}
    assert quiet["classification"]["with_fallback"] == quiet["classification"]["without_fallback"]
    assert quiet["classification"]["with_minus_without"] == {"roc_auc": None, "brier": None}
    (reason,) = quiet["classification"]["undefined"].values()
    assert reason in str(safeguard_tables({"mask_quality": quiet}))


def test_page_terminal_and_card_show_the_numbers(run, found, model, tmp_path):
    folder, said = run
    page = re.sub("<[^>]*>", "", (folder / "report.html").read_text("utf-8"))
    write_model_card(tmp_path / "card.md", model=model, evaluations=[folder])
    card = (tmp_path / "card_details.md").read_text("utf-8")
    assert SAFEGUARD_TITLE in page
    assert f"#### {SAFEGUARD_TITLE}: " in card
    assert card.count("| target on validation |") == 1
    quality, level = found["mask_quality"], found["conformal"]["levels"][1]
    cells = [
        f"{quality['low_quality']} of {quality['n']} ({quality['share']:.4f})",
        f"{quality['classification']['with_fallback']['roc_auc']:.4f}",
        f"{quality['classification']['without_fallback']['brier']:.4f}",
        f"{quality['mean_iou']['low_quality']['mean_iou']:.4f} (n = {quality['low_quality']})",
        "0.9 (in use)",
        f"{level['coverage']['malignant']:.4f} (",
        f"{found['operating_points']['0.95']['specificity']:.4f} (",
    ]
    section = card[card.index(f"#### {SAFEGUARD_TITLE}") :]
    for cell in cells:
        assert cell in page, cell
        assert cell in section, cell
    lines = safeguard_lines(found)
    assert len(lines) == 4
    assert all(line in said.splitlines() for line in lines)


def test_evaluation_names_its_weights_and_a_card_of_others_is_refused(run, model, tmp_path):
    folder, _ = run
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["about"]["model_sha256"] == read_document(model)["tensors_sha256"]
    other = tmp_path / "other"
    metrics["about"]["model_sha256"] = "0" * 64
    write_json(other / "metrics.json", metrics)
    with pytest.raises(DataError, match=rf"{other}.*0000.*evaluate this one again"):
        write_model_card(tmp_path / "card.md", model=model, evaluations=[folder, other])
    assert not (tmp_path / "card.md").exists()
    del metrics["about"]["model_sha256"]  # from before it was written
    write_json(other / "metrics.json", metrics)
    write_model_card(tmp_path / "card.md", model=model, evaluations=[other])


def test_predictions_are_still_read_by_score_and_by_a_card_alone(
    run, dataset_folder, model, found, tmp_path, capsys
):
    folder, _ = run
    flags = ["--truth", dataset_folder / "train_data.csv", "--predicted"]
    assert score.main([str(f) for f in [*flags, folder / "predictions.csv"]]) == 0
    auc = found["mask_quality"]["classification"]["with_fallback"]["roc_auc"]
    assert f"{auc:.4f}" in capsys.readouterr().out
    old = tmp_path / "old"
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["safeguards"]
    write_json(old / "metrics.json", metrics)
    (old / "predictions.csv").write_bytes((folder / "predictions.csv").read_bytes())
    cards = []
    for evaluation in (old, folder):
        write_model_card(tmp_path / "card.md", model=model, evaluations=[evaluation])
        text = (tmp_path / "card_details.md").read_text("utf-8")
        cards.append([line for line in text.splitlines() if line.startswith("| 0.80 |")])
    assert cards[0] == cards[1]
    assert len(cards[0]) == 1
