"""Fields of a result, each declared once: name, type, unit, meaning, and where it is shown.

Records such as :class:`cascade.pipeline.Prediction` declare their fields with :func:`described` and
their derived values with :func:`derived`. Tables, JSON, the OpenAPI document, the page
and the lists in the documentation are made from these declarations.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Value = TypeVar("Value")
_KEY = "described"


@dataclass(frozen=True)
class Description:
    """What is declared of a field beside its name and type.

    Attributes:
        meaning: one sentence.
        unit: such as ``px`` or ``mm``; empty for text and for numbers without a unit.
        column: its column in tables; empty where it is in no table.
        parts: keys of a mapping, or names of a tuple's places; each becomes a column of its own,
            ``column_part``.
        open_parts: the keys of a mapping depend on the model; see :func:`open_columns`.
        separator: between the items of a tuple in one cell.
        label: its heading on the page; empty where the page does not list it.
        json: whether the service returns it.
        example: a value for the OpenAPI document.
        digits: decimals on the page; tables are as exact as floats are.
    """

    meaning: str
    unit: str = ""
    column: str = ""
    parts: tuple[str, ...] = ()
    open_parts: bool = False
    separator: str = "; "
    label: str = ""
    json: bool = True
    example: Any = None
    digits: int = 2


def described(meaning: str, **declared: Any) -> dict[str, Description]:
    """A :class:`Description` as the ``metadata`` of :func:`dataclasses.field`."""
    return {_KEY: Description(meaning, **declared)}


class _DescribedProperty(property):
    description: Description


def derived(**declared: Any) -> Callable[[Callable[[Any], Value]], Value]:
    """Make a method a property with a :class:`Description`; its docstring is the meaning."""

    def decorate(getter: Callable[[Any], Value]) -> Value:
        made = _DescribedProperty(getter)
        made.description = Description(" ".join((getter.__doc__ or "").split()), **declared)
        return typing.cast("Value", made)

    return decorate


@dataclass(frozen=True)
class Field:
    """One declared field of a record.

    Attributes:
        name: of the attribute, and in JSON.
        kind: its type.
        description: what was declared.
    """

    name: str
    kind: Any
    description: Description

    @property
    def record(self) -> type | None:
        """The record that this field holds, if it holds one (or ``None``)."""
        found: list[Any] = [
            kind for kind in alternatives(self.kind) if dataclasses.is_dataclass(kind)
        ]
        return found[0] if found else None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the field itself, not of a record that it holds."""
        column, parts = self.description.column, self.description.parts
        if not column or self.description.open_parts:
            return ()
        return tuple(f"{column}_{part}" for part in parts) if parts else (column,)

    def cells(self, value: Any) -> Iterator[Any]:
        """The value as one cell for each column."""
        parts = self.description.parts
        if not parts:
            yield _cell(value, self.description.separator)
        elif isinstance(value, Mapping):
            yield from (value.get(part) for part in parts)
        else:
            yield from (None for _ in parts) if value is None else value


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The types that a union allows, or the type alone."""
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


@functools.cache
def declared(record: type) -> tuple[Field, ...]:
    """The declared fields of a record, then its derived values, in the order of declaration."""
    hints = typing.get_type_hints(record)
    fields = [
        Field(item.name, hints[item.name], item.metadata[_KEY])
        for item in dataclasses.fields(record)
        if _KEY in item.metadata
    ]
    for name, member in vars(record).items():
        if isinstance(member, _DescribedProperty) and member.fget is not None:
            kind = typing.get_type_hints(member.fget)["return"]
            fields.append(Field(name, kind, member.description))
    return tuple(fields)


def flat(record: type) -> Iterator[Field]:
    """The declared fields of a record, with those of the records that they hold in their place."""
    for field in declared(record):
        yield from (field,) if field.record is None else flat(field.record)


def columns(record: type) -> tuple[str, ...]:
    """The columns of a record in tables."""
    return tuple(name for field in flat(record) for name in field.columns)


def open_columns(record: type, keys: Iterable[str]) -> tuple[str, ...]:
    """The columns of the one field of a record whose keys depend on the model.

    They come after all others, in tables of results with these keys.
    """
    (field,) = (field for field in declared(record) if field.description.open_parts)
    return tuple(_open_column(field.description.column, key) for key in keys)


def _open_column(column: str, key: str) -> str:
    return f"{column}_{'_'.join(key.split())}"


def row(record: type, value: Any) -> dict[str, Any]:
    """Column to cell; empty cells where the record, or one that it holds, is missing.

    Args:
        record: the type of the value.
        value: the record, or ``None``.
    """
    cells: dict[str, Any] = {}
    for field in declared(record):
        content = None if value is None else getattr(value, field.name)
        if field.record is not None:
            cells |= row(field.record, content)
        elif field.description.open_parts:
            column, keys = field.description.column, content or {}
            cells |= {_open_column(column, key): cell for key, cell in keys.items()}
        elif field.columns:
            cells |= zip(field.columns, field.cells(content), strict=True)
    return cells


def to_json(value: Any) -> Any:
    """A record as plain JSON values; a tuple with named places becomes an object."""
    if not dataclasses.is_dataclass(value):
        return value
    content: dict[str, Any] = {}
    record: type = type(value)
    for field in declared(record):
        if field.description.json:
            item, parts = getattr(value, field.name), field.description.parts
            if isinstance(item, tuple) and parts:
                item = dict(zip(parts, map(int, item), strict=True))
            content[field.name] = to_json(item)
    return content


def example(record: type) -> dict[str, Any]:
    """The declared examples as JSON values."""
    return {
        field.name: field.description.example if field.record is None else example(field.record)
        for field in declared(record)
        if field.description.json
    }


def markdown_table(record: type) -> str:
    """The declared fields of a record and of those that it holds, for the documentation."""
    lines = ["| field (JSON) | columns of tables | unit | meaning |", "|---|---|---|---|"]

    def add(kind: type, prefix: str) -> None:
        for field in declared(kind):
            about, shown = field.description, ", ".join(f"`{name}`" for name in field.columns)
            shown = f"`{about.column}_NAME`" if about.open_parts else shown
            name = f"{prefix}{field.name}"
            lines.append(f"| `{name}` | {shown} | {about.unit} | {about.meaning} |")
            if field.record is not None:
                add(field.record, f"{name}.")

    add(record, "")
    return "\n".join(lines)


def _cell(value: Any, separator: str) -> Any:
    if isinstance(value, tuple):
        return separator.join(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # an empty cell would mean unknown
    return value
