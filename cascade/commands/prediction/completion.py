"""``cascade completion``: a script that lets a shell complete commands, flags and their choices."""

from __future__ import annotations

import argparse
import typing
from typing import Any

from cascade.command_line.main import COMMANDS, module_of
from cascade.command_line.outputs import write_output
from cascade.command_line.parser import OK, CommandParser, command
from cascade.data.sources.registry import SOURCES
from cascade.errors import MissingExtraError

SHELLS = ("bash", "zsh")


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade completion",
        "Write a script that lets bash or zsh complete the commands of cascade, their flags and "
        "the choices of these, and file names.",
        example="cascade completion bash > ~/.local/share/bash-completion/completions/cascade\n"
        '  cascade completion zsh > "${fpath[1]}/_cascade"',
    )
    parser.add_argument("shell", type=typing.Literal[SHELLS], help="bash or zsh")
    return parser


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    write_output(completion_script(arguments.shell))
    return OK


def completion_script(shell: str) -> str:
    """The script for one of :data:`SHELLS`, which knows every command and flag of this version.

    Raises:
        MissingExtraError: the package shtab, which writes it, is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise MissingExtraError(
            "completion needs the package shtab; run: pip install 'cascade[completion]'"
        ) from error
    whole = argparse.ArgumentParser("cascade", description="two-stage analysis of skin lesions")
    commands = whole.add_subparsers()
    for name, what in COMMANDS.items():
        own = commands.add_parser(name, help=what, description=what)
        for action in module_of(name).build_parser()._actions:
            _copy(action, own, shtab.FILE)
    script: str = shtab.complete(whole, shell)
    return script


def _copy(action: argparse.Action, parser: argparse.ArgumentParser, files: Any) -> None:
    """Give a parser what a shell needs to know of a flag of another one."""
    if "--help" in action.option_strings:
        return
    flags = action.option_strings
    help = (action.help or "").replace("%", "%%")
    if action.nargs == 0 or isinstance(action.default, bool):
        parser.add_argument(*flags, action="store_true", help=help)
        return
    choices = _choices(action)
    several = {"nargs": action.nargs} if action.nargs in ("+", "*", "?") else {}
    added = parser.add_argument(*(flags or [action.dest]), help=help, choices=choices, **several)  # type: ignore[arg-type]
    if choices is None:
        added.complete = files  # type: ignore[attr-defined]


def _choices(action: argparse.Action) -> list[str] | None:
    """The words that a flag takes, if it takes these only."""
    if action.dest == "source":
        return [*SOURCES, "synthetic"]
    kind = getattr(action, "_typehint", action.type)
    kind = next((part for part in typing.get_args(kind) if typing.get_args(part)), kind)
    if typing.get_origin(kind) is not typing.Literal:
        return None
    return [str(word) for word in typing.get_args(kind)]
