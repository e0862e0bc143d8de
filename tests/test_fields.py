"""A result is declared once: everything that shows it derives from the declarations."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cascade.evaluation.cases import CASE_COLUMNS
from cascade.fields import (
    columns,
    declared,
    derived,
    described,
    example,
    flat,
    markdown_table,
    row,
    to_json,
)
from cascade.lesion.patient import PatientContext
from cascade.pipeline import Prediction
from cascade.pipeline.rows import COLUMNS


@dataclass(frozen=True)
class Inner:
    depth: float = field(metadata=described("How deep.", unit="mm", column="depth", label="Depth"))
    hidden: int = field(default=3, metadata=described("Not in JSON.", json=False))


@dataclass(frozen=True)
class Outer:
    corner: tuple[int, int] | None = field(
        metadata=described("A corner.", column="corner", parts=("x", "y"))
    )
    shares: dict[str, float] = field(metadata=described("S.", column="share", parts=("a", "b")))
    inner: Inner | None = field(default=None, metadata=described("The inner record."))
    words: tuple[str, ...] = field(default=(), metadata=described("W.", column="words"))
    private: object = None

    @derived(column="count")
    def count(self) -> int:
        """Number of words."""
        return len(self.words)


DOCS = Path(__file__).resolve().parents[1] / "docs"
LISTS = {"fields.md": Prediction, "patients.md": PatientContext}
"""Pages with the list of a record's fields."""
LISTED = re.compile(r"(?<=<!-- fields -->\n).*?(?=\n<!-- end -->)", re.DOTALL)
FULL = Outer((1, 2), {"b": 0.5}, Inner(float("inf")), ("one", "two words"))
EMPTY = Outer(None, {})


def test_columns_are_those_of_all_records_in_order_of_declaration():
    expected = ("corner_x", "corner_y", "share_a", "share_b", "depth", "words", "count")
    assert columns(Outer) == expected
    assert (
        tuple(row(Outer, FULL)) == tuple(row(Outer, EMPTY)) == tuple(row(Outer, None)) == expected
    )


def test_missing_values_are_empty_cells_and_infinity_is_a_word():
    assert list(row(Outer, FULL).values()) == [1, 2, None, 0.5, "inf", "one; two words", 2]
    assert list(row(Outer, EMPTY).values()) == [None, None, None, None, None, "", 0]


def test_json_names_the_places_of_tuples_and_leaves_out_what_is_not_for_it():
    assert to_json(FULL)["corner"] == {"x": 1, "y": 2}
    assert to_json(FULL)["inner"] == {"depth": float("inf")}
    assert to_json(EMPTY)["inner"] is to_json(EMPTY)["corner"] is None
    assert "private" not in to_json(FULL)
    assert to_json(FULL)["count"] == 2


def test_a_docstring_is_the_meaning_of_a_derived_value():
    assert declared(Outer)[-1].description.meaning == "Number of words." == Outer.count.__doc__


def test_every_field_of_a_result_says_what_it_means():
    fields = [*flat(Prediction), *flat(PatientContext)]
    for item in fields:
        assert item.description.meaning.endswith("."), item.name
    names = [column for item in fields for column in item.columns]
    assert len(set(names)) == len(names)


def test_both_tables_hold_the_columns_of_a_prediction():
    own = columns(Prediction)
    for table in (COLUMNS, CASE_COLUMNS):
        start = table.index(own[0])
        assert table[start : start + len(own)] == own
        assert len(set(table)) == len(table)


def test_the_service_returns_the_declared_fields_with_their_meanings():
    schemas = pytest.importorskip("cascade.serving.rest.schemas")
    document = schemas.PredictionAnswer.model_json_schema()["$defs"]

    def compare(record, properties):
        for item in declared(record):
            if not item.description.json:
                continue
            assert properties[item.name]["description"].startswith(item.description.meaning)
            if item.record is not None:
                compare(item.record, document[item.record.__name__]["properties"])

    compare(Prediction, document["ImageResult"]["properties"])
    json.dumps(example(Prediction), allow_nan=False)


def listed(record):
    return f"\n{markdown_table(record)}\n"


@pytest.mark.parametrize(("page", "record"), LISTS.items())
def test_the_documentation_lists_the_declared_fields(page, record):
    """After a change: ``python tests/test_fields.py`` writes the lists anew."""
    assert LISTED.search((DOCS / page).read_text(encoding="utf-8"))[0] == listed(record)


if __name__ == "__main__":
    for page, record in LISTS.items():
        text = (DOCS / page).read_text(encoding="utf-8")
        text = LISTED.sub(lambda _, record=record: listed(record), text)
        (DOCS / page).write_text(text, encoding="utf-8")
        sys.stdout.write(f"written: {DOCS / page}\n")
