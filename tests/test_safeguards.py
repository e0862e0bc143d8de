"""A cascade that knows when to hold back: mask quality, prediction sets, operating points."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import FakeClassifier, FakeSegmenter
from contracts import noise
from hypothesis import given
from hypothesis import strategies as st

from cascade import Cascade, Failure, MaskPolicy
from cascade.commands.evaluation import cls_eval, evaluate
from cascade.config import ClassifierConfig, SegmenterConfig
from cascade.errors import ConfigError, DataError, EmptyMaskError, ModelFileError
from cascade.imaging import resize_pixels
from cascade.models.artifact import Artifact, read_artifact, read_document, write_artifact
from cascade.models.classifier import Classifier
from cascade.models.ensemble import ClassifierEnsemble, load_classifier
from cascade.models.exported import read_safeguards
from cascade.models.segmenter import Segmenter
from cascade.reliability import (
    ConformalScores,
    MaskQualityLimits,
    OutOfDistributionDetector,
    Safeguards,
    chosen_cutoff,
    fit_out_of_distribution_detector,
)

MASKING = ["crop", "hard_crop", "feathered_crop", "hard_full", "feathered_full", "background_full"]
LARGE = Safeguards(mask_quality_limits=MaskQualityLimits(smallest_area=0.2))
"""Only a lesion of a fifth of the image is trusted."""


class Featured(FakeSegmenter):
    """Also gives brightness and contrast as features, in units of 100.

    Attributes:
        feature_batches: number of images in each call that asked for features.
    """

    def __init__(self):
        super().__init__()
        self.feature_batches = []

    def predict_with_features(self, images):
        self.feature_batches.append(len(images))
        values = images.reshape(len(images), -1).astype(np.float32)
        features = np.stack([values.mean(axis=1), values.std(axis=1)], axis=1) / 100
        return self.predict(images), features


class Fixed(FakeClassifier):
    """The same probability of malignant for every crop."""

    def __init__(self, probability, **options):
        super().__init__(**options)
        self.probability = probability

    def predict_proba(self, images):
        pair = [1 - self.probability, self.probability]
        return np.tile(np.array(pair, np.float32), (len(images), 1))


def disc(radius, *, side=96):
    """A dark disc in the middle of light skin; nothing for radius 0."""
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    image = np.full((side, side, 3), (230, 200, 190), np.uint8)
    image[::2] -= 6
    image[np.hypot(rows, columns) < radius] = (110, 60, 50)
    return image


SMALL_LESION, LARGE_LESION, NO_LESION = disc(14), disc(34), disc(0)  # 7 % and 39 % of the image


def guarded(safeguards=None, *, mode="feathered_crop", on_empty="whole", segmenter=None, **options):
    classifier = FakeClassifier(policy=MaskPolicy.from_mode(mode, on_empty=on_empty))
    return Cascade(segmenter or FakeSegmenter(), classifier, safeguards=safeguards, **options)


def same(first, second):
    """Whether two predictions agree in all that there was before there were safeguards."""
    arrays = ("mask", "mask_probability", "crop")
    values = ("label", "probabilities", "box", "crop_box", "warnings")
    return all(np.array_equal(getattr(first, n), getattr(second, n)) for n in arrays) and all(
        getattr(first, n) == getattr(second, n) for n in values
    )


# --- masks in doubt -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MASKING)
def test_a_doubtful_mask_sends_the_whole_image_to_the_classifier(mode):
    (plain,) = guarded(mode=mode)(SMALL_LESION)
    (prediction,) = guarded(LARGE, mode=mode)(SMALL_LESION)
    whole = resize_pixels(SMALL_LESION, 48)
    assert np.array_equal(prediction.crop, whole)
    assert not np.array_equal(plain.crop, whole)
    assert prediction.crop_box == (0, 0, 96, 96)
    expected = FakeClassifier().predict_proba(whole[None])[0].tolist()
    assert list(prediction.probabilities.values()) == expected


def test_a_doubtful_mask_is_given_all_the_same_and_the_warning_says_why():
    (plain,) = guarded()(SMALL_LESION)
    (prediction,) = guarded(LARGE)(SMALL_LESION)
    assert np.array_equal(prediction.mask, plain.mask)
    assert prediction.mask.any()
    assert (prediction.box, prediction.measurements) == (plain.box, plain.measurements)
    (doubt,) = prediction.mask_issues
    assert doubt.startswith("the lesion's share of the image is 0.0")
    assert doubt.endswith("below the limit of 0.2")
    (warning,) = set(prediction.warnings) - set(plain.warnings)
    assert warning == f"low mask quality, so the whole image was classified: {doubt}"


def test_a_doubtful_mask_above_the_second_limit_cuts_the_crop_and_the_warning_says_so():
    (plain,) = guarded()(SMALL_LESION)
    expected = plain.mask_quality.expected_iou
    for limit, replaced in ((expected, True), (np.nextafter(expected, 0), False)):
        gate = MaskQualityLimits(smallest_area=0.2, whole_image_up_to=float(limit))
        (prediction,) = guarded(Safeguards(mask_quality_limits=gate))(SMALL_LESION)
        (doubt,) = prediction.mask_issues
        assert prediction.whole_image_fallback == replaced
        assert np.array_equal(prediction.crop, plain.crop) != replaced
        outcome = "so the whole image was classified" if replaced else "but it cut the crop"
        assert prediction.warnings[-1] == f"low mask quality, {outcome}: {doubt}"


def test_a_mask_may_be_doubtful_for_several_reasons():
    gate = MaskQualityLimits(smallest_area=0.2, lowest_expected_iou=1.0)
    (prediction,) = guarded(Safeguards(mask_quality_limits=gate))(SMALL_LESION)
    assert len(prediction.mask_issues) == 2
    assert prediction.mask_issues == gate.reasons(prediction.mask_quality)
    assert prediction.warnings[-1].endswith("; ".join(prediction.mask_issues))


@pytest.mark.parametrize("mode", [*MASKING, "whole"])
@pytest.mark.parametrize("tta", ["none", "flips"])
def test_a_trusted_mask_changes_nothing(mode, tta):
    (plain,) = guarded(mode=mode)(LARGE_LESION, tta=tta)
    (prediction,) = guarded(LARGE, mode=mode)(LARGE_LESION, tta=tta)
    assert same(plain, prediction)
    assert prediction.mask_issues == ()
    assert not prediction.whole_image_fallback


def test_a_policy_without_mask_has_no_doubts():
    (plain,) = guarded(mode="whole")(SMALL_LESION)
    (prediction,) = guarded(LARGE, mode="whole")(SMALL_LESION)
    assert same(plain, prediction)
    assert prediction.mask_issues == ()
    assert prediction.mask_quality.area_fraction < 0.2, "it is measured all the same"


@pytest.mark.parametrize("on_empty", ["whole", "abstain"])
def test_an_empty_mask_is_no_doubt_but_what_on_empty_says(on_empty):
    (plain,) = guarded(on_empty=on_empty)(NO_LESION)
    (prediction,) = guarded(LARGE, on_empty=on_empty)(NO_LESION)
    assert same(plain, prediction)
    assert prediction.mask_issues == ()
    assert prediction.mask_quality.score == 0
    assert (prediction.label is None) == (on_empty == "abstain")


@pytest.mark.parametrize("image", [SMALL_LESION, LARGE_LESION])
@pytest.mark.parametrize("on_empty", ["abstain", "raise"])
def test_a_doubtful_mask_is_not_an_empty_one(image, on_empty):
    (prediction,) = guarded(LARGE, on_empty=on_empty)(image)
    assert prediction.label


def test_a_strict_policy_fails_an_empty_mask_whatever_the_gate(lesion):
    results = guarded(LARGE, on_empty="raise").predict_iter([NO_LESION, SMALL_LESION])
    failure, prediction = results
    assert isinstance(failure, Failure)
    assert isinstance(failure.error, EmptyMaskError)
    assert prediction.mask_issues


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_doubts_stay_with_their_image_in_a_batch(batch_size):
    images = [SMALL_LESION, b"no picture", LARGE_LESION, NO_LESION, SMALL_LESION]
    results = list(guarded(LARGE).predict_iter(images, batch_size=batch_size))
    doubted = [None if isinstance(item, Failure) else bool(item.mask_issues) for item in results]
    assert doubted == [True, None, False, False, True]
    assert same(results[0], guarded(LARGE)(SMALL_LESION)[0])
    assert same(results[2], guarded()(LARGE_LESION)[0])


def test_disagreement_of_views_is_judged_only_where_there_are_views():
    class OneEyed(FakeSegmenter):
        """Does not see the left of what it is shown, so that views differ."""

        def predict(self, images):
            maps = super().predict(images)
            maps[:, :, :24] = 0
            return maps

    def predicted(tta):
        gate = Safeguards(mask_quality_limits=MaskQualityLimits(largest_disagreement=0.1))
        return guarded(gate, segmenter=OneEyed())(LARGE_LESION, tta=tta)[0]

    alone, flipped = predicted("none"), predicted("flips")
    assert alone.mask_quality.flip_disagreement is None
    assert alone.mask_issues == ()
    assert flipped.mask_quality.flip_disagreement > 0.1
    (doubt,) = flipped.mask_issues
    assert doubt.startswith("the disagreement of flipped views is")


# --- sets of classes ------------------------------------------------------------------------------

SCORES = ConformalScores(
    benign=tuple(np.linspace(0.3, 0.99, 24)), malignant=tuple(np.linspace(0.05, 0.9, 40))
)


def expected_set(chance, coverage):
    """The rule of split conformal prediction, class by class, in another way than the library."""
    kept = []
    for name, value in (("benign", 1 - chance), ("malignant", chance)):
        scores = np.array(getattr(SCORES, name))
        rank = math.ceil(round((len(scores) + 1) * coverage, 9))
        above = np.count_nonzero(scores > value + 1e-9)  # better calibration images
        if above < rank or rank > len(scores):
            kept.append(name)
    return tuple(kept) or ("benign", "malignant")


@pytest.mark.parametrize("coverage", [0.3, 0.5, 0.8, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("chance", [0.0, 0.03, 0.2, 0.45, 0.8125, 0.97, 1.0])
def test_a_prediction_holds_the_classes_that_stay_possible(coverage, chance):
    cascade = Cascade(
        FakeSegmenter(),
        Fixed(chance),
        coverage=coverage,
        safeguards=Safeguards(conformal=SCORES),
    )
    (prediction,) = cascade(LARGE_LESION)
    assert prediction.prediction_set == expected_set(chance, coverage)


@given(st.floats(0, 1), st.floats(0.01, 1), st.floats(0.01, 1))
def test_sets_grow_with_the_coverage(chance, first, second):
    low, high = sorted((first, second))
    small, large = (SCORES.prediction_set(chance, coverage)[0] for coverage in (low, high))
    assert len(small) == 2 or set(small) <= set(large), "an empty set is given as both"
    narrow, wide = SCORES.limits(low), SCORES.limits(high)
    assert all(wide[name] <= narrow[name] for name in wide)


def test_the_default_coverage_is_nine_of_ten():
    cascade = Cascade(FakeSegmenter(), Fixed(0.2), safeguards=Safeguards(conformal=SCORES))
    assert cascade.coverage == cascade.describe()["coverage"] == 0.9
    assert cascade(LARGE_LESION)[0].prediction_set == expected_set(0.2, 0.9)


@pytest.mark.parametrize("coverage", [0, -0.1, 1.0001, 90, float("nan")])
def test_a_coverage_that_makes_no_sense_is_refused(coverage):
    with pytest.raises(ConfigError, match="coverage is"):
        guarded(coverage=coverage)


def test_without_scores_or_answer_the_set_is_empty():
    assert guarded()(LARGE_LESION)[0].prediction_set == ()
    cascade = guarded(Safeguards(conformal=SCORES), on_empty="abstain")
    assert cascade(NO_LESION)[0].prediction_set == ()
    assert cascade(LARGE_LESION)[0].prediction_set


@pytest.mark.parametrize("chance", [1.5, -0.25, float("nan")])
@pytest.mark.parametrize("safeguards", [None, Safeguards(conformal=SCORES)])
def test_what_is_no_probability_fails_its_image_and_no_other(chance, safeguards):
    class Odd(Fixed):
        def predict_proba(self, images):
            values = super().predict_proba(images)
            values[1] = (1 - chance, chance)
            return values

    cascade = Cascade(FakeSegmenter(), Odd(0.5), safeguards=safeguards)
    results = list(cascade.predict_iter([LARGE_LESION] * 3, batch_size=3))
    assert [isinstance(item, Failure) for item in results] == [False, True, False]
    assert isinstance(results[1].error, ModelFileError)


# --- operating points -----------------------------------------------------------------------------


@pytest.fixture
def classifier():
    stage = FakeClassifier(cutoff=0.4)
    stage.operating_points = {"0.80": 0.6, "0.90": 0.25, "0.95": 0.0}
    return stage


@pytest.mark.parametrize(("point", "cutoff"), [(0.8, 0.6), (0.9, 0.25), (0.95, 0.0), (None, 0.4)])
def test_an_operating_point_names_its_stored_cutoff(classifier, point, cutoff):
    cascade = Cascade(FakeSegmenter(), classifier, operating_point=point)
    assert cascade.cutoff == cascade.describe()["cutoff"] == cutoff


@pytest.mark.parametrize("point", [0.85, 0.904, 0.896, 90, 0, float("nan")])
def test_an_unknown_operating_point_lists_those_that_there_are(classifier, point):
    with pytest.raises(ConfigError, match=r"no operating point .* stored: 0\.80, 0\.90, 0\.95"):
        Cascade(FakeSegmenter(), classifier, operating_point=point)


def test_a_classifier_may_have_no_operating_points():
    with pytest.raises(ConfigError, match="stored: none"):
        guarded(operating_point=0.9)


@pytest.mark.parametrize("cutoff", [0.0, 0.25])
def test_a_cutoff_and_an_operating_point_are_too_much(classifier, cutoff):
    with pytest.raises(ConfigError, match="not both"):
        Cascade(FakeSegmenter(), classifier, cutoff=cutoff, operating_point=0.9)


@pytest.mark.parametrize("cutoff", [-0.1, 1.1, float("nan")])
def test_a_cutoff_is_a_probability(classifier, cutoff):
    with pytest.raises(ConfigError, match="a probability lies within"):
        chosen_cutoff(classifier, cutoff)


# --- out-of-distribution score ------------------------------------------------------------


def round_familiarity(threshold=1.0, width=2):
    """Distance is the length of the features over the root of their number."""
    return OutOfDistributionDetector(
        mean=np.zeros(width, np.float32),
        scale=np.ones(width, np.float32),
        components=np.eye(1, width, dtype=np.float16),
        variances=np.ones(1, np.float32),
        noise_variance=1.0,
        threshold=threshold,
        false_alarm=0.01,
        fitted_on=10,
        held_out=5,
    )


@pytest.mark.parametrize("tta", ["none", "flips", "dihedral"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_unfamiliarity_is_the_distance_as_a_share_of_the_threshold(tta, batch_size):
    stage = Featured()
    cascade = guarded(Safeguards(out_of_distribution=round_familiarity(2.5)), segmenter=stage)
    images = [SMALL_LESION, LARGE_LESION, NO_LESION]
    for image, prediction in zip(
        images, cascade.predict_iter(images, tta=tta, batch_size=batch_size), strict=True
    ):
        values = resize_pixels(image, 64).astype(np.float64) / 100
        expected = math.hypot(values.mean(), values.std()) / math.sqrt(2) / 2.5
        assert type(prediction.out_of_distribution_score) is float
        assert prediction.out_of_distribution_score == pytest.approx(expected, rel=1e-5)
        assert same(prediction, guarded()(image, tta=tta)[0])
    assert sum(stage.feature_batches) == 3, "features are taken of the first view only"
    views = {"none": 1, "flips": 4, "dihedral": 8}[tta]
    assert sum(stage.batches) == 3 * views, "and cost no pass of their own"


def test_only_above_one_there_is_a_warning():
    (one,) = guarded(Safeguards(out_of_distribution=round_familiarity(1.0)), segmenter=Featured())(
        LARGE_LESION
    )

    def warnings(factor):
        threshold = one.out_of_distribution_score / factor
        cascade = guarded(
            Safeguards(out_of_distribution=round_familiarity(threshold)), segmenter=Featured()
        )
        return [text for text in cascade(LARGE_LESION)[0].warnings if "look like" in text]

    assert warnings(0.5) == warnings(0.999) == []
    (text,) = warnings(3.04)
    assert "3.0 times the limit" in text
    assert "do not rely on the answer" in text


def test_features_without_number_are_unfamiliar_beyond_all_limits():
    class Broken(Featured):
        def predict_with_features(self, images):
            maps, features = super().predict_with_features(images)
            return maps, features * np.float32("nan")

    cascade = guarded(Safeguards(out_of_distribution=round_familiarity()), segmenter=Broken())
    (prediction,) = cascade(LARGE_LESION)
    assert prediction.out_of_distribution_score == math.inf
    assert any("does not look like" in warning for warning in prediction.warnings)


def test_where_nothing_can_be_read_no_features_are_asked_for():
    stage = Featured()
    cascade = guarded(Safeguards(out_of_distribution=round_familiarity()), segmenter=stage)
    (result,) = cascade.predict_iter([b"no picture"])
    assert isinstance(result, Failure)
    assert stage.feature_batches == []


# --- without safeguards ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "safeguards",
    [None, Safeguards(), Safeguards(conformal=SCORES, mask_quality_limits=MaskQualityLimits())],
)
def test_features_are_never_asked_for_in_vain(safeguards):
    stage = Featured()
    (prediction,) = guarded(safeguards, segmenter=stage)(LARGE_LESION, tta="flips")
    assert stage.feature_batches == []
    assert prediction.out_of_distribution_score is None
    assert same(prediction, guarded()(LARGE_LESION, tta="flips")[0])


def test_without_safeguards_there_are_no_doubts_and_no_sets():
    cascade = guarded()
    (prediction,) = cascade(SMALL_LESION)
    assert cascade.describe()["safeguards"] == {}
    assert (prediction.mask_issues, prediction.prediction_set) == ((), ())
    assert 0 < prediction.mask_quality.score <= 1


# --- the model file -------------------------------------------------------------------------------


def tiny_segmenter(encoder="tu-test_resnet", decoder="unet", *, size=32):
    torch.manual_seed(0)
    config = SegmenterConfig(
        encoder=encoder, decoder=decoder, size=size, decoder_channels=(16, 16, 8, 8, 8)
    )
    return Segmenter.build(config).eval()


def tiny_classifier(seed=0, *, temperature=1.0, bias=0.0):
    torch.manual_seed(seed)
    config = ClassifierConfig(architecture="timm/test_resnet", size=32)
    stage = Classifier.build(config)
    with torch.no_grad():  # a fresh network says 0.5 of everything
        for parameter in list(stage.network.parameters())[-2:]:
            parameter.normal_(0, 1)
    stage.temperature, stage.bias = temperature, bias
    return stage.eval()


@pytest.fixture(scope="module")
def cascade():
    segmenter, classifier = tiny_segmenter(), tiny_classifier(temperature=1.5, bias=-0.7)
    classifier.operating_points = {"0.90": 0.125}
    features = segmenter.predict_with_features(noise(12, 32))[1]
    safeguards = Safeguards(
        conformal=SCORES,
        mask_quality_limits=MaskQualityLimits(
            smallest_area=0.01, most_components=3, lowest_expected_iou=0.25
        ),
        out_of_distribution=fit_out_of_distribution_detector(
            features[:8], held_out=features[8:], components=3
        ),
    )
    return Cascade(segmenter, classifier, safeguards=safeguards)


@pytest.fixture
def path(cascade, tmp_path):
    cascade.save(tmp_path / "cascade.safetensors")
    return tmp_path / "cascade.safetensors"


def changed_file(path, change, *, tensors=None):
    """Write a model file again with other settings, or other tensors."""
    artifact = read_artifact(path)
    stages = {name: dict(stage) for name, stage in artifact.stages.items()}
    change(stages)
    arrays = dict(artifact.tensors)
    if tensors is not None:
        tensors(arrays)
    write_artifact(path, Artifact(stages, arrays, artifact.provenance, artifact.metrics))


@pytest.mark.parametrize("half", [False, True])
def test_all_safeguards_come_back_from_the_file(cascade, tmp_path, half):
    path = tmp_path / "cascade.safetensors"
    cascade.save(path, half=half)
    loaded = Cascade.load(path, device="cpu", coverage=0.8)
    assert loaded.safeguards.describe() == cascade.safeguards.describe()
    assert loaded.safeguards.conformal == cascade.safeguards.conformal
    assert loaded.safeguards.mask_quality_limits == cascade.safeguards.mask_quality_limits
    before, after = cascade.safeguards.out_of_distribution, loaded.safeguards.out_of_distribution
    for name, array in before.to_arrays().items():
        assert after.to_arrays()[name].dtype == array.dtype, "stored as they are, also by half"
        assert np.array_equal(after.to_arrays()[name], array)
    features = np.random.default_rng(0).normal(size=(5, before.width)).astype(np.float32)
    assert np.array_equal(after.distance(features), before.distance(features))
    assert loaded.coverage == 0.8
    assert loaded.describe()["classifier"] == cascade.describe()["classifier"]


def test_a_loaded_cascade_predicts_as_before(cascade, path, lesion):
    (first,), (second,) = cascade(lesion.image), Cascade.load(path, device="cpu")(lesion.image)
    assert same(first, second)
    assert first.out_of_distribution_score == second.out_of_distribution_score
    assert first.prediction_set == second.prediction_set
    assert (first.mask_quality, first.mask_issues) == (second.mask_quality, second.mask_issues)


def test_the_file_holds_safeguards_beside_the_stages(path):
    document = read_document(path)
    assert set(document["stages"]) == {"segmenter", "classifier", "safeguards"}
    assert set(document["stages"]["safeguards"]) == {
        "conformal",
        "mask_quality_limits",
        "out_of_distribution",
    }
    names = [name for name in read_artifact(path).tensors if name.startswith("safeguards.")]
    assert sorted(names) == [
        f"safeguards.{name}" for name in ("components", "mean", "scale", "variances")
    ]


def test_a_file_with_safeguards_gives_each_stage_alone(path):
    Segmenter.load(path, device="cpu")
    assert load_classifier(path, device="cpu").bias == -0.7


@pytest.mark.parametrize("part", ["conformal", "mask_quality_limits", "out_of_distribution"])
def test_each_safeguard_may_be_the_only_one(cascade, tmp_path, part):
    alone = Safeguards(**{part: getattr(cascade.safeguards, part)})
    path = tmp_path / "one.safetensors"
    Cascade(cascade.segmenter, cascade.classifier, safeguards=alone).save(path)
    assert set(Cascade.load(path, device="cpu").safeguards.describe()) == {part}


def test_a_cascade_without_safeguards_writes_none(cascade, tmp_path):
    path = tmp_path / "plain.safetensors"
    Cascade(cascade.segmenter, cascade.classifier).save(path)
    assert set(read_document(path)["stages"]) == {"segmenter", "classifier"}
    assert Cascade.load(path, device="cpu").safeguards == Safeguards()


def test_files_from_before_safeguards_and_bias_are_read(path, lesion):
    def older(stages):
        del stages["safeguards"]
        del stages["classifier"]["bias"]

    def without(arrays):
        for name in [name for name in arrays if name.startswith("safeguards.")]:
            del arrays[name]

    changed_file(path, older, tensors=without)
    loaded = Cascade.load(path, device="cpu")
    assert loaded.safeguards == Safeguards()
    assert loaded.classifier.bias == 0.0
    (prediction,) = loaded(lesion.image)
    assert prediction.out_of_distribution_score is None
    assert prediction.prediction_set == ()


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("magic", {}),
        ("conformal", {"benign": [0.5]}),
        ("conformal", {"benign": [0.5], "malignant": [1.5]}),
        ("conformal", {"benign": [0.5], "malignant": "all"}),
        ("conformal", 5),
        ("mask_quality_limits", {"smallest": 0.1}),
        ("mask_quality_limits", {"smallest_area": 7}),
        ("mask_quality_limits", 5),
        ("mask_quality_limits", ["smallest_area"]),
        ("out_of_distribution", {}),
        ("out_of_distribution", 5),
        ("out_of_distribution", None),
    ],
)
def test_damaged_safeguards_are_refused(path, part, value):
    def damage(stages):
        stages["safeguards"][part] = value

    changed_file(path, damage)
    with pytest.raises(ModelFileError, match=r"cascade\.safetensors: its safeguards cannot be"):
        read_safeguards(read_artifact(path), source=str(path))


def test_a_cascade_with_damaged_safeguards_is_not_loaded(path):
    changed_file(
        path, lambda stages: stages["safeguards"].update(mask_quality_limits={"smallest": 0.1})
    )
    with pytest.raises(ModelFileError, match="unknown setting 'smallest'; did you mean"):
        Cascade.load(path, device="cpu")


@pytest.mark.parametrize("threshold", [0, -1, "high", None, float("nan")])
def test_a_threshold_that_makes_no_sense_is_refused(path, threshold):
    def damage(stages):
        settings = stages["safeguards"]["out_of_distribution"]
        stages["safeguards"]["out_of_distribution"] = {**settings, "threshold": threshold}

    changed_file(path, damage)
    with pytest.raises(ModelFileError, match="safeguards"):
        read_safeguards(read_artifact(path))


@pytest.mark.parametrize("whole", [None, [], [1], "mask_quality_limits", 5])
def test_safeguards_that_are_no_mapping_are_refused(path, whole):
    artifact = read_artifact(path)
    stages = {**artifact.stages, "safeguards": whole}
    with pytest.raises(ModelFileError, match="safeguards"):
        read_safeguards(replace(artifact, stages=stages))


@pytest.mark.parametrize(
    "damage",
    [
        lambda arrays: arrays.pop("safeguards.mean"),
        lambda arrays: arrays.update({"safeguards.more": np.zeros(3, np.float32)}),
        lambda arrays: arrays.update({"safeguards.mean": np.zeros(3, np.float32)}),
        lambda arrays: arrays.update(
            {"safeguards.scale": np.zeros_like(arrays["safeguards.mean"])}
        ),
        lambda arrays: arrays.update({"safeguards.variances": np.array(1, np.float32)}),
        lambda arrays: arrays["safeguards.mean"].__setitem__(0, np.nan),
    ],
    ids=["missing", "unknown", "shape", "zero", "scalar", "not a number"],
)
def test_damaged_arrays_are_refused(path, damage):
    changed_file(path, lambda stages: None, tensors=damage)
    with pytest.raises(ModelFileError, match="safeguards"):
        read_safeguards(read_artifact(path))


def test_an_operating_point_is_looked_up_in_the_file(path):
    assert Cascade.load(path, device="cpu", operating_point=0.9).cutoff == 0.125
    with pytest.raises(ConfigError, match=r"stored: 0\.90"):
        Cascade.load(path, device="cpu", operating_point=0.8)


# --- the default model ----------------------------------------------------------------------------


def test_without_a_path_the_default_model_is_read(path, monkeypatch):
    monkeypatch.setattr("cascade.models.artifact.default_model", lambda: path)
    assert Cascade.load(device="cpu").safeguards.mask_quality_limits.most_components == 3


def test_a_missing_default_model_says_what_to_do(tmp_path, monkeypatch):
    path = tmp_path / "default.safetensors"
    monkeypatch.setattr("cascade.models.artifact.default_model", lambda: path)
    with pytest.raises(ModelFileError, match="there is no default model") as caught:
        Cascade.load()
    assert all(word in str(caught.value) for word in (str(path), "--model", "cls-train"))


# --- features of the segmenter --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [
        ("mobilenet_v2", "unet"),
        ("mobilenet_v2", "fpn"),
        ("mobilenet_v2", "deeplabv3plus"),
        ("mobilenet_v2", "linknet"),
        ("mobilenet_v2", "pspnet"),
        ("resnet18", "unetplusplus"),
        ("tu-test_resnet", "unet"),
    ],
)
def test_features_come_with_the_same_maps(encoder, decoder):
    segmenter, images = tiny_segmenter(encoder, decoder, size=64), noise(3, 64)
    maps, features = segmenter.predict_with_features(images)
    assert maps.dtype == features.dtype == np.float32
    np.testing.assert_allclose(maps, segmenter.predict(images), atol=1e-6)
    assert features.shape == (3, 2 * segmenter.network.encoder.out_channels[-2])
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1.0, atol=1e-5)
    alone = segmenter.predict_with_features(images[1:2])[1]
    np.testing.assert_allclose(alone[0], features[1], atol=1e-5)


def test_features_are_means_and_spreads_of_the_last_stage_but_one():
    segmenter, images = tiny_segmenter(), noise(2, 32)
    with torch.no_grad():
        stages = segmenter.network.encoder(segmenter.normalization(torch.from_numpy(images)))
    found = stages[-2].numpy().astype(np.float64)
    rows = [[*(c.mean() for c in image), *(c.std() for c in image)] for image in found]
    expected = np.array([np.array(row) / np.linalg.norm(row) for row in rows])
    np.testing.assert_allclose(segmenter.predict_with_features(images)[1], expected, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_asking_for_features_restores_the_training_state(training):
    segmenter = tiny_segmenter().train(training)
    segmenter.predict_with_features(noise(2, 32))
    assert segmenter.training is training


# --- bias -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "bias"), [(1.0, 0.0), (1.0, -2.0), (2.5, 0.75), (0.5, 3)])
def test_a_probability_is_the_sigmoid_of_scaled_logits_plus_bias(temperature, bias):
    stage, images = tiny_classifier(temperature=temperature, bias=bias), noise(4, 32)
    with torch.no_grad():
        logits = stage(torch.from_numpy(images)).numpy().astype(np.float64)
    odds = (logits[:, 1] - logits[:, 0]) / temperature + bias
    found = stage.predict_proba(images)
    np.testing.assert_allclose(found[:, 1], 1 / (1 + np.exp(-odds)), atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-6)
    assert stage.is_calibrated is ((temperature, bias) != (1.0, 0.0))


def test_the_bias_travels_with_a_classifiers_file(tmp_path):
    stage, images = tiny_classifier(temperature=1.5, bias=-0.7), noise(2, 32)
    stage.save(tmp_path / "c.safetensors")
    loaded = Classifier.load(tmp_path / "c.safetensors", device="cpu")
    assert loaded.bias == -0.7
    np.testing.assert_array_equal(loaded.predict_proba(images), stage.predict_proba(images))


def test_an_ensemble_keeps_its_members_biases_and_adds_its_own(tmp_path):
    images = noise(3, 32)
    members = [tiny_classifier(0, bias=1.0), tiny_classifier(1, temperature=2.0, bias=-0.5)]
    mean = np.mean([member.predict_proba(images)[:, 1] for member in members], axis=0)
    ensemble = ClassifierEnsemble(members)
    np.testing.assert_allclose(ensemble.predict_proba(images)[:, 1], mean, atol=1e-6)
    ensemble.bias = -1.25
    odds = np.log(mean / (1 - mean).astype(np.float64)) - 1.25
    expected = 1 / (1 + np.exp(-odds))
    np.testing.assert_allclose(ensemble.predict_proba(images)[:, 1], expected, atol=1e-5)
    ensemble.save(tmp_path / "e.safetensors")
    loaded = load_classifier(tmp_path / "e.safetensors", device="cpu")
    assert loaded.bias == -1.25
    assert [member.bias for member in loaded.classifiers] == [1.0, -0.5]
    np.testing.assert_array_equal(loaded.predict_proba(images), ensemble.predict_proba(images))


# --- evaluating commands --------------------------------------------------------------------------


@pytest.mark.parametrize("joined", [True, False])
def test_evaluate_takes_operating_point_and_coverage(path, joined):
    files = ["--path", path] if joined else ["--segmenter", path, "--classifier", path]
    flags = [*files, "-d", "cpu", "--operating_point", "0.90", "--coverage", "0.8"]
    loaded = evaluate.load_cascade(evaluate.build_parser().parse_args([str(f) for f in flags]))
    assert (loaded.cutoff, loaded.coverage) == (0.125, 0.8)


@pytest.mark.parametrize(
    ("flags", "cutoff"),
    [(["--operating_point", "0.90"], 0.125), (["--cutoff", "0.3"], 0.3), ([], 0.5)],
)
def test_cls_eval_scores_at_the_operating_point(path, dataset_folder, monkeypatch, flags, cutoff):
    used = []

    def stop(*_, cutoff, **__):
        used.append(cutoff)
        raise DataError("far enough")

    monkeypatch.setattr("cascade.evaluation.stages.evaluate_classifier", stop)
    flags = ["--path", str(path), "-d", "cpu", "--data_path", str(dataset_folder), *flags]
    assert cls_eval.main(flags) == 2
    assert used == [cutoff]


def test_cls_eval_refuses_a_cutoff_and_an_operating_point(path, dataset_folder, capfd):
    flags = ["--path", str(path), "-d", "cpu", "--data_path", str(dataset_folder)]
    assert cls_eval.main([*flags, "--cutoff", "0.3", "--operating_point", "0.9"]) == 2
    assert "not both" in capfd.readouterr().err
