"""Requests that found no room wait in line, first come, first served, and hold nothing meanwhile.

One line for each model and pool that is short. When a permit comes back the first in line is woken, chooses anew and
takes all that its route needs in the same tick; when there is room for more, it wakes the next. Who had a turn in vain
waits on, in this line or that of the other pool, ahead of all who came later. A line that is full, or so long that a
wait would end in vain, turns newcomers away at once: waiting is only offered where it helps.
"""

import asyncio
import math
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from router.errors import Unavailable
from router.settings.admission import Admission
from router.settings.engines import Role
from router.telemetry.events import Clock

RATE_WINDOW_S = 10.0
"""Over which it is counted how fast room becomes free."""

LONGEST_RETRY_AFTER_S = 60

Key = tuple[str, Role]
"""Model and pool."""


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """One who waits, until `by` at most; `turn` is done once it has been woken."""

    by: float
    turn: asyncio.Future[None]


class Line:
    """All lines of the gateway. Times are loop times."""

    def __init__(self, rules: Admission, clock: Clock) -> None:
        self._rules = rules
        self._clock = clock
        self._lines: dict[Key, deque[Place]] = {}
        self._freed_at: dict[Role, deque[float]] = {}

    def before(self, model: str, pools: Iterable[Role]) -> Role | None:
        """The first of some pools for which others wait already, if any."""
        if self._lines:
            for pool in pools:
                if (model, pool) in self._lines:
                    return pool
        return None

    def depth(self, pool: Role, model: str | None = None) -> int:
        """How many requests wait for a pool, of one model or of all."""
        of_pool = ((waited_for, line) for (waited_for, role), line in self._lines.items() if role is pool)
        return sum(len(line) for waited_for, line in of_pool if model in (None, waited_for))

    async def wait(self, model: str, pool: Role, by: float, *, again: bool = False) -> None:
        """Wait for a turn until `by`; `again`: one was in vain, in any line. Raises `Unavailable` without one."""
        line = self._lines.setdefault((model, pool), deque())
        if not again and self._in_vain(pool, len(line), by):
            self._leave(model, pool, None)
            raise self.refusal(pool)
        place = Place(by, asyncio.get_running_loop().create_future())
        # all have the same patience: whose time is over first came first, and newcomers are the last
        line.insert(bisect_left(line, by, key=_by) if again else len(line), place)
        try:
            async with asyncio.timeout_at(by):
                await place.turn
        except (TimeoutError, asyncio.CancelledError) as ended:
            self._leave(model, pool, place)
            self.call_next(model, pool)  # a turn came too late, or was not given to who lined up behind meanwhile
            if isinstance(ended, TimeoutError):
                raise self.refusal(pool) from None
            raise
        finally:
            self._leave(model, pool, place)

    def call_next(self, model: str, pool: Role) -> None:
        """There may be room: wake the first in line who has not been woken yet."""
        for place in self._lines.get((model, pool), ()):
            if not place.turn.done():
                place.turn.set_result(None)
                return

    def call_all_next(self, model: str) -> None:
        """Wake the first of each line."""
        for waited_for, pool in tuple(self._lines):
            if waited_for == model:
                self.call_next(model, pool)

    def freed(self, models: Iterable[str], pool: Role) -> None:
        """An engine of a pool has room for one more request."""
        freed_at = self._freed_at.setdefault(pool, deque(maxlen=4096))
        freed_at.append(self._clock())
        self.call_first(models, pool)

    def call_first(self, models: Iterable[str], pool: Role) -> None:
        """There may be room for a request of any of these models."""
        if self._lines:
            for model in models:
                self.call_next(model, pool)

    def refusal(self, pool: Role) -> Unavailable:
        """What is said to who cannot wait, with the time in which the line is likely to have moved on."""
        wait_s = self._estimate_s(pool, self.depth(pool) + 1)
        retry_after_s = min(max(1, math.ceil(wait_s)), LONGEST_RETRY_AFTER_S)
        return Unavailable(f"no {pool} engine is free", code=f"{pool.value}_saturated", retry_after_s=retry_after_s)

    def _in_vain(self, pool: Role, ahead: int, by: float) -> bool:
        """Places become free at random: that many may well take as long as so many and their root."""
        places = ahead + 1 + math.sqrt(ahead)
        return ahead >= self._rules.queue_size or self._clock() + self._estimate_s(pool, places) > by

    def _estimate_s(self, pool: Role, places: float) -> float:
        """How long it takes until so many places are free, by how many were of late; 0 while nothing is known."""
        freed_at = self._freed_at.get(pool)
        now = self._clock()
        while freed_at and freed_at[0] < now - RATE_WINDOW_S:
            freed_at.popleft()
        if not freed_at or len(freed_at) < 2:
            return 0.0
        return places * (now - freed_at[0]) / len(freed_at)

    def _leave(self, model: str, pool: Role, place: Place | None) -> None:
        line = self._lines.get((model, pool))
        if line is None:
            return
        if place is not None and place in line:
            line.remove(place)
        if not line:
            del self._lines[model, pool]

    def __repr__(self) -> str:
        return f"<Line {sum(map(len, self._lines.values()))} waiting>"


def _by(place: Place) -> float:
    return place.by
