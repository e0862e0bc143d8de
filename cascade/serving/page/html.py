"""The parts of a result as HTML, the same on the page and in the report.

Every value goes through Jinja's escaping: a file name or a message cannot become markup.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from cascade.evaluation.html import DISCLAIMER
from cascade.serving.page.findings import Finding, Problem
from cascade.serving.page.words import CAUTION, OperatingPoint, percent, verdict


@dataclass(frozen=True)
class Line:
    """One row of the overview of several images."""

    name: str
    symbol: str
    answer: str
    probability: str
    remark: str


def overview(results: Sequence[Finding | Problem], point: OperatingPoint) -> list[Line]:
    """One line for each image, in order."""
    return [_line(result, point) for result in results]


def _line(result: Finding | Problem, point: OperatingPoint) -> Line:
    if isinstance(result, Problem):
        return Line(result.name, "✕", "Cannot be used", "–", result.message)
    words, chance = verdict(result.answer, point), result.answer.probability
    if chance is None:
        return Line(result.name, words.symbol, words.headline, "–", result.answer.reasons[0])
    remarks = ["Both classes remain possible."] if words.unsure else []
    if count := len(result.warnings):
        remarks.append("1 warning." if count == 1 else f"{count} warnings.")
    return Line(result.name, words.symbol, words.headline, percent(chance), " ".join(remarks))


@functools.cache
def environment() -> Any:
    """The Jinja environment of the templates beside this module."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(read_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["percent"] = percent
    return made


def read_template(name: str) -> str:
    """The text of a file in ``templates``."""
    return resources.files("cascade.serving.page").joinpath("templates", name).read_text("utf-8")


def part(name: str, *values: Any) -> str:
    """One part of ``parts.html`` as HTML.

    Args:
        name: of the macro.
        values: its arguments; they are escaped.
    """
    macro = getattr(environment().get_template("parts.html").module, name)
    return f'<div class="cs">{macro(*values)}</div>'


def disclaimer() -> str:
    """The disclaimer as HTML."""
    return part("disclaimer", DISCLAIMER, CAUTION)
