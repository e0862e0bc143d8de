"""The table of exit codes and the code give the same numbers."""

from __future__ import annotations

import ast
import re
import signal
from pathlib import Path

import pytest

from cascade.command_line import parser
from cascade.training.stopping import SIGNALS, Stopped

REPOSITORY = Path(__file__).resolve().parents[1]
LEAVING = {"exit", "_exit", "SystemExit"}


def documented():
    """By number its meaning, from the table for users."""
    text = (REPOSITORY / "docs" / "commands.md").read_text(encoding="utf-8")
    table = text.partition("## Exit codes")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([\d, ]+) \| (.+) \|$", table, re.MULTILINE)
    return {int(number): meaning for numbers, meaning in rows for number in numbers.split(",")}


def of_signal(number):
    try:
        Stopped(number).leave()
    except KeyboardInterrupt:  # the command line turns it into its code
        return parser.INTERRUPTED
    except SystemExit as left:
        return left.code


def test_the_table_has_the_numbers_of_the_code():
    ends = {parser.OK, parser.BUG, parser.USAGE, parser.PARTIAL, parser.INTERRUPTED}
    assert set(documented()) == ends | {of_signal(number) for number in SIGNALS}


@pytest.mark.parametrize(
    ("code", "word"),
    [
        (parser.OK, "success"),
        (parser.BUG, "bug"),
        (parser.USAGE, "wrong usage"),
        (parser.PARTIAL, "some inputs failed"),
        (parser.INTERRUPTED, "Ctrl-C"),
        (of_signal(signal.SIGTERM), "SIGTERM"),
        (of_signal(signal.SIGUSR1), "SIGUSR1"),
    ],
)
def test_each_number_means_what_the_table_says(code, word):
    assert word in documented()[code]


def test_no_code_leaves_with_a_number_of_its_own():
    own = []
    for path in (REPOSITORY / "cascade").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node, "func", None)
            called = getattr(name, "attr", getattr(name, "id", None))
            if called in LEAVING and any(isinstance(item, ast.Constant) for item in node.args):
                own.append(f"{path}:{node.lineno}")
    assert own == []


def test_commands_return_codes_by_name():
    own = []
    for path in (REPOSITORY / "cascade" / "commands").rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef) and function.name == "main":
                own += [
                    f"{path}:{node.lineno}"
                    for node in ast.walk(function)
                    if isinstance(node, ast.Return) and isinstance(node.value, ast.Constant)
                ]
    assert own == []
