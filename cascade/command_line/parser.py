"""One parser for all commands: defaults < YAML file < flags, strict about both.

Flags are built from the fields of the dataclasses in :mod:`cascade.config`. ``--learning-rate``
and ``--learning_rate`` are the same flag. Errors of cascade end with exit code 2 and one line.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import typing
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jsonargparse

from cascade.command_line.outputs import say_next
from cascade.command_line.settings_file import SettingsFile, read_settings_file
from cascade.command_line.shared_flags import SHARED
from cascade.config import did_you_mean
from cascade.errors import CascadeError, CascadeWarning, ConfigError
from cascade.models.named import is_named, model_path
from cascade.progress import setup_logging, verbosity

Config = TypeVar("Config")
log = logging.getLogger(__name__)

OK, BUG, USAGE, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: fine, a defect of cascade, wrong usage or input, some inputs failed, Ctrl-C.

The table for users is in docs/commands.md, with those of :mod:`cascade.training.stopping`."""

FULL_LIBRARY = (
    "torch", "torchvision", "segmentation_models_pytorch", "timm", "albumentations", "sklearn",
    "matplotlib", "imagehash",
)  # fmt: skip
"""Modules that an installation for exported cascades does without."""
_FULL = "this command needs; install the whole library: pip install ."

_VERBOSITY = {
    "--quiet": "say nothing but warnings and errors; the results are in the files",
    "--verbose": "say more of what happens, and where in the code an error comes from",
}
_MODEL_FLAGS = ("model", "segmenter", "classifier", "initial_model")
_PREPARE = "prepare_dataset.py"
REPOSITORY = Path(__file__).resolve().parents[2]


def default_folder(name: str) -> Path:
    """``dataset`` or ``models`` of the repository, or of the current folder when installed."""
    inside = REPOSITORY / name
    return inside if (REPOSITORY / "setup.cfg").is_file() else Path(name)


class CommandParser(jsonargparse.ArgumentParser):
    """An argument parser with ``--config``, hyphens or underscores, and helpful errors."""

    def __init__(self, command: str, description: str, *, example: str) -> None:
        """Make a parser.

        Args:
            command: the words a user types, such as ``cascade seg-train``; a script that runs it
                shows its own name instead.
            description: what the command does.
            example: one or more command lines shown at the end of ``--help``.
        """
        called = Path(sys.argv[0]).name
        super().__init__(
            prog=called if called.endswith("_pipeline.py") or called == _PREPARE else command,
            description=description,
            epilog=f"example:\n  {example}",
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
            default_env=False,
        )
        self.add_argument("--config", action="config", help="YAML file of settings; flags win")
        for flag, help in _VERBOSITY.items():
            self.add_argument(flag, action="store_true", default=False, help=help)
        self._files: list[SettingsFile] = []
        self._given: set[str] = set()
        self._reading = False

    def add_shared(self, *names: str, required: bool = False, **defaults: Any) -> None:
        """Add flags of :data:`cascade.command_line.shared_flags.SHARED`.

        Args:
            names: those that keep their default.
            required: these must be given.
            defaults: further ones by name, with a default of the command's own.
        """
        for name in (*names, *defaults):
            flag = SHARED[name]
            options: dict[str, Any] = {"type": flag.type, "required": required}
            if flag.type is bool:  # nargs="?" would make jsonargparse ignore the YAML file's value
                options = {"action": "store_true"}
            elif isinstance(flag.default, list):
                options["nargs"] = "+"
            self.add_argument(
                f"--{name}",
                *flag.aliases,
                default=defaults.get(name, flag.default),
                help=flag.help,
                **options,
            )

    def add_settings(
        self,
        cls: type,
        *,
        rename: Mapping[str, str] | None = None,
        only: Collection[str] | None = None,
    ) -> None:
        """Add a flag for each field of a settings dataclass that has none yet.

        Args:
            cls: a dataclass whose fields were made by :func:`cascade.config.setting`; one that is
                named like a shared flag is that flag, with the default of its own.
            rename: field name to flag name, where they differ.
            only: names of the fields to take; by default all.
        """
        hints = typing.get_type_hints(cls)
        for item in fields(cls):
            name = (rename or {}).get(item.name, item.name)
            known = f"--{name}" in self._option_string_actions
            if known or (only is not None and item.name not in only):
                continue
            if name in SHARED:
                default: Any = item.default
                own: dict[str, Any] = {name: default}
                if isinstance(default, tuple):
                    own[name] = list(default)
                self.add_shared(**own)
                continue
            short = [item.metadata["flag"]] if item.metadata.get("flag") else []
            kind, default = hints[item.name], item.default
            options: dict[str, Any] = {"type": kind}
            if isinstance(default, tuple):
                options, default = {"type": typing.get_args(kind)[0], "nargs": "+"}, list(default)
            elif kind is bool:
                options = {"action": "store_true"}
            self.add_argument(
                f"--{name}", *short, default=default, help=item.metadata["help"], **options
            )

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *rest: Any, **options: Any
    ) -> Any:
        """Parse flags; ``--data-path`` is read as ``--data_path``."""
        words = self.underscored(sys.argv[1:] if args is None else args)
        flags = (word.partition("=")[0] for word in words)
        actions = self._option_string_actions
        self._given = {actions[flag].dest for flag in flags if flag in actions}
        return super().parse_args(words, *rest, **options)

    def parse_path(self, path: Any, *rest: Any, **options: Any) -> Any:
        """Parse a file of ``--config`` whose lines errors can name."""
        try:
            self._files.append(read_settings_file(str(path)))
        except ConfigError as error:
            self.error(str(error))
        self._reading = True
        parsed = super().parse_path(path, *rest, **options)
        self._reading = False
        return parsed

    def place(self, name: str) -> str:
        """How an error about a setting begins: file and line, if its value stands in a file.

        Args:
            name: of the setting, with or without ``--``.

        Returns:
            Nothing where a flag or the default is at fault.
        """
        if self._reading:
            return self._files[-1].place(self._files[-1].key(name))
        for file in reversed(self._files):
            key = file.key(name)
            if key is not None and key not in self._given:
                return file.place(key)
        return ""

    @contextlib.contextmanager
    def placing_errors(self) -> Iterator[None]:
        """Begin cascade's errors about a setting with its place in a file."""
        try:
            yield
        except CascadeError as error:
            name = re.match(r"(?:--)?\w+(?=[ ,])", str(error))
            if name:
                error.args = (self.place(name[0]) + str(error), *error.args[1:])
            raise

    def underscored(self, args: Sequence[str]) -> list[str]:
        """Replace hyphens by underscores in the long flags that this parser knows.

        A configuration file that is not found from the current folder is taken from the
        repository, so that ``--config configs/segmentation.yaml`` works from anywhere. It is put
        first, so that flags win over it wherever they stand.
        """
        known = set(self._option_string_actions)
        files: list[str] = []
        result: list[str] = []
        for argument in args:
            flag, equals, value = argument.partition("=")
            spelled = "--" + flag[2:].replace("-", "_")
            if flag.startswith("--") and flag not in known and spelled in known:
                argument = spelled + equals + value
            if files and files[-1] == "--config":
                files.append(_shipped(argument))
            elif flag == "--config":
                files += ["--config", _shipped(value)] if equals else ["--config"]
            else:
                result.append(argument)
        return files + result

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line that names the flag, and the nearest known one; exit with 2."""
        text = " ".join(str(message).split())
        text = text.replace(' in "<unicode string>",', " at")
        text = text.replace('Parser key "', 'option "').replace("a typing.Literal", "one of ")
        text = re.sub(r"a <class '(\w+)'>", r"\1", text)
        text = re.sub(
            r"^Unexpected config:.*", "the file of --config holds no lines of NAME: VALUE", text
        )
        hint = self._hint(text)
        key = re.search(r"option ['\"]([\w.-]+)['\"]", text, re.IGNORECASE)
        text = (self.place(key[1] if key else "") if key or self._reading else "") + text
        sys.stderr.write(f"{self.prog}: error: {text}{hint}\n")
        raise SystemExit(USAGE)

    def _hint(self, text: str) -> str:
        """The nearest known word to the first unknown flag, setting or choice in a message."""
        flags = list(self._option_string_actions)
        setting = re.search(r"Option '([\w.-]+)' is not accepted", text)
        if setting:
            known = [flag[2:] for flag in flags if flag.startswith("--")]
            return did_you_mean(setting[1].replace("-", "_"), known)
        choice = re.search(r"one of \[(.*?)\]\. Got value: (\S+)", text)
        if choice:
            return did_you_mean(choice[2], re.findall(r"'([^']+)'", choice[1]))
        words = re.findall(r"(?<!\S)--?[a-zA-Z][\w-]*", text)
        return next((did_you_mean(word, flags) for word in words if word not in flags), "")


def _shipped(path: str) -> str:
    """A configuration file of the repository, where the current folder has none of that name."""
    inside = REPOSITORY / path
    return str(inside) if not Path(path).exists() and inside.is_file() else path


class _HelpFormatter(jsonargparse.DefaultHelpFormatter):
    """Keeps the example's line breaks."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("example:"):
            return text
        return super()._fill_text(text, width, indent)


def settings(cls: type[Config], arguments: Any, **fixed: Any) -> Config:
    """Collect a settings dataclass from parsed flags.

    Args:
        cls: the dataclass.
        arguments: the parser's namespace.
        fixed: values that do not come from a flag of the same name.
    """
    values = dict(fixed)
    for item in fields(cls):  # type: ignore[arg-type]
        if item.name not in values:
            value = arguments[item.name]
            values[item.name] = tuple(value) if isinstance(value, list) else value
    return cls(**values)


def command(
    build_parser: Callable[[], CommandParser],
) -> Callable[[Callable[[Any], int]], Callable[..., int]]:
    """Make a command's ``main(argv)`` of its parser and its body; see :func:`run`."""

    def decorate(body: Callable[[Any], int]) -> Callable[..., int]:
        name = build_parser.__module__.rpartition(".")[2].replace("_", "-")

        def main(argv: Sequence[str] | None = None) -> int:
            def parse_and_run(words: Sequence[str] | None) -> int:
                parser = build_parser()
                arguments = parser.parse_args(words)
                with (
                    verbosity(quiet=arguments.quiet, verbose=arguments.verbose) as outermost,
                    parser.placing_errors(),
                ):
                    addresses = _fetch_models(arguments)
                    code = body(arguments)
                    if outermost and code == OK:
                        for flag, address in addresses.items():
                            arguments[flag] = address
                        say_next(name, arguments)
                    return code

            return run(parse_and_run, argv)

        main.__doc__ = body.__doc__
        return main

    return decorate


def _fetch_models(arguments: Any) -> dict[str, str]:
    """Put the file in the place of a model's name or of its address on the hub.

    Returns:
        The flags and the names or addresses that they had.
    """
    given = {name: arguments.get(name) for name in _MODEL_FLAGS}
    addresses = {name: value for name, value in given.items() if is_named(value)}
    for name, address in addresses.items():
        arguments[name] = str(model_path(address))
    return addresses


def run(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Run a command's body, turning cascade's errors into one line and an exit code."""
    setup_logging()
    with warnings.catch_warnings():
        warnings.simplefilter("default", CascadeWarning)
        warnings.showwarning = _show_warning
        try:
            return main(argv)
        except CascadeError as error:
            log.error("error: %s", error)
            log.debug("where it comes from:", exc_info=error)
            return USAGE
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in FULL_LIBRARY:
                raise
            log.error("error: %s is not installed here, which %s", error.name, _FULL)
            return USAGE
        except KeyboardInterrupt:
            log.error("interrupted")
            return INTERRUPTED
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return OK


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, CascadeWarning):
        log.warning("warning: %s", message)
