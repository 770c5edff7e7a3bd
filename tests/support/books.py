"""Gateways and engines that the running test has made, and whether it leaves them in order.

The support code that makes one enters it here; `tests/conftest.py` looks at all of them at the end of every test.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from router.app import Running, running
from router.assembly import Assembly
from router.settings.tree import Settings
from router.sim.ledger import Ledger

VIOLATIONS = "pd_router_invariant_violations_total"
RULES_AT_ALL_TIMES = ("permits", "leases")
"""Sockets that are being closed count for one more round of the loop: a look at a busy one may find too many."""

ENDINGS = ("pulled", "released", "expired", "lost")
"""How a hand-over's blocks come back to the engine that gave it out."""


@dataclass(eq=False)
class Entry:
    """A gateway, and whether it has stopped; then it holds nothing, not even a connection."""

    app: Assembly
    stopped: bool = False

    def faults(self) -> Iterator[str]:
        """What is wrong with it."""
        yield from (f"{rule}: {what}" for rule, what in self.app.audit.violations())
        for rule in RULES_AT_ALL_TIMES:
            if count := self.app.registry.get_sample_value(VIOLATIONS, {"rule": rule}):
                yield f"{rule} did not hold {count:g} times"
        if self.stopped and (held := held_by(self.app) | sockets_of(self.app)):
            yield f"a gateway that has stopped holds {held}"


@dataclass
class Books:
    """What the running test has made. Gateways that outlive a test stay for the next one."""

    gateways: list[Entry] = field(default_factory=list)
    engines: list[Mapping[str, Any]] = field(default_factory=list)
    ledgers: list[Ledger] = field(default_factory=list)

    def assert_in_order(self) -> None:
        """No gateway broke its own rules or leaks, and every engine knows what became of what it gave out."""
        snapshots = [*self.engines, *(ledger.snapshot() for ledger in self.ledgers)]
        faults = [fault for entry in self.gateways for fault in entry.faults()]
        faults += [fault for snapshot in snapshots for fault in imbalance(snapshot)]
        self.forget()
        assert not faults, "; ".join(faults)

    def forget(self) -> None:
        """Leave out what has ended."""
        self.gateways = [entry for entry in self.gateways if not entry.stopped]
        self.engines, self.ledgers = [], []


BOOKS = Books()


@asynccontextmanager
async def gateway(settings: Settings) -> AsyncIterator[Running]:
    """A gateway that serves while the block lasts, in the books."""
    entries: list[Entry] = []
    try:
        async with running(settings) as started:
            entries = [Entry(started.app)]
            BOOKS.gateways += entries
            yield started
    finally:
        for entry in entries:
            entry.stopped = True


def held_by(app: Assembly) -> dict[str, int]:
    """What a gateway holds for requests, by name; empty when it is quiet. Idle connections and scrapes do not count."""
    busy = app.connections.open - app.connections.idle
    held = {
        "requests": sum(b.load.requests for b in app.fleet.backends),
        "tokens": sum(b.load.tokens for b in app.fleet.backends),
        "permits": app.permits.all_requests,
        "releases": app.releases.open,
        "connections": max(0, busy - app.scraper.open),
    }
    return {name: count for name, count in held.items() if count}


def sockets_of(app: Assembly) -> dict[str, int]:
    """Connections, idle or not, to engines and of clients."""
    sockets = {"sockets to engines": app.connections.open, "sockets of clients": app.data_guards.census.open}
    return {name: count for name, count in sockets.items() if count}


def imbalance(snapshot: Mapping[str, Any]) -> Iterator[str]:
    """Where an engine's ledger does not add up: each hand-over has come back in one way, or is still out."""
    totals = snapshot["totals"]
    back = sum(totals[ending] for ending in ENDINGS)
    out = snapshot["gauges"]["handoffs_open"]
    if totals["issued"] != back + out:
        yield f"of {totals['issued']} hand-overs {back} came back and {out} are out: {totals}"
