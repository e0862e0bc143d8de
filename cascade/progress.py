"""Progress bars and log set-up for commands: visible on a terminal, silent elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

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
    shown = sys.stderr.isatty() and not silenced() if enabled is None else enabled
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


class _TqdmHandler(logging.Handler):
    """Writes log lines above a running progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(_prefix + self.format(record), file=sys.stderr)


def setup_logging(level: int = logging.INFO) -> None:
    """Send cascade's log messages to standard error; called by commands, never by the library."""
    logger = logging.getLogger("cascade")
    logger.setLevel(logging.ERROR if silenced() else level)
    if not any(isinstance(handler, _TqdmHandler) for handler in logger.handlers):
        handler = _TqdmHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
