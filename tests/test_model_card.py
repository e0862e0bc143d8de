"""The model card: its numbers are those of the files, and what is missing leaves no trace."""

from __future__ import annotations

import csv
import dataclasses
import json
import re

import numpy as np
import pytest

from cascade.commands.evaluation.card import build_parser, main, training_commands
from cascade.commands.training.cls_train import build_parser as cls_parser
from cascade.commands.training.seg_train import build_parser as seg_parser
from cascade.data.tables import read_table
from cascade.errors import DataError, ModelFileError
from cascade.evaluation.card_parts import count_operating_points, flat_facts
from cascade.evaluation.model_card import details_path, trainings_of, write_model_card
from cascade.evaluation.report import write_evaluation
from cascade.evaluation.score_table import (
    CLASSIFICATION_ROWS,
    SEGMENTATION_ROWS,
    STAGE_TITLE,
)
from cascade.evaluation.stages import evaluate_cascade
from cascade.evaluation.subgroups import with_subgroups
from cascade.files import file_digest, write_json
from cascade.lesion.masking import MaskPolicy
from cascade.models.artifact import Artifact, read_artifact, write_artifact

FIRST = {
    "date": "2025-01-02T03:04:05+00:00",
    "table": {"name": "train_data.csv", "images": 4321, "digest": "d1" * 32},
    "splits": {"seed": 7, "fraction": 0.1, "digest": "5e" * 32},
    "trained_on": ["abcdefabcdef", "fedcbafedcba"],
    "settings": {
        "encoder": "resnet18",
        "size": 64,
        "epochs": 3,
        "learning_rate": 0.0123,
        "deterministic": True,
        "decoder_channels": [32, 16, 8, 8, 8],
        "encoder_weights": "/somewhere/weights/imagenet.pth",
    },
}
SECOND = {
    **FIRST,
    "settings": {**FIRST["settings"], "size": 96, "encoder_weights": "none"},
    "initial_model": {key: value for key, value in FIRST.items() if key != "trained_on"},
}
JUDGE = {
    **FIRST,
    "settings": {
        "architecture": "mobilenet_v2",
        "size": 48,
        "class_weight": 2.5,
        "mask_policy": MaskPolicy.from_mode("hard_crop", margin=0.2).to_dict(),
        "encoder_weights": "none",
    },
}
POINTS = {"0.80": 0.55, "0.95": 0.35}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A file with the header of a trained cascade and a handful of weights."""
    path = tmp_path_factory.mktemp("model") / "default.safetensors"
    stages = {
        "segmenter": {"config": {"encoder": "resnet18", "decoder": "unet", "size": 96}},
        "classifier": {
            "config": {"architecture": "mobilenet_v2", "size": 48},
            "classes": ["benign", "malignant"],
            "policy": MaskPolicy().to_dict(),
            "temperature": 1.2345,
            "cutoff": 0.6,
            "operating_points": POINTS,
        },
    }
    tensors = {
        "segmenter.a": np.zeros((3, 4), np.float32),
        "classifier.b": np.ones((1234,), np.float32),
    }
    metrics = {"segmenter": {"validation": {"epoch": 3, "validation_iou": 0.8123}}}
    provenance = {"segmenter": SECOND, "classifier": JUDGE}
    write_artifact(path, Artifact(stages, tensors, provenance, metrics))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory, dataset_folder):
    """A finished evaluation with everything that ``cascade evaluate`` writes."""
    from conftest import FakeClassifier, FakeSegmenter

    from cascade.pipeline import Cascade

    cascade = Cascade(FakeSegmenter(), FakeClassifier(), cutoff=0.6)
    evaluation = evaluate_cascade(cascade, read_table(dataset_folder / "train_data.csv"))
    path = tmp_path_factory.mktemp("evaluation")
    about = {"model": "default.safetensors", "data": "demo/test_data.csv", "date": "2025-02-03"}
    write_evaluation(path, with_subgroups(evaluation), title="t", about=about)
    return path


def card_of(tmp_path, model, *folders, **options):
    output = tmp_path / "card.md"
    write_model_card(output, model=model, evaluations=folders, **options)
    return "".join(path.read_text(encoding="utf-8") for path in (output, details_path(output)))


def row_of(card, *cells):
    """The one table row that starts with these cells."""
    start = "| " + " | ".join(cells) + " |"
    (found,) = {line for line in card.splitlines() if line.startswith(start)}
    return [cell.strip() for cell in found.strip("|").split("|")]


def only_segmentation(folder, tmp_path):
    path = tmp_path / "segmentation"
    metrics = json.loads((folder / "metrics.json").read_text())
    write_json(path / "metrics.json", {"segmentation": metrics["segmentation"]})
    return path


def test_every_number_and_interval_of_an_evaluation_is_in_the_card(tmp_path, model, folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    card = card_of(tmp_path, model, folder)
    for part, rows, start, end in (
        ("segmentation", SEGMENTATION_ROWS, "#### Segmentation", "#### Classification"),
        ("classification", CLASSIFICATION_ROWS, "#### Classification", f"#### {STAGE_TITLE}"),
    ):
        text = card[card.index(start) : card.index(end)]
        for key, (title, averaging) in rows.items():
            _, value, interval, averaged = row_of(text, title)
            assert averaged == averaging
            assert value == f"{metrics[part][key]:.4f}", key
            assert interval == "{:.4f} – {:.4f}".format(*metrics[part]["intervals"][key]), key
    assert f"{metrics['classification']['positives']} of them malignant" in card
    headline = row_of(card, "demo/test\\_data.csv".replace("\\", ""), "mean IoU")
    assert headline[3] == f"{metrics['segmentation']['mean_iou']:.4f}"


def test_the_card_is_short_and_leads_to_the_details(tmp_path, model, folder):
    whole = card_of(tmp_path, model, folder)
    card = (tmp_path / "card.md").read_text(encoding="utf-8")
    details = (tmp_path / "card_details.md").read_text(encoding="utf-8")
    assert card.count("\n") < 150 < details.count("\n")
    assert whole.count("](card_details.md)") == whole.count("](card.md)") == 1
    for title in ("## Summary", "## Intended use", "## Known failures and limits"):
        assert title in card
        assert title not in details
    assert "## The networks" not in card


def test_details_of_another_card_are_not_replaced(tmp_path, model, capsys):
    (tmp_path / "card_details.md").write_text("mine")
    assert main(["--model", str(model), "--output", str(tmp_path / "card.md")]) == 2
    assert "card_details.md: exists already" in capsys.readouterr().err
    assert not (tmp_path / "card.md").exists()


def test_operating_points_are_counted_from_the_predictions(tmp_path, model, folder):
    card = card_of(tmp_path, model, folder)
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for target, cutoff in POINTS.items():
        for column, name in ((2, "malignant"), (3, "benign")):
            scores = [float(row["probability_malignant"]) for row in rows if row["class"] == name]
            right = sum((score >= cutoff) == (name == "malignant") for score in scores)
            cell = row_of(card, target, f"{cutoff:.4f}")[column]
            assert cell.startswith(f"{right / len(scores):.4f} (")
            assert cell.endswith(f"; {right} of {len(scores)}")


def test_subgroups_of_the_evaluation_are_in_the_card(tmp_path, model, folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    card = card_of(tmp_path, model, folder)
    row = next(row for row in metrics["subgroups"] if row["column"] == "source")
    cells = row_of(card, row["group"], str(row["n"]), str(row["positives"]))
    assert cells[3].startswith(f"{row['roc_auc']:.3f}")
    assert "By apparent skin tone" in card


def test_falls_under_corruptions_are_in_the_card_and_not_those_without_truth(tmp_path, model):
    falls = {"n": 9, "rows": [], "iou_fall": None, "auc_fall": 0.0345,
             "intervals": {"iou_fall": None, "auc_fall": [-0.01, 0.05]}}  # fmt: skip
    write_json(tmp_path / "evaluation" / "metrics.json", {"corruptions": falls})
    card = card_of(tmp_path, model, tmp_path / "evaluation")
    cells = row_of(card, "evaluation", "fall of the ROC AUC under corruptions")
    assert cells[2:] == ["9", "0.0345", "-0.0100 – 0.0500"]
    assert "fall of the mean IoU" not in card


def test_what_is_in_the_model_file_is_in_the_card(tmp_path, model):
    card = card_of(tmp_path, model)
    assert file_digest(model) in card
    assert row_of(card, "temperature")[1] == "1.2345"
    assert row_of(card, "policy, margin")[1] == "0.15"
    assert row_of(card, "validation, validation iou")[1] == "0.8123"
    assert "Stored values: 1,234." in card
    assert "d1" * 32 in card
    assert row_of(card, "learning rate")[1:] == ["0.0123", "0.0123"], "two trainings"
    assert "| size | 64 | 96 |" in card, "the first training first"
    assert "abcdefabcdef" not in card, "digests of names are not for readers"
    assert "/somewhere" not in card, "no folder of a machine"
    assert "| encoder weights | imagenet.pth | none |" in card


def test_it_says_whether_the_classifier_has_seen_whole_images(tmp_path, model):
    assert "was not trained on" in card_of(tmp_path, model)
    seen = {"classifier": {**JUDGE, "settings": {"whole_image_share": 0.2}}}
    artifact = dataclasses.replace(read_artifact(model), provenance=seen)
    write_artifact(tmp_path / "other.safetensors", artifact)
    card = card_of(tmp_path, tmp_path / "other.safetensors")
    assert "was not trained on" not in card
    assert "20 % of what the classifier saw" in card


def test_without_evaluations_no_heading_is_empty_and_nothing_is_none(tmp_path, model, folder):
    cards = [
        card_of(tmp_path, model),
        card_of(tmp_path, model, only_segmentation(folder, tmp_path)),
        card_of(tmp_path, model, folder),
    ]
    assert "## Evaluation" not in cards[0]
    assert "Classification:" not in cards[1]
    assert "#### Segmentation: segmentation" in cards[1]
    for card in cards:
        assert "None" not in card
        assert not re.search(r"\bnan\b", card)
        assert "\n\n\n" not in card
        assert not re.search(r"^(#+) .*\n\n(?=\1 )", card, re.MULTILINE), "an empty section"
        assert not re.search(r"^#+ .*\n*\Z", card, re.MULTILINE)
        assert "{{" not in card
        assert "{%" not in card


def test_the_same_files_give_the_same_card(tmp_path, model, folder):
    assert card_of(tmp_path, model, folder) == card_of(tmp_path, model, folder)


def test_plots_are_copied_and_named_relative_to_the_card(tmp_path, model, folder):
    card = card_of(tmp_path, model, folder, images=tmp_path / "card" / "plots")
    addresses = re.findall(r"!\[[^]]+\]\(([^)]+)\)", card)
    assert {address.rsplit("csv-")[1] for address in addresses} == {
        "reliability.png", "roc.png", "iou-histogram.png", "subgroups.png",
    }  # fmt: skip
    for address in addresses:
        assert address.startswith("card/plots/1-demo-test-data-csv-")
        assert (tmp_path / address).is_file()
    assert len(list((tmp_path / "card" / "plots").iterdir())) == 4, "no picture of a patient"
    assert "![" not in card_of(tmp_path, model, folder)


def test_two_evaluations_on_the_same_data_keep_apart(tmp_path, model, folder):
    other = tmp_path / "again"
    other.mkdir()
    (other / "metrics.json").write_bytes((folder / "metrics.json").read_bytes())
    card = card_of(tmp_path, model, folder, other)
    assert "### demo/test_data.csv (again)\n" in card
    assert f"### demo/test_data.csv ({folder.name})\n" in card


def test_non_commercial_data_are_said_plainly(tmp_path, model):
    both = {"segmenter_data": ("isic_task1",), "classifier_data": ("isic_task1", "ham10000")}
    card = " ".join(card_of(tmp_path, model, **both).split())
    assert (
        "CC BY-NC 4.0, so its weights, and a file that holds them, are for non-commercial" in card
    )
    assert "CC-0" in card
    assert "The segmenter alone learnt from images without that limit" in card
    free = card_of(tmp_path, model, **(both | {"classifier_data": ("isic_task1",)}))
    assert "non-commercial" not in free
    assert "HAM10000" not in free
    assert "Malignant is only melanoma.**" in free


def test_no_licence_is_claimed_for_images_that_nobody_named(tmp_path, model):
    card = card_of(tmp_path, model)
    assert "| segmenter | not given | not given |" in card
    assert "| classifier | not given | not given |" in card
    assert "licences of all images were not given" in card
    own = card_of(
        tmp_path,
        model,
        segmenter_data=("isic_task1",),
        classifier_data=("our clinic, 2024 | 2025",),
    )
    assert r"| classifier | our clinic, 2024 \| 2025 | not given |" in own
    assert "CC-0" in own
    for text in (card, own):
        assert "CC BY-NC" not in text
        assert "set no limit" not in text


def test_damaged_models_and_empty_folders_are_refused(tmp_path, model):
    with pytest.raises(DataError, match=r"metrics\.json: cannot be read"):
        card_of(tmp_path, model, tmp_path)
    damaged = tmp_path / "damaged.safetensors"
    data = bytearray(model.read_bytes())
    data[-1] ^= 255
    damaged.write_bytes(data)
    with pytest.raises(ModelFileError, match="SHA-256"):
        card_of(tmp_path, damaged)
    assert not (tmp_path / "card.md").exists()


def test_helpers_are_tolerant():
    assert count_operating_points([], {"0.8": 0.5}) == {}
    silent = {"name": "a", "class": "benign", "probability_malignant": ""}
    assert count_operating_points([silent], {"0.8": 1}) == {}
    assert flat_facts({"a": {"b": [1, 2]}, "c": list(range(99)), "d": ""}) == {"a, b": "1, 2"}
    assert [t["settings"]["size"] for t in trainings_of(SECOND)] == [64, 96]
    assert trainings_of({}) == []


def test_commands_of_the_card_give_the_recorded_settings_back():
    first, second, judge = training_commands({"segmenter": SECOND, "classifier": JUDGE})
    parsed = [
        parser.parse_args(line.split()[2:])
        for parser, line in ((seg_parser(), first), (seg_parser(), second), (cls_parser(), judge))
    ]
    assert [arguments.image_size for arguments in parsed] == [64, 96, 48]
    for arguments in parsed[:2]:
        assert arguments.learning_rate == 0.0123
        assert arguments.epochs == 3
        assert arguments.deterministic is True
        assert arguments.decoder_channels == [32, 16, 8, 8, 8]
        assert arguments.validation_fraction == 0.1
    assert parsed[0].encoder_weights == "imagenet.pth"
    assert parsed[1].initial_model == "models/segmenter/best.safetensors"
    assert (parsed[2].mask_mode, parsed[2].margin) == ("hard_crop", 0.2)
    assert parsed[2].class_weight == 2.5


def test_the_command_writes_the_card(tmp_path, model, folder, capsys):
    output = tmp_path / "sub" / "card.md"
    flags = ["--model", model, "--evaluations", folder, "--output", output]
    assert main([str(flag) for flag in [*flags, "--images", tmp_path / "plots"]]) == 0
    assert "written" in capsys.readouterr().out
    card = details_path(output).read_text(encoding="utf-8")
    assert "](../plots/1-" in card
    assert "cascade seg-train --data_path DATA" in card


def test_the_command_names_what_is_missing(tmp_path, capsys):
    assert main(["--model", "none.safetensors", "--output", str(tmp_path / "card.md")]) == 2
    with pytest.raises(SystemExit):
        build_parser().parse_args([])
    assert "required: model, output" in capsys.readouterr().err
