"""A token bucket for each client."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

_MOST_CLIENTS = 10_000


class RateLimit:
    """Lets a number of requests a minute pass, evenly after a first burst of as many."""

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
