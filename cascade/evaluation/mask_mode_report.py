"""The mask-mode report as files: scores, table and plot."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cascade.errors import DataError
from cascade.evaluation.forest_plot import ForestRow, plot_forest
from cascade.evaluation.mask_mode_comparison import (
    COLUMNS,
    NO_DIFFERENCE,
    MaskModeReport,
    ModeResult,
    with_interval,
)
from cascade.evaluation.score_table import markdown_table
from cascade.files import write_csv, write_text
from cascade.metrics.intervals import RESAMPLES

HEADERS = (
    "mode", "masks", "trained on", "ROC AUC", "difference to whole image", "verdict",
    "average precision", "n", "malignant", "empty masks",
)  # fmt: skip


def write_mask_modes(report: MaskModeReport, folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``scores.csv``, ``mask_modes.csv``, ``mask_modes.md`` and ``mask_modes.png``.

    Returns:
        The files written.
    """
    folder = Path(folder)
    paths = [folder / name for name in ("scores.csv", "mask_modes.csv", "mask_modes.md")]
    scored = [result.scores for result in report.results]
    columns = ("name", "class", "group", *(scores.column for scores in scored))
    means = [scores.mean.tolist() for scores in scored]
    write_csv(
        paths[0],
        columns,
        (
            dict(zip(columns, (record.name, record.label, record.group, *values), strict=True))
            for record, *values in zip(report.table, *means, strict=True)
        ),
    )
    write_csv(paths[1], COLUMNS, [result.row() for result in report.results])
    write_text(paths[2], markdown(report))
    if len(report.results) > 1:
        paths.append(plot_differences(report.results, folder / "mask_modes.png"))
    return paths


def table_rows(report: MaskModeReport) -> list[list[str]]:
    """The report as text, one row for each mode and kind of masks, under :data:`HEADERS`."""
    return [
        [
            result.scores.mode,
            result.scores.masks,
            result.scores.trained_on,
            with_interval(result.roc_auc, result.roc_auc_interval),
            "-"
            if result.difference is None
            else with_interval(result.difference, result.difference_interval, signed=True),
            result.verdict,
            f"{result.average_precision:.3f}",
            str(result.n),
            str(result.positives),
            str(result.scores.empty_masks),
        ]
        for result in report.results
    ]


def markdown(report: MaskModeReport) -> str:
    """The table with what is needed to read it."""
    first = report.results[0]
    seeds = len(first.single_roc_auc)
    lines = [
        "# Masking modes",
        "",
        f"{first.n} test images in {first.n_groups} groups, {first.positives} malignant. "
        f"Intervals: 95 %, {RESAMPLES:,} bootstrap resamples of groups; for a difference both "
        "classifiers see the same resamples.",
        "",
        markdown_table(HEADERS, table_rows(report)),
        "",
        f'"{NO_DIFFERENCE}": the interval includes 0. With {len(report.results) - 1} comparisons '
        "at 95 %, one in twenty misses 0 by chance alone.",
        "",
        _about_seeds(seeds),
    ]
    if seeds > 1:
        single = [
            [
                result.scores.column,
                f"{min(result.single_roc_auc):.3f}",
                f"{max(result.single_roc_auc):.3f}",
            ]
            for result in report.results
        ]
        lines += ["", markdown_table(("scores", "lowest single AUC", "highest"), single)]
    return "\n".join(lines) + "\n"


def _about_seeds(seeds: int) -> str:
    if seeds == 1:
        return (
            "One training of each: the intervals hold the chance of the test images, not that of "
            "the training; another seed may move an AUC by as much."
        )
    return (
        f"Probabilities are averaged over {seeds} trainings of each. The intervals hold the chance "
        "of the test images; how far single trainings are apart:"
    )


def plot_differences(results: Sequence[ModeResult], path: str | os.PathLike[str]) -> Path:
    """Draw each mode's difference to the whole image, one line for each kind of masks.

    Args:
        results: from :func:`cascade.evaluation.mask_mode_comparison.compare_mask_modes`; the one
            without a difference is the reference.
        path: the PNG to write.

    Raises:
        DataError: there is no reference, or nothing to compare with it.
    """
    whole = [result for result in results if result.difference is None]
    compared = [result for result in results if result.difference is not None]
    if not whole or not compared:
        raise DataError("a plot of differences needs the whole image and one more mode")
    kinds = list(dict.fromkeys(result.scores.masks for result in compared))
    rows = []
    for mode in dict.fromkeys(result.scores.mode for result in compared):
        rows.append(ForestRow(mode.replace("_", " ")))
        for result in compared:
            if result.scores.mode == mode:
                limits = result.difference_interval
                note = with_interval(result.difference or 0.0, limits, signed=True)
                label, kind = f"{result.scores.masks} masks", kinds.index(result.scores.masks)
                filled = limits is not None and not limits[0] <= 0 <= limits[1]
                rows.append(ForestRow(label, result.difference, limits, note, filled, kind))
    title = (
        f"ROC AUC minus that of the whole image ({whole[0].roc_auc:.3f})\n"
        f"n = {whole[0].n:,}, {whole[0].positives:,} malignant; 95 % paired intervals"
    )
    across = "difference in ROC AUC (filled: interval excludes 0)"
    return plot_forest(rows, path, title=title, across=across, reference=0.0)
