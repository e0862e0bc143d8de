"""--limit uses the first rows or inputs only, and says so."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace

import pytest

from cascade.command_line import main as console
from cascade.command_line.first_rows import first, first_rows
from cascade.command_line.main import COMMANDS, module_of
from cascade.data.splits import make_splits, read_splits
from cascade.data.tables import read_csv, read_table
from cascade.errors import ConfigError


def limit(count):
    return Namespace(limit=count)


def test_the_first_rows_are_used_in_the_order_of_the_table(table, caplog):
    assert first_rows(limit(5), table).names() == table.names()[:5]
    assert f"--limit 5: only the first 5 of the {len(table)} rows of {table.path}" in caplog.text


def test_without_a_limit_nothing_changes_and_nothing_is_said(table, splits, caplog):
    assert first_rows(limit(None), table, splits) is table
    assert list(first(limit(None), iter("abc"))) == ["a", "b", "c"]
    assert caplog.text == ""


def test_no_more_inputs_are_searched_than_are_used(caplog):
    drawn = iter("abcdef")
    assert list(first(limit(2), drawn)) == ["a", "b"]
    assert next(drawn) == "c"
    assert "only the first 2 of the inputs" in caplog.text


def test_a_limit_beyond_the_rows_takes_all(table):
    assert first_rows(limit(99), table).names() == table.names()


@pytest.mark.parametrize("count", [0, -3])
def test_a_limit_below_one_is_refused(table, count):
    with pytest.raises(ConfigError, match=f"--limit {count}: give 1 or more"):
        first_rows(limit(count), table)


@pytest.mark.parametrize(("empty", "other"), [("train", "validation"), ("validation", "train")])
def test_a_training_is_refused_if_a_part_would_be_empty(table, splits, empty, other):
    names = table.names()
    divided = replace(splits, **{empty: tuple(names[6:]), other: tuple(names[:6])})
    use = {"train": "trains", "validation": "validates"}[empty]
    with pytest.raises(ConfigError, match=f"--limit 6: none of the first 6 rows {use}; give more"):
        first_rows(limit(6), table, divided)
    assert len(first_rows(limit(7), table, divided)) == 7


def test_the_commands_that_take_tables_or_inputs_have_it():
    having = {
        command
        for command in COMMANDS
        if "--limit" in module_of(command).build_parser()._option_string_actions
    }
    assert having == {
        "seg-train", "cls-train", "seg-eval", "cls-eval", "evaluate", "predict", "explain",
        "segment",
    }  # fmt: skip


# --- commands


def test_a_training_divides_the_whole_table_and_uses_the_first_rows(
    dataset_folder, tmp_path, capfd
):
    divided = tmp_path / "splits.json"
    words = ["seg-train", "--data_path", dataset_folder, "--splits", divided, "--device", "cpu"]
    small = ["--encoder", "tu-test_resnet", "--image_size", 32, "--batch_size", 2, "--epochs", 1]
    words += ["--validation_fraction", 0.4, *small]
    words += ["--decoder_channels", 16, 16, 8, 8, 8, "--output", tmp_path / "run", "--limit", 8]
    assert console.main([*map(str, words)]) == 0
    table = read_table(dataset_folder / "train_data.csv")
    assert read_splits(divided) == make_splits(table, fraction=0.4, seed=0)
    model = tmp_path / "run" / "best.safetensors"
    validating = len(set(table.names()[:8]) & set(read_splits(divided).validation))
    assert f"{8 - validating} images, {validating} to validate" in capfd.readouterr().err

    words = ["seg-eval", "--model", model, "--data_path", dataset_folder, "--device", "cpu"]
    words += ["--table", "train_data.csv", "--allow_seen", "--output", tmp_path / "found"]
    assert console.main([*map(str, words), "--limit", "3"]) == 0
    rows = read_csv(tmp_path / "found" / "predictions.csv")[1]
    assert [row["name"] for row in rows] == table.names()[:3]
    page = (tmp_path / "found" / "report.html").read_text(encoding="utf-8")
    assert "only the first 3 rows" in page


def test_a_prediction_goes_on_with_a_larger_limit(
    commanded_cascade, fake_segmenter, fake_classifier, dataset_folder, tmp_path, monkeypatch
):
    commanded_cascade(fake_segmenter, fake_classifier)
    monkeypatch.chdir(tmp_path)
    words = ["predict", str(dataset_folder / "images_all")]
    assert console.main([*words, "--limit", "2"]) == 0
    before = read_csv(tmp_path / "predictions" / "predictions.csv")[1]
    assert console.main([*words, "--limit", "4", "--resume"]) == 0
    after = read_csv(tmp_path / "predictions" / "predictions.csv")[1]
    assert (len(before), len(after)) == (2, 4)
    assert after[:2] == before
    every = sorted(path.name for path in (dataset_folder / "images_all").iterdir())
    assert [row["name"] for row in after] == every[:4]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["predict", "a.png", "--engine", "ray"], "--limit is not for --engine ray"),
        (["evaluate", "--predictions", "p"], "--limit needs a model to run"),
    ],
)
def test_where_it_does_not_apply_it_is_refused(words, expected, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert console.main([*words, "--limit", "2"]) == 2
    assert expected in capfd.readouterr().err
