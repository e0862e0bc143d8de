"""What stands between a browser and Streamlit: headers that keep the page to itself, and bounds."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

CONTENT = (
    "default-src 'none'", "script-src 'self'", "style-src 'self' 'unsafe-inline'",
    "img-src 'self' data: blob:", "font-src 'self' data:", "connect-src 'self'",
    "manifest-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
)  # fmt: skip
"""What a browser may load for the page: its own files, and nothing from anywhere else."""

HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
UPLOADS = "/_stcore/upload_file/"
PRIVATE = ("/media/", UPLOADS)
"""Paths with images of users, which no browser or proxy may keep."""


class Guarded:
    """An ASGI application whose answers carry :data:`HEADERS`, and whose uploads are bounded."""

    def __init__(
        self,
        app: Application,
        *,
        content_policy: str,
        most_bytes: int,
        held_bytes: Callable[[], int],
    ) -> None:
        """Wrap an application.

        Args:
            app: the application.
            content_policy: what a browser may load for its pages.
            most_bytes: of all uploads together; one that would not fit is refused unread.
            held_bytes: says how many bytes of uploads are in memory.
        """
        self.app = app
        self.headers = {**HEADERS, "content-security-policy": content_policy}
        self.most_bytes = most_bytes
        self.held_bytes = held_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(self.headers)
        # the page itself, too, or a browser would keep it with its session after it was left
        if scope["path"] == "/" or scope["path"].startswith(PRIVATE):
            headers["cache-control"] = "no-store"
        if scope["path"].startswith(UPLOADS) and scope["method"] == "PUT" and self._is_full(scope):
            await _refuse(send, headers)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": _merged(message.get("headers", ()), headers)}
            await send(message)

        await self.app(scope, receive, guarded)

    def _is_full(self, scope: Message) -> bool:
        announced = dict(scope["headers"]).get(b"content-length", b"")
        # without an announced length it is not known to fit
        size = int(announced) if announced.isdigit() else self.most_bytes
        return self.held_bytes() + size > self.most_bytes


async def _refuse(send: Send, headers: Mapping[str, str]) -> None:
    """Answer 413: the server takes no more uploads for now."""
    start = {"type": "http.response.start", "status": 413, "headers": _merged((), headers)}
    await send(start)
    await send({"type": "http.response.body", "body": b"too many uploads in memory; try later"})


def content_policy(page: str) -> str:
    """The content security policy of a page: :data:`CONTENT`, and the scripts that stand in it.

    Args:
        page: HTML, trusted.
    """
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    inline = "".join(f" 'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return "; ".join(CONTENT).replace("script-src 'self'", f"script-src 'self'{inline}")


def _merged(given: Any, own: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in given if name.lower().decode("latin-1") not in own]
    return kept + [(name.encode(), value.encode()) for name, value in own.items()]
