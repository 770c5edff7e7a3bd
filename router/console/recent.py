"""What happened in the last minutes? Kept in few, bounded pieces for whoever looks; an observer of journeys.

Nothing here holds a word of a client: no prompt, answer, key or header, and no message of an engine, which may quote
them. Requests are named by the gateway's own ids.
"""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from router.errors import EngineFault, Outcome
from router.telemetry.events import Clock, Journey, RouteKind, Stage

SLOT_S = 5.0
SLOTS = 60
"""Five minutes."""

LATELY_SLOTS = 12
"""A minute: what a rate or a mean is of."""

MAX_TIMES = 256
"""First tokens that a slot keeps; of more, the last ones."""

MAX_PAIRS = 1024
"""Pairs of engines whose hand-overs a slot counts."""

MAX_TROUBLES = 40


@dataclass(slots=True)
class Slot:
    """What happened within `SLOT_S`. `stages_s` are sums over the streams of which `ttft_s` are the first tokens.

    `pairs` are those of its `handoffs`.
    """

    number: int
    ttft_s: list[float] = field(default_factory=list)
    streams: int = 0
    stages_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    outcomes: Counter[str] = field(default_factory=Counter)
    decisions: Counter[tuple[str, str]] = field(default_factory=Counter)
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    handoffs: int = 0
    handoff_s: list[float] = field(default_factory=list)
    tokens: int = 0


class Recent:
    """The last minutes, slot by slot, and the last troubles."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._slots: deque[Slot] = deque(maxlen=SLOTS)
        self._last = Slot(number=-1)
        self.troubles: deque[dict[str, Any]] = deque(maxlen=MAX_TROUBLES)
        """The newest first. What clients did wrong is none."""
        self.notes = {
            Stage.CHOSEN: self._chosen,
            Stage.RETRIED: self._retried,
            Stage.FELL_BACK: self._fell_back,
            Stage.COMMITTED: self._committed,
            Stage.SETTLED: self._settled,
        }

    def slots(self, count: int) -> list[Slot]:
        """The last slots, from old to new; those in which nothing happened are left out."""
        oldest = int(self._clock() / SLOT_S) - count
        return [slot for slot in self._slots if slot.number > oldest]

    def _slot(self) -> Slot:
        number = int(self._clock() / SLOT_S)
        if self._last.number != number:
            self._last = Slot(number)
            self._slots.append(self._last)
        return self._last

    def _chosen(self, journey: Journey) -> None:
        self._slot().decisions[journey.route, journey.reason] += 1

    def _retried(self, journey: Journey) -> None:
        self._trouble(journey, "retried", journey.retry_leg, journey.retry_reason)

    def _fell_back(self, journey: Journey) -> None:
        self._trouble(journey, "fell_back", "prefill", journey.fallback_reason)

    def _committed(self, journey: Journey) -> None:
        """A stream's first token, and where its time went."""
        if not journey.stream:
            return
        slot = self._slot()
        ttft_s, handoff_s = journey.ttft_s or 0.0, journey.handoff_s
        _keep(slot.ttft_s, ttft_s, slot.streams)
        slot.streams += 1
        wait_s = journey.queue_s if journey.queue else 0.0
        if journey.queue:
            slot.stages_s[f"wait_{journey.queue}"] += wait_s
        if handoff_s is None:
            slot.stages_s["alone"] += max(0.0, ttft_s - wait_s)
            return
        slot.stages_s["prefill"] += journey.prefill_s or 0.0
        slot.stages_s["handoff"] += handoff_s
        _keep(slot.handoff_s, handoff_s, slot.handoffs)
        slot.handoffs += 1
        pair = journey.prefill or "", journey.decode or ""
        if pair in slot.pairs or len(slot.pairs) < MAX_PAIRS:
            slot.pairs[pair] += 1

    def _settled(self, journey: Journey) -> None:
        slot, outcome = self._slot(), journey.outcome or Outcome.UPSTREAM_ERROR
        slot.outcomes[outcome] += 1
        slot.tokens += journey.generated_tokens
        if outcome is Outcome.CLIENT_GONE:  # it was not refused
            return
        if journey.route is RouteKind.NONE and journey.reason:
            slot.decisions[journey.route, journey.reason] += 1
        if (error := journey.error) is not None and outcome is not Outcome.CLIENT_ERROR:
            leg = error.leg.value if isinstance(error, EngineFault) and error.leg else None
            self._trouble(journey, "failed", leg, error.reason if isinstance(error, EngineFault) else error.code)

    def _trouble(self, journey: Journey, what: str, leg: str | None, reason: str | None) -> None:
        """One more, or one of its sort once more: a thousand of some sorts must not hide what else there was."""
        kind = {
            "what": what,
            "model": journey.model,
            "reason": reason,
            "leg": leg,
            "engine": {"prefill": journey.prefill, "decode": journey.decode}.get(leg or ""),
            "status": journey.status if what == "failed" else None,
        }
        count = 1
        same = next((one for one in self.troubles if kind.items() <= one.items()), None)
        if same is not None:
            self.troubles.remove(same)
            count += same["count"]
        told = {"at": round(time.time(), 1), "request_id": journey.request_id, "count": count}
        self.troubles.appendleft(kind | told)


def _keep(values: list[float], value: float, seen: int) -> None:
    """One more of at most `MAX_TIMES`, in place of the oldest one when there are so many."""
    if len(values) < MAX_TIMES:
        values.append(value)
    else:
        values[seen % MAX_TIMES] = value


def percentiles(values: Iterable[float], *shares: float) -> Sequence[float | None]:
    """By the nearest rank; None of none."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return [round(ordered[min(last, int(share * len(ordered)))], 4) if ordered else None for share in shares]
