"""Corrupted images, and how far scores fall with them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from conftest import FakeClassifier, FakeSegmenter
from sklearn.metrics import roc_auc_score

from cascade.command_line.evaluation_options import EVALUATION_FILES
from cascade.data.synthetic import SyntheticConfig, draw_lesion, write_synthetic_dataset
from cascade.data.tables import read_table
from cascade.errors import DataError
from cascade.evaluation.score_table import score_text
from cascade.imaging import read_image, read_mask
from cascade.lesion.masking import bounding_box
from cascade.metrics.segmentation import count_pixels, iou
from cascade.pipeline import Cascade
from cascade.robustness import CORRUPTIONS, STRENGTHS, corrupted_scores
from cascade.robustness.report import corruption_lines, corruption_section

MOVING = [kind for kind in CORRUPTIONS if kind.move is not None]
STILL = [kind for kind in CORRUPTIONS if kind.move is None]
BY_NAME = {kind.name: kind for kind in CORRUPTIONS}


@pytest.fixture(scope="module")
def lesion():
    return draw_lesion(np.random.default_rng(3), malignant=False, shape=(120, 160))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_synthetic_dataset(
        folder, SyntheticConfig(count_train=2, count_test=8, sizes=((96, 128),))
    )
    return read_table(folder / "test_data.csv")


@pytest.fixture(scope="module")
def cascade():
    return Cascade(FakeSegmenter(), FakeClassifier())


@pytest.fixture(scope="module")
def scores(cascade, table):
    return corrupted_scores(cascade, table, resamples=50)


def apply(name, lesion, strength, seed=1):
    box = bounding_box(lesion.mask)
    return BY_NAME[name].apply(lesion.image, lesion.mask, box, strength, seed=seed)


@pytest.mark.parametrize("kind", CORRUPTIONS, ids=lambda kind: kind.name)
def test_each_strength_changes_the_image_and_equal_seeds_change_it_alike(kind, lesion):
    results = [apply(kind.name, lesion, strength)[0] for strength in range(len(STRENGTHS))]
    for image in results:
        assert image.dtype == np.uint8
        assert image.shape[2] == 3
        assert image.shape != lesion.image.shape or (image != lesion.image).any()
    again = apply(kind.name, lesion, 2)[0]
    np.testing.assert_array_equal(results[2], again)


@pytest.mark.parametrize("kind", STILL, ids=lambda kind: kind.name)
def test_a_stronger_change_of_the_pixels_is_larger_and_leaves_the_mask(kind, lesion):
    changes = []
    for strength in range(len(STRENGTHS)):
        image, mask = apply(kind.name, lesion, strength)
        assert mask is lesion.mask
        changes.append(np.abs(image.astype(float) - lesion.image).mean())
    assert changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("seed", range(8))
def test_a_cut_leaves_the_named_share_of_the_lesion_beyond_one_border(lesion, seed):
    top, left, bottom, right = bounding_box(lesion.mask)
    for strength, amount in enumerate(BY_NAME["cut by the border"].amounts):
        image, mask = apply("cut by the border", lesion, strength, seed)
        assert image.shape[:2] == mask.shape
        cut = bounding_box(mask)
        shares = (
            1 - (cut[2] - cut[0]) / (bottom - top),
            1 - (cut[3] - cut[1]) / (right - left),
        )
        assert max(shares) == pytest.approx(amount, abs=0.06)
        assert 0 in (cut[0], cut[1]) or cut[2] == mask.shape[0] or cut[3] == mask.shape[1]


@pytest.mark.parametrize(("name", "direction"), [("smaller", 1), ("larger", -1)])
def test_another_scale_changes_what_share_of_the_image_the_lesion_takes(lesion, name, direction):
    kind = BY_NAME[name]
    for strength, amount in enumerate(kind.amounts):
        image, mask = apply(name, lesion, strength)
        assert image.shape[:2] == mask.shape
        assert image.shape[0] == pytest.approx(lesion.image.shape[0] / amount, abs=2)
        assert direction * (image.shape[0] - lesion.image.shape[0]) > 0
        if name == "smaller":
            assert mask.sum() == lesion.mask.sum()
            np.testing.assert_array_equal(image[mask], lesion.image[lesion.mask])


def test_colour_casts_keep_the_mean_of_the_log_gains(lesion):
    kind = BY_NAME["colour cast"]
    plain = np.full((40, 40, 3), 100, np.uint8)
    changed, _ = kind.apply(plain, plain[..., 0] > 0, (0, 0, 9, 9), 2, seed=5)
    gains = np.log(changed[0, 0] / 100)
    assert gains.mean() == pytest.approx(0, abs=0.01)
    assert np.linalg.norm(gains) == pytest.approx(kind.amounts[2], abs=0.015)


def test_the_scores_of_a_corruption_are_those_of_its_images(cascade, table, scores):
    assert len(scores["rows"]) == 1 + len(CORRUPTIONS) * len(STRENGTHS)
    clean = next(row for row in scores["rows"] if row["corruption"] == "none")
    labels, probabilities, overlaps = [], [], []
    for record in table:
        prediction = cascade([read_image(record.image_path).pixels])[0]
        labels.append(record.label == "malignant")
        probabilities.append(prediction.probabilities["malignant"])
        truth = read_mask(record.mask_path, shape=prediction.mask.shape)
        overlaps.append(iou(count_pixels(truth, prediction.mask)))
    assert clean["roc_auc"] == pytest.approx(roc_auc_score(labels, probabilities))
    assert clean["mean_iou"] == pytest.approx(np.mean(overlaps))
    called = np.array(probabilities) >= cascade.cutoff
    assert clean["sensitivity"] == pytest.approx(called[np.array(labels)].mean())
    assert clean["specificity"] == pytest.approx(1 - called[~np.array(labels)].mean())
    assert clean["iou_fall"] is None


def test_falls_are_differences_and_the_mean_is_over_all_of_them(scores):
    clean, *others = scores["rows"]
    for row in others:
        assert row["iou_fall"] == pytest.approx(clean["mean_iou"] - row["mean_iou"])
        assert row["auc_fall"] == pytest.approx(clean["roc_auc"] - row["roc_auc"])
        low, high = row["intervals"]["iou_fall"]
        assert low - 1e-9 <= row["iou_fall"] <= high + 1e-9
    for name in ("iou_fall", "auc_fall"):
        assert scores[name] == pytest.approx(np.mean([row[name] for row in others]))
    # a segmenter that calls dark what is lesion fails when all is dark
    dark = next(r for r in others if (r["corruption"], r["strength"]) == ("brightness", "strong"))
    assert dark["iou_fall"] > 0.1


def test_without_masks_or_classes_the_other_falls_are_still_given(cascade, tmp_path):
    write_synthetic_dataset(
        tmp_path, SyntheticConfig(count_train=2, count_test=3, masks=False, sizes=((96, 128),))
    )
    found = corrupted_scores(cascade, read_table(tmp_path / "test_data.csv"), resamples=20)
    assert found["iou_fall"] is None
    assert found["auc_fall"] is not None
    assert found["rows"][5]["mean_iou"] is None
    benign = SyntheticConfig(count_train=2, count_test=2, malignant_fraction=0, sizes=((96, 128),))
    write_synthetic_dataset(tmp_path / "benign", benign)
    found = corrupted_scores(cascade, read_table(tmp_path / "benign" / "test_data.csv"))
    assert found["auc_fall"] is None
    assert found["iou_fall"] is not None
    assert found["rows"][0]["sensitivity"] is None


def test_an_image_that_cannot_be_read_is_named(cascade, tmp_path):
    write_synthetic_dataset(
        tmp_path, SyntheticConfig(count_train=2, count_test=2, sizes=((96, 128),))
    )
    path = sorted((tmp_path / "images_all").glob("*.jpg"))[-1]
    table = read_table(tmp_path / "test_data.csv")
    next(iter(table)).image_path.write_bytes(b"no image")
    assert path.exists()
    with pytest.raises(DataError, match=next(iter(table)).name):
        corrupted_scores(cascade, table)


def test_the_table_the_plot_and_the_page_show_every_row(scores, table, tmp_path):
    section = corruption_section(tmp_path, scores, next(iter(table)), seed=0)
    with (tmp_path / "corruptions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(scores["rows"]) + 1
    assert rows[-1]["corruption"] == "mean"
    assert float(rows[4]["iou_fall"]) == pytest.approx(scores["rows"][4]["iou_fall"])
    assert len(section.tables[0].rows) == len(rows)
    assert len(section.figures) == 1 + len(CORRUPTIONS)
    assert {"corruptions.csv", "corruptions.png"} <= set(EVALUATION_FILES)
    assert (tmp_path / "corruptions.png").read_bytes().startswith(b"\x89PNG")
    lines = corruption_lines(scores)
    assert len(lines) == 2
    assert f"{scores['iou_fall']:.3f}" in lines[0]


@pytest.mark.parametrize("fall", [0.0, -0.01])
def test_the_worst_corruption_is_one_of_them_also_where_nothing_falls(fall):
    clean = {"corruption": "none", "strength": "", "iou_fall": None, "auc_fall": None}
    blur = {"corruption": "blur", "strength": "mild", "iou_fall": fall, "auc_fall": None}
    (line,) = corruption_lines(
        {"rows": [clean, blur], "iou_fall": fall, "auc_fall": None, "intervals": {"iou_fall": None}}
    )
    assert line.endswith(f"{fall:.3f} with mild blur")


def test_the_documentation_has_every_amount():
    page = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text()
    for kind in CORRUPTIONS:
        amounts = " | ".join(f"{amount:g}" for amount in kind.amounts)
        assert f"| {kind.name} | {kind.meaning} | {amounts} |" in page


def test_an_interval_of_a_fall_shows_its_signs_and_no_negative_zero():
    assert score_text(0.872, (0.836, 0.906)) == "0.872 (0.836–0.906)"
    assert score_text(-0.00201, (-0.0029, -0.00151)) == "-0.002 (-0.003 to -0.002)"
    assert score_text(-0.0001, (-0.0004, 0.0002)) == "0.000 (0.000 to 0.000)"
    assert score_text(-0.0001) == "0.000"
