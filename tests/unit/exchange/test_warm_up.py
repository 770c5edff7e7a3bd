import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest

from router.errors import (
    BadHandoff,
    ConnectFailed,
    ConnectionLost,
    EngineError,
    EngineRefusal,
    EngineTimeout,
    Leg,
    RequestError,
)
from router.exchange.rehearsal import Rehearsal, Rehearsed
from router.exchange.warm_up import RETRY_S, WarmUps
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.fleet.pairs import Pairs
from router.settings.fleet import PairRules
from tests.support.builders import a_backend
from tests.support.virtual_time import virtual_time

TAKES_S = 0.5


class Site:
    """Warm-ups over engines that answer as told, in half a second each."""

    def __init__(self, *backends: Backend) -> None:
        self.fleet = Fleet(backends)
        self.pairs = Pairs(PairRules(failures=2, quarantine_s=60))
        self.outcomes = Counter[str]()
        self.met: list[tuple[str, str]] = []
        self.under_way = Counter[Backend]()
        self.most_at_once = 0
        self.errors: dict[tuple[str, str], RequestError] = {}
        self.now = asyncio.get_running_loop().time
        self.warm_ups = WarmUps(self.fleet, self.pairs, cast("Rehearsal", self), self.may_pair, self.now, self)

    def may_pair(self, prefill: Backend, decode: Backend) -> bool:
        return prefill.group == decode.group and self.pairs.usable(prefill.id, decode.id, self.now())

    def warmed_up(self, outcome: str) -> None:
        self.outcomes[outcome] += 1

    async def of(self, prefill: Backend, decode: Backend, _model: str, _request_id: str) -> Rehearsed:
        """In place of a rehearsal."""
        self.under_way.update((prefill, decode))
        self.most_at_once = max(self.most_at_once, *self.under_way.values())
        try:
            await asyncio.sleep(TAKES_S)
        finally:
            self.under_way.subtract((prefill, decode))
        self.met.append((prefill.id[-1], decode.id[-1]))
        if error := self.errors.get((prefill.id[-1], decode.id[-1])):
            raise error
        return Rehearsed(9, 0.1, 0.1)

    @asynccontextmanager
    async def running(self, for_s: float = 5) -> AsyncIterator[None]:
        """The block, once the warm-ups have run for a while."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.warm_ups.run())
            await asyncio.sleep(for_s)
            yield
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def p(number: int, **settings: Any) -> Backend:
    return a_backend("prefill", 8000 + number, **settings)


def d(number: int, **settings: Any) -> Backend:
    return a_backend("decode", 8000 + number, **settings)


@virtual_time
async def test_every_pair_meets_once_one_at_a_time_on_each_engine() -> None:
    here = Site(p(1), p(2), d(3), d(4), d(5))
    async with here.running():
        assert sorted(here.met) == [(a, b) for a in "12" for b in "345"]
    assert (here.most_at_once, here.outcomes) == (1, {"ok": 6})
    assert here.pairs.warm_ups(0) == {"warm": 6, "cold": 0, "failed": []}


@virtual_time
async def test_pairs_meet_side_by_side() -> None:
    here = Site(*(p(n) for n in (1, 2, 3)), *(d(n) for n in (4, 5, 6)))
    async with here.running(for_s=5 * TAKES_S + 0.1):  # one after the other would take nine times
        assert len(here.met) == 9


@virtual_time
async def test_a_pair_is_cold_until_it_has_met() -> None:
    here = Site(p(1), d(2), d(3))
    async with here.running(for_s=TAKES_S / 2):
        assert here.pairs.cold == {("127.0.0.1:8001", "127.0.0.1:8002"), ("127.0.0.1:8001", "127.0.0.1:8003")}
        assert here.warm_ups.open == 1
        await asyncio.sleep(TAKES_S)
        assert here.pairs.cold == {("127.0.0.1:8001", "127.0.0.1:8003")}
    assert (here.pairs.cold, here.warm_ups.open) == (set(), 0)
    assert not +here.under_way


@virtual_time
async def test_pairs_form_inside_a_group_and_for_a_model_of_both() -> None:
    here = Site(p(1, group="red"), d(2, group="red"), d(3, group="blue"), d(4, group="red"))
    here.fleet.backends[3].models = {}
    async with here.running():
        assert here.met == [("1", "2")]


@virtual_time
async def test_engines_that_are_not_up_or_drained_are_left_alone() -> None:
    down, drained = a_backend("decode", 8002, up=False), d(3)
    drained.standing.drained = True
    here = Site(p(1), down, drained)
    async with here.running():
        assert here.met == []
        drained.standing.drained = False
        down.standing.good_probe(0)
        here.warm_ups.look()
        assert here.warm_ups.open == 1, "at once, without waiting for the next look"
        await asyncio.sleep(5)
        assert sorted(here.met) == [("1", "2"), ("1", "3")]


@virtual_time
async def test_an_engine_that_came_back_is_met_again() -> None:
    here = Site(p(1), d(2))
    async with here.running():
        back = here.fleet.backends[1].standing
        back.bad_probe("gone", 0)
        back.good_probe(0)
        await asyncio.sleep(5)
        assert here.met == [("1", "2")] * 2


@virtual_time
async def test_so_is_one_that_hands_over_under_a_new_id() -> None:
    here = Site(p(1), d(2))
    async with here.running():
        here.fleet.backends[0].kv_peers["new"] = ("127.0.0.1", 5600)
        await asyncio.sleep(5)
        assert here.met == [("1", "2")] * 2


@virtual_time
async def test_an_engine_that_left_meanwhile_leaves_nothing_behind() -> None:
    here = Site(p(1), d(2))
    async with here.running(for_s=TAKES_S / 2):
        here.fleet.backends = here.fleet.backends[:1]
        await asyncio.sleep(5)
        assert (here.pairs.meetings, here.pairs.cold) == ({}, set())


BROKEN = "engine answered 500"


@pytest.mark.parametrize(
    ("error", "outcome", "counts"),
    [
        (EngineError(BROKEN).in_leg(Leg.DECODE), "engine_error", True),
        (EngineTimeout("slow").in_leg(Leg.DECODE), "timeout", True),
        (EngineError(BROKEN, 503).in_leg(Leg.DECODE), "engine_error", False),
        (EngineError(BROKEN).in_leg(Leg.PREFILL), "engine_error", False),
        (EngineTimeout("slow").in_leg(Leg.PREFILL), "timeout", False),
        (BadHandoff("no host").in_leg(Leg.PREFILL), "bad_handoff", False),
        (ConnectFailed("refused").in_leg(Leg.DECODE), "connect_failed", False),
        (ConnectionLost("gone").in_leg(Leg.DECODE), "connection_lost", False),
    ],
)
def test_failures_are_the_pairs_where_they_can_be(error: RequestError, outcome: str, counts: bool) -> None:
    @virtual_time
    async def run() -> None:
        here = Site(p(1), d(2), d(3))
        here.errors["1", "2"] = error
        async with here.running(for_s=2 * TAKES_S + 0.1):
            assert here.outcomes == {outcome: 1, "ok": 1}
            assert here.pairs.cold == set()
            (failed,) = here.pairs.warm_ups(here.now())["failed"]
            assert (failed["prefill"], failed["decode"]) == ("127.0.0.1:8001", "127.0.0.1:8002")
            assert str(error.detail) in failed["why"]
            await asyncio.sleep(RETRY_S + 2)
            assert here.outcomes[outcome] == 2
            assert here.pairs.usable("127.0.0.1:8001", "127.0.0.1:8002", here.now()) is not counts

    run()


@virtual_time
async def test_a_quarantined_pair_is_tried_again_after_it_not_before() -> None:
    here = Site(p(1), d(2))
    here.errors["1", "2"] = EngineError(BROKEN).in_leg(Leg.DECODE)
    async with here.running(for_s=RETRY_S + 50):
        assert len(here.met) == 2
        del here.errors["1", "2"]
        await asyncio.sleep(20)
        assert len(here.met) == 3
        assert here.pairs.warm_ups(0)["failed"] == []


@virtual_time
async def test_what_an_engine_refuses_is_not_asked_again() -> None:
    here = Site(p(1), d(2))
    here.errors["1", "2"] = EngineRefusal(400, b"{}")
    async with here.running(for_s=100):
        assert (len(here.met), here.outcomes) == (1, {"refused": 1})
        assert here.pairs.usable("127.0.0.1:8001", "127.0.0.1:8002", here.now())


@virtual_time
async def test_nothing_is_started_before_it_runs_or_after() -> None:
    here = Site(p(1), d(2))
    here.warm_ups.look()
    async with here.running(for_s=TAKES_S / 2):
        pass
    here.warm_ups.look()
    await asyncio.sleep(5)
    assert (here.met, here.pairs.cold) == ([], set())
