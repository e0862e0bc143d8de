"""What is fitted on validation images and stored in the cascade's file."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from tiny_training import SEGMENTER

from cascade.command_line import main as console
from cascade.config import ClassifierConfig
from cascade.data.corruptions import AMOUNTS, corrupted_image
from cascade.data.datasets import ClassificationDataset
from cascade.data.splits import make_splits, write_splits
from cascade.data.synthetic import (
    NON_LESIONS,
    SyntheticConfig,
    draw_non_lesion,
    write_synthetic_dataset,
)
from cascade.data.tables import read_table
from cascade.errors import ConfigError, DataError
from cascade.imaging import read_image
from cascade.lesion.masking import MaskPolicy, apply_mask, find_lesion
from cascade.models.classifier import Classifier
from cascade.models.ensemble import ClassifierEnsemble
from cascade.models.segmenter import Segmenter
from cascade.pipeline import Cascade
from cascade.pipeline.stages import segment, segment_views_with_features
from cascade.reliability import MaskQualityLimits, Safeguards
from cascade.training import calibration
from cascade.training.calibration import calibrate_cascade
from cascade.training.corrupted_validation import corrupted_logits

POLICY = MaskPolicy.from_mode("crop")


@pytest.fixture(scope="module", autouse=True)
def few_drawn_images():
    """Three of each kind instead of twenty: each passes the segmenter alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "NON_LESIONS_OF_A_KIND", 3)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("calibration") / "data"
    config = SyntheticConfig(count_train=32, count_test=2, seed=3, sizes=((48, 64),))
    write_synthetic_dataset(path, config)
    return path


@pytest.fixture(scope="module")
def table(folder):
    return read_table(folder / "train_data.csv")


@pytest.fixture(scope="module")
def splits(table):
    return make_splits(table, fraction=0.5, seed=0)


def networks(splits):
    torch.manual_seed(0)
    segmenter = Segmenter.build(SEGMENTER)
    config = ClassifierConfig(architecture="timm/test_resnet", size=32)
    classifier = Classifier.build(config, policy=POLICY)
    classifier.provenance["splits"] = {"digest": splits.digest}
    return segmenter.eval(), classifier.eval()


@pytest.fixture(scope="module")
def calibrated(table, splits):
    segmenter, classifier = networks(splits)
    return segmenter, classifier, calibrate_cascade(segmenter, classifier, table, splits)


def validation_probabilities(classifier, table, splits):
    data = ClassificationDataset(splits.parts(table)[1].records, size=32, policy=POLICY)
    crops = np.stack([data.crop(index).pixels for index in range(len(data))])
    return data.labels, classifier.predict_proba(crops)[:, 1]


def test_probabilities_are_right_on_average_where_they_were_fitted(calibrated, table, splits):
    _, classifier, result = calibrated
    labels, chances = validation_probabilities(classifier, table, splits)
    assert chances.mean() == pytest.approx(labels.mean(), abs=0.05)  # Platt's targets are not 0, 1
    assert result.facts["log_loss_after"] <= result.facts["log_loss_before"]
    assert result.facts["images"] == labels.size


@pytest.mark.parametrize("target", [0.8, 0.95])
def test_each_cutoff_finds_its_share_of_the_malignant_validation_images(
    calibrated, table, splits, target
):
    _, classifier, _ = calibrated
    labels, chances = validation_probabilities(classifier, table, splits)
    cutoff = classifier.operating_points[f"{target:.2f}"]
    assert (chances[labels == 1] >= cutoff).mean() >= target
    assert classifier.cutoff == classifier.operating_points["0.90"], "unless told otherwise"
    higher = chances[labels == 1]
    higher = higher[higher > cutoff]
    if higher.size:  # the next higher cutoff would find fewer
        assert (chances[labels == 1] >= higher.min()).mean() < target


def test_conformal_scores_are_those_of_the_validation_images(calibrated, table, splits):
    _, classifier, result = calibrated
    labels, chances = validation_probabilities(classifier, table, splits)
    stored = np.array(result.safeguards.conformal.malignant)
    np.testing.assert_allclose(stored, np.sort(chances[labels == 1]), atol=2e-4)
    assert len(result.safeguards.conformal.benign) == (labels == 0).sum()


def test_the_out_of_distribution_detector_is_tried_on_drawn_non_lesions(calibrated):
    segmenter, _, result = calibrated
    noticed = result.facts["out_of_distribution"]["detected_share_of_non_lesions"]
    assert set(noticed) == set(NON_LESIONS)
    pictures = [draw_non_lesion("noise", seed=seed) for seed in range(3)]
    features = np.concatenate(
        [segment_views_with_features(segmenter, [picture])[1] for picture in pictures]
    )
    usual = result.safeguards.out_of_distribution.is_in_distribution(features)
    assert noticed["noise"] == pytest.approx(1 - usual.mean())


def test_another_division_and_an_unknown_operating_point_are_refused(table, splits):
    segmenter, classifier = networks(splits)
    with pytest.raises(DataError, match="another division"):
        calibrate_cascade(segmenter, classifier, table, make_splits(table, fraction=0.5, seed=9))
    with pytest.raises(ConfigError, match=r"0\.85.*0\.80, 0\.90, 0\.95"):
        calibrate_cascade(segmenter, classifier, table, splits, sensitivity=0.85)


def test_whole_images_replace_masks_of_low_quality_only_where_that_explains_the_labels_better(
    calibrated, table, splits
):
    segmenter, classifier, _ = calibrated
    validation = splits.parts(table)[1]
    strict = MaskQualityLimits(lowest_confidence=1.0)  # each mask of an untrained network
    limits, facts = calibration._with_whole_image_limit(strict, segmenter, classifier, validation)
    labels = [record.label == "malignant" for record in validation]

    def answers(limit):
        limits = replace(strict, whole_image_up_to=limit)
        cascade = Cascade(segmenter, classifier, safeguards=Safeguards(mask_quality_limits=limits))
        return cascade([str(record.image_path) for record in validation])

    def loss(predictions):
        return log_loss(labels, [item.probabilities["malignant"] for item in predictions])

    chosen = answers(limits.whole_image_up_to)
    assert facts["labelled_images"] == len(validation)
    assert facts["labelled_low_quality"] == sum(bool(item.mask_issues) for item in chosen) > 2
    assert facts["labelled_whole_image"] == sum(item.whole_image_fallback for item in chosen)
    assert loss(chosen) <= min(loss(answers(0.0)), loss(answers(1.0))) + 1e-9
    assert replace(limits, whole_image_up_to=1.0) == strict


def test_without_true_masks_there_are_no_limits_of_mask_quality(
    calibrated, table, splits, tmp_path, caplog
):
    masks = tmp_path / "masks"
    masks.mkdir()
    for record in table:
        (masks / f"{record.stem}.png").write_bytes(record.mask_path.read_bytes())
    bare = replace(table, records=tuple(replace(r, mask_path=None) for r in table))
    segmenter, classifier = networks(splits)
    result = calibrate_cascade(
        segmenter, classifier, bare, splits, masks=str(masks), sensitivity=0.8
    )
    assert result.safeguards.mask_quality_limits is None
    assert "mask" in caplog.text
    assert classifier.temperature == calibrated[1].temperature
    assert classifier.cutoff == classifier.operating_points["0.80"]


def test_training_images_decide_nothing_but_the_out_of_distribution_detector(
    table, splits, monkeypatch
):
    read = []
    original = calibration.read_image
    monkeypatch.setattr(
        calibration, "read_image", lambda path: read.append(path.name) or original(path)
    )
    segmenter, _ = networks(splits)
    calibration._fit_mask_quality_limits(segmenter, splits.parts(table)[1].with_mask(), POLICY)
    assert set(read) <= set(splits.validation)


@pytest.fixture
def stored_stages(folder, splits, tmp_path):
    """The command with files of both networks and their division."""
    segmenter, classifier = networks(splits)
    segmenter.save(tmp_path / "segmenter.safetensors")
    classifier.save(tmp_path / "classifier.safetensors")
    write_splits(tmp_path / "splits.json", splits)
    return ["calibrate", "--segmenter", str(tmp_path / "segmenter.safetensors"),
            "--classifier", str(tmp_path / "classifier.safetensors"), "--device", "cpu",
            "--data_path", str(folder), "--splits", str(tmp_path / "splits.json")]  # fmt: skip


def test_the_command_writes_a_cascade_with_everything_in_it(stored_stages, table, tmp_path, capsys):
    output = tmp_path / "cascade.safetensors"
    flags = [*stored_stages, "--output", str(output), "--half"]
    assert console.main(flags) == 0
    assert "sensitivity 0.90: cutoff" in capsys.readouterr().out
    cascade = Cascade.load(output, device="cpu")
    assert set(cascade.safeguards.describe()) <= {
        "conformal",
        "mask_quality_limits",
        "out_of_distribution",
    }
    assert cascade.safeguards.conformal is not None
    assert cascade.safeguards.out_of_distribution is not None
    assert cascade.cutoff == cascade.classifier.operating_points["0.90"]
    prediction = cascade([table[0].image_path])[0]
    assert prediction.out_of_distribution_score is not None
    assert prediction.prediction_set
    assert console.main(flags) == 2  # never replaced unasked
    assert "--overwrite" in capsys.readouterr().err


def test_the_command_calibrates_the_classifier_at_the_size_asked_for(
    stored_stages, table, splits, tmp_path, capsys
):
    output = tmp_path / "cascade.safetensors"
    flags = [*stored_stages, "--output", str(output)]
    segmenter, classifier = networks(splits)
    assert console.main([*flags, "--image_size", "48"]) == 0
    stored = Cascade.load(output, device="cpu").classifier
    assert stored.size == 48
    _, other = networks(splits)
    calibrate_cascade(segmenter, resized := other.at_size(48), table, splits)
    assert stored.temperature == pytest.approx(resized.temperature)
    assert stored.operating_points == pytest.approx(resized.operating_points)
    assert console.main([*flags, "--image_size", "8", "--overwrite"]) == 2
    assert "size is 8; it must be within" in capsys.readouterr().err
    ensemble = ClassifierEnsemble([classifier, networks(splits)[1]])
    ensemble.save(tmp_path / "classifier.safetensors")
    assert console.main([*flags, "--image_size", "64", "--overwrite"]) == 2
    assert "is an ensemble" in capsys.readouterr().err


def test_corrupted_images_are_cut_by_the_mask_that_is_found_in_them(table, splits):
    segmenter, classifier = networks(splits)
    some = table.subset(table.names()[:3])
    logits, labels = corrupted_logits(segmenter, classifier, some, copies=2, seed=4)
    assert logits.shape == (6, 2)
    assert labels.tolist() == [r.label == "malignant" for r in some for _ in range(2)]
    chosen = np.random.default_rng(4).choice(len(AMOUNTS), size=2, replace=False)
    record = some.records[0]
    image = read_image(record.image_path).pixels
    clean = find_lesion(segment(segmenter, [image])[0], POLICY, shape=image.shape[:2])
    for number, place in enumerate(chosen):
        changed, _ = corrupted_image(image, clean.mask, record.name, 4, list(AMOUNTS)[place])
        lesion = find_lesion(segment(segmenter, [changed])[0], POLICY, shape=changed.shape[:2])
        crop = apply_mask(changed, lesion, POLICY, size=32).pixels
        expected = torch.from_numpy(logits[number]).softmax(0)
        np.testing.assert_allclose(classifier.predict_proba(crop[None])[0], expected, atol=1e-5)


def test_corrupted_images_count_for_cutoffs_and_not_for_probabilities(table, splits):
    segmenter, classifier = networks(splits)
    result = calibrate_cascade(segmenter, classifier, table, splits, corrupted_copies=3, seed=1)
    validation = splits.parts(table)[1]
    assert result.facts["corrupted_images"] == 3 * len(validation)
    assert result.facts["images"] == len(validation)
    logits, labels = corrupted_logits(segmenter, classifier, validation, copies=3, seed=1)
    further = classifier.calibrated(torch.from_numpy(logits)).softmax(1)[:, 1].numpy()
    clean_labels, clean = validation_probabilities(classifier, table, splits)
    chances = np.concatenate([clean, further])
    truth = np.concatenate([clean_labels, labels])
    alone = networks(splits)[1]
    calibrate_cascade(segmenter, alone, table, splits)
    assert (classifier.temperature, classifier.bias) == (alone.temperature, alone.bias)
    for target, cutoff in classifier.operating_points.items():
        assert (chances[truth == 1] >= cutoff - 1e-6).mean() >= float(target)
    with pytest.raises(ConfigError, match="corrupted_copies is 37; choose from 0 to 36"):
        calibrate_cascade(segmenter, classifier, table, splits, corrupted_copies=37)
