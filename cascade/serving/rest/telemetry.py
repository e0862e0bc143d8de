"""Metrics for Prometheus, and one log line a request. Neither contains text from a client."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Collection

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cascade.serving.rest.problems import (
    CLIENT_LEFT,
    HttpProblem,
    busy,
    problem_response,
    request_id,
)

log = logging.getLogger(__name__)

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_METHODS = ("GET", "HEAD", "POST", "OPTIONS")
_QUIET = ("/healthz", "/readyz", "/metrics")
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Telemetry:
    """The counters of one service."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "cascade_requests", "Requests by route, method and status.",
            ("route", "method", "status"), registry=registry,
        )  # fmt: skip
        self.request_seconds = Histogram(
            "cascade_request_seconds", "Time from a request's headers to the end of its answer.",
            ("route",), buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.prediction_seconds = Histogram(
            "cascade_prediction_seconds", "Time to decode and predict one image.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.predictions = Counter(
            "cascade_predictions", "Images by the answer given.", ("answer",), registry=registry
        )
        self.image_errors = Counter(
            "cascade_image_errors", "Images that could not be used.", registry=registry
        )
        self.in_flight = Gauge(
            "cascade_requests_in_flight", "Requests being answered.", registry=registry
        )
        self.running = Gauge(
            "cascade_predictions_running", "Requests being decoded and predicted.",
            registry=registry,
        )  # fmt: skip
        self.waiting = Gauge(
            "cascade_queue_length", "Requests that wait for their turn.", registry=registry
        )
        self.rejected = Counter(
            "cascade_queue_rejections", "Requests refused because too many waited.",
            registry=registry,
        )  # fmt: skip
        self.timeouts = Counter(
            "cascade_prediction_timeouts", "Requests whose computation took too long.",
            registry=registry,
        )  # fmt: skip
        self.ready = Gauge("cascade_ready", "1 once the model is loaded.", registry=registry)
        self.model = Gauge(
            "cascade_model_info", "1, with the version and digest of the model.",
            ("version", "runtime", "digest"), registry=registry,
        )  # fmt: skip

    def text(self) -> bytes:
        """All numbers in Prometheus' text format."""
        return generate_latest(self.registry)


class Observe:
    """ASGI middleware around everything: names, times, counts and logs each request.

    An error that nobody handled becomes a 500 that says nothing but the request's name; the log
    has the rest.
    """

    def __init__(self, app: ASGIApp, *, telemetry: Telemetry, routes: Collection[str]) -> None:
        """Wrap an application.

        Args:
            app: what answers.
            telemetry: counts.
            routes: paths that may stand in numbers and logs; all others are one.
        """
        self.app = app
        self.telemetry = telemetry
        self._routes = frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note what became of it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope.setdefault("state", {})["request_id"] = secrets.token_hex(8)
        start = time.perf_counter()
        answer = _Answer(scope, send)
        try:
            with self.telemetry.in_flight.track_inprogress():
                await self._pass_on(scope, receive, answer)
        finally:
            self._note(scope, answer.status or CLIENT_LEFT, time.perf_counter() - start)

    async def _pass_on(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        try:
            await self.app(scope, receive, answer.send)
        except asyncio.CancelledError:  # the time of grace after a SIGTERM is over
            problem = busy("the service is shutting down")
        except Exception:
            log.exception("request=%s failed", request_id(scope))
            if answer.status:
                raise  # half an answer is sent: the connection must break
            problem = HttpProblem(
                500, "internal error; the log of the service has the reason under this request_id"
            )
        else:
            return
        if not answer.status:
            await problem_response(problem, scope)(scope, receive, answer.send)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope["path"] if scope["path"] in self._routes else "unmatched"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.telemetry.requests.labels(route, method, status).inc()
        self.telemetry.request_seconds.labels(route).observe(seconds)
        level = logging.DEBUG if route in _QUIET and status in (200, 503) else logging.INFO
        log.log(
            level, "request=%s method=%s route=%s status=%d ms=%.0f",
            request_id(scope), method, route, status, 1000 * seconds,
        )  # fmt: skip


class _Answer:
    """Adds headers to one answer, and notes its status."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.status = 0
        self._scope = scope
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = request_id(self._scope)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)
