"""What a preparation wrote, for people and for ``prepare.json``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cascade.config import CLASSES
from cascade.data.sources.rows import Source, SourceRow, SourceTable, Split
from cascade.data.sources.selection import PrepareConfig, Row
from cascade.data.sources.source_files import Layout
from cascade.data.spreadsheet import listed
from cascade.files import file_digest

FORMAT = 1
"""Of ``prepare.json``."""


@dataclass(frozen=True)
class Summary:
    """What was written, and what was not.

    ``counts`` are images by table and class (``unlabelled`` without classes), of this source only;
    ``excluded`` counts images left out on purpose by reason, ``missing`` names those without a
    file. ``notes`` say how the data were understood.
    """

    counts: Mapping[Split, Mapping[str, int]]
    masks: int
    excluded: Mapping[str, int]
    missing: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Images written."""
        return sum(sum(count.values()) for count in self.counts.values())

    def lines(self) -> list[str]:
        """The summary in words."""
        lines = [f"understood: {text}" for text in self.notes]
        lines += [
            f"{split}: " + (", ".join(f"{n} {label}" for label, n in count.items()) or "none")
            for split, count in self.counts.items()
        ]
        lines.append(f"masks: {self.masks} of {self.total} images have one")
        lines += [f"excluded: {n} {reason}" for reason, n in self.excluded.items()]
        if self.missing:
            lines.append(f"missing: {len(self.missing)} images, {listed(self.missing)}")
        return lines + [f"warning: {text}" for text in self.warnings]


def counts(rows: Sequence[Row], sides: Sequence[Split], split: str) -> dict[str, int]:
    """Images per class of one table; rows without a class are ``unlabelled``."""
    labels = [
        row.get("class", "unlabelled")
        for row, side in zip(rows, sides, strict=True)
        if side == split
    ]
    return {label: labels.count(label) for label in (*CLASSES, "unlabelled") if label in labels}


def warnings(rows: Sequence[Row], sides: Sequence[Split]) -> list[str]:
    """Say so when a table has one class only."""
    found = []
    for split in ("train", "test"):
        present = set(counts(rows, sides, split)) - {"unlabelled"}
        if len(present) == 1:
            found.append(f"all {split} images of this source are {present.pop()}")
    return found


def mask_warnings(layout: Layout, table: SourceTable, kept: Sequence[SourceRow]) -> list[str]:
    """Name files that look like masks and are none, and count masks whose values are cut."""
    used = {row.mask for row in table.rows}
    stems = {row.stem for row in table.rows}
    files = layout.all_masks() if table.mask_files is None else table.mask_files
    unused = [path for stem, path in files if stem not in stems and path not in used]
    found = []
    if unused:
        names = listed(
            path.relative_to(layout.root) if path.is_relative_to(layout.root) else path
            for path in unused
        )
        found.append(f"files that look like masks and belong to no image ({len(unused)}): {names}")
    jpegs = sum(str(row.mask).lower().endswith((".jpg", ".jpeg")) for row in kept)
    if jpegs:
        found.append(f"masks that are JPEG files, whose values were cut at the middle: {jpegs}")
    return found


def image_warnings(layout: Layout, table: SourceTable) -> list[str]:
    """Name images that are in no row; readers of data of one's own do so themselves."""
    if table.mask_files is not None:
        return []
    known = {row.stem for row in table.rows} | table.left_out
    extra = [path for path in layout.all_images() if path.stem not in known]
    if not extra:
        return []
    names = listed(path.relative_to(layout.root) for path in extra)
    return [f"images that are in no row of the tables, left out ({len(extra)}): {names}"]


def provenance(
    source: Source,
    origin: Path,
    table: SourceTable,
    rows: Sequence[Row],
    summary: Summary,
    config: PrepareConfig,
) -> dict[str, Any]:
    """One run for ``prepare.json``: where the images come from and under which licences."""
    return {
        "source": source.name,
        "title": source.title,
        "licence": source.licence,
        "licences": dict(
            sorted(Counter(row["license"] for row in rows if "license" in row).items())
        ),
        "attributions": sorted({row["attribution"] for row in rows if row.get("attribution")}),
        "input": str(origin),
        "tables": {path.name: file_digest(path) for path in table.files},
        "options": asdict(config),
        "counts": summary.counts,
        "masks": summary.masks,
        "excluded": summary.excluded,
        "missing": summary.missing,
        "warnings": summary.warnings,
        "notes": summary.notes,
    }
