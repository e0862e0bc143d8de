"""Where in a YAML file of settings each key stands, so that errors can name the line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from cascade.errors import ConfigError

RENAMED = {"size": "image_size"}
"""Settings whose flag, and so whose key in a file, has another name."""


@dataclass(frozen=True)
class SettingsFile:
    """A file of ``NAME: VALUE`` lines.

    Attributes:
        path: as the user named it.
        lines: the line of each key, from 1.
    """

    path: str
    lines: Mapping[str, int]

    def key(self, words: str) -> str | None:
        """The key of this file that some words of an error name, without what is within it."""
        name = words.removeprefix("--").partition(".")[0]
        return next((key for key in (name, RENAMED.get(name)) if key in self.lines), None)

    def place(self, key: str | None) -> str:
        """The place of a key, or just the file, as an error begins."""
        return f"{self.path}: " if key is None else f"{self.path}, line {self.lines[key]}: "


def read_settings_file(path: str) -> SettingsFile:
    """Find the lines of all keys; no values are built.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or a key stands twice in it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        doing = f" ({error.context})" if error.context else ""
        raise ConfigError(f"{path}{line}: is not YAML: {error.problem}{doing}") from error
    except yaml.reader.ReaderError as error:
        line_number = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{path}, line {line_number}: is not YAML: {error.reason}") from error
    if root is None:
        return SettingsFile(path, {})
    for mapping in _mappings(root):
        _refuse_duplicates(path, mapping)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    return SettingsFile(path, {str(key.value): key.start_mark.line + 1 for key, _ in pairs})


def _mappings(root: yaml.Node) -> Iterator[yaml.MappingNode]:
    """All mappings in a document, each once, although an alias may lead back to it."""
    found: dict[int, yaml.Node] = {}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in found:
            continue
        found[id(node)] = node
        if isinstance(node, yaml.MappingNode):
            yield node
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _refuse_duplicates(path: str, mapping: yaml.MappingNode) -> None:
    first: dict[tuple[str, str], int] = {}
    for key, _ in mapping.value:
        name, line = (key.tag, str(key.value)), key.start_mark.line + 1
        if name in first:
            raise ConfigError(
                f"{path}, line {line}: {key.value} stands in line {first[name]} already; keep one "
                "of the two"
            )
        first[name] = line
