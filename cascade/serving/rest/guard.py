"""Who may ask: decided from the headers, before a byte of the body is read."""

from __future__ import annotations

import hmac
import ipaddress
import os
import time
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from cascade.errors import ConfigError
from cascade.serving.rest.problems import HttpProblem, problem_response

TOKEN_VARIABLE = "CASCADE_API_TOKEN"
_SHORTEST_TOKEN = 16
_GUARDED = ("/v1/", "/metrics")
_MOST_CLIENTS = 10_000


class RateLimit:
    """Lets a client send a number of requests a minute, evenly after a first burst of as many."""

    def __init__(self, per_minute: float) -> None:
        """Start with full buckets; ``per_minute`` is above 0."""
        self._rate = per_minute / 60
        self._most = max(1.0, per_minute)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str, now: float) -> float:
        """Take one token; seconds until the next one where there is none, else 0.

        Args:
            client: its address; all of an IPv6 network of 64 bits are one client.
            now: seconds of a clock that never goes back.
        """
        key = _network(client)
        tokens, then = self._buckets.pop(key, (self._most, now))
        tokens = min(self._most, tokens + (now - then) * self._rate)
        allowed = tokens >= 1
        self._buckets[key] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > _MOST_CLIENTS:
            self._buckets.popitem(last=False)  # the one that has been silent longest
        return 0.0 if allowed else (1 - tokens) / self._rate


def _network(client: str) -> str:
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if address.version == 6 and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class Guard:
    """ASGI middleware that checks origin, token and rate of requests to the guarded routes."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        origins: Collection[str],
        rate_limit: RateLimit | None,
    ) -> None:
        """Wrap an application.

        Args:
            app: what is guarded.
            token: what a request must bring as ``Authorization: Bearer TOKEN``; ``None`` asks for
                nothing.
            origins: web pages that browsers may call from, beside the service's own.
            rate_limit: how often a client may ask.
        """
        self.app = app
        self._token = token.encode() if token else None
        self._origins = frozenset(origins)
        self._rate_limit = rate_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and scope["path"].startswith(_GUARDED):
            try:
                self._check(scope, Headers(scope=scope))
            except HttpProblem as problem:
                await problem_response(problem, scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        self._check_rate((scope.get("client") or ("unknown", 0))[0])
        self._check_token(headers.get("authorization", ""))
        origin = headers.get("origin")
        if scope["method"] == "POST" and origin is not None:
            self._check_origin(origin, headers.get("host", ""))

    def _check_rate(self, client: str) -> None:
        if self._rate_limit is None:
            return
        seconds = self._rate_limit.wait(client, time.monotonic())
        if seconds > 0:
            raise HttpProblem(
                429,
                f"too many requests from this address; try again in {seconds:.0f} s",
                headers={"Retry-After": str(max(1, round(seconds + 0.5)))},
            )

    def _check_token(self, authorization: str) -> None:
        if self._token is None:
            return
        scheme, _, given = authorization.partition(" ")
        same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token)
        if not (same and scheme.lower() == "bearer"):
            raise HttpProblem(
                401,
                "this service requires a token; send the header Authorization: Bearer TOKEN",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _check_origin(self, origin: str, host: str) -> None:
        """Browsers send a form from any page to any address, CORS only keeps the answer back."""
        if origin not in self._origins and _host_of(origin) != host:
            raise HttpProblem(403, "this origin may not use the service; see --allow_origin")


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def read_token(file: str | None) -> str | None:
    """The token of a file, else that of the environment, else none.

    Raises:
        ConfigError: the file cannot be read, or the token is shorter than 16 characters or not
            printable ASCII.
    """
    if file is None:
        source, token = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE, "").strip()
        if not token:
            return None
    else:
        source = f"token_file {file}"
        try:
            token = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise ConfigError(f"{source}: cannot be read ({type(error).__name__})") from error
    if len(token) < _SHORTEST_TOKEN or not (token.isascii() and token.isprintable()):
        raise ConfigError(
            f"{source}: a token is one line of at least {_SHORTEST_TOKEN} ASCII characters; make "
            "one with: openssl rand -hex 32"
        )
    return token
