"""``cascade score`` and ``cascade evaluate`` of rows in Parquet, as of the same rows elsewhere."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cluster_runs import run_of

from cascade.command_line.main import main as console
from cascade.data.tables import read_table
from cascade.errors import DataError
from cascade.evaluation.stages import evaluate_cascade
from cascade.evaluation.stored import evaluate_rows
from cascade.imaging import write_mask
from cascade.models.artifact import default_model

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")

from cascade.cluster.shards import predict_shard
from cascade.cluster.tables import read_rows

NUMBERS = ("roc_auc", "brier", "accuracy", "confusion_matrix")


@pytest.fixture
def predicted(dataset_folder, tmp_path, fake_cascade):
    """Predicts the test table; gives the run's folder."""

    def run(masks=None, **settings):
        table = dataset_folder / "test_data.csv"
        settings = {"masks": masks, "model_sha256": "0" * 64} | settings
        planned = run_of(tmp_path / "run", [table], shard_rows=3, **settings)
        for shard in range(planned.shards):
            predict_shard(fake_cascade, planned, shard)
        return tmp_path / "run"

    return run


@pytest.fixture
def table(dataset_folder):
    return read_table(dataset_folder / "test_data.csv")


def score(tmp_path, *words):
    output = tmp_path / "scores"
    words = [*map(str, words), "--output", str(output), "--resamples", "20", "--overwrite"]
    assert console(["score", *words]) == 0
    return json.loads((output / "metrics.json").read_text())


# --- score


def test_probabilities_score_as_those_of_a_csv(
    predicted, dataset_folder, tmp_path, table, fake_cascade
):
    truth = ["--truth", dataset_folder / "test_data.csv", "--predicted"]
    lines = [
        f"{record.name},{fake_cascade(record.image_path)[0].probabilities['malignant']!r}"
        for record in table
    ]
    (tmp_path / "plain.csv").write_text("\n".join(["name,probability", *lines]))
    plain = score(tmp_path, *truth, tmp_path / "plain.csv")
    stored = score(tmp_path, *truth, predicted())
    assert stored["classification"] == plain["classification"]


@pytest.mark.parametrize("masks", ["png", "rle"])
def test_masks_score_as_those_of_a_folder(
    predicted, dataset_folder, tmp_path, table, fake_cascade, masks
):
    truth = tmp_path / "truth"
    for record in table:
        (predicted_mask,) = (item.mask for item in fake_cascade(record.image_path))
        write_mask(tmp_path / "masks" / f"{record.stem}.png", predicted_mask)
        (truth / record.mask_path.name).parent.mkdir(exist_ok=True)
        (truth / record.mask_path.name).write_bytes(record.mask_path.read_bytes())
    plain = score(tmp_path, "--truth", truth, "--predicted", tmp_path / "masks")
    stored = score(tmp_path, "--truth", truth, "--predicted", predicted(masks))
    assert stored["segmentation"] == plain["segmentation"]
    assert 0 < stored["segmentation"]["mean_iou"] < 1


def test_rows_without_masks_are_an_error(predicted, dataset_folder, capsys):
    words = ["--truth", str(dataset_folder / "masks_all"), "--predicted", str(predicted())]
    assert console(["score", *words]) == 2
    assert "no row has a mask; predict with --save_masks" in capsys.readouterr().err


# --- evaluate


def test_stored_rows_evaluate_as_the_cascade_does(predicted, table, fake_cascade):
    rows = read_rows(str(predicted("rle")))
    stored = evaluate_rows(rows, table, cutoff=fake_cascade.cutoff, seed=3)
    live = evaluate_cascade(fake_cascade, table, seed=3)
    for part in ("segmentation", "classification"):
        assert stored.metrics[part] == live.metrics[part]
    unknown = {"masked_crop_probability": None}
    assert [case.row() | unknown for case in stored.cases] == [
        case.row() | unknown for case in live.cases
    ]


def test_rows_without_masks_evaluate_the_classes_only(predicted, table):
    evaluation = evaluate_rows(read_rows(str(predicted())), table, cutoff=0.5)
    assert set(evaluation.metrics) == {"classification"}


def test_a_missing_a_failed_and_a_second_row_are_errors(predicted, table):
    rows = list(read_rows(str(predicted())))
    with pytest.raises(DataError, match="1 of 4 images have no row"):
        evaluate_rows(rows[1:], table, cutoff=0.5)
    with pytest.raises(DataError, match="is the second row named"):
        evaluate_rows([*rows, dict(rows[0])], table, cutoff=0.5)
    with pytest.raises(DataError, match=r"cannot be evaluated: out of luck\. A missing"):
        evaluate_rows([{**rows[0], "error": "out of luck"}, *rows[1:]], table, cutoff=0.5)


def evaluate(dataset_folder, tmp_path, *words):
    return console(
        ["evaluate", "--data_path", str(dataset_folder), "--output", str(tmp_path / "evaluation"),
         *map(str, words)]
    )  # fmt: skip


def test_the_command_writes_an_evaluation_of_stored_rows(
    predicted, dataset_folder, tmp_path, fake_cascade, table
):
    run = predicted("png", tta="flips")
    assert evaluate(dataset_folder, tmp_path, "--predictions", run, "--allow_seen") == 0
    document = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    live = evaluate_cascade(fake_cascade, table, tta="flips")
    for name in NUMBERS:
        expected = live.metrics["classification"][name]
        assert np.array_equal(document["classification"][name], expected)
    assert (tmp_path / "evaluation" / "report.html").is_file()
    assert document["about"]["test-time augmentation"] == "flips"
    assert document["about"]["data"].endswith("test_data.csv, perhaps seen in training")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --model, so that images it was trained on are refused"),
        (["--allow_seen", "--explain", "2"], "--explain needs a model to run"),
        (["--model", "MODEL"], "is not the model that predicted these rows"),
    ],
)
def test_the_command_refuses_what_rows_cannot_give(
    predicted, dataset_folder, tmp_path, capsys, words, message
):
    words = [default_model() if word == "MODEL" else word for word in words]
    assert evaluate(dataset_folder, tmp_path, "--predictions", predicted(), *words) == 2
    assert message in capsys.readouterr().err


def test_foreign_parquet_is_an_error(dataset_folder, tmp_path, capsys):
    import pyarrow
    from pyarrow.parquet import write_table

    write_table(pyarrow.table({"name": ["a"]}), tmp_path / "rows.parquet")
    words = ["--predictions", tmp_path / "rows.parquet", "--allow_seen"]
    assert evaluate(dataset_folder, tmp_path, *words) == 2
    assert "was not written by cascade predict" in capsys.readouterr().err
