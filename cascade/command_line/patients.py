"""The patients of the images that a command predicts, and the second pass that compares them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade.command_line.inputs import is_table, table_images
from cascade.command_line.outputs import say
from cascade.errors import DataError
from cascade.fields import row as cells_of
from cascade.lesion.patient import FEWEST, PatientContext
from cascade.pipeline.patients import PATIENT_COLUMNS, PatientRows, compared

IDS = ("patient_id", "lesion_id")


@dataclass(frozen=True)
class TablePatients:
    """Which patient and which lesion the images of tables show.

    Attributes:
        ids: ``patient_id`` and ``lesion_id`` of each image, by its path as text; empty without any
            table that knows patients.
    """

    ids: Mapping[str, tuple[str, str]]

    @classmethod
    def of(cls, inputs: Sequence[str]) -> TablePatients:
        """Read the tables among the inputs of a command.

        Raises:
            DataError: a table is not usable, or two rows give one image to two patients.
        """
        from cascade.data.grouping import identifiers

        found: dict[str, tuple[str, str]] = {}
        for table in filter(is_table, inputs):
            for image, cells in table_images(Path(table)):
                ids = dict(identifiers(cells))
                if IDS[0] not in ids:
                    continue
                patient, lesion = ids[IDS[0]], ids.get(IDS[1], "")
                earlier = found.setdefault(str(image), (patient, lesion))
                if earlier != (patient, lesion):
                    what = IDS[int(earlier[0] == patient)]
                    one, other = (lesion, earlier[1]) if what == IDS[1] else (patient, earlier[0])
                    raise DataError(
                        f"{table}: {image} has {what} {one!r}, and in another row {other!r}; "
                        "remove the wrong row"
                    )
        return cls(found)

    @property
    def columns(self) -> tuple[str, ...]:
        """Further columns of the table of predictions; none where no patient is known."""
        return PATIENT_COLUMNS if self.ids else ()

    def known(self, image: Path) -> dict[str, Any]:
        """What is known of an image before it is predicted."""
        if not self.ids:
            return {}
        ids = self.ids.get(str(image), ("", ""))
        return {**dict.fromkeys(PATIENT_COLUMNS), **dict(zip(IDS, ids, strict=True))}

    def compare(self, path: Path) -> None:
        """Read a finished table of predictions twice and put each row's context into it.

        The first pass keeps a few numbers of each row, the second writes one row after the other
        into a new file that then takes the old one's place.

        Raises:
            DataError: the table cannot be read or written.
        """
        if not self.ids:
            return
        from cascade.data.spreadsheet import own_rows
        from cascade.files import write_csv

        gathered = PatientRows()
        for row in map(self._current, own_rows(path)):
            lesion = row["lesion_id"] or row["path"]
            gathered.add(row, patient=row["patient_id"], lesion=lesion)
        if not len(gathered):
            return
        contexts = gathered.contexts()

        def joined() -> Iterator[dict[str, Any]]:
            for row, context in zip(own_rows(path), contexts, strict=True):
                yield {**self._current(row), **cells_of(PatientContext, context)}

        columns = next(own_rows(path)).keys()
        write_csv(path, list(columns), joined())
        patients = f"{gathered.patients} patient{'s' * (gathered.patients != 1)}"
        say(
            f"compared: {patients}; {sum(1 for _ in compared(contexts))} of "
            f"{len(gathered)} rows have an ugly-duckling score, which takes {FEWEST} measured "
            "lesions of a patient"
        )

    def _current(self, row: dict[str, str]) -> dict[str, str]:
        """A row with the ids of the table as it is now, which an earlier run may not have known."""
        known = self.ids.get(row["path"])
        return row if known is None else {**row, **dict(zip(IDS, known, strict=True))}
