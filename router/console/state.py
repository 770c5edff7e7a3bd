"""What does the console show? One bounded JSON tree of the fleet as it stands and of the last minutes."""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from router.admission.line import Line
from router.admission.permits import Permits
from router.console.recent import LATELY_SLOTS, SLOT_S, SLOTS, Recent, Slot, percentiles
from router.console.verdict import PoolNow, verdict
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.fleet.pairs import Pairs
from router.routing.disaggregation import MISSED
from router.routing.modes import Modes
from router.scaling.autoscaler import Autoscaler
from router.settings.engines import Role
from router.telemetry.events import Clock

FRESH_S = 0.5
"""However many people look, the tree is made twice a second at most."""

NOW_SLOTS = 3
"""Ten to fifteen seconds: what the verdict is of, beside what is the case at this moment, lest it flickers."""

SILENT_AFTER_S = 3.0
"""Three scrapes: an engine that has requests, and whose counters stand still for so long, may hang."""

MAX_ENGINES, MAX_MODELS, MAX_PAIRS, MAX_DECISIONS = 128, 8, 256, 16
"""Of each pool, engine, and of the flow; what there is beyond is only counted."""


@dataclass(slots=True)
class Busy:
    """Since when engines have had work, as far as somebody looked."""

    since: dict[str, float] = field(default_factory=dict)
    looked_at: float = -math.inf

    def look(self, backends: Sequence[Backend], now: float) -> None:
        """See which have some now. After a pause nobody knows about in between."""
        before = self.since if now - self.looked_at <= SILENT_AFTER_S else {}
        self.since = {b.id: before.get(b.id, now) for b in backends if _has_work(b)}
        self.looked_at = now

    def silent_s(self, backend: Backend, now: float) -> float | None:
        """How long an engine has shown no sign of work that it has; None when that is not so, or not known."""
        worked_at, busy_since = backend.progress.last_at, self.since.get(backend.id)
        if worked_at is None or busy_since is None:
            return None
        silent_s = now - max(worked_at, busy_since)
        return round(silent_s, 1) if silent_s >= SILENT_AFTER_S else None


def _has_work(backend: Backend) -> bool:
    """Whether requests are on an engine. Those that wait for prefill are counted on their decode engine already, so
    that it is asked itself."""
    if backend.role is Role.PREFILL or backend.progress.gauges is None:
        return backend.load.requests > 0
    return backend.progress.gauges.running + backend.progress.gauges.waiting > 0


@dataclass(slots=True)
class Console:
    """Where the tree comes from; `modes` tells those of the routing."""

    fleet: Fleet
    pairs: Pairs
    permits: Permits
    line: Line
    recent: Recent
    autoscaler: Autoscaler
    modes: Callable[[], Modes]
    clock: Clock
    busy: Busy = field(default_factory=Busy)
    _made: dict[str, Any] = field(default_factory=dict)
    _made_at: float = -math.inf

    def state(self) -> dict[str, Any]:
        """The tree; times ago in seconds, `at` and `troubles` in Unix time."""
        now = self.clock()
        if now - self._made_at >= FRESH_S:
            self._made, self._made_at = self._make(now), now
        return self._made

    def _make(self, now: float) -> dict[str, Any]:
        self.busy.look(self.fleet.backends, now)
        pools = {role.value: self._pool(role, now) for role in Role}
        found = verdict(self._pool_now(role, now) for role in Role)
        lately = self.recent.slots(LATELY_SLOTS)
        return {
            "at": round(time.time(), 1),
            **asdict(self.modes()),
            "verdict": {
                "level": found.level.name.lower(),
                "pool": found.pool.value if found.pool else None,
                "why": found.why,
            },
            "inflight": self.fleet.inflight,
            "pools": pools,
            "lately": _lately(lately),
            "flow": _flow(lately),
            "ttft": self._ttft(),
            "decisions": _decisions(self.recent.slots(SLOTS)),
            "troubles": list(self.recent.troubles),
            "quarantined_pairs": list(self.pairs.quarantined(now))[:MAX_PAIRS],
            "sources": {name: why for name, why in self.fleet.sources.items() if why is not None},
        }

    def _of(self, role: Role) -> list[Backend]:
        return [backend for backend in self.fleet.backends if backend.role is role]

    def _load(self, role: Role) -> float | None:
        loads = [pool.demand.engines for pool in self.autoscaler.pools(role) if pool.demand is not None]
        return sum(loads) if loads else None

    def _pool_now(self, role: Role, now: float) -> PoolNow:
        serving = [backend for backend in self._of(role) if not backend.standing.drained]
        usable = [backend for backend in serving if backend.standing.usable]
        stuck = sum(self.busy.silent_s(backend, now) is not None for backend in usable)
        slots = self.recent.slots(NOW_SLOTS)
        return PoolNow(
            role,
            len(serving),
            len(usable),
            stuck,
            self.line.depth(role),
            self._load(role),
            wait_share=_wait_share(slots, role),
            missed=_missed(slots) if role is Role.PREFILL else 0,
        )

    def _pool(self, role: Role, now: float) -> dict[str, Any]:
        backends = self._of(role)
        free, taken = self.permits.of_pool(backends)
        load = self._load(role)
        desired = [pool.desired.replicas for pool in self.autoscaler.pools(role)]
        return {
            "waiting": self.line.depth(role),
            "permits_taken": taken,
            "permits": None if math.isinf(free) else int(free) + taken,
            "load_engines": None if load is None else round(load, 2),
            "desired": sum(desired) if desired else None,
            "engines": [self._engine(backend, now) for backend in backends[:MAX_ENGINES]],
            "left_out": max(0, len(backends) - MAX_ENGINES),
        }

    def _engine(self, backend: Backend, now: float) -> dict[str, Any]:
        standing, load, gauges = backend.standing, backend.load, backend.progress.gauges
        return {
            "id": backend.id,
            "models": list(backend.models)[:MAX_MODELS],
            "version": backend.identity.version,
            "group": backend.group,
            "state": standing.state.value,
            "why": standing.why,
            "since_s": round(now - standing.since, 1),
            "drained": standing.drained,
            "usable": standing.usable,
            "share": round(standing.share, 2),
            "silent_s": self.busy.silent_s(backend, now),
            "requests": load.requests,
            "tokens": load.tokens,
            "local_tokens": load.local_tokens,
            "permits_taken": self.permits.taken(backend),
            "waiting": gauges.waiting if gauges else None,
            "running": gauges.running if gauges else None,
            "kv_ratio": round(gauges.kv_usage_ratio, 3) if gauges else None,
            "kv_transfers": int(gauges.kv_transfers) if gauges else None,
            "kv_transfer_failures": int(gauges.kv_transfer_failures) if gauges else None,
            "kv_expired": int(gauges.kv_expired) if gauges else None,
        }

    def _ttft(self) -> dict[str, Any]:
        """First tokens over the last minutes, from old to new; None where there was none."""
        last = int(self.clock() / SLOT_S)
        by_number = {slot.number: slot for slot in self.recent.slots(SLOTS)}
        slots = [by_number.get(number) for number in range(last - SLOTS + 1, last + 1)]
        points = [percentiles(slot.ttft_s, 0.5, 0.9) if slot else (None, None) for slot in slots]
        return {"slot_s": SLOT_S, "p50": [p50 for p50, _ in points], "p90": [p90 for _, p90 in points]}


def _wait_share(slots: Sequence[Slot], role: Role) -> float:
    """Which part of the time to first tokens was spent in line for a pool."""
    all_s = sum(sum(slot.stages_s.values()) for slot in slots)
    return sum(slot.stages_s.get(f"wait_{role.value}", 0.0) for slot in slots) / all_s if all_s else 0.0


def _missed(slots: Sequence[Slot]) -> int:
    """How many prompts were computed by decode, as prefill had no room or no engine."""
    return sum(
        count for slot in slots for (route, why), count in slot.decisions.items() if why in MISSED and route != "none"
    )


def _lately(slots: Sequence[Slot]) -> dict[str, Any]:
    """Rates and times of the last minute."""
    window_s = LATELY_SLOTS * SLOT_S
    outcomes = sum((slot.outcomes for slot in slots), Counter[str]())
    streams = sum(slot.streams for slot in slots)
    stages = dict.fromkeys(name for slot in slots for name in slot.stages_s)
    stages_s = {name: sum(slot.stages_s.get(name, 0.0) for slot in slots) for name in stages}
    p50, p90 = percentiles([ttft_s for slot in slots for ttft_s in slot.ttft_s], 0.5, 0.9)
    return {
        "window_s": window_s,
        "outcomes": {str(outcome): count for outcome, count in outcomes.items()},
        "tokens_per_s": round(sum(slot.tokens for slot in slots) / window_s, 1),
        "ttft_p50_s": p50,
        "ttft_p90_s": p90,
        "stages_s": {name: round(sum_s / streams, 4) for name, sum_s in stages_s.items()} if streams else {},
    }


def _flow(slots: Sequence[Slot]) -> dict[str, Any]:
    """Hand-overs of the last minute: how long they took, and between whom."""
    pairs = sum((slot.pairs for slot in slots), Counter[tuple[str, str]]())
    p50, p90 = percentiles([handoff_s for slot in slots for handoff_s in slot.handoff_s], 0.5, 0.9)
    return {
        "handoffs": sum(slot.handoffs for slot in slots),
        "handoff_p50_s": p50,
        "handoff_p90_s": p90,
        "pairs": [[*pair, count] for pair, count in pairs.most_common(MAX_PAIRS)],
    }


def _decisions(slots: Sequence[Slot]) -> list[dict[str, Any]]:
    """Routes by reason over the last minutes, the most frequent first."""
    counts = sum((slot.decisions for slot in slots), Counter[tuple[str, str]]())
    return [{"route": str(r), "reason": why, "count": n} for (r, why), n in counts.most_common(MAX_DECISIONS)]
