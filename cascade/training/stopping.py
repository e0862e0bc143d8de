"""Signals that ask a training to stop, answered when its state is whole.

A cluster's queue sends SIGTERM or SIGUSR1 before it takes a machine away, and a person presses
Ctrl-C.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn, Self

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))

_GRACE_SECONDS = 10


class Stopped(BaseException):
    """A signal asked for the end of the training."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.name = signal.Signals(number).name

    def leave(self) -> NoReturn:
        """End the process as the signal would have: with 130, 143 or 138.

        Raises:
            KeyboardInterrupt: it was Ctrl-C.
            SystemExit: it was another signal.
        """
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.number)


class StopSignals:
    """Within the block the signals raise :class:`Stopped`, but never while :meth:`held`.

    Processes that train together stop together, so there a signal is only noted until all have
    agreed. Only the main thread receives signals; in another one the block changes nothing.

    Attributes:
        pending: number of the signal that this process has received, or 0.
    """

    def __init__(self, *, alone: bool = True) -> None:
        self.pending = 0
        self._alone = alone
        self._agreed = 0
        self._held = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        again, self.pending = self.pending, number
        if self._alone and not (self._held or again):
            raise Stopped(number)

    def agree(self, number: int) -> None:
        """Stop all processes by the signal that one has received, if the number is not 0."""
        self._agreed = number

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Do the block to its end, and raise after it what was received within or shortly before.

        Raises:
            Stopped: a signal was received.
        """
        self._held = True
        try:
            yield
        finally:
            self._held = False
        number = self.pending if self._alone else self._agreed
        if number:
            raise Stopped(number)


def leave_signals_to_main() -> None:
    """In a loader process, have the main one answer: a queue signals all processes at once.

    A loader process that died would break the running step. After SIGTERM, which also means that
    the main process ends without having said so, it dies some seconds later.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))
