"""A learning rate of a million is a failure for each command that trains, and leaves no model."""

import pytest

from cascade.command_line import main as console
from cascade.data.synthetic import SyntheticConfig, write_synthetic_dataset

SMALL = ["--image_size", "32", "--epochs", "1", "--device", "cpu", "--augmentation", "none"]
SEGMENTER = ["--encoder", "tu-test_resnet", "--decoder_channels", "16", "16", "8", "8", "8"]
CLASSIFIER = ["--architecture", "timm/test_resnet"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diverged") / "data"
    write_synthetic_dataset(
        folder, SyntheticConfig(count_train=24, count_test=4, sizes=((48, 56),))
    )
    return folder


@pytest.mark.parametrize("batch_size", [4, 64], ids=["many steps", "one step"])
@pytest.mark.parametrize(
    "words",
    [
        ["seg-train", *SEGMENTER],
        ["cls-train", *CLASSIFIER],
        ["cls-train", "--folds", "2", "--validation_fraction", "0.4", *CLASSIFIER],
        ["oof-masks", "--folds", "2", *SEGMENTER],
        ["mask-modes", "--masks", "truth", "--modes", "whole", *CLASSIFIER],
    ],
    ids=["segmenter", "classifier", "classifier folds", "segmenter folds", "mask modes"],
)
def test_a_diverged_training_says_so_writes_no_model_and_fails(
    words, batch_size, data, tmp_path, capsys
):
    code = console.main(
        [*words, *SMALL, "--batch_size", str(batch_size), "--learning_rate", "1000000",
         "--data_path", str(data), "--output", str(tmp_path / "run")]
    )  # fmt: skip
    assert code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(said) == 1
    assert "the training diverged in epoch 1: " in said[0]
    assert "lower --learning_rate (now 1e+06)" in said[0]
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not list(tmp_path.rglob("out_of_fold.csv"))
