"""What has an engine handed out, and did it all come back?

The ledger is kept for tests and demonstrations; a real engine has nothing like it. It outlives a simulated restart.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

REMEMBERED_HANDOFFS = 20_000


@dataclass
class HandoffRecord:
    """The story of one set of KV transfer parameters that an engine gave out."""

    request_id: str
    tokens: int
    blocks: int
    pulled: int = 0
    """Times the blocks were read."""
    late_pulls: int = 0
    """Of these, after the blocks were freed: the content may have been somebody else's."""
    ending: str = ""
    """How the blocks came back: `pulled`, `released` (notified without a pull), `expired`, `lost` (a restart)."""


@dataclass
class Gauges:
    """What an engine holds at this moment."""

    requests_running: int = 0
    requests_waiting: int = 0
    exchanges_open: int = 0
    connections_open: int = 0
    handoffs_open: int = 0
    blocks_in_use: int = 0
    blocks_free: int = 0
    blocks_cached: int = 0


@dataclass
class Totals:
    """What happened since the engine was made. `requests` are those of `arrived` that no fault kept out."""

    arrived: int = 0
    requests: int = 0
    completed: int = 0
    refused: int = 0
    failed: int = 0
    aborted: int = 0
    issued: int = 0
    pulled: int = 0
    released: int = 0
    expired: int = 0
    lost: int = 0
    pulled_again: int = 0
    pulled_late: int = 0
    wrong_texts: int = 0
    failed_pulls: int = 0
    deaths: int = 0
    restarts: int = 0
    faults: int = 0


@dataclass
class Ledger:
    """Totals, live gauges (read through `gauges`) and the handoffs by request id, oldest first."""

    gauges: Callable[[], Gauges] = Gauges
    totals: Totals = field(default_factory=Totals)
    handoffs: OrderedDict[str, HandoffRecord] = field(default_factory=OrderedDict)

    def issued(self, request_id: str, tokens: int, blocks: int) -> None:
        """A prefill has ended; its blocks are held for a decode engine."""
        self.totals.issued += 1
        self.handoffs[request_id] = HandoffRecord(request_id, tokens, blocks)
        while len(self.handoffs) > REMEMBERED_HANDOFFS:
            self.handoffs.popitem(last=False)

    def pulled(self, request_id: str) -> None:
        """A decode engine has read the blocks of a handoff."""
        record = self.handoffs.get(request_id)
        if record is None:
            return
        record.pulled += 1
        self.totals.pulled_again += record.pulled > 1
        if record.ending:
            record.late_pulls += 1
            self.totals.pulled_late += 1

    def ended(self, request_id: str, ending: str) -> None:
        """The blocks of a handoff were given back; `ending` as in `HandoffRecord`."""
        setattr(self.totals, ending, getattr(self.totals, ending) + 1)
        record = self.handoffs.get(request_id)
        if record is not None:
            record.ending = ending

    def outstanding(self) -> dict[str, int]:
        """What is still held, by name; empty when the engine is quiet. Idle connections do not count."""
        gauges = self.gauges()
        held = {
            "requests_running": gauges.requests_running,
            "requests_waiting": gauges.requests_waiting,
            "exchanges_open": gauges.exchanges_open,
            "handoffs_open": gauges.handoffs_open,
            "blocks_in_use": gauges.blocks_in_use,
        }
        return {name: count for name, count in held.items() if count}

    def assert_quiet(self) -> None:
        """Raise AssertionError when anything is still held."""
        held = self.outstanding()
        if held:
            raise AssertionError(f"the engine still holds {held}")

    def snapshot(self) -> dict[str, Any]:
        """Everything as JSON-able values, without the single handoffs: `GET /sim/ledger`."""
        return {
            "totals": asdict(self.totals),
            "gauges": asdict(self.gauges()),
            "outstanding": self.outstanding(),
        }
