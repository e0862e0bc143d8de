"""What the page says: never a bare low probability, and what limits each answer."""

from dataclasses import replace

import numpy as np
import pytest

from cascade.lesion.masking import Lesion, MaskPolicy
from cascade.lesion.measurements import Measurements
from cascade.pipeline.prediction import Prediction
from cascade.serving.page.words import (
    Answer,
    OperatingPoint,
    answer_of,
    further_warnings,
    measurement_notes,
    operating_points,
    percent,
    rows_of,
    verdict,
)

POINT = OperatingPoint(0.2, 0.9)
PREDICTION = Prediction(
    name="image",
    label="benign",
    probabilities={"benign": 0.97, "malignant": 0.03},
    lesion=Lesion(np.ones((4, 4), bool), (0, 0, 4, 4), 1),
    shape=(4, 4),
    policy=MaskPolicy(),
    mask_probability=np.ones((4, 4), np.float32),
    box=(0, 0, 4, 4),
    crop=np.zeros((8, 8, 3), np.uint8),
    crop_box=(0, 0, 4, 4),
    prediction_set=("benign",),
    out_of_distribution_score=0.5,
)
SIZES = Measurements(
    area_pixels=1234,
    area_fraction=0.1,
    area_square_millimetres=None,
    diameter_pixels=52.4,
    diameter_millimetres=None,
    asymmetry=0.081,
    border_irregularity=1.034,
    colour_variegation=9.87,
    mean_lightness=41.2,
    mean_redness=17.1,
    mean_yellowness=20.3,
    cut_off=False,
)


def answered(**changes):
    return answer_of(replace(PREDICTION, **changes), uses_mask=True, coverage=0.9)


def all_words(words):
    return " ".join((words.headline, *words.sentences, words.certainty))


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.0, "0.0 %"), (0.0004, "below 0.1 %"), (0.0935, "9.3 %"), (0.9996, "above 99.9 %"),
     (1.0, "100.0 %")],
)  # fmt: skip
def test_a_probability_is_never_rounded_to_certainty(fraction, text):
    assert percent(fraction) == text


@pytest.mark.parametrize(("chance", "kind"), [(0.19, "below"), (0.2, "above")])
def test_the_cutoff_itself_is_malignant(chance, kind):
    words = verdict(Answer((), chance, ("benign",)), POINT)
    assert words.kind == kind
    assert ("label malignant" in words.headline) == (kind == "above")
    caution = "not a diagnosis" if kind == "above" else "does not rule out cancer"
    assert caution in all_words(words)
    assert ("more cautious" in words.certainty) == (kind == "above"), "the set says benign"


@pytest.mark.parametrize("score", [None, 0.3, 1.0])
def test_what_is_not_out_of_distribution_is_judged(score):
    assert answered(out_of_distribution_score=score).probability == 0.03
    assert (
        answer_of(replace(PREDICTION, box=None), uses_mask=False, coverage=0.9).probability == 0.03
    ), "without masks no lesion is needed"


def test_with_both_classes_in_its_set_the_cascade_abstains():
    words = verdict(Answer((), 0.1, ("benign", "malignant")), POINT)
    assert words.unsure
    assert "not certain" in words.headline
    assert "abstains" in words.certainty


@pytest.mark.parametrize(("coverage", "often"), [(0.9, "90 %"), (0.95, "95 %"), (0.87, "87 %")])
def test_the_promise_of_the_set_is_told_with_its_coverage(coverage, often):
    words = verdict(Answer((), 0.1, ("benign",), coverage), POINT)
    assert f"true class for {often}" in words.certainty


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"out_of_distribution_score": 1.02}, "score 1.02"),
        ({"out_of_distribution_score": np.inf}, "score inf"),
        ({"box": None}, "No lesion was found"),
        ({"warnings": ("not a dermoscopic lesion: the image is noise, nothing can be judged",)},
         "the image is noise"),
        ({"label": None, "probabilities": {}}, "The cascade abstains."),
    ],
)  # fmt: skip
def test_a_image_that_cannot_be_judged_has_no_probability(changes, reason):
    answer = answered(**changes)
    words = verdict(answer, POINT)
    assert answer.probability is None
    assert words.kind == "unjudged"
    assert words.headline == "Cannot judge this image"
    assert any(reason in item for item in words.sentences)
    assert "3.0 %" not in all_words(words)


def test_warnings_are_sentences_and_said_once():
    warnings = (
        "no lesion found: the whole image was classified",
        "this does not look like a dermoscopic image of a lesion (3.0 times)",
        "the lesion touches the image border",
    )
    shown = further_warnings(replace(PREDICTION, warnings=warnings))
    assert shown == ("The lesion touches the image border.",)


def test_measurements_have_units_and_notes():
    rows = {row.name: row.value for row in rows_of(SIZES)}
    assert (rows["Diameter in pixels"], rows["Area, share of the image"]) == ("52.4 px", "0.100")
    assert rows["Colour variegation"].endswith("CIELAB units")
    low = replace(PREDICTION, measurements=SIZES, mask_issues=("the expected IoU is low",))
    assert any("is low" in note for note in measurement_notes(low))
    (nothing,) = measurement_notes(PREDICTION)
    assert "o lesion was found" in nothing


def test_a_scale_gives_millimetres_and_an_end_to_the_hint():
    scaled = replace(SIZES, diameter_millimetres=5.24, area_square_millimetres=12.3)
    values = {row.name: row.value for row in rows_of(scaled)}
    assert values["Diameter"] == "5.2 mm"
    assert values["Area"] == "12.3 mm²"
    without, with_scale = (
        measurement_notes(replace(PREDICTION, measurements=sizes)) for sizes in (SIZES, scaled)
    )
    (hint,) = set(without) - set(with_scale)
    assert "millimetres" in hint


def test_a_cut_off_lesion_has_lower_limits():
    cut = replace(SIZES, cut_off=True)
    notes = measurement_notes(replace(PREDICTION, measurements=cut))
    assert any("lower limits" in note for note in notes)


def test_the_cascades_own_operating_point_comes_first():
    description = {"cutoff": 0.09, "classifier": {"operating_points": {"0.80": 0.13, "0.90": 0.09}}}
    assert operating_points(description) == (OperatingPoint(0.09, 0.9), OperatingPoint(0.13, 0.8))
    own = {**description, "cutoff": 0.5}
    assert operating_points(own)[0] == OperatingPoint(0.5)
    assert "90 %" in POINT.words
    assert "stored with the model" in OperatingPoint(0.5).words
