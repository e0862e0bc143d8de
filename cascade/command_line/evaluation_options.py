"""What the three evaluating commands share."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.command_line.options import add_data, add_output, data_folders
from cascade.command_line.outputs import found_files, refuse_to_replace, say, say_table
from cascade.command_line.parser import CommandParser
from cascade.errors import ConfigError

if TYPE_CHECKING:
    from cascade.data.tables import Table
    from cascade.evaluation.html import ReportSection
    from cascade.evaluation.overlays import Sketch
    from cascade.evaluation.stages import Evaluation


SCORE_FILES = (
    "metrics.json", "iou_histogram.png", "confusion_matrix.png", "reliability.png", "roc.png",
    "precision_recall.png",
)  # fmt: skip
"""What every command may write that scores something."""
EVALUATION_FILES = (
    *SCORE_FILES, "predictions.csv", "report.html", "subgroups.csv", "subgroups.md",
    "subgroups.png", "heat_maps.csv", "corruptions.csv", "corruptions.png", "diagnoses.png",
)  # fmt: skip
"""What an evaluation of a model may write, beside masks and overlays."""


def add_evaluation(parser: CommandParser, *, output: str) -> None:
    """Add the flags of every evaluation but the model's and the device's."""
    add_data(parser, table="test_data.csv")
    add_output(parser, "folder for numbers, plots and the page", default=output)
    parser.add_shared("limit", "batch_size", "tta", "seed", "allow_seen", num_workers=2)
    parser.add_argument(
        "--image_size",
        type=int,
        default=None,
        help="checked against the model's own side in pixels, which never changes after training",
    )


def refuse_to_replace_evaluation(arguments: Any) -> None:
    """Refuse a folder with an evaluation, or with the kind of images that are to be written."""
    folder = Path(arguments.output)
    images = [folder / kind for kind in ("masks", "overlays") if arguments.get(f"save_{kind}")]
    refuse_to_replace(arguments, *found_files(folder, EVALUATION_FILES), *images)


def how_to_evaluate(arguments: Any) -> dict[str, Any]:
    """What the evaluations of a stage and of both are told."""
    names = ("tta", "batch_size", "num_workers", "seed")
    return {name: arguments[name] for name in names}


def check_unseen(arguments: Any, provenance: Mapping[str, Any], table: Table, *models: str) -> int:
    """Refuse images that the model was trained on, unless that was asked for.

    Returns:
        How many of the images it was trained on.
    """
    from cascade.training.images_seen import require_unseen, seen_images

    names = table.names()
    if not arguments.allow_seen:
        for stage in provenance.values():
            require_unseen(stage, names, model=" and ".join(models))
    return len({name for stage in provenance.values() for name in seen_images(stage, names)})


def check_size(arguments: Any, sizes: Mapping[str, int]) -> None:
    """Refuse an ``--image_size`` that is not the model's.

    Raises:
        ConfigError: a network would see something else than in training.
    """
    wanted = arguments.image_size
    if wanted is not None and wanted not in sizes.values():
        own = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ConfigError(
            f"--image_size {wanted}: the model was trained at {own} pixels and keeps that; leave "
            "the flag out, or train another model"
        )


def _seen_text(seen: int | None, count: int) -> str:
    """What numbers on images that a model was trained on are not shown without."""
    if seen is None:
        return ", perhaps seen in training"
    return f", {seen} of {count} images seen in training" if seen else ""


def report(
    arguments: Any,
    evaluation: Evaluation,
    *,
    title: str,
    models: Sequence[str],
    table: Table,
    seen: int | None,
    sketch: Sketch | None = None,
    about_model: Mapping[str, Any] | None = None,
    more: Callable[[], Sequence[ReportSection]] = list,
) -> None:
    """Print the numbers and write the evaluation's files, in place of those of an earlier one.

    ``seen`` is how many images the model was trained on, ``None`` where that is not known; every
    page that shows the numbers says so. ``about_model`` joins their ``about``, ``more`` makes
    further sections of the page, and ``sketch`` the masks and overlays that the flags ask for.
    """
    from cascade.evaluation.overlays import write_masks_and_overlays
    from cascade.evaluation.report import write_evaluation

    _say_numbers(evaluation.metrics)
    folder = Path(arguments.output)
    about = {
        "model": " and ".join("/".join(Path(path).parts[-2:]) for path in models),
        **(about_model or {}),
        "data": " + ".join(
            f"{folder.name}/{Path(arguments.table).name}" for folder in data_folders(arguments)
        )
        + ("" if arguments.limit is None else f", only the first {arguments.limit} rows")
        + _seen_text(seen, len(table)),
        "images": len(evaluation.cases),
        "test-time augmentation": arguments.tta,
        "date": datetime.date.today().isoformat(),
    }
    for path in found_files(folder, EVALUATION_FILES):  # the run now may write fewer of them
        path.unlink()
    write_evaluation(folder, evaluation, title=title, about=about, sketch=sketch, more=more())
    if sketch is not None:
        masks, overlays = arguments.save_masks, arguments.save_overlays
        write_masks_and_overlays(folder, table, sketch, masks=masks, overlays=overlays)
    say(f"written: {folder / 'report.html'}, metrics.json, predictions.csv and plots")


def _say_patients(metrics: Mapping[str, Any] | None) -> None:
    if metrics is None:
        return
    from cascade.evaluation.patients import (
        PATIENT_HEADERS,
        PATIENT_NOTE,
        patient_rows,
        patient_sentences,
    )

    if rows := patient_rows(metrics):
        say_table(PATIENT_HEADERS, rows)
    for line in [*patient_sentences(metrics), *([PATIENT_NOTE] if rows else [])]:
        say(line)
    say()


def _say_metadata(metrics: Mapping[str, Any] | None) -> None:
    if metrics is None:
        return
    from cascade.evaluation.metadata import (
        METADATA_HEADERS,
        METADATA_NOTE,
        metadata_rows,
        metadata_sentences,
    )

    say_table(METADATA_HEADERS, metadata_rows(metrics))
    for line in (*metadata_sentences(metrics), METADATA_NOTE):
        say(line)
    say()


def _say_numbers(metrics: Mapping[str, Any]) -> None:
    from cascade.evaluation.safeguard_report import safeguard_lines
    from cascade.evaluation.score_table import (
        STAGE_HEADERS,
        classification_lines,
        segmentation_lines,
        stage_rows,
    )

    for name, lines in (
        ("segmentation", segmentation_lines),
        ("classification", classification_lines),
    ):
        if name in metrics:
            say(f"{name}:")
            for line in lines(metrics[name]):
                say(line)
            say()
    _say_diagnoses(metrics.get("diagnoses"))
    if "stages" in metrics:
        say_table(STAGE_HEADERS, stage_rows(metrics["stages"]))
        say()
    _say_patients(metrics.get("patients"))
    _say_metadata(metrics.get("metadata"))
    more = safeguard_lines(metrics.get("safeguards", {}))
    if "corruptions" in metrics:
        from cascade.robustness.report import corruption_lines

        more += corruption_lines(metrics["corruptions"])
    for line in more:
        say(line)
    if more:
        say()


def _say_diagnoses(scores: Mapping[str, Any] | None) -> None:
    if not scores:
        return
    from cascade.evaluation.diagnosis_scores import diagnosis_note, diagnosis_tables

    say(f"diagnoses: {diagnosis_note(scores)}")
    for table in diagnosis_tables(scores):
        say_table(table.headers, table.rows)
        say()
