"""Is there room for one more connection? Counts of what clients have open, overall and by address.

Each connection may come to need two more to engines; those must still be possible when clients have taken all of
theirs. What is over the limits is shed at once with 503, so that what is within them goes on at full speed.
"""

import ipaddress
import resource
from collections import Counter

from router.errors import Unavailable
from router.telemetry.events import EdgeObserver

FILES_PER_CONNECTION = 3
"""The client's socket, and one to each engine of a hand-over."""

RESERVED_FILES = 64
"""Standard streams, listeners, the loop's own, probes and releases."""

SPARE_CONNECTIONS = 64
"""How many of those over the limit may be open until they have read so; the others are told and cut at once."""

UNLIMITED_FILES = 1 << 20
"""What is reckoned with where there is no limit."""

IPV6_SITE_BITS = 64
"""One client has a /64 of IPv6 addresses at its disposal."""


def raise_file_limit() -> None:
    """Let the process open as many files as its hard limit allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def file_limit() -> int:
    """How many files the process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UNLIMITED_FILES if soft == resource.RLIM_INFINITY else soft


def connections_for(files: int) -> int:
    """How many client connections `files` open files allow, with those to engines."""
    return max(1, (files - RESERVED_FILES) // FILES_PER_CONNECTION)


class Census:
    """The open connections of one listener, overall and by address."""

    def __init__(self, max_connections: int, max_per_address: int | None, observer: EdgeObserver) -> None:
        self._max_connections = max_connections
        self._max_per_address = max_per_address or max(1, max_connections // 2)
        self._observer = observer
        self._by_site: Counter[str] = Counter()
        self.open = 0

    def enter(self, site: str) -> Unavailable | None:
        """Count one more, also when it must go: returns what it is to be told then. Each is to `leave` once."""
        self.open += 1
        self._by_site[site] += 1
        if self.open > self._max_connections:
            return self._refusal("connections", "the gateway has no room for more connections")
        if self._by_site[site] > self._max_per_address:
            return self._refusal("address_connections", "there are too many connections from this address")
        return None

    def leave(self, site: str) -> None:
        """One less."""
        self.open -= 1
        self._by_site[site] -= 1
        if not self._by_site[site]:
            del self._by_site[site]

    @property
    def overrun(self) -> bool:
        """There is not even room to wait until a client has read why."""
        return self.open > self._max_connections + SPARE_CONNECTIONS

    def _refusal(self, reason: str, message: str) -> Unavailable:
        self._observer.shed(reason)
        return Unavailable(message, code=reason)


def site_of(address: str) -> str:
    """What counts as one client's address: an IPv4 address, a network of IPv6.

    On a listener for both, an IPv4 address comes as one of IPv6 that holds it.
    """
    if ":" not in address:
        return address
    ip = ipaddress.IPv6Address(address.split("%", maxsplit=1)[0])
    return str(ip.ipv4_mapped or ipaddress.ip_network((ip, IPV6_SITE_BITS), strict=False))
