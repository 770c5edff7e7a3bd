"""Does the bookkeeping add up? Looked at again and again while the gateway runs: what must hold between two events.

A violation is a fault of the gateway itself: capacity that leaks away, or a count that would steer requests wrongly. It
is counted, and logged when it is first seen.
"""

import asyncio
import logging
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter

from router.admission.permits import Permits
from router.exchange.pool import Connections
from router.exchange.release import Releases
from router.exchange.warm_up import WarmUps
from router.fleet.fleet import Fleet
from router.supervision import LastResort
from router.telemetry.metrics import PREFIX

log = logging.getLogger(__name__)

INTERVAL_S = 1.0

RULES = ("permits", "leases", "sockets")

LEGS = 2
"""Connections to engines that a request or a warm-up may have."""

LOOKS = 2
"""Connections that an engine's probe and scrape may take."""

SPARE = 2
"""Probes under way of engines that have just left the fleet."""


class Audit:
    """Looks at what is held for requests."""

    def __init__(
        self,
        fleet: Fleet,
        permits: Permits,
        connections: Connections,
        releases: Releases,
        warm_ups: WarmUps,
        registry: CollectorRegistry,
    ) -> None:
        self._fleet = fleet
        self._permits = permits
        self._connections = connections
        self._releases = releases
        self._warm_ups = warm_ups
        self._seen: set[str] = set()
        self._violations = Counter(
            f"{PREFIX}_invariant_violations", "What must hold and did not, once a look.", ("rule",), registry=registry
        )
        for rule in RULES:
            self._violations.labels(rule)

    async def run(self) -> None:
        """Look until cancelled."""
        last_resort = LastResort("audit")
        while True:
            await asyncio.sleep(INTERVAL_S)
            with last_resort.turn():
                self.look()

    def look(self) -> None:
        """Count and tell what does not hold now."""
        for rule, what in self.violations():
            self._violations.labels(rule).inc()
            if what not in self._seen:
                self._seen.add(what)
                log.error("the bookkeeping does not add up", extra={"facts": {"rule": rule, "what": what}})

    def violations(self) -> Iterator[tuple[str, str]]:
        """What does not hold now: the rule and the case."""
        for backend in self._fleet.backends:
            load, taken = backend.load, self._permits.requests(backend)
            if taken != load.requests:
                yield "permits", f"{backend.id}: {taken} permits for {load.requests} requests"
            counts = (load.requests, load.tokens, load.local_tokens, backend.standing.on_trial)
            if min(counts) < 0 or (not load.requests and any(counts)):
                yield "leases", f"{backend.id}: requests, tokens, local tokens, on trial are {counts}"
        requests = sum(backend.load.requests for backend in self._fleet.backends)
        looks = LOOKS * len(self._fleet.backends)
        allowed = LEGS * (requests + self._warm_ups.open) + self._releases.open + looks + SPARE
        if (busy := self._connections.open - self._connections.idle) > allowed + self._leaving():
            yield "sockets", f"{busy} connections to engines are in use where {allowed} can be"

    def _leaving(self) -> int:
        """Requests that engines still have which have left the fleet."""
        gone = self._permits.all_requests - sum(self._permits.requests(backend) for backend in self._fleet.backends)
        return LEGS * gone
