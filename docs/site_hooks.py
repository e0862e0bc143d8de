"""What mkdocs does for this site beyond Markdown: flags, settings, and pages kept elsewhere.

Flags come from the parsers and settings from their dataclasses, so that they cannot differ from
what the commands take. No torch is loaded for that.
"""

from __future__ import annotations

import importlib
import posixpath
import re
import typing
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from argparse import Action
    from collections.abc import Mapping

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[1]
KEPT_ELSEWHERE = {
    "dataset/README.md": "sources.md",
    "models/README.md": "model_card.md",
    "models/README_details.md": "model_card_details.md",
    "notebooks/README.md": "notebooks.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages that stand where a reader of the repository looks for them, and their names on the site."""

CARD_FOLDER = "models/card"
COMMANDS_MARK = "<!-- commands -->"
SETTINGS_MARK = re.compile(r"<!-- settings: (\w+) -->")
ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):<code>(?:[\w.]+\.)?(\w+)</code>")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are kept elsewhere, and the plots of the model card."""
    for source, name in KEPT_ELSEWHERE.items():
        text = (REPOSITORY / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=text))
    for picture in sorted((REPOSITORY / CARD_FOLDER).glob("*.png")):
        files.append(File.generated(config, f"card/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to where their targets are on the site, and fill in the commands."""
    named = {name: source for source, name in KEPT_ELSEWHERE.items()}
    source = named.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    text = LINK.sub(lambda found: _link(found, posixpath.dirname(source)), markdown)
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation"]  # it has one entry, this page
    if COMMANDS_MARK in text:
        text = text.replace(COMMANDS_MARK, "\n\n".join(map(_command, _commands())))
    return SETTINGS_MARK.sub(lambda found: _settings(found[1]), text)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show the names that docstrings refer to without the marks of the reference."""
    return ROLE.sub(r"<code>\1</code>", html)


def _link(found: re.Match[str], folder: str) -> str:
    """A link or image of a file in ``folder``, as a page of the site has it."""
    mark, words, target = found.groups()
    if re.match(r"[a-z]+:|#", target):
        return found[0]
    path, hash_mark, anchor = target.partition("#")
    place = posixpath.normpath(posixpath.join(folder, path))
    if place.startswith("docs/"):
        moved = place.removeprefix("docs/")
    elif place in KEPT_ELSEWHERE:
        moved = KEPT_ELSEWHERE[place]
    elif posixpath.dirname(place) == CARD_FOLDER:
        moved = f"card/{posixpath.basename(place)}"
    else:  # a file of the repository that the site does not show
        return words
    return f"{mark}[{words}]({moved}{hash_mark}{anchor})"


def _commands() -> dict[str, str]:
    from cascade.command_line.main import COMMANDS

    return COMMANDS


def _command(name: str) -> str:
    """Heading, description, example and flags of one command, as Markdown."""
    from cascade.command_line.main import module_of

    module = module_of(name)
    parser = module.build_parser()
    example = "\n".join(
        line.strip() for line in parser.epilog.removeprefix("example:").splitlines() if line.strip()
    )
    shown = [action for action in parser._actions if action.dest not in ("help", "print_config")]
    shown.sort(key=lambda action: (bool(action.option_strings), action.dest == "config"))
    rows = [_row(action) for action in shown]
    return "\n".join(
        [
            f"## cascade {name}", "", parser.description, "", "```bash", example, "```", "",
            "| argument | default | meaning |", "|---|---|---|", *rows,
        ]
    )  # fmt: skip


def _settings(name: str) -> str:
    """The fields of a dataclass of settings, as a table."""
    cls = getattr(importlib.import_module("cascade.config"), name)
    hints = typing.get_type_hints(cls)
    rows = [
        f"| `{item.name}` | {_default(item.default)} | {_limits(item.metadata)} "
        f"| {_cell(item.metadata['help'])}{_choices(hints[item.name])} |"
        for item in fields(cls)
    ]
    return "\n".join(["| setting | default | within | meaning |", "|---|---|---|---|", *rows])


def _limits(metadata: Mapping[str, Any]) -> str:
    low, high = metadata["minimum"], metadata["maximum"]
    if low is None and high is None:
        return ""
    return f"{low:g} to {high:g}" if high is not None else f"from {low:g}"


def _row(action: Action) -> str:
    """One line of the table of flags."""
    names = [f"`{flag}`" for flag in action.option_strings] or [f"`{action.dest.upper()}`"]
    meaning = _cell(str(action.help or "")) + _choices(getattr(action, "_typehint", None))
    return f"| {', '.join(names)} | {_default(action.default)} | {meaning} |"


def _choices(hint: Any) -> str:
    """The words that a setting may take, if it is one of some."""
    listed = [choice for choice in typing.get_args(hint) if isinstance(choice, str)]
    return f" ({', '.join(f'`{choice}`' for choice in listed)})" if listed else ""


def _default(value: Any) -> str:
    """A default as a reader types it; folders of the repository without the way to it."""
    if value is None or value is False or value == [] or value == "==SUPPRESS==":
        return ""
    if isinstance(value, (list, tuple)):
        return f"`{' '.join(map(str, value))}`"
    text = str(value)
    inside = REPOSITORY.as_posix() + "/"
    return f"`{text.removeprefix(inside)}`"


def _cell(text: str) -> str:
    """Text that is safe within a table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
