import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from tiny_training import SEGMENTER as CONFIG
from tiny_training import interrupted
from tiny_training import segmentation_settings as settings

from cascade.data.datasets import SegmentationDataset
from cascade.errors import ConfigError, DataError, DeviceError, PretrainedWeightsError
from cascade.models.segmenter import Segmenter
from cascade.training.images_seen import image_marks
from cascade.training.segmentation import segmentation_loss, train_segmenter, validate_segmenter


@pytest.fixture(scope="module")
def trained(table, splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmenter") / "run"
    network = train_segmenter(
        table, splits, config=CONFIG, training=settings(epochs=2), output=folder, device="cpu"
    )
    return network, folder


def small(table, splits, output, **changes):
    parts = {"config": CONFIG, "training": settings(), "device": "cpu", **changes}
    return train_segmenter(table, splits, output=output, **parts)


def test_it_returns_the_best_epoch_as_its_file_holds_it(trained):
    network, folder = trained
    again = Segmenter.load(folder / "best.safetensors", device="cpu")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(network.predict(images), again.predict(images))
    assert not network.training


def test_the_folder_holds_what_is_documented(trained):
    _, folder = trained
    assert {path.name for path in folder.iterdir()} == {
        "best.safetensors", "last.safetensors", "previous.safetensors", "history.csv",
        "config.yaml",
    }  # fmt: skip
    with (folder / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "epoch", "learning_rate", "train_loss", "validation_loss", "validation_iou", "seconds",
    ]  # fmt: skip
    assert len(rows) == 2
    assert all(0 <= float(row["validation_iou"]) <= 1 for row in rows)


def test_every_setting_is_in_the_configuration_file(trained, splits):
    _, folder = trained
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    assert stored["epochs"] == 2
    assert stored["encoder"] == "tu-test_resnet"
    assert stored["decoder_channels"] == [16, 16, 8, 8, 8]
    assert stored["encoder_weights"] == "none"
    assert stored["splits_digest"] == splits.digest


def test_the_file_says_how_the_network_was_made(trained, table, splits):
    network, _ = trained
    provenance = network.provenance
    assert provenance["table"] == {"name": "train_data.csv", "images": 12, "digest": table.digest}
    assert provenance["splits"]["digest"] == splits.digest
    assert provenance["settings"]["learning_rate"] == 0.002
    assert provenance["versions"]["torch"] == torch.__version__
    assert provenance["encoder_weights"] == "none"
    assert provenance["epochs_trained"] == network.metrics["validation"]["epoch"]
    assert provenance["trained_on"] == image_marks(table.names())


def test_the_file_holds_no_name_of_an_image_and_no_folder(trained, table):
    _, folder = trained
    content = (folder / "best.safetensors").read_bytes()
    assert not any(record.stem.encode() in content for record in table)
    assert str(folder.parent).encode() not in content


def test_the_validation_numbers_are_those_of_a_loop_over_images(trained, table, splits):
    network, _ = trained
    data = SegmentationDataset(table.subset(splits.validation).records, size=32)
    ious = []
    for image, mask in (data[index] for index in range(len(data))):
        predicted = network.predict(image[None])[0] >= 0.5
        truth = mask.astype(bool)
        ious.append((predicted & truth).sum() / (predicted | truth).sum())
    stored = network.metrics["validation"]
    assert stored["validation_iou"] == pytest.approx(np.mean(ious), abs=1e-6)
    again = validate_segmenter(network, data, settings(batch_size=1))
    assert again["validation_iou"] == pytest.approx(np.mean(ious), abs=1e-6)


def test_the_loss_is_dice_plus_cross_entropy():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(3, 5, 5))
    masks = generator.integers(0, 2, (3, 5, 5))
    p = 1 / (1 + np.exp(-logits))
    entropy = -(masks * np.log(p) + (1 - masks) * np.log(1 - p)).mean()
    overlap, total = (p * masks).sum(axis=(1, 2)), (p + masks).sum(axis=(1, 2))
    dice = (1 - 2 * overlap / total).mean()  # image by image
    loss = segmentation_loss(torch.from_numpy(logits), torch.from_numpy(masks))
    assert loss.item() == pytest.approx(entropy + dice, rel=1e-5)


def test_training_lowers_the_loss_on_what_it_sees(table, splits, tmp_path):
    training = settings(epochs=5, augmentation="none", schedule="none", seed=1)
    small(table, splits, tmp_path / "run", training=training)
    with (tmp_path / "run" / "history.csv").open(newline="") as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < 0.8 * losses[0]


def test_a_resumed_training_is_the_uninterrupted_one_bit_by_bit(table, splits, tmp_path):
    """With real images, their augmentation, a real encoder and the averaged weights."""
    from cascade.training import segmentation

    training = settings(epochs=2, average=0.5, augmentation="strong")
    whole = small(table, splits, tmp_path / "whole", training=training)
    with interrupted(segmentation, "validate_segmenter", call=2):
        small(table, splits, tmp_path / "stopped", training=training)
    torch.manual_seed(99)
    resumed = small(table, splits, tmp_path / "stopped", training=training, resume=True)
    one, other = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_existing_run_is_kept_and_not_resumed_with_other_splits_or_settings(
    trained, table, splits
):
    _, folder = trained
    before = (folder / "best.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="holds a run already"):
        small(table, splits, folder)
    assert (folder / "best.safetensors").read_bytes() == before
    with pytest.raises(ConfigError, match=r"epochs was 2, is 3"):
        small(table, splits, folder, training=settings(epochs=3), resume=True)
    other = replace(splits, train=splits.validation, validation=splits.train)
    with pytest.raises(ConfigError, match="splits_digest"):
        small(table, other, folder, training=settings(epochs=2), resume=True)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"device": "cuda:99"}, DeviceError, "cuda:99"),
        ({"weights": "absent.pth"}, PretrainedWeightsError, "absent.pth"),
        ({"config": replace(CONFIG, encoder="mobilnet")}, ConfigError, "did you mean"),
    ],
)
def test_wrong_settings_leave_no_folder_behind(table, splits, tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        small(table, splits, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_records_without_masks_and_an_empty_validation_part_are_refused(table, splits, tmp_path):
    bare = replace(table, records=tuple(replace(item, mask_path=None) for item in table))
    with pytest.raises(DataError, match=r"no mask.*synthetic_"):
        small(bare, splits, tmp_path / "run")
    with pytest.raises(DataError, match="validation part"):
        small(table.subset(splits.train), splits, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("error")
def test_an_image_that_breaks_during_training_is_named(table, splits, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(table[0].image_path.read_bytes()[:200])
    records = tuple(
        replace(item, image_path=broken) if item.name == splits.train[0] else item for item in table
    )
    with pytest.raises(DataError, match=r"broken\.jpg"):
        small(replace(table, records=records), splits, tmp_path / "run")
