"""Scores by subgroup as a spreadsheet, as Markdown and as one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade.errors import DataError
from cascade.evaluation.subgroups import FEWEST_CASES, FEWEST_OF_A_CLASS, SKIN_TONE
from cascade.files import write_csv, write_text

FEW = "few cases"
TITLES = {
    "image_kind": "image kind",
    SKIN_TONE: "apparent skin tone (estimated from the picture)",
}
SUBGROUP_HEADERS = (
    "group", "n", "malignant", "ROC AUC", "sensitivity", "specificity", "mean probability",
    "prevalence", "mean IoU", "",
)  # fmt: skip
SUBGROUP_NOTE = (
    f'"{FEW}" marks groups of fewer than {FEWEST_CASES} images or with fewer than '
    f"{FEWEST_OF_A_CLASS} of a class. Sensitivity and specificity are those at the cutoff, with "
    "Wilson intervals; the other intervals are bootstraps over patients or lesions. Where the mean "
    "probability is above the prevalence, the group's risk is overstated. Groups differ in more "
    "than their name, for instance in diagnoses: a difference is no cause. The tone of skin is not "
    "measurable where little of it is seen or the picture is bluish."
)

_COUNTS = ("n", "n_groups", "labelled", "positives", "abstained", "n_masks")
_VALUES = ("roc_auc", "recall", "specificity", "mean_probability", "prevalence", "mean_iou")
_WITH_INTERVAL = ("roc_auc", "recall", "specificity", "mean_iou")
_COLUMNS = (
    "column", "group", *_COUNTS, *_VALUES,
    *(f"{name}_{end}" for name in _WITH_INTERVAL for end in ("low", "high")),
    "few_cases", "undefined",
)  # fmt: skip
_TALLEST = 80


def column_title(column: str) -> str:
    """A column's name for a heading."""
    return TITLES.get(column, column)


def by_column(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of :func:`cascade.evaluation.subgroups.evaluate_subgroups`, column by column."""
    parts: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        parts.setdefault(row["column"], []).append(row)
    return parts


def subgroup_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One group as text under :data:`SUBGROUP_HEADERS`; a dash where a number is undefined."""
    values = [_shown(row, name) for name in _VALUES]
    return (
        row["group"],
        str(row["n"]),
        str(row["positives"]) if row["labelled"] else "–",
        *values,
        FEW if row["few_cases"] else "",
    )


def write_subgroups(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``subgroups.csv``, ``subgroups.md`` and, where any ROC AUC exists, ``subgroups.png``.

    Args:
        folder: where the files go.
        rows: from :func:`cascade.evaluation.subgroups.evaluate_subgroups`.
    """
    write_csv(folder / "subgroups.csv", _COLUMNS, (_flat(row) for row in rows))
    write_text(folder / "subgroups.md", _markdown(rows))
    if has_areas(rows):
        plot_subgroups(rows, folder / "subgroups.png")


def has_areas(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any group has a ROC AUC, so that there is something to draw."""
    return any(row["roc_auc"] is not None for row in rows)


def plot_subgroups(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draw the ROC AUC of each group with its interval and number of images.

    Groups of one class have none and are left to the tables.

    Args:
        rows: from :func:`cascade.evaluation.subgroups.evaluate_subgroups`.
        path: the PNG to write.

    Raises:
        DataError: no group has both classes.
    """
    from cascade.evaluation import plots

    drawn = [row for row in rows if row["roc_auc"] is not None][:_TALLEST]
    if not drawn:
        raise DataError("no subgroup has benign and malignant images, so there is no ROC AUC")
    lines = _lines(drawn)
    figure = plots._figure(7.4, 1.1 + 0.24 * len(lines))
    axes = figure.subplots()
    for place, (_, row) in enumerate(lines):
        if row is not None:
            _draw_row(axes, place, row)
    axes.axvline(0.5, color=plots.GREY, linestyle=":", linewidth=1)
    axes.set_yticks(range(len(lines)), [text for text, _ in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlim(min(0.45, *(_interval(row)[0] - 0.02 for row in drawn)), 1.02)
    across = f"ROC AUC (hollow: {FEW}; dotted: chance)"
    plots._tidy(axes, "ROC AUC by subgroup, 95 % intervals", across, "")
    axes.grid(visible=False, axis="y")
    for label, (_, row) in zip(axes.get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if row is None else "normal")
    return plots._save(figure, path)


def _lines(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any] | None]]:
    """Text beside each line of the figure, and its group; ``None`` for a column's heading."""
    lines: list[tuple[str, Mapping[str, Any] | None]] = []
    for column, groups in by_column(rows).items():
        lines.append((column_title(column).partition(" (")[0], None))
        for row in groups:
            name = row["group"] if len(row["group"]) <= 40 else row["group"][:39] + "…"
            # a dollar would start a formula
            counts = f"n {row['n']:,}, {row['positives']:,} malignant"
            lines.append((f"{name} ({counts})".replace("$", r"\$"), row))
    return lines


def _draw_row(axes: Any, place: int, row: Mapping[str, Any]) -> None:
    from cascade.evaluation.plots import BLUE

    low, high = _interval(row)
    hollow = row["few_cases"]
    axes.plot((low, high), (place, place), color=BLUE, linewidth=1.2, alpha=0.5 if hollow else 1)
    axes.plot(row["roc_auc"], place, "o", color=BLUE, markersize=5,
              markerfacecolor="white" if hollow else BLUE)  # fmt: skip


def _interval(row: Mapping[str, Any]) -> tuple[float, float]:
    low, high = row["intervals"]["roc_auc"] or (row["roc_auc"], row["roc_auc"])
    return low, high


def _shown(row: Mapping[str, Any], name: str) -> str:
    value, interval = row[name], row["intervals"].get(name)
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" ({interval[0]:.3f}–{interval[1]:.3f})" if interval else "")


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat = {key: value for key, value in row.items() if key not in ("intervals", "undefined")}
    for name in _WITH_INTERVAL:
        low, high = row["intervals"].get(name) or (None, None)
        flat |= {f"{name}_low": low, f"{name}_high": high}
    flat["few_cases"] = "yes" if row["few_cases"] else "no"
    flat["undefined"] = "; ".join(f"{name}: {why}" for name, why in row["undefined"].items())
    return flat


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    parts = ["# Results by subgroup", "", SUBGROUP_NOTE, ""]
    for column, groups in by_column(rows).items():
        cells = [subgroup_cells(row) for row in groups]
        parts += [f"## {column_title(column)}", "", markdown_table(SUBGROUP_HEADERS, cells), ""]
    return "\n".join(parts)


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars, line ends and angle brackets in cells cannot break it."""
    lines = [
        list(headers),
        ["---"] * len(headers),
        *([markdown_text(c) for c in row] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    flat = " ".join(text.split())
    for character, replacement in (
        ("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\\", "\\\\"), ("|", "\\|"), ("[", "\\["),
        ("`", "\\`"),
    ):  # fmt: skip
        flat = flat.replace(character, replacement)
    return flat
