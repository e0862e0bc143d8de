import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    jaccard_score,
    roc_auc_score,
)

from cascade.errors import DataError
from cascade.evaluation.cases import CASE_COLUMNS, Case, classification_of, segmentation_of
from cascade.evaluation.overlays import PREDICTED_COLOR, TRUTH_COLOR
from cascade.evaluation.report import write_evaluation
from cascade.evaluation.score_table import CLASSIFICATION_ROWS, metric_rows
from cascade.evaluation.stages import evaluate_cascade, evaluate_classifier, evaluate_segmenter
from cascade.imaging import read_image, read_mask
from cascade.lesion.masking import MaskPolicy, apply_mask, find_lesion, lesion_from_mask
from cascade.metrics.segmentation import PixelCounts, iou
from cascade.pipeline import Cascade
from cascade.pipeline.stages import segment

SEGMENTATION_KEYS = {
    "mean_iou", "mean_thresholded_iou", "pooled_iou", "two_class_iou", "dice", "sensitivity",
    "specificity", "accuracy",
}  # fmt: skip
CLASSIFICATION_KEYS = {
    "accuracy", "precision", "recall", "specificity", "f1", "macro_f1", "balanced_accuracy",
    "roc_auc", "average_precision", "brier", "ece", "log_loss", "auc_at_sensitivity_80",
    "partial_auc_above_sensitivity_80",
}  # fmt: skip


class Blind:
    """Finds nothing."""

    size = 32

    def predict(self, images):
        return np.zeros(images.shape[:3], np.float32)

    def describe(self):
        return {}


@pytest.fixture
def cascade(fake_segmenter, fake_classifier):
    """Both fake stages, with a cutoff that splits these images."""
    return Cascade(fake_segmenter, fake_classifier, cutoff=0.6)


def truth_of(record):
    shape = read_image(record.image_path).shape
    return read_mask(record.mask_path, shape=shape)


def probability_by_hand(classifier, record, policy, lesion):
    """One image through the classifier alone, without the code under test."""
    image = read_image(record.image_path).pixels
    crop = apply_mask(image, lesion, policy, size=classifier.size).pixels
    return float(classifier.predict_proba(crop[None])[0, 1])


def broken_at(table, place, tmp_path, *, mask=False):
    """The table with one image, or mask, cut short."""
    record = table[place]
    path = tmp_path / ("broken.png" if mask else "broken.jpg")
    source = record.mask_path if mask else record.image_path
    path.write_bytes(source.read_bytes()[:100])
    changed = replace(record, **{"mask_path" if mask else "image_path": path})
    records = [changed if item is record else item for item in table]
    return replace(table, records=tuple(records))


def test_segmentation_scores_equal_a_loop_over_images_with_sklearn(table, fake_segmenter):
    evaluation = evaluate_segmenter(fake_segmenter, table)
    scores = {name: [] for name in ("iou", "recall", "specificity", "accuracy", "dice")}
    flat = []
    for record in table:
        image = read_image(record.image_path).pixels
        probability = segment(fake_segmenter, [image])[0]
        predicted = find_lesion(probability, MaskPolicy(), shape=image.shape[:2]).mask.ravel()
        truth = truth_of(record).ravel()
        flat.append((truth, predicted))
        scores["iou"].append(jaccard_score(truth, predicted))
        scores["dice"].append(f1_score(truth, predicted))
        (tn, fp), (fn, tp) = confusion_matrix(truth, predicted, labels=[False, True])
        scores["recall"].append(tp / (tp + fn))
        scores["specificity"].append(tn / (tn + fp))
        scores["accuracy"].append((tp + tn) / truth.size)
    pixels = [np.concatenate(side) for side in zip(*flat, strict=True)]
    found = evaluation.metrics["segmentation"]
    expected = {
        "mean_iou": np.mean(scores["iou"]),
        "mean_thresholded_iou": np.mean([v if v >= 0.65 else 0 for v in scores["iou"]]),
        "pooled_iou": jaccard_score(*pixels),
        "two_class_iou": jaccard_score(*pixels, average="macro"),
        "dice": np.mean(scores["dice"]),
        "sensitivity": np.mean(scores["recall"]),
        "specificity": np.mean(scores["specificity"]),
        "accuracy": np.mean(scores["accuracy"]),
    }
    assert set(expected) == SEGMENTATION_KEYS
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    assert (found["n"], found["n_groups"]) == (len(table), len(set(table.groups())))
    assert 0.1 < found["mean_iou"] < 0.99  # the fake is neither useless nor perfect
    assert set(found["intervals"]) == SEGMENTATION_KEYS
    assert all(low <= found[name] <= high for name, (low, high) in found["intervals"].items())


def test_cases_come_in_the_order_of_the_table_whatever_is_read_ahead(table, fake_segmenter):
    plain = evaluate_segmenter(fake_segmenter, table, num_workers=0)
    assert [case.record.name for case in plain.cases] == table.names()
    for size, workers in ((1, 0), (5, 2)):
        other = evaluate_segmenter(fake_segmenter, table, batch_size=size, num_workers=workers)
        assert other.cases == plain.cases
        assert other.metrics == plain.metrics


def test_only_records_with_a_mask_are_scored_and_none_at_all_is_an_error(table, fake_segmenter):
    half = replace(
        table,
        records=tuple(
            replace(item, mask_path=None) if place % 2 else item for place, item in enumerate(table)
        ),
    )
    assert evaluate_segmenter(fake_segmenter, half).metrics["segmentation"]["n"] == 6
    blind = Blind()  # a missed lesion counts as zero and is kept
    found = evaluate_segmenter(blind, half).metrics["segmentation"]
    assert (found["n"], found["missed"], found["mean_iou"]) == (6, 6, 0.0)
    bare = replace(table, records=tuple(replace(item, mask_path=None) for item in table))
    with pytest.raises(DataError, match="no image has a mask"):
        evaluate_segmenter(fake_segmenter, bare)


@pytest.mark.parametrize("mode", ["feathered_crop", "whole"])
def test_classification_scores_equal_a_loop_over_images_with_sklearn(table, fake_classifier, mode):
    classifier = type(fake_classifier)(policy=MaskPolicy.from_mode(mode))
    evaluation = evaluate_classifier(classifier, table, cutoff=0.6, batch_size=5)
    probabilities = []
    for record in table:
        lesion = lesion_from_mask(truth_of(record), classifier.policy)
        probabilities.append(probability_by_hand(classifier, record, classifier.policy, lesion))
    labels, scores = table.labels(), np.array(probabilities)
    assert [case.probability for case in evaluation.cases] == pytest.approx(probabilities)
    called = scores >= 0.6
    found = evaluation.metrics["classification"]
    assert found["roc_auc"] == pytest.approx(roc_auc_score(labels, scores))
    assert found["average_precision"] == pytest.approx(average_precision_score(labels, scores))
    assert found["brier"] == pytest.approx(brier_score_loss(labels, scores))
    assert found["confusion_matrix"] == confusion_matrix(labels, called).tolist()
    assert found["accuracy"] == pytest.approx(np.mean(called == labels))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, called, average="macro"))
    assert found["cutoff"] == 0.6
    assert set(found["intervals"]) == CLASSIFICATION_KEYS
    assert [case.label for case in evaluation.cases] == [
        "malignant" if value else "benign" for value in called
    ]


def test_the_end_to_end_numbers_are_those_of_the_predictions(table, cascade):
    evaluation = evaluate_cascade(cascade, table, batch_size=5, num_workers=2)
    predictions = cascade([record.image_path for record in table])
    scores = np.array([item.probabilities["malignant"] for item in predictions])
    found = evaluation.metrics["classification"]
    assert found["roc_auc"] == pytest.approx(roc_auc_score(table.labels(), scores))
    called = [item.label == "malignant" for item in predictions]
    assert found["confusion_matrix"] == confusion_matrix(table.labels(), called).tolist()
    ious = [
        jaccard_score(truth_of(record).ravel(), item.mask.ravel())
        for record, item in zip(table, predictions, strict=True)
    ]
    assert evaluation.metrics["segmentation"]["mean_iou"] == pytest.approx(np.mean(ious))
    assert [case.label for case in evaluation.cases] == [item.label for item in predictions]


def test_each_choice_of_mask_is_compared_on_the_same_images(table, cascade):
    """Some images have no true mask: they leave both sides of that comparison."""
    without = set(table.names()[::3])
    partly = replace(
        table,
        records=tuple(
            replace(item, mask_path=None) if item.name in without else item for item in table
        ),
    )
    evaluation = evaluate_cascade(cascade, partly, batch_size=4)
    stages = evaluation.metrics["stages"]
    classifier, policy = cascade.classifier, cascade.policy
    masked = [record for record in table if record.name not in without]
    predicted = {case.record.name: case.probability for case in evaluation.cases}
    whole = replace(policy, frame="full", background="keep")
    by_hand = {
        "truth_mask": {
            item.name: probability_by_hand(
                classifier, item, policy, lesion_from_mask(truth_of(item), policy)
            )
            for item in masked
        },
        "whole_image": {
            item.name: probability_by_hand(
                classifier, item, whole, lesion_from_mask(truth_of(item), policy)
            )
            for item in table
        },
    }
    for name, scores in by_hand.items():
        stage = stages[name]
        assert stage["n"] == stage["predicted_mask"]["n"] == len(scores)
        labels = [item.label == "malignant" for item in table if item.name in scores]
        auc = roc_auc_score(labels, list(scores.values()))
        same = roc_auc_score(labels, [predicted[item] for item in scores])
        assert stage["roc_auc"] == pytest.approx(auc)
        assert stage["predicted_mask"]["roc_auc"] == pytest.approx(same)
        difference = stage["predicted_minus_this_roc_auc"]
        assert difference["difference"] == pytest.approx(same - auc)
        assert difference["interval"][0] <= same - auc <= difference["interval"][1]
    assert by_hand["truth_mask"].keys() != by_hand["whole_image"].keys()


def test_a_table_without_classes_or_masks_gives_what_there_is(table, cascade):
    bare = replace(table, records=tuple(replace(item, label=None) for item in table))
    evaluation = evaluate_cascade(cascade, bare)
    assert set(evaluation.metrics) == {"segmentation"}
    assert len(evaluation.cases) == len(table)
    bare = replace(table, records=tuple(replace(item, mask_path=None) for item in table))
    metrics = evaluate_cascade(cascade, bare).metrics
    assert set(metrics) == {"classification", "stages"}
    assert set(metrics["stages"]) == {"whole_image"}


def test_abstentions_are_counted_and_leave_the_scores(table, fake_classifier):
    class Unsure:
        """Finds a lesion in bright images only."""

        size = 64

        def predict(self, images):
            bright = images.mean(axis=(1, 2, 3)) > 150
            maps = np.zeros(images.shape[:3], np.float32)
            maps[bright, 20:40, 20:40] = 1
            return maps

        def describe(self):
            return {}

    classifier = type(fake_classifier)(policy=MaskPolicy(on_empty="abstain"))
    evaluation = evaluate_cascade(Cascade(Unsure(), classifier), table)
    silent = [case for case in evaluation.cases if case.label is None]
    found = evaluation.metrics["classification"]
    assert 0 < len(silent) < len(table)
    assert found["abstained"] == len(silent)
    assert found["n"] == len(table) - len(silent)
    assert all(case.probability is None for case in silent)
    assert evaluation.metrics["segmentation"]["n"] == len(table)  # a missing mask is no excuse
    assert all("no lesion" in "; ".join(case.warnings) for case in silent)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("stage", ["segmenter", "classifier", "cascade"])
def test_a_broken_file_ends_the_evaluation_and_is_named(table, cascade, tmp_path, stage, mask):
    broken = broken_at(table, 7, tmp_path, mask=mask)
    call = {
        "segmenter": lambda: evaluate_segmenter(cascade.segmenter, broken, num_workers=2),
        "classifier": lambda: evaluate_classifier(cascade.classifier, broken, num_workers=0),
        "cascade": lambda: evaluate_cascade(cascade, broken, num_workers=0),
    }[stage]
    with pytest.raises(DataError, match=r"broken\.(jpg|png)"):
        call()


def test_a_cascade_that_stops_without_a_lesion_names_the_image(table, fake_classifier):
    classifier = type(fake_classifier)(policy=MaskPolicy(on_empty="raise"))
    with pytest.raises(DataError, match=rf"{table[0].name}: cannot be evaluated.*no lesion"):
        evaluate_cascade(Cascade(Blind(), classifier), table)


def test_a_case_is_one_row_with_every_documented_column(table):
    case = Case(
        table[0], label="benign", probability=0.25, counts=PixelCounts(6, 1, 1, 92),
        area_fraction=0.07, warnings=("one", "two"),
    )  # fmt: skip
    row = case.row()
    assert tuple(row) == CASE_COLUMNS
    assert row["iou"] == 6 / 8
    assert row["dice"] == 12 / 14
    assert row["warnings"] == "one; two"
    bare = Case(table[0]).row()
    assert [bare[key] for key in ("label", "probability_malignant", "iou", "dice")] == [None] * 4


def test_without_any_truth_there_are_no_numbers(table):
    bare = [Case(replace(table[0], label=None), probability=0.5)]
    assert segmentation_of(bare) is None
    assert classification_of(bare, cutoff=0.5) is None


@pytest.fixture(scope="module")
def written(table, tmp_path_factory):
    """The files of one evaluation of the cascade."""
    from conftest import FakeClassifier, FakeSegmenter

    cascade = Cascade(FakeSegmenter(), FakeClassifier(), cutoff=0.6)
    folder = tmp_path_factory.mktemp("evaluation")
    evaluation = evaluate_cascade(cascade, table)

    def sketch(image):
        prediction = cascade([image])[0]
        return prediction.mask, prediction.crop

    about = {"model": "fake.safetensors", "data": "<b>&dataset"}
    write_evaluation(folder, evaluation, title="A title", about=about, sketch=sketch)
    return folder, evaluation


def test_numbers_are_written_as_they_are(written):
    folder, evaluation = written
    stored = json.loads((folder / "metrics.json").read_text())
    about = stored.pop("about")
    assert about == {"model": "fake.safetensors", "data": "<b>&dataset"}
    assert stored == json.loads(json.dumps(evaluation.metrics))
    assert {path.name for path in folder.iterdir()} >= {
        "metrics.json", "predictions.csv", "report.html", "iou_histogram.png", "roc.png",
        "precision_recall.png", "reliability.png", "confusion_matrix.png",
    }  # fmt: skip


def test_predictions_have_one_row_for_each_image(written, table):
    folder, evaluation = written
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == table.names()
    assert tuple(rows[0]) == CASE_COLUMNS
    for row, case in zip(rows, evaluation.cases, strict=True):
        assert row["class"] == case.record.label
        assert row["label"] == case.label
        assert row["group"] == case.record.group
        assert float(row["probability_malignant"]) == pytest.approx(case.probability, rel=1e-8)
        assert float(row["iou"]) == pytest.approx(iou(case.counts), rel=1e-8)


def test_the_page_leads_with_the_numbers_and_ends_with_what_it_was_made_from(written):
    folder, evaluation = written
    page = (folder / "report.html").read_text(encoding="utf-8")
    low, high = evaluation.metrics["classification"]["intervals"]["roc_auc"]
    titles = re.findall("<h2[^>]*>([^<]*)<", page)
    assert page.index(f"{low:.3f}–{high:.3f}") < page.index("<h2")
    assert titles[:5] == [
        "Plots", "First images of the table", "Highest IoU", "Lowest IoU",
        "Largest errors of the predicted probability",
    ]  # fmt: skip
    assert titles[-1] == "Provenance"
    assert page.index("fake.safetensors") > page.index('id="provenance"')


def test_the_legend_names_the_contours_with_the_colours_that_are_drawn(written):
    folder, _ = written
    page = (folder / "report.html").read_text(encoding="utf-8")
    for color, name in ((TRUTH_COLOR, "human"), (PREDICTED_COLOR, "predicted")):
        assert re.search(rf'stroke="rgb{re.escape(str(color))}"[^§]{{0,200}}{name} contour', page)


def test_examples_are_the_first_the_best_and_the_worst_images(written):
    folder, evaluation = written
    page = (folder / "report.html").read_text(encoding="utf-8")
    ious = sorted(iou(case.counts) for case in evaluation.cases)
    shown = {}
    for part in page.split("<h2")[1:]:
        title = re.search(">([^<]*)<", part)[1]
        shown[title] = [float(value) for value in re.findall(r"IoU (\d\.\d+)</figcap", part)]
    assert shown["Highest IoU"] == [round(value, 3) for value in ious[:-5:-1]]
    assert shown["Lowest IoU"] == [round(value, 3) for value in ious[:12]]
    assert shown["First images of the table"] == [
        round(iou(case.counts), 3) for case in evaluation.cases[:6]
    ]


def test_an_undefined_metric_is_shown_as_a_dash_with_its_reason(table, fake_classifier):
    benign = table.subset(record.name for record in table if record.label == "benign")
    metrics = evaluate_classifier(fake_classifier, benign).metrics["classification"]
    rows = {row[0]: row for row in metric_rows(metrics, CLASSIFICATION_ROWS)}
    assert re.fullmatch(r"– \(.*malignant\)", rows["ROC AUC"][1])
    assert rows["ROC AUC"][2] == ""


def test_a_classifier_alone_is_reported_without_masks(table, fake_classifier, tmp_path):
    evaluation = evaluate_classifier(fake_classifier, table)
    write_evaluation(tmp_path, evaluation, title="Classifier", about={})
    stored = json.loads((tmp_path / "metrics.json").read_text())
    assert set(stored) == {"classification", "about"}
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "predicted contour" not in page
    assert "First images" not in page
