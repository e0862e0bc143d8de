"""Progress bars and log set-up for commands: visible on a terminal, silent elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

from cascade.errors import ConfigError

Item = TypeVar("Item")


def progress(
    iterable: Iterable[Item],
    *,
    description: str,
    total: int | None = None,
    unit: str = "image",
    enabled: bool | None = None,
) -> tqdm[Item]:
    """Wrap an iterable in a progress bar on standard error.

    ``total`` is for iterables without a length. By default the bar is shown only when standard
    error is a terminal. Iterate over the bar, or call ``set_postfix`` on it.
    """
    shown = sys.stderr.isatty() and not is_quiet() if enabled is None else enabled
    return tqdm(
        iterable,
        desc=description,
        total=total,
        unit=unit,
        disable=not shown,
        dynamic_ncols=True,
        leave=False,
    )


_prefix = ""
_level: int | None = None
"""Of the messages to show, while a command runs."""


@contextmanager
def verbosity(*, quiet: bool, verbose: bool) -> Iterator[bool]:
    """Say less or more while a command runs; commands that it runs itself say as much.

    Args:
        quiet: warnings and errors only, without bars and results.
        verbose: also what is meant for finding faults.

    Yields:
        Whether this is the command that was typed.

    Raises:
        ConfigError: both were asked for.
    """
    global _level
    if quiet and verbose:
        raise ConfigError("--quiet and --verbose exclude each other; give one")
    before = _level
    if before is None or quiet or verbose:
        _level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    try:
        _set_level()
        yield before is None
    finally:
        _level = before


def only_errors(prefix: str) -> None:
    """Say nothing more in this process but errors, which get a prefix; another one tells the rest.

    It holds for progress bars, for log messages and for the results of commands.
    """
    global _prefix
    _prefix = prefix
    logging.getLogger("cascade").setLevel(logging.ERROR)


def silenced() -> bool:
    """Whether this process says errors only."""
    return bool(_prefix)


def is_quiet() -> bool:
    """Whether this process writes no results and shows no progress."""
    return silenced() or _level == logging.WARNING


class _TqdmHandler(logging.Handler):
    """Writes log lines above a running progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(_prefix + self.format(record), file=sys.stderr)


def _set_level() -> None:
    level = logging.ERROR if silenced() else _level or logging.INFO
    logging.getLogger("cascade").setLevel(level)


def setup_logging() -> None:
    """Send cascade's log messages to standard error; called by commands, never by the library."""
    _set_level()
    logger = logging.getLogger("cascade")
    if not any(isinstance(handler, _TqdmHandler) for handler in logger.handlers):
        handler = _TqdmHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
