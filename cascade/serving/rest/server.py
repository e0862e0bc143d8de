"""The process: a socket, uvicorn around the application, and its end."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from cascade.serving.rest.api import create_app
from cascade.serving.rest.guard import read_token
from cascade.serving.rest.model import check_model
from cascade.serving.rest.settings import ServiceSettings
from cascade.serving.shared.heap import bound_heap
from cascade.serving.shared.listening import address, listen

log = logging.getLogger(__name__)

GRACE_S = 10
"""After a SIGTERM, requests in flight have this long to finish."""

KEEP_ALIVE_S = 15
_LARGEST_HEAD = 16 * 1024
PATIENCE_S = 10.0
"""Time for the head of a request, or for the rest of a body that was refused."""


class PromptConnection(H11Protocol):
    """uvicorn's connection, closed if the head of a request or the rest of a refused body is late.

    uvicorn itself waits without limit, so a few thousand idle connections would use up all file
    descriptors. Bodies that are read have a limit of their own.
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


def serve(settings: ServiceSettings) -> None:
    """Serve until a signal ends it.

    Raises:
        ConfigError: the port is taken, the address unknown, the token unusable, or there is no such
            model.
        CascadeError: the model could not be loaded.
    """
    token = read_token(settings.token_file)
    bound_heap(keep_feature_maps=check_model(settings) == "torch")
    with listen(settings.host, settings.port) as listener:
        failures: list[Exception] = []

        def stop(error: Exception) -> None:
            failures.append(error)
            server.should_exit = True

        app = create_app(settings, token=token, on_failure=stop)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=PromptConnection,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=bool(settings.trusted_proxy),
                forwarded_allow_ips=list(settings.trusted_proxy),
                timeout_graceful_shutdown=GRACE_S,
                timeout_keep_alive=KEEP_ALIVE_S,
                h11_max_incomplete_event_size=_LARGEST_HEAD,
            )
        )
        _announce(listener, settings, token)
        server.run(sockets=[listener])
    if failures:
        raise failures[0]


def _announce(listener: socket.socket, settings: ServiceSettings, token: str | None) -> None:
    host, port = listener.getsockname()[:2]
    log.info("listening on %s, described at /docs; Ctrl-C stops it", address(host, port))
    if token is None and not _is_loopback(host):
        log.warning(
            "warning: everybody who reaches this address can use the service, and images cross the "
            "network unencrypted; set a token and put a proxy with TLS in front of the service"
        )


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback
