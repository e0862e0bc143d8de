"""``cascade score``: compare predicted masks or probabilities with the truth; needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cascade.command_line.evaluation_options import SCORE_FILES
from cascade.command_line.options import add_output
from cascade.command_line.outputs import found_files, refuse_to_replace, say
from cascade.command_line.parser import OK, CommandParser, command
from cascade.config import CLASSES, did_you_mean
from cascade.data.grouping import group_names
from cascade.data.locate import IMAGE_SUFFIXES
from cascade.data.spreadsheet import listed
from cascade.data.tables import match_stem, read_csv
from cascade.errors import ConfigError, DataError
from cascade.evaluation.score_table import classification_lines, segmentation_lines
from cascade.files import write_csv, write_json
from cascade.imaging import NamedBytes
from cascade.imaging.read import file_label
from cascade.metrics.classification import classification_metrics
from cascade.metrics.intervals import RESAMPLES
from cascade.metrics.segmentation import (
    PixelCounts,
    count_pixels,
    dice,
    iou,
    segmentation_metrics,
    thresholded_iou,
)
from cascade.progress import progress

_FILES = (*SCORE_FILES, "images.csv")


def build_parser() -> CommandParser:
    """The flags of ``cascade score``."""
    parser = CommandParser(
        "cascade score",
        "Compare predictions with the truth: two folders of masks, or two CSV tables with the "
        "columns name,class and name,probability (or probability_malignant). Predictions may also "
        "be what cascade predict --engine ray has written. Names are matched "
        "without folder, suffix and _segmentation.",
        example="cascade score --truth dataset/masks_all --predicted masks_predicted --output out\n"
        "  cascade score --truth dataset/test_data.csv --predicted scores.csv --cutoff 0.2",
    )
    parser.add_argument("--truth", type=str, required=True, help="folder of masks, or CSV table")
    parser.add_argument("--predicted", type=str, required=True, help="the same of predictions")
    add_output(parser, "folder for metrics.json, a table and figures; by default none are written")
    parser.add_argument(
        "--resize_masks",
        action="store_true",
        help="scale predicted masks of another size to the truth's (nearest pixel)",
    )
    parser.add_argument(
        "--groups", type=str, default=None, help="CSV table with patient_id or lesion_id of masks"
    )
    parser.add_argument(
        "--classes",
        type=str,
        nargs=2,
        default=list(CLASSES),
        help="words of the class column, the positive one last, such as 0 1",
    )
    parser.add_shared("cutoff", "seed")
    parser.add_argument(
        "--resamples", type=int, default=RESAMPLES, help="bootstrap resamples of the intervals"
    )
    return parser


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    if arguments.output is not None:
        refuse_to_replace(arguments, *found_files(arguments.output, _FILES))
    if arguments.cutoff is None:
        arguments.cutoff = 0.5
    _check_arguments(arguments)
    truth, predicted = Path(arguments.truth), Path(arguments.predicted)
    stored = _is_stored(arguments.predicted)
    if truth.is_dir() and (stored or predicted.is_dir()):
        _score_masks(truth, predicted, arguments)
    elif truth.is_file() and (stored or predicted.is_file()):
        _score_tables(truth, predicted, arguments)
    else:
        missing = [str(path) for path in (truth, predicted) if not path.exists()]
        raise ConfigError(
            f"{listed(missing)}: does not exist"
            if missing
            else "--truth and --predicted must both be folders of masks or both be CSV tables"
        )
    return OK


def _is_stored(predicted: str) -> bool:
    """Whether predictions are rows in Parquet; without any there, no library for it is needed."""
    path = Path(predicted)
    if path.is_file() and path.suffix.lower() != ".parquet":
        return False
    if path.is_dir() and not any(
        name.name == "manifest.json" or name.suffix == ".parquet" for name in path.iterdir()
    ):
        return False
    from cascade.cluster.tables import is_stored

    return is_stored(predicted)


def _check_arguments(arguments: Any) -> None:
    if not 0.0 <= arguments.cutoff <= 1.0:
        raise ConfigError(f"--cutoff is {arguments.cutoff}; it must be within [0, 1]")
    if arguments.resamples < 1 or arguments.seed < 0:
        raise ConfigError("--resamples must be at least 1 and --seed at least 0")


@dataclass(frozen=True)
class _Matched:
    """Truth and prediction of each image by stem, and predictions that nobody asked for."""

    stems: list[str]
    extra: list[str]


def _match(truth: Mapping[str, Any], predicted: Mapping[str, Any], source: Path) -> _Matched:
    missing = [stem for stem in truth if stem not in predicted]
    if missing:
        raise DataError(
            f"{source}: {len(missing)} of {len(truth)} predictions are missing: "
            f"{listed(missing)}; every image of the truth needs one"
        )
    return _Matched(list(truth), [stem for stem in predicted if stem not in truth])


def _score_masks(truth_folder: Path, predicted_folder: Path, arguments: Any) -> None:
    truth = _mask_files(truth_folder)
    predicted: Mapping[str, Path | NamedBytes]
    if _is_stored(arguments.predicted):
        predicted = _stored_masks(arguments.predicted)
    else:
        predicted = _mask_files(predicted_folder)
    matched = _match(truth, predicted, predicted_folder)
    counts, resized = [], 0
    for stem in progress(matched.stems, description="score"):
        pixels, scaled = _compare(truth[stem], predicted[stem], resize=arguments.resize_masks)
        counts.append(pixels)
        resized += scaled
    groups = _groups_of(matched.stems, arguments.groups)
    metrics = segmentation_metrics(
        counts, groups=groups, seed=arguments.seed, resamples=arguments.resamples
    )
    notes = [f"{resized} predicted masks were resized to the truth's size"] if resized else []
    _print(segmentation_lines(metrics, resamples=arguments.resamples), _with_extra(notes, matched))
    if arguments.output is None:
        return
    from cascade.evaluation.plots import plot_iou_histogram

    output = Path(arguments.output)
    _write_document(output, "segmentation", metrics, matched, arguments, resized_masks=resized)
    rows = [_mask_row(stem, pixels) for stem, pixels in zip(matched.stems, counts, strict=True)]
    write_csv(output / "images.csv", list(rows[0]), rows)
    plot_iou_histogram([iou(item) for item in counts], metrics, output / "iou_histogram.png")


def _mask_files(folder: Path) -> dict[str, Path]:
    """The mask of each stem, sorted.

    Raises:
        DataError: there are none, or two files have one stem.
    """
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        earlier = files.setdefault(match_stem(path.name), path)
        if earlier != path:
            raise DataError(
                f"{folder}: {earlier.name} and {path.name} are both the mask of "
                f"{match_stem(path.name)}; remove one"
            )
    if not files:
        raise DataError(f"{folder}: no masks here; they are images such as NAME.png")
    return files


def _stored_masks(predicted: str) -> dict[str, NamedBytes]:
    """The mask of each row by stem.

    Raises:
        DataError: no row has one, or two rows have one stem.
    """
    from cascade.cluster.tables import mask_file, read_rows

    masks: dict[str, NamedBytes] = {}
    for row in read_rows(predicted):
        mask = mask_file(row)
        if mask is not None and masks.setdefault(match_stem(row["name"]), mask) is not mask:
            raise DataError(f"{predicted}: more than one row is named {row['name']!r}; remove one")
    if not masks:
        raise DataError(f"{predicted}: no row has a mask; predict with --save_masks")
    return masks


def _compare(
    truth_path: Path, predicted_path: Path | NamedBytes, *, resize: bool
) -> tuple[PixelCounts, bool]:
    """Count pixels at the truth's size; say whether the prediction was scaled to it."""
    from cascade.imaging import read_mask

    truth, mask = read_mask(truth_path), read_mask(predicted_path, predicted=True)
    if mask.shape == truth.shape:
        return count_pixels(truth, mask), False
    if not resize:
        raise DataError(
            f"{file_label(predicted_path)}: is {mask.shape[1]}x{mask.shape[0]}, but "
            f"{truth_path.name} is {truth.shape[1]}x{truth.shape[0]}; scale it to the original "
            "size, or give --resize-masks"
        )
    return count_pixels(
        truth, read_mask(predicted_path, shape=truth.shape, resize=True, predicted=True)
    ), True


def _groups_of(stems: Sequence[str], table: str | None) -> list[str] | None:
    """The group of each image from a table, or ``None`` without one."""
    if table is None:
        return None
    _, rows = _read_named(table, ())
    missing = [stem for stem in stems if stem not in rows]
    if missing:
        raise DataError(f"{table}: {len(missing)} images have no row: {listed(missing)}")
    names = dict(zip(rows, group_names(list(rows.values()), list(rows)), strict=True))
    return [names[stem] for stem in stems]


def _mask_row(stem: str, counts: PixelCounts) -> dict[str, Any]:
    return {
        "name": stem,
        "iou": iou(counts),
        "thresholded_iou": thresholded_iou(counts),
        "dice": dice(counts),
        **vars(counts),
    }


def _read_named(path: str, needed: Sequence[str]) -> tuple[list[str], dict[str, Mapping[str, str]]]:
    """A table's rows by stem.

    Raises:
        DataError: a column is missing or two rows have one name.
    """
    columns, rows = _cells(path)
    for column in ("name", *needed):
        if column not in columns:
            raise DataError(
                f"{path}: column {column!r} is missing; found {', '.join(columns)}"
                f"{did_you_mean(column, columns)}"
            )
    named: dict[str, Mapping[str, str]] = {}
    for row in rows:
        if named.setdefault(match_stem(row["name"].strip()), row) is not row:
            raise DataError(f"{path}: more than one row is named {row['name']!r}; remove one")
    return columns, named


def _cells(path: str) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and rows of a table; all cells are text."""
    if not _is_stored(path):
        return read_csv(path)
    from cascade.cluster.tables import read_rows

    rows = [
        {name: "" if cell is None else str(cell) for name, cell in row.items() if name != "mask"}
        for row in read_rows(path)
    ]
    return list(rows[0]) if rows else [], rows


def _score_tables(truth_path: Path, predicted_path: Path, arguments: Any) -> None:
    _, truth = _read_named(arguments.truth, ("class",))
    predicted = _read_predicted(arguments.predicted)
    matched = _match(truth, predicted, predicted_path)
    labels = _labels(truth, arguments.classes, truth_path)
    probabilities = _probabilities(matched.stems, predicted, predicted_path)
    groups = group_names(list(truth.values()), matched.stems)
    metrics = classification_metrics(
        labels,
        probabilities,
        cutoff=arguments.cutoff,
        groups=groups,
        seed=arguments.seed,
        resamples=arguments.resamples,
        names=matched.stems,
    )
    _print(classification_lines(metrics, resamples=arguments.resamples), _with_extra([], matched))
    if arguments.output is None:
        return
    from cascade.evaluation.plots import plot_classification

    output = Path(arguments.output)
    _write_document(output, "classification", metrics, matched, arguments)
    rows = [
        {
            "name": stem,
            "class": CLASSES[label],
            "probability": float(probability),
            "called": CLASSES[int(probability >= arguments.cutoff)],
            "group": group,
        }
        for stem, label, probability, group in zip(
            matched.stems, labels, probabilities, groups, strict=True
        )
    ]
    write_csv(output / "images.csv", list(rows[0]), rows)
    plot_classification(labels, probabilities, metrics, output, groups=groups, seed=arguments.seed)


def _read_predicted(path: str) -> dict[str, Mapping[str, str]]:
    """Rows by stem; the probability is in a column of that name, or in that of our own tables."""
    columns, rows = _read_named(path, ())
    if "probability" not in columns and "probability_malignant" in columns:
        return {
            stem: {**row, "probability": row["probability_malignant"]} for stem, row in rows.items()
        }
    return _read_named(path, ("probability",))[1]


def _labels(
    truth: Mapping[str, Mapping[str, str]], classes: Sequence[str], path: Path
) -> np.ndarray:
    words = {word.strip().casefold(): label for label, word in enumerate(classes)}
    found = {stem: row["class"].strip().casefold() for stem, row in truth.items()}
    unknown = {stem: word for stem, word in found.items() if word not in words}
    if unknown:
        shown = [f"{stem} ({word!r})" for stem, word in unknown.items()]
        raise DataError(
            f"{path}: class is neither {' nor '.join(classes)} for {len(unknown)} images: "
            f"{listed(shown)}; give the table's own words, such as --classes 0 1"
        )
    return np.array([words[word] for word in found.values()], np.int64)


def _probabilities(
    stems: Sequence[str], predicted: Mapping[str, Mapping[str, str]], path: Path
) -> np.ndarray:
    values, bad = [], []
    for stem in stems:
        text = predicted[stem]["probability"]
        try:
            values.append(float(text))
        except ValueError:
            bad.append(f"{stem} ({text!r})")
    if bad:
        raise DataError(f"{path}: probability is not a number for {listed(bad)}")
    return np.array(values)


def _with_extra(notes: list[str], matched: _Matched) -> list[str]:
    if not matched.extra:
        return notes
    names = listed(matched.extra, limit=5)
    return [*notes, f"predictions without truth, not scored: {len(matched.extra)} ({names})"]


def _write_document(
    output: Path,
    kind: str,
    metrics: Mapping[str, Any],
    matched: _Matched,
    arguments: Any,
    **more: Any,
) -> None:
    document = {
        kind: metrics,
        "truth": arguments.truth,
        "predicted": arguments.predicted,
        "extra_predictions": matched.extra,
        **more,
    }
    for path in found_files(output, _FILES):  # masks and probabilities have other figures
        path.unlink()
    write_json(output / "metrics.json", document)


def _print(lines: Sequence[str], notes: Sequence[str]) -> None:
    for line in (*lines, *([""] if notes else []), *(f"note: {note}" for note in notes)):
        say(line)
