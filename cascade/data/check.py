"""Checking a data set before anything is trained on it: files, masks, copies, leaks, shortcuts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cascade.config import CLASSES
from cascade.data.check_images import ImageFacts, inspect_images
from cascade.data.check_report import (
    SEVERITIES,
    SHORTCUT_LIMIT,
    CheckReport,
    Finding,
    Severity,
    Shortcut,
    TableCounts,
    measure_shortcuts,
)
from cascade.data.duplicates import THRESHOLD, Duplicate, check_threshold, find_duplicates
from cascade.data.locate import FileFinder, match_stem
from cascade.data.splits import Splits, read_splits, require_disjoint, require_fitting
from cascade.data.tables import Record, Table, read_table
from cascade.errors import DataError, LeakageError

TRAIN, TEST = "train_data.csv", "test_data.csv"


@dataclass(frozen=True)
class CheckOptions:
    """What to check and where.

    Folders and the splits file are by default those in the data set; ``duplicates`` looks for
    copies, see :data:`cascade.data.duplicates.THRESHOLD`.
    """

    images: str | os.PathLike[str] | None = None
    masks: str | os.PathLike[str] | None = None
    splits: str | os.PathLike[str] | None = None
    label_map: Mapping[str, str] | None = None
    duplicates: bool = True
    threshold: int = THRESHOLD


@dataclass
class _Findings:
    """Collects findings; nothing is added for an empty list of names."""

    found: list[Finding] = field(default_factory=list)

    def add(self, severity: Severity, code: str, message: str, names: Iterable[str] = ()) -> None:
        self.found.append(Finding(severity, code, message, tuple(names)))

    def add_for(self, severity: Severity, code: str, message: str, names: Sequence[str]) -> None:
        if names:
            self.add(severity, code, f"{message}: {len(names)}", names)

    def ordered(self) -> tuple[Finding, ...]:
        return tuple(sorted(self.found, key=lambda item: SEVERITIES.index(item.severity)))


def check_dataset(
    folder: str | os.PathLike[str], options: CheckOptions = CheckOptions()
) -> CheckReport:
    """Check the tables, images, masks and splits of a data set.

    Raises:
        DataError: the folder has neither table.
        ConfigError: the threshold is out of range.
    """
    started = time.monotonic()
    check_threshold(options.threshold)
    folder = Path(folder)
    findings = _Findings()
    tables = _read_tables(folder, options, findings)
    records = {record.name: record for table in tables.values() for record in table}
    present = [record for record in records.values() if record.image_path.is_file()]
    missing = sorted(set(records).difference(record.name for record in present))
    findings.add_for("error", "image_missing", "missing images", missing)
    if len(tables) == sum((folder / name).is_file() for name in (TRAIN, TEST)):
        _check_unlisted(folder, options, records.values(), findings)
    if len(tables) == 2:
        _check_disjoint(tables, findings)
    splits = _check_splits(folder, options, tables, findings)
    facts = {item.name: item for item in inspect_images(present, fingerprints=options.duplicates)}
    _report_images(list(facts.values()), findings)
    _report_masks(records, facts, findings)
    duplicates = _check_duplicates(tables, splits, facts, options, findings)
    shortcuts = _check_shortcuts(tables, facts, findings)
    counts = _counts(tables, splits, findings)
    return CheckReport(
        folder=str(folder),
        findings=findings.ordered(),
        tables=tuple(counts),
        shortcuts=tuple(shortcuts),
        duplicates=tuple(duplicates),
        seconds=time.monotonic() - started,
    )


def read_records(folder: str | os.PathLike[str], options: CheckOptions) -> list[Record]:
    """The rows of both tables, as far as they can be read, each image once."""
    tables = _read_tables(Path(folder), options, _Findings())
    return list({record.name: record for table in tables.values() for record in table}.values())


def _read_tables(folder: Path, options: CheckOptions, findings: _Findings) -> dict[str, Table]:
    paths = [folder / name for name in (TRAIN, TEST)]
    if not any(path.is_file() for path in paths):
        raise DataError(f"{folder}: has neither {TRAIN} nor {TEST}; name the folder that has them")
    tables = {}
    for path in paths:
        if not path.is_file():
            findings.add("note", "table_absent", f"there is no {path.name}")
            continue
        try:
            table = read_table(
                path,
                images=options.images or folder / "images_all",
                masks=options.masks,
                label_map=options.label_map,
                require_labels=False,
                check_files=False,
            )
        except DataError as error:
            findings.add("error", "table", str(error))
            continue
        tables[path.name] = table
        if not table.labelled:
            findings.add(
                "warning",
                "no_classes",
                f"{path.name}: there is no column class, so only a segmenter can be trained",
            )
        for warning in table.warnings:
            findings.add("warning", "table", f"{path.name}: {warning}")
    return tables


def _check_unlisted(
    folder: Path, options: CheckOptions, records: Iterable[Record], findings: _Findings
) -> None:
    stems, masks = set(), set()
    for record in records:
        stems.add(record.stem)
        masks.add(record.mask_path.name if record.mask_path else "")
    images = FileFinder(Path(options.images or folder / "images_all")).names()
    extra = [name for name in images if match_stem(name) not in stems]
    findings.add_for("warning", "image_unlisted", "images that are in no table", extra)
    found = FileFinder(Path(options.masks or folder / "masks_all")).names()
    extra = [name for name in found if name not in masks]
    findings.add_for("warning", "mask_unlisted", "masks of no image in a table", extra)


def _check_disjoint(tables: Mapping[str, Table], findings: _Findings) -> None:
    try:
        require_disjoint(tables[TRAIN], tables[TEST])
    except LeakageError as error:
        findings.add("error", "leak_tables", str(error), error.shared)


def _check_splits(
    folder: Path, options: CheckOptions, tables: Mapping[str, Table], findings: _Findings
) -> Splits | None:
    path = Path(options.splits or folder / "splits.json")
    if TRAIN not in tables or not (path.exists() or options.splits):
        return None
    try:
        splits = read_splits(path)
        require_fitting(splits, tables[TRAIN], source=path)
    except LeakageError as error:
        findings.add("error", "leak_splits", str(error), error.shared)
        return None
    except DataError as error:
        findings.add("error", "splits", str(error))
        return None
    return splits


def _report_images(facts: Sequence[ImageFacts], findings: _Findings) -> None:
    bad = [item for item in facts if item.problem]
    for item in bad[:20]:
        findings.add("error", "image_unreadable", str(item.problem), [item.name])
    findings.add_for(
        "error",
        "image_unreadable",
        "more images that cannot be read",
        [item.name for item in bad[20:]],
    )
    by_warning: dict[str, list[str]] = {}
    for item in facts:
        for warning in item.warnings:
            by_warning.setdefault(warning.replace(item.name, "the file"), []).append(item.name)
    for warning, names in by_warning.items():
        findings.add("warning", "image_file", f"{warning} (images: {len(names)})", names)


def _report_masks(
    records: Mapping[str, Record], facts: Mapping[str, ImageFacts], findings: _Findings
) -> None:
    unmasked = [name for name, record in records.items() if record.mask_path is None]
    if len(unmasked) == len(records):
        findings.add("note", "mask_missing", "there are no masks")
        return
    findings.add_for("warning", "mask_missing", "images without a mask", unmasked)
    bad = [item for item in facts.values() if item.mask_problem]
    for item in bad[:20]:
        findings.add("error", "mask_unusable", str(item.mask_problem), [item.name])
    findings.add_for(
        "error", "mask_unusable", "more masks that cannot be used", [item.name for item in bad[20:]]
    )
    shares = {item.name: item.mask_share for item in facts.values()}
    empty = [name for name, share in shares.items() if share == 0]
    full = [name for name, share in shares.items() if share == 1]
    findings.add_for("warning", "mask_empty", "empty masks, where no lesion is marked", empty)
    findings.add_for("warning", "mask_full", "masks that cover the whole image", full)
    odd = [f"{item.name} ({item.mask_levels})" for item in facts.values() if item.mask_levels]
    findings.add_for(
        "warning", "mask_values", "masks that are not plain 0/255 and are cut at the middle", odd
    )


def _check_duplicates(
    tables: Mapping[str, Table],
    splits: Splits | None,
    facts: Mapping[str, ImageFacts],
    options: CheckOptions,
    findings: _Findings,
) -> list[Duplicate]:
    if not options.duplicates:
        findings.add("note", "duplicates_skipped", "copies of images were not looked for")
        return []
    prints = [item.fingerprint for item in facts.values() if item.fingerprint]
    pairs = find_duplicates(prints, threshold=options.threshold)
    records = {record.name: record for table in tables.values() for record in table}
    sides = {record.name: name for name, table in tables.items() for record in table}
    parts = dict.fromkeys(splits.train, "train") if splits else {}
    parts.update(dict.fromkeys(splits.validation, "validation") if splits else {})
    kinds: dict[str, list[str]] = {"tables": [], "splits": [], "groups": [], "inside": []}
    conflicts = []
    for pair in pairs:
        first, second = records[pair.first], records[pair.second]
        words = f"{pair.first} = {pair.second} ({pair.kind}, {pair.distance} bits)"
        kinds[_kind_of(first, second, sides, parts)].append(words)
        if first.label != second.label:
            conflicts.append(words)
    for severity, code, message in (
        ("error", "tables", "pairs of copies across both tables, so the test is not independent"),
        ("error", "splits", "pairs of copies across train and validation"),
        ("warning", "groups", "pairs of copies in different groups, which need one group_id"),
        ("note", "inside", "pairs of copies in one group, as they should be"),
    ):
        findings.add_for(severity, f"duplicates_{code}", message, kinds[code])  # type: ignore[arg-type]
    findings.add_for(
        "warning", "duplicates_class", "pairs of copies that differ in class", conflicts
    )
    return pairs


def _kind_of(
    first: Record, second: Record, sides: Mapping[str, str], parts: Mapping[str, str]
) -> str:
    if sides[first.name] != sides[second.name]:
        return "tables"
    if parts.get(first.name) != parts.get(second.name):
        return "splits"
    return "inside" if first.group == second.group else "groups"


def _check_shortcuts(
    tables: Mapping[str, Table], facts: Mapping[str, ImageFacts], findings: _Findings
) -> list[Shortcut]:
    found: list[Shortcut] = []
    for name, table in tables.items():
        if not table.labelled:
            continue
        seen = [record for record in table if (item := facts.get(record.name)) and item.pixels]
        looked = [facts[record.name] for record in seen]
        features: dict[str, list[float]] = {
            "image size (pixels)": [item.pixels for item in looked],
            "file size (bytes)": [item.file_bytes for item in looked],
            "corner darkness": [item.corner_darkness for item in looked],
        }
        labels = np.array([record.label == CLASSES[1] for record in seen], dtype=np.int64)
        found += measure_shortcuts(name, labels, features)
    for shortcut in found:
        if shortcut.auc is not None and shortcut.auc >= SHORTCUT_LIMIT:
            findings.add(
                "warning",
                "shortcut",
                f"{shortcut.table}: {shortcut.feature} alone predicts the class with ROC AUC "
                f"{shortcut.auc:.3f} ({shortcut.direction}, n = "
                f"{shortcut.benign + shortcut.malignant}); a classifier may learn it instead of "
                "the lesion",
            )
    return found


def _counts(
    tables: Mapping[str, Table], splits: Splits | None, findings: _Findings
) -> list[TableCounts]:
    parts = dict(tables)
    if splits:
        parts["splits: train"] = tables[TRAIN].subset(splits.train)
        parts["splits: validation"] = tables[TRAIN].subset(splits.validation)
    counts = []
    for name, table in parts.items():
        malignant, benign = (
            sum(record.label == label for record in table) for label in reversed(CLASSES)
        )
        masks = len(table.with_mask())
        groups = len(set(table.groups()))
        counts.append(TableCounts(name, len(table), benign, malignant, groups, masks))
        if len(table) in (malignant, benign):
            findings.add("warning", "one_class", f"{name}: all images are of one class")
    return counts
