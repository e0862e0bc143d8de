"""The process: a socket, uvicorn around the application, and its end."""

from __future__ import annotations

import ipaddress
import logging
import socket

import uvicorn

from cascade.errors import ConfigError
from cascade.serving.rest.api import create_app
from cascade.serving.rest.connections import PromptConnection
from cascade.serving.rest.guard import read_token
from cascade.serving.rest.model import check_model
from cascade.serving.rest.settings import ServiceSettings
from cascade.serving.shared.heap import bound_heap

log = logging.getLogger(__name__)

GRACE_S = 10
"""After a SIGTERM, requests in flight have this long to finish."""

KEEP_ALIVE_S = 15
_LARGEST_HEAD = 16 * 1024


def serve(settings: ServiceSettings) -> None:
    """Serve until a signal ends it.

    Raises:
        ConfigError: the port is taken, the address unknown, the token unusable, or there is no such
            model.
        CascadeError: the model could not be loaded.
    """
    bound_heap()
    token = read_token(settings.token_file)
    check_model(settings)
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


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: the address is not one of this machine, or the port is taken.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=256)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"cannot listen on {host} port {port} ({reason}); choose another --host or --port"
        ) from error


def _announce(listener: socket.socket, settings: ServiceSettings, token: str | None) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    log.info("listening on http://%s:%d, described at /docs; Ctrl-C ends it", shown, port)
    if token is None and not _is_loopback(host):
        log.warning(
            "warning: everybody who reaches this address may use the service, and images cross the "
            "network unencrypted; set a token and put a proxy with TLS before it"
        )


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback
