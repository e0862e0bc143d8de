"""Bodies are stopped while they arrive: too large, too slow, or too many at once.

This runs before anything reads or stores a body, with and without a ``Content-Length``.
"""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cascade.serving.rest.problems import HttpProblem, busy, problem_response

MEGABYTE = 1_000_000


class BodyLimit:
    """ASGI middleware that bounds the bodies of requests."""

    def __init__(
        self, app: ASGIApp, *, max_bytes: int, max_held_bytes: int, timeout_s: float
    ) -> None:
        """Wrap an application.

        Args:
            app: what reads the bodies.
            max_bytes: largest body of one request.
            max_held_bytes: bytes of all bodies that have arrived and are not answered yet.
            timeout_s: time in which a body must have arrived.
        """
        self.app = app
        self.max_bytes = max_bytes
        self.max_held_bytes = max_held_bytes
        self.timeout_s = timeout_s
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, with a ``receive`` that raises where a limit is reached."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(self, receive)
        started = False

        async def noting_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            body.refuse_declared(Headers(scope=scope))
            await self.app(scope, body.receive, noting_send)
        except HttpProblem as problem:
            if started:
                raise
            await problem_response(problem, scope)(scope, receive, send)
        finally:
            self._held -= body.size

    def hold(self, size: int) -> None:
        """Count bytes that have arrived.

        Raises:
            HttpProblem: 503, there are too many of them.
        """
        self._held += size
        if self._held > self.max_held_bytes:
            raise busy("too many images are being uploaded at the moment; try again in a moment")

    def too_large(self) -> HttpProblem:
        """The answer to a body over the limit."""
        limit = self.max_bytes / MEGABYTE
        return HttpProblem(413, f"the body is larger than the limit of {limit:g} MB")


class _Body:
    """One body on its way in."""

    def __init__(self, limit: BodyLimit, receive: Receive) -> None:
        self.size = 0
        self._limit = limit
        self._receive = receive
        self._complete = False
        self._deadline = asyncio.get_running_loop().time() + limit.timeout_s

    def refuse_declared(self, headers: Headers) -> None:
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > self._limit.max_bytes:
            raise self._limit.too_large()

    async def receive(self) -> Message:
        if self._complete:  # nothing but a disconnect can follow, and that may take its time
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as error:
            raise HttpProblem(
                408,
                f"the body did not arrive within {self._limit.timeout_s:g} seconds",
                headers={"Connection": "close"},
            ) from error
        if message["type"] == "http.request":
            self._count(len(message.get("body", b"")))
            self._complete = not message.get("more_body", False)
        return message

    def _count(self, size: int) -> None:
        self.size += size
        self._limit.hold(size)
        if self.size > self._limit.max_bytes:
            raise self._limit.too_large()
