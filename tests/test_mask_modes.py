"""The mask-mode report, on invented lesions and a tiny network."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from tiny_training import SEGMENTER

from cascade.commands.training.mask_modes import main
from cascade.config import ClassificationTrainConfig, ClassifierConfig
from cascade.data.synthetic import SyntheticConfig, write_synthetic_dataset
from cascade.data.tables import Record, Table, read_table
from cascade.errors import ConfigError, DataError, LeakageError
from cascade.evaluation.mask_mode_comparison import MaskModeReport, ModeScores, compare_mask_modes
from cascade.evaluation.mask_mode_report import markdown, write_mask_modes
from cascade.files import read_json
from cascade.imaging import read_shape, write_mask
from cascade.metrics.classification import roc_auc
from cascade.metrics.intervals import paired_difference
from cascade.models.classifier import Classifier
from cascade.models.segmenter import Segmenter
from cascade.training import mask_mode_trial as training_module
from cascade.training.images_seen import image_marks
from cascade.training.loop import seeded
from cascade.training.mask_mode_trial import predict_test_masks, train_mask_modes

CONFIG = ClassifierConfig(architecture="timm/test_resnet", size=32)
TRAINING = ClassificationTrainConfig(
    epochs=1, batch_size=4, learning_rate=0.002, precision="fp32", augmentation="none"
)
FLAGS = (
    "--architecture", "timm/test_resnet", "--image_size", "32", "--epochs", "1", "--batch_size",
    "4", "--learning_rate", "0.002", "--precision", "fp32", "--device", "cpu",
    "--validation_fraction", "0.4", "--augmentation", "none",
)  # fmt: skip
MODES = ("crop", "hard_full")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """16 training and 16 test images of both classes; do not change it."""
    folder = tmp_path_factory.mktemp("modes") / "dataset"
    sizes = ((64, 64), (64, 72))
    write_synthetic_dataset(folder, SyntheticConfig(count_train=16, count_test=16, sizes=sizes))
    return folder


def blunt_masks(table, folder):
    """Masks such as a bad segmenter gives: one square; the first image has none."""
    for place, record in enumerate(table):
        mask = np.zeros(read_shape(record.image_path), bool)
        if place:
            mask[16:48, 12:40] = True
        write_mask(folder / f"{record.stem}.png", mask)
    return folder


@pytest.fixture(scope="module")
def predicted(data, tmp_path_factory):
    """Folders of predicted masks of the training and the test images."""
    folder = tmp_path_factory.mktemp("predicted")
    return tuple(
        blunt_masks(read_table(data / f"{part}_data.csv"), folder / part)
        for part in ("train", "test")
    )


def command(data, predicted, output, *more):
    train, test = predicted
    return main(
        [
            "--data_path", str(data), "--output", str(output), "--modes", *MODES,
            "--predicted_masks", str(train), "--predicted_test_masks", str(test), *FLAGS, *more,
        ]
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(data, predicted, tmp_path_factory):
    """A finished report."""
    output = tmp_path_factory.mktemp("report") / "run"
    assert command(data, predicted, output) == 0
    return output


@pytest.fixture
def trainings(monkeypatch):
    """Save networks without training them; their folders' names."""

    def untrained(table, splits, *, config, training, policy, output, **_):
        calls.append(output.name)
        with seeded(training.seed):
            Classifier.build(config, policy=policy).save(output / "best.safetensors")

    calls = []
    monkeypatch.setattr(training_module, "train_classifier", untrained)
    return calls


def rows_of(path):
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def runs(output):
    return {path.parent.name for path in output.glob("*/best.safetensors")}


def test_each_mode_is_trained_for_each_kind_of_masks_and_the_whole_image_once(done):
    expected = {"whole", *(f"{mode}_{masks}" for mode in MODES for masks in ("truth", "predicted"))}
    assert runs(done) == expected
    for name in expected:
        policy = Classifier.load(done / name / "best.safetensors", device="cpu").policy
        assert name.startswith(policy.mode)


def test_the_table_is_that_of_sklearn_on_the_scores(done):
    scores, table = rows_of(done / "scores.csv"), rows_of(done / "mask_modes.csv")
    labels = np.array([row["class"] == "malignant" for row in scores]).astype(int)
    groups = [row["group"] for row in scores]

    def values(column):
        return np.array([float(row[column]) for row in scores])

    columns = ("mode", "masks", "trained_on", "empty_masks")
    assert [tuple(row[column] for column in columns) for row in table] == [
        ("whole", "none", "none", "0"),
        ("crop", "truth", "truth", "0"),
        ("crop", "predicted", "predicted", "1"),
        ("hard_full", "truth", "truth", "0"),
        ("hard_full", "predicted", "predicted", "1"),
    ]
    for row in table:
        column = row["mode"] if row["mode"] == "whole" else f"{row['mode']}_{row['masks']}"
        auc = roc_auc_score(labels, values(column))
        assert float(row["roc_auc"]) == pytest.approx(auc)
        precision = average_precision_score(labels, values(column))
        assert float(row["average_precision"]) == pytest.approx(precision)
        assert (row["n"], row["n_malignant"]) == ("16", str(labels.sum()))
        assert float(row["roc_auc_low"]) <= auc <= float(row["roc_auc_high"])
        if column != "whole":
            whole = roc_auc_score(labels, values("whole"))
            assert float(row["difference"]) == pytest.approx(auc - whole, abs=1e-8)
            expected = paired_difference(roc_auc, labels, values(column), values("whole"), groups)
            found = [float(row[f"difference_{end}"]) for end in ("low", "high")]
            assert found == pytest.approx(expected[1:])


def test_scores_are_those_of_each_runs_classifier_with_its_masks(done, data, predicted):
    from cascade.evaluation.stages import evaluate_classifier

    table = read_table(data / "test_data.csv")
    tests = {"whole": table, "crop_truth": table,
             "crop_predicted": table.with_masks_from(predicted[1])}  # fmt: skip
    scores = rows_of(done / "scores.csv")
    for name, test in tests.items():
        classifier = Classifier.load(done / name / "best.safetensors", device="cpu")
        cases = evaluate_classifier(classifier, test, batch_size=4).cases
        found = {row["name"]: float(row[name]) for row in scores}
        expected = {case.record.name: case.probability for case in cases}
        assert found == pytest.approx(expected, rel=1e-6)


def test_a_resume_keeps_finished_runs_and_takes_more_modes(
    data, predicted, tmp_path, trainings, capsys
):
    output, calls = tmp_path / "run", trainings
    assert command(data, predicted, output) == 0
    assert len(calls) == 5
    kept = [*output.glob("*/best.safetensors"), *output.glob("*/test_*.json")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert len(before) == 10
    calls.clear()
    assert command(data, predicted, output, "--resume", "--modes", "background_crop", *MODES) == 0
    assert calls == ["background_crop_truth", "background_crop_predicted"]
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert "background_crop" in capsys.readouterr().out


def test_other_settings_and_other_masks_are_not_resumed(data, predicted, done, tmp_path, caplog):
    assert command(data, predicted, done) == 2
    assert "config.yaml: exists already" in caplog.text
    assert command(data, predicted, done, "--resume", "--margin", "0.4") == 2
    assert "mask_policy was" in caplog.text
    table = read_table(data / "train_data.csv")
    for record in table:
        write_mask(tmp_path / f"{record.stem}.png", np.ones(read_shape(record.image_path), bool))
    assert command(data, (tmp_path, predicted[1]), done, "--resume") == 2
    assert "predicted masks of the training images have changed" in caplog.text


def test_repeats_are_averaged_and_without_training_masks_truth_trains(
    data, predicted, tmp_path, trainings
):
    output = tmp_path / "run"
    flags = [
        "--data_path", str(data), "--output", str(output), "--modes", "crop", "--repeats", "2",
        "--predicted_test_masks", str(predicted[1]), *FLAGS,
    ]  # fmt: skip
    assert main(flags) == 0
    assert runs(output) == {"whole", "whole_seed_1", "crop_truth", "crop_truth_seed_1"}
    table = rows_of(output / "mask_modes.csv")
    assert [(row["masks"], row["trained_on"]) for row in table] == [
        ("none", "none"), ("truth", "truth"), ("predicted", "truth"),
    ]  # fmt: skip
    assert {row["seeds"] for row in table} == {"2"}
    single = [
        read_json(output / run / "test_predicted.json")["probabilities"]
        for run in ("crop_truth", "crop_truth_seed_1")
    ]
    assert single[0] != single[1]
    for row in rows_of(output / "scores.csv"):
        expected = np.mean([scores[row["name"]] for scores in single])
        assert float(row["crop_predicted"]) == pytest.approx(expected, rel=1e-6)
    assert "averaged over 2 trainings" in (output / "mask_modes.md").read_text(encoding="utf-8")


@pytest.fixture
def segmenter(tmp_path):
    network = Segmenter.build(SEGMENTER)
    network.provenance["trained_on"] = image_marks(["another"])
    path = tmp_path / "segmenter.safetensors"
    network.save(path)
    return network, path


def test_the_segmenters_masks_are_kept_and_belong_to_it(segmenter, data, tmp_path):
    network, path = segmenter
    test = read_table(data / "test_data.csv")
    folder = predict_test_masks(path, test, tmp_path / "masks", device="cpu")
    assert {item.name for item in folder.glob("*.png")} == {f"{item.stem}.png" for item in test}
    before = {item: item.stat().st_mtime_ns for item in folder.glob("*.png")}
    missing, *others = sorted(before)
    missing.unlink()
    predict_test_masks(path, test, folder, device="cpu")
    assert missing.is_file()
    assert all(item.stat().st_mtime_ns == before[item] for item in others)
    network.save(other := tmp_path / "other.safetensors", half=True)
    with pytest.raises(ConfigError, match="another segmenter"):
        predict_test_masks(other, test, folder, device="cpu")
    predict_test_masks(other, test, folder, device="cpu", overwrite=True)
    assert others[0].stat().st_mtime_ns != before[others[0]]


def test_a_segmenter_that_saw_the_test_images_is_refused(segmenter, data, tmp_path, caplog):
    network, path = segmenter
    test = read_table(data / "test_data.csv")
    network.provenance["trained_on"] = image_marks(test.names()[:2])
    network.save(path)
    output = tmp_path / "run"
    flags = ["--data_path", str(data), "--output", str(output), "--segmenter", str(path), *FLAGS]
    assert main(flags) == 2
    assert "2 of 16 images were used to train it" in caplog.text
    assert not output.exists()


def test_an_unknown_mode_is_refused(capsys, data, tmp_path):
    with pytest.raises(SystemExit):
        main(["--data_path", str(data), "--modes", "crop", "hard_corp"])
    assert "did you mean hard_crop" in capsys.readouterr().err
    table = read_table(data / "train_data.csv")
    with pytest.raises(ConfigError, match="mask mode 'corp' is unknown"):
        small(table, tmp_path / "run", modes=("corp",))
    assert not (tmp_path / "run").exists()


def test_missing_predicted_masks_are_named(data, predicted, tmp_path, caplog):
    test = read_table(data / "test_data.csv")
    some = blunt_masks(test[:13], tmp_path / "some")
    output = tmp_path / "run"
    assert command(data, (predicted[0], some), output) == 2
    assert "3 masks are missing" in caplog.text
    assert test[13].name in caplog.text
    assert not output.exists()


@pytest.mark.parametrize("more", [[], ["--predicted_test_masks", "a", "--segmenter", "b"]])
def test_predicted_masks_come_from_one_place(data, more, caplog):
    assert main(["--data_path", str(data), *more]) == 2
    assert "either --predicted_test_masks FOLDER or --segmenter FILE" in caplog.text


def small(table, output, *, test=None, **options):
    from cascade.data.splits import make_splits

    parts = {"modes": ("crop",), "config": CONFIG, "training": TRAINING, "device": "cpu", **options}
    test = test if test is not None else read_table(table.path.with_name("test_data.csv"))
    splits = make_splits(table, fraction=0.4)
    return train_mask_modes({"truth": table}, splits, test, output=output, **parts)


def test_unusable_tables_are_refused(data, tmp_path):
    table, test = (read_table(data / f"{part}_data.csv") for part in ("train", "test"))
    with pytest.raises(LeakageError):
        small(table, tmp_path / "run", test=table.subset(table.names()[:8]))
    benign = replace(test, records=tuple(item for item in test if item.label == "benign"))
    with pytest.raises(DataError, match="benign"):
        small(table, tmp_path / "run", test=benign)
    bare = replace(table, records=tuple(replace(item, mask_path=None) for item in table))
    with pytest.raises(DataError, match="16 images have no truth mask"):
        small(bare, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def invented(count=60, malignant=20):
    records = tuple(
        Record(f"{place}.jpg", "malignant" if place < malignant else "benign", f"g{place}",
               Path("none"), None, {})
        for place in range(count)
    )  # fmt: skip
    return Table(Path("invented.csv"), records)


def test_the_verdict_follows_the_paired_interval(tmp_path):
    table = invented()
    generator = np.random.default_rng(0)
    labels = table.labels()
    weak = 0.3 + 0.1 * labels + 0.3 * generator.random(labels.size)
    noise = np.clip(weak + 1e-3 * generator.normal(size=labels.size), 0, 1)
    perfect = 0.1 + 0.8 * labels
    scores = [
        ModeScores(mode, masks, masks, values[None])
        for mode, masks, values in (
            ("whole", "none", weak),
            ("crop", "truth", noise),
            ("hard_crop", "truth", perfect),
            ("background_full", "truth", 1 - perfect),
        )
    ]
    results = compare_mask_modes(scores, table)
    assert [result.verdict for result in results] == [
        "reference", "no difference shown", "better than the whole image",
        "worse than the whole image",
    ]  # fmt: skip
    report = MaskModeReport(table, results)
    assert "no difference shown" in markdown(report)
    names = {path.name for path in write_mask_modes(report, tmp_path)}
    assert names == {"scores.csv", "mask_modes.csv", "mask_modes.md", "mask_modes.png"}
    with pytest.raises(DataError, match="no scores of the whole image"):
        compare_mask_modes(scores[1:], table)
    few, values = invented(count=10, malignant=1), np.linspace(1, 0, 10)[None]
    pair = [ModeScores("whole", "none", "none", values), ModeScores("crop", "t", "t", values)]
    result = compare_mask_modes(pair, few)[1]
    assert (result.difference_interval, result.verdict) == (None, "too few images to say")
