"""uvicorn's HTTP/1.1 connections, with limits on how long nothing useful may come."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE_S = 10.0


class PromptConnection(H11Protocol):
    """Closed if the head of a request does not come in time, or the rest of a refused body.

    uvicorn itself waits for both for ever, so a few thousand connections on which nothing happens
    would use up all file descriptors. Bodies that are read have a limit of their own.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Read what came, and go on waiting if it was not all."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_watching()
        super().connection_lost(exc)

    @property
    def _idle(self) -> bool:
        state = self.conn.their_state
        answered = self.cycle is not None and self.cycle.response_complete
        return state is h11.IDLE or (answered and state is h11.SEND_BODY)

    def _watch(self) -> None:
        if not self._idle:
            self._stop_watching()
        elif self._timer is None:
            self._timer = self.loop.call_later(PATIENCE_S, self._give_up)

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self._idle and not self.transport.is_closing():
            self.transport.close()
