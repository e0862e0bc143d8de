"""PH2: 200 dermoscopy images of melanocytic lesions with masks."""

from __future__ import annotations

from collections.abc import Mapping

from cascade.data.sources.rows import Label, Source, SourceTable, classifying, found_row
from cascade.data.sources.source_files import Layout
from cascade.errors import DataError

LABELS: Mapping[str, Label] = {"0": "benign", "1": "benign", "2": "malignant"}
DIAGNOSES = {"0": "common nevus", "1": "atypical nevus", "2": "melanoma"}


def read_ph2(layout: Layout) -> SourceTable:
    """Read ``PH2_dataset.txt``, a table drawn with ``||``, and the folder of images."""
    path = layout.find("PH2_dataset.txt")
    if path is None:
        sheet = layout.find("PH2_dataset.xlsx")
        raise DataError(
            f"{layout.root}: holds no PH2_dataset.txt"
            + (f"; it comes in the same archive as {sheet.name}" if sheet else "")
            + (f"; {layout.packed()}" if layout.packed() else "")
        )
    try:
        lines = path.read_text(encoding="latin-1").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    rows = []
    with classifying(LABELS) as classify:
        for number, line in enumerate(lines, start=1):
            where = f"{path.name} row {number}"
            cells = [cell.strip() for cell in line.split("||")]
            if not line.startswith("||"):
                continue
            if len(cells) < 4:
                raise DataError(
                    f"{where}: expected name, histology and clinical diagnosis between ||"
                )
            stem, code = cells[1], cells[3]
            if stem.upper().startswith("IMD"):  # not the header, which is drawn like a row
                label = classify(code, where=where)
                known = {"diagnosis": DIAGNOSES.get(code, "")}
                rows.append(found_row(layout, stem, label, where, known))
    if not rows:
        raise DataError(f"{path}: holds no row that starts with || IMD")
    return SourceTable(tuple(rows), (path,))


PH2 = Source(
    "ph2",
    "PH2",
    "for research and education only, see its terms",
    read_ph2,
    labels=LABELS,
    names=DIAGNOSES,
    size="200 images",
    masks="yes",
)
