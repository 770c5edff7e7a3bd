"""Who goes first when more come than can be served? The gateway's line beside others, on a clock that jumps.

Some of the clients have less patience than the line lets them wait. `pytest -s` prints the table that is in
docs/decisions/0032-the-line.md.
"""

import asyncio
import random
from dataclasses import dataclass, field
from unittest.mock import patch

import pytest

from router.admission.line import Line
from router.errors import Unavailable
from router.settings.admission import Admission
from router.settings.engines import Role
from tests.support.process_rows import share
from tests.support.virtual_time import virtual_time

PERMITS, ANSWER_S = 20, 0.5
CAPACITY_PER_S = PERMITS / ANSWER_S
WARM_UP_S, FOR_S = 15.0, 30.0
LONGEST_WAIT_S = 10.0
PATIENCE_S = (1.0, 20.0)
SOON_S = 0.02
ROOMY = Admission(queue_size=1 << 20)


class FirstFirst(Line):
    """First come, first served, and whoever comes may wait."""

    def _in_vain(self, pool: Role, ahead: int, by: float) -> bool:
        del pool, by
        return ahead >= self._rules.queue_size


class Controlled(Line):
    """The gateway's; once the line has not been empty for a second, a wait may last a second only (as CoDel does)."""

    _empty_at = 0.0

    def _in_vain(self, pool: Role, ahead: int, by: float) -> bool:
        now = self._clock()
        if not ahead:
            self._empty_at = now
        return super()._in_vain(pool, ahead, min(by, now + 1) if now > self._empty_at + 1 else by)


class LastFirst(FirstFirst):
    """Last come, first served, and whoever comes may wait."""

    def call_next(self, model: str, pool: Role) -> None:
        """Wake the last in line who has not been woken yet."""
        waiting = [place for place in self._lines.get((model, pool), ()) if not place.turn.done()]
        if waiting:
            waiting[-1].turn.set_result(None)


class Adaptive(LastFirst):
    """Last come, first served once the line has not been empty for a second; first come, first served before."""

    _empty_at = 0.0

    def call_next(self, model: str, pool: Role) -> None:
        """Wake the last, or the first."""
        now = self._clock()
        if (model, pool) not in self._lines:
            self._empty_at = now
        wake = LastFirst.call_next if now > self._empty_at + 1 else Line.call_next
        wake(self, model, pool)


@dataclass
class Came:
    """What became of clients that came after the warm-up."""

    waited_s: list[float] = field(default_factory=list)
    told_after_s: list[float] = field(default_factory=list)
    left_after_s: list[float] = field(default_factory=list)
    began: int = 0
    """Answers in the time, whenever their clients came."""

    @property
    def in_vain(self) -> float:
        """The share of all clients who waited for nothing."""
        waited = [s for s in (*self.told_after_s, *self.left_after_s) if s > SOON_S]
        return len(waited) / len([*self.waited_s, *self.told_after_s, *self.left_after_s])

    @property
    def served(self) -> float:
        """Answers as a share of what could be answered."""
        return self.began / FOR_S / CAPACITY_PER_S


class Pool:
    """Engines with some permits, and the line before them, used as the gateway does."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.free = PERMITS

    async def enter(self) -> None:
        """Take a permit, after a wait in line if need be."""
        by, waited = asyncio.get_running_loop().time() + LONGEST_WAIT_S, False
        while not self.free or not (waited or self.line.before("m", [Role.DECODE]) is None):
            await self.line.wait("m", Role.DECODE, by, again=waited)
            waited = True
        self.free -= 1
        if waited:
            self.line.call_next("m", Role.DECODE)

    def leave(self) -> None:
        """Give a permit back."""
        self.free += 1
        self.line.freed(["m"], Role.DECODE)


async def crowd(discipline: type[Line], times: float) -> Came:
    """So many times more clients than can be served."""
    loop, rng, came = asyncio.get_running_loop(), random.Random(1), Came()
    pool = Pool(discipline(ROOMY, loop.time))
    warm_at = loop.time() + WARM_UP_S

    async def client() -> None:
        since, answer_s = loop.time(), rng.expovariate(1 / ANSWER_S)
        ended = came if since > warm_at else Came()
        try:
            async with asyncio.timeout(rng.uniform(*PATIENCE_S)):
                await pool.enter()
        except Unavailable:
            ended.told_after_s.append(loop.time() - since)
            return
        except TimeoutError:
            ended.left_after_s.append(loop.time() - since)
            return
        ended.waited_s.append(loop.time() - since)
        came.began += warm_at < loop.time() < warm_at + FOR_S
        await asyncio.sleep(answer_s)
        pool.leave()

    async with asyncio.TaskGroup() as group:
        while loop.time() < warm_at + FOR_S:
            group.create_task(client())
            await asyncio.sleep(rng.expovariate(times * CAPACITY_PER_S))
    return came


@pytest.mark.parametrize("times", [1.2, 2, 10])
@patch("tests.support.virtual_time.GRACE_S", 0)
@virtual_time
async def test_who_is_served_is_as_many_and_hardly_anybody_waits_in_vain(times: float) -> None:
    came = {line: await crowd(line, times) for line in (Line, FirstFirst, LastFirst, Adaptive, Controlled)}
    for line, one in came.items():
        p50_s, p99_s = share(one.waited_s, 0.5), share(one.waited_s, 0.99)
        figures = f"served {one.served:.2f}, in vain {one.in_vain:.1%}, waited p50 {p50_s:.2f} p99 {p99_s:.2f} s"
        print(f"{times:g} times: {line.__name__:10} {figures}")
    ours, shortened = came.pop(Line), came.pop(Controlled)
    assert shortened.served == pytest.approx(ours.served, abs=0.05), "no capacity is lost or won by a shorter line"
    assert ours.served > 0.95 * max(other.served for other in came.values())
    assert all(ours.in_vain <= other.in_vain for other in came.values())
    assert ours.in_vain < 0.25
