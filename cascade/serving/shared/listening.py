"""The socket of a server, and the address of it that a browser takes."""

from __future__ import annotations

import errno
import socket

from cascade.errors import ConfigError


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Args:
        host: address to listen on.
        port: to listen on; 0 takes a free one.

    Raises:
        ConfigError: the address is not one of this machine, or the port is taken.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=256)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            reason = "something else listens there"
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {reason}; choose another --host or --port"
        ) from error


def address(host: str, port: int) -> str:
    """The address of a server for a browser on the same machine."""
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
