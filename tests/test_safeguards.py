"""When a cascade abstains or warns: mask quality, prediction sets, operating points."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import FakeClassifier, FakeSegmenter, plain_detector
from contracts import noise
from tiny_export import tiny_cascade, tiny_classifier
from tiny_training import SEGMENTER

from cascade import Cascade, Failure, MaskPolicy
from cascade.commands.evaluation import cls_eval, evaluate
from cascade.errors import ConfigError, DataError, ModelFileError
from cascade.imaging import resize_pixels
from cascade.models.artifact import Artifact, read_artifact, read_document, write_artifact
from cascade.models.ensemble import ClassifierEnsemble, load_classifier
from cascade.models.exported import read_safeguards
from cascade.models.segmenter import Segmenter
from cascade.reliability import ConformalScores, MaskQualityLimits, Safeguards

MASKING = ["feathered_crop", "hard_full", "background_full"]
LARGE = Safeguards(mask_quality_limits=MaskQualityLimits(smallest_area=0.2))
"""Only a lesion of a fifth of the image is trusted."""
small = functools.partial(tiny_classifier, size=32)


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


@pytest.mark.parametrize("mode", MASKING)
def test_a_mask_of_low_quality_sends_the_whole_image_to_the_classifier(mode):
    (plain,) = guarded(mode=mode)(SMALL_LESION)
    (prediction,) = guarded(LARGE, mode=mode)(SMALL_LESION)
    whole = resize_pixels(SMALL_LESION, 48)
    assert np.array_equal(prediction.crop, whole)
    assert not np.array_equal(plain.crop, whole)
    assert prediction.crop_box == (0, 0, 96, 96)
    expected = FakeClassifier().predict_proba(whole[None])[0].tolist()
    assert list(prediction.probabilities.values()) == expected
    assert np.array_equal(prediction.mask, plain.mask), "it is given all the same"
    assert (prediction.box, prediction.measurements) == (plain.box, plain.measurements)
    (issue,) = prediction.mask_issues
    (warning,) = set(prediction.warnings) - set(plain.warnings)
    assert "share of the image" in issue
    assert issue in warning


def test_a_mask_of_low_quality_above_the_second_limit_cuts_the_crop_and_the_warning_says_so():
    (plain,) = guarded()(SMALL_LESION)
    expected = plain.mask_quality.expected_iou
    for limit, replaced in ((expected, True), (np.nextafter(expected, 0), False)):
        limits = MaskQualityLimits(smallest_area=0.2, whole_image_up_to=float(limit))
        (prediction,) = guarded(Safeguards(mask_quality_limits=limits))(SMALL_LESION)
        (issue,) = prediction.mask_issues
        assert prediction.whole_image_fallback == replaced
        assert np.array_equal(prediction.crop, plain.crop) != replaced
        assert ("whole image" in prediction.warnings[-1]) == replaced
        assert prediction.warnings[-1].endswith(issue)


@pytest.mark.parametrize(
    ("mode", "image"), [("feathered_crop", LARGE_LESION), ("whole", SMALL_LESION)]
)
def test_a_trusted_or_unused_mask_changes_nothing(mode, image):
    (plain,) = guarded(mode=mode)(image, tta="flips")
    (prediction,) = guarded(LARGE, mode=mode)(image, tta="flips")
    assert same(plain, prediction)
    assert prediction.mask_issues == ()
    assert not prediction.whole_image_fallback


@pytest.mark.parametrize("on_empty", ["whole", "abstain"])
def test_an_empty_mask_has_no_issues_but_what_on_empty_says(on_empty):
    (plain,) = guarded(on_empty=on_empty)(NO_LESION)
    (prediction,) = guarded(LARGE, on_empty=on_empty)(NO_LESION)
    assert same(plain, prediction)
    assert prediction.mask_issues == ()
    assert prediction.mask_quality.score == 0
    assert (prediction.label is None) == (on_empty == "abstain")


@pytest.mark.parametrize("batch_size", [2, 5])
def test_mask_issues_stay_with_their_image_in_a_batch(batch_size):
    images = [SMALL_LESION, b"no picture", LARGE_LESION, NO_LESION, SMALL_LESION]
    results = list(guarded(LARGE).predict_iter(images, batch_size=batch_size))
    issues = [None if isinstance(item, Failure) else bool(item.mask_issues) for item in results]
    assert issues == [True, None, False, False, True]
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
        limits = Safeguards(mask_quality_limits=MaskQualityLimits(largest_disagreement=0.1))
        return guarded(limits, segmenter=OneEyed())(LARGE_LESION, tta=tta)[0]

    alone, flipped = predicted("none"), predicted("flips")
    assert alone.mask_quality.flip_disagreement is None
    assert alone.mask_issues == ()
    assert flipped.mask_quality.flip_disagreement > 0.1
    (issue,) = flipped.mask_issues
    assert "disagreement" in issue


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


@pytest.mark.parametrize("coverage", [0.3, 0.9, 1.0])
def test_a_prediction_holds_the_classes_that_stay_possible(coverage):
    safeguards = Safeguards(conformal=SCORES)
    for chance in (0.0, 0.03, 0.2, 0.45, 0.8125, 0.97, 1.0):
        cascade = Cascade(FakeSegmenter(), Fixed(chance), coverage=coverage, safeguards=safeguards)
        assert cascade(LARGE_LESION)[0].prediction_set == expected_set(chance, coverage)
    cascade = guarded(safeguards, on_empty="abstain")
    assert cascade.coverage == cascade.describe()["coverage"] == 0.9, "unless told otherwise"
    assert cascade(NO_LESION)[0].prediction_set == ()
    assert guarded()(LARGE_LESION)[0].prediction_set == ()
    for wrong in (0, 1.0001, math.nan):
        with pytest.raises(ConfigError, match="coverage"):
            guarded(coverage=wrong)


@pytest.mark.parametrize("chance", [1.5, float("nan")])
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


@pytest.fixture
def classifier():
    stage = FakeClassifier(cutoff=0.4)
    stage.operating_points = {"0.80": 0.6, "0.90": 0.25, "0.95": 0.0}
    return stage


@pytest.mark.parametrize(("point", "cutoff"), [(0.8, 0.6), (0.95, 0.0), (None, 0.4)])
def test_an_operating_point_names_its_stored_cutoff(classifier, point, cutoff):
    cascade = Cascade(FakeSegmenter(), classifier, operating_point=point)
    assert cascade.cutoff == cascade.describe()["cutoff"] == cutoff


@pytest.mark.parametrize("point", [0.904, 90, 0, float("nan")])
def test_an_unknown_operating_point_lists_those_that_there_are(classifier, point):
    with pytest.raises(ConfigError, match=r"0\.80, 0\.90, 0\.95"):
        Cascade(FakeSegmenter(), classifier, operating_point=point)


def test_a_cutoff_and_an_operating_point_are_too_much(classifier):
    with pytest.raises(ConfigError, match="not both"):
        Cascade(FakeSegmenter(), classifier, cutoff=0.0, operating_point=0.9)
    with pytest.raises(ConfigError, match="none"):
        guarded(operating_point=0.9)


@pytest.mark.parametrize(("tta", "batch_size"), [("none", 1), ("dihedral", 3)])
def test_the_out_of_distribution_score_is_the_distance_as_a_share_of_the_threshold(tta, batch_size):
    stage = Featured()
    cascade = guarded(Safeguards(out_of_distribution=plain_detector(2.5)), segmenter=stage)
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
    views = {"none": 1, "dihedral": 8}[tta]
    assert sum(stage.batches) == 3 * views, "and cost no pass of their own"


def test_only_above_one_there_is_a_warning():
    (one,) = guarded(Safeguards(out_of_distribution=plain_detector(1.0)), segmenter=Featured())(
        LARGE_LESION
    )

    def warnings(factor):
        threshold = one.out_of_distribution_score / factor
        cascade = guarded(
            Safeguards(out_of_distribution=plain_detector(threshold)), segmenter=Featured()
        )
        return [text for text in cascade(LARGE_LESION)[0].warnings if "times" in text]

    assert warnings(0.5) == warnings(0.999) == []
    (text,) = warnings(3.04)
    assert "3.0 times" in text


def test_features_are_never_asked_for_in_vain():
    stage = Featured()
    safeguards = Safeguards(conformal=SCORES, mask_quality_limits=MaskQualityLimits())
    (prediction,) = guarded(safeguards, segmenter=stage)(LARGE_LESION, tta="flips")
    assert stage.feature_batches == []
    assert prediction.out_of_distribution_score is None
    assert same(prediction, guarded()(LARGE_LESION, tta="flips")[0])


@pytest.fixture(scope="module")
def cascade():
    bare = tiny_cascade()
    limits = MaskQualityLimits(smallest_area=0.01, most_components=3, lowest_expected_iou=0.25)
    safeguards = replace(bare.safeguards, mask_quality_limits=limits)
    return Cascade(bare.segmenter, bare.classifier, safeguards=safeguards)


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
def test_a_cascade_comes_back_from_its_file_with_all_safeguards(cascade, tmp_path, half, lesion):
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
    assert loaded.coverage == 0.8
    assert loaded.describe()["classifier"] == cascade.describe()["classifier"]
    Segmenter.load(path, device="cpu")
    assert load_classifier(path, device="cpu").bias == -0.4
    if not half:
        (first,), (second,) = cascade(lesion.image), Cascade.load(path, device="cpu")(lesion.image)
        assert same(first, second)
        for name in ("out_of_distribution_score", "prediction_set", "mask_quality", "mask_issues"):
            assert getattr(first, name) == getattr(second, name)


def test_a_cascade_without_safeguards_writes_none(cascade, tmp_path):
    path = tmp_path / "plain.safetensors"
    Cascade(cascade.segmenter, cascade.classifier).save(path)
    assert set(read_document(path)["stages"]) == {"segmenter", "classifier"}
    assert Cascade.load(path, device="cpu").safeguards == Safeguards()
    one = Safeguards(conformal=SCORES)
    Cascade(cascade.segmenter, cascade.classifier, safeguards=one).save(path)
    assert Cascade.load(path, device="cpu").safeguards == one


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
        ("conformal", 5),
        ("mask_quality_limits", {"smallest": 0.1}),
        ("mask_quality_limits", ["smallest_area"]),
        ("out_of_distribution", {}),
        ("out_of_distribution", {"threshold": 0}),
        ("out_of_distribution", {"threshold": "high"}),
        ("out_of_distribution", None),
        (None, [1]),
        (None, None),
    ],
)
def test_damaged_safeguards_are_refused(path, part, value):
    def damage(stages):
        if part is None:
            stages["safeguards"] = value
        elif isinstance(value, dict) and "threshold" in value:
            stages["safeguards"][part] = {**stages["safeguards"][part], **value}
        else:
            stages["safeguards"][part] = value

    changed_file(path, damage)
    with pytest.raises(ModelFileError, match=r"cascade\.safetensors: .*safeguards"):
        Cascade.load(path, device="cpu")


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


def test_without_a_path_the_default_model_is_read_or_named(path, monkeypatch):
    monkeypatch.setattr("cascade.models.artifact.default_model", lambda: path)
    assert Cascade.load(device="cpu").safeguards.mask_quality_limits.most_components == 3
    path.unlink()
    with pytest.raises(ModelFileError, match="there is no default model") as caught:
        Cascade.load()
    assert all(word in str(caught.value) for word in (str(path), "--model"))


@pytest.mark.parametrize(
    ("encoder", "decoder"), [("mobilenet_v2", "deeplabv3plus"), ("tu-test_resnet", "unet")]
)
def test_features_are_means_and_spreads_of_the_last_stage_but_one(encoder, decoder):
    torch.manual_seed(0)
    config = replace(SEGMENTER, encoder=encoder, decoder=decoder, size=64)
    segmenter, images = Segmenter.build(config).eval(), noise(2, 64)
    with torch.no_grad():
        stages = segmenter.network.encoder(segmenter.normalization(torch.from_numpy(images)))
    found = stages[-2].numpy().astype(np.float64)
    rows = [[*(c.mean() for c in image), *(c.std() for c in image)] for image in found]
    expected = np.array([np.array(row) / np.linalg.norm(row) for row in rows])
    maps, features = segmenter.predict_with_features(images)
    assert maps.dtype == features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=1e-5)
    np.testing.assert_allclose(maps, segmenter.predict(images), atol=1e-6)


@pytest.mark.parametrize(("temperature", "bias"), [(1.0, 0.0), (2.5, 0.75)])
def test_a_probability_is_the_sigmoid_of_scaled_logits_plus_bias(temperature, bias):
    stage, images = small(temperature=temperature, bias=bias), noise(4, 32)
    with torch.no_grad():
        logits = stage(torch.from_numpy(images)).numpy().astype(np.float64)
    odds = (logits[:, 1] - logits[:, 0]) / temperature + bias
    found = stage.predict_proba(images)
    np.testing.assert_allclose(found[:, 1], 1 / (1 + np.exp(-odds)), atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-6)
    assert stage.is_calibrated is ((temperature, bias) != (1.0, 0.0))


def test_an_ensemble_keeps_its_members_biases_and_adds_its_own(tmp_path):
    images = noise(3, 32)
    members = [small(seed=0, bias=1.0), small(seed=1, temperature=2.0, bias=-0.5)]
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


@pytest.mark.parametrize("joined", [True, False])
def test_evaluate_takes_operating_point_and_coverage(path, joined):
    files = ["--path", path] if joined else ["--segmenter", path, "--classifier", path]
    flags = [*files, "-d", "cpu", "--operating_point", "0.90", "--coverage", "0.8"]
    loaded = evaluate.load_cascade(evaluate.build_parser().parse_args([str(f) for f in flags]))
    assert (loaded.cutoff, loaded.coverage) == (0.2, 0.8)


@pytest.mark.parametrize(
    ("flags", "cutoff"), [(["--operating_point", "0.90"], 0.2), (["--cutoff", "0.3"], 0.3)]
)
def test_cls_eval_scores_at_the_operating_point(path, dataset_folder, monkeypatch, flags, cutoff):
    used = []

    def stop(*_, cutoff, **__):
        used.append(cutoff)
        raise DataError("far enough")

    monkeypatch.setattr("cascade.evaluation.stages.evaluate_classifier", stop)
    files = ["--path", str(path), "-d", "cpu", "--data_path", str(dataset_folder)]
    assert cls_eval.main([*files, *flags]) == 2
    assert used == [cutoff]
    assert cls_eval.main([*files, "--cutoff", "0.3", "--operating_point", "0.9"]) == 2
    assert used == [cutoff], "not both"
