"""Each row of the table in router/retries.py, and that tries end."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import (
    BadAnswer,
    BadHandoff,
    ConnectFailed,
    ConnectionLost,
    EngineError,
    EngineFault,
    EngineTimeout,
    ErrorEvent,
    Leg,
    OutOfFiles,
    OutOfTime,
    OversizedAnswer,
)
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.fleet.pairs import Pairs
from router.fleet.standing import State
from router.retries import Retries, Tries
from router.routing.route import Route
from router.settings.engines import Role
from router.settings.fleet import PairRules
from router.telemetry.events import Journey, Observers, RouteKind
from tests.support.builders import MODEL, a_backend, a_retries
from tests.support.virtual_time import virtual_time

FAULTS = [
    ConnectFailed("x"),
    OutOfFiles("x"),
    ConnectionLost("x"),
    EngineTimeout("x"),
    EngineError("x"),
    EngineError("x", 503),
    ErrorEvent("x"),
    BadAnswer("x"),
    BadHandoff("x"),
]


class Site:
    """Two pools and a request that was routed over the first engine of each."""

    def __init__(self, prefill: int = 2, decode: int = 2, **rules: Any) -> None:
        self.prefill = [a_backend(Role.PREFILL, 100 + i) for i in range(prefill)]
        self.decode = [a_backend(Role.DECODE, 200 + i) for i in range(decode)]
        self.fleet = Fleet([*self.prefill, *self.decode])
        self.pairs = Pairs(PairRules())
        self.retries: Retries = a_retries(self.fleet, pairs=self.pairs, **rules)
        self.tries = self.retries.begin(MODEL, 0.0)
        self.journey = Journey("r-1", "chat", 0.0, lambda: 0.0, Observers())

    async def fails(self, fault: EngineFault, leg: Leg, prefill: Backend | None, decode: Backend) -> Tries:
        """One try on these engines fails in a leg; what the next one is to keep to."""
        kind = RouteKind.DISAGGREGATED if prefill else RouteKind.LOCAL
        self.journey.chosen(kind, "why", decode.id, prefill.id if prefill else None)
        await self.retries.after(fault.in_leg(leg), Route(kind, decode, prefill, "why"), self.tries, self.journey)
        return self.tries


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
async def test_a_failed_prefill_goes_to_another_engine(fault: EngineFault) -> None:
    here = Site()
    tries = await here.fails(fault, Leg.PREFILL, here.prefill[0], here.decode[0])
    assert (tries.avoid, tries.local, here.journey.retries) == (frozenset({here.prefill[0]}), False, 1)


async def test_without_another_prefill_engine_decode_computes() -> None:
    here = Site(prefill=1)
    tries = await here.fails(EngineError("x"), Leg.PREFILL, here.prefill[0], here.decode[0])
    assert (tries.local, here.journey.fallback_reason, here.journey.route) == (True, "engine_error", RouteKind.LOCAL)


async def test_after_the_last_prefill_try_decode_computes() -> None:
    here = Site(prefill=5, prefill_tries=2)
    await here.fails(EngineError("x"), Leg.PREFILL, here.prefill[0], here.decode[0])
    tries = await here.fails(EngineError("x"), Leg.PREFILL, here.prefill[1], here.decode[0])
    assert (len(tries.avoid), tries.local) == (2, True)


async def test_or_the_request_fails_where_the_settings_say_so() -> None:
    here = Site(prefill=1)
    object.__setattr__(here.retries, "fails_without_prefill", True)
    with pytest.raises(EngineError) as caught:
        await here.fails(EngineError("x"), Leg.PREFILL, here.prefill[0], here.decode[0])
    assert not caught.value.tries_used_up


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
async def test_a_failed_decode_goes_elsewhere(fault: EngineFault) -> None:
    here = Site()
    tries = await here.fails(fault, Leg.DECODE, here.prefill[0], here.decode[0])
    assert (tries.avoid, tries.local) == (frozenset({here.decode[0]}), False)


async def test_the_only_decode_engine_gets_the_request_once_more_without_a_hand_over() -> None:
    here = Site(decode=1)
    tries = await here.fails(ErrorEvent("x"), Leg.DECODE, here.prefill[0], here.decode[0])
    assert (tries.avoid, tries.local) == (frozenset(), True)


async def test_tries_end_and_the_client_is_told_that_they_were_made() -> None:
    here = Site(decode=5, decode_tries=3)
    for decode in here.decode[:2]:
        await here.fails(EngineTimeout("x"), Leg.DECODE, None, decode)
    with pytest.raises(EngineTimeout) as caught:
        await here.fails(EngineTimeout("x"), Leg.DECODE, None, here.decode[2])
    assert caught.value.tries_used_up


async def test_nothing_is_tried_again_once_an_answer_has_begun() -> None:
    here = Site()
    here.journey.committed()
    with pytest.raises(ConnectionLost):
        await here.fails(ConnectionLost("x"), Leg.DECODE, None, here.decode[0])
    assert here.journey.retries == 0


@pytest.mark.parametrize("leg", Leg)
@pytest.mark.parametrize("engines", [1, 2])
async def test_nothing_is_tried_again_when_the_requests_time_is_over(leg: Leg, engines: int) -> None:
    here = Site(engines, engines)
    here.retries = replace(here.retries, clock=lambda: here.retries.total_s)
    with pytest.raises(EngineTimeout):
        await here.fails(EngineTimeout("x"), leg, here.prefill[0], here.decode[0])
    assert (here.journey.retries, here.journey.fallback_reason) == (0, None)


@pytest.mark.parametrize("leg", Leg)
@pytest.mark.parametrize("fault", [OversizedAnswer("x"), OutOfTime("x")], ids=repr)
async def test_what_no_engine_could_do_better_is_the_end_and_not_the_engines_fault(
    fault: EngineFault, leg: Leg
) -> None:
    here = Site(reserve=9)
    for _ in range(3):
        here.tries = here.retries.begin(MODEL, 0.0)
        with pytest.raises(type(fault)):
            await here.fails(fault, leg, here.prefill[0], here.decode[0])
    assert {b.standing.state for b in here.fleet.backends} == {State.UP}
    assert (here.journey.retries, here.journey.fallback_reason) == (0, None)


async def test_the_budget_bounds_all_requests_but_for_one_lost_connection_each() -> None:
    here = Site(decode=5, share=0, reserve=0)
    with pytest.raises(EngineError):
        await here.fails(EngineError("x"), Leg.DECODE, None, here.decode[0])
    here.tries = here.retries.begin(MODEL, 0.0)
    await here.fails(ConnectionLost("x"), Leg.DECODE, None, here.decode[1])
    with pytest.raises(ConnectionLost):
        await here.fails(ConnectionLost("x"), Leg.DECODE, None, here.decode[2])


# Whose fault


async def test_a_hand_over_that_could_not_be_loaded_is_the_pairs_fault() -> None:
    here = Site(decode=1)
    for _ in range(2):
        here.tries = here.retries.begin(MODEL, 0.0)
        await here.fails(ErrorEvent("x"), Leg.DECODE, here.prefill[0], here.decode[0])
    assert not here.pairs.usable(here.prefill[0].id, here.decode[0].id, 0.0)
    assert here.pairs.usable(here.prefill[1].id, here.decode[0].id, 0.0)
    assert {b.standing.state for b in here.fleet.backends} == {State.UP}


async def test_an_error_in_mid_stream_is_the_engines_fault() -> None:
    here = Site()
    for _ in range(3):
        here.journey = Journey("r-1", "chat", 0.0, lambda: 0.0, Observers())
        here.journey.committed()
        with pytest.raises(ErrorEvent):
            await here.fails(ErrorEvent("x"), Leg.DECODE, here.prefill[0], here.decode[0])
    assert here.decode[0].standing.state is State.EJECTED
    assert here.pairs.usable(here.prefill[0].id, here.decode[0].id, 0.0)


async def fail_often(here: Site, fault: EngineFault, leg: Leg) -> None:
    for _ in range(3):
        here.tries = here.retries.begin(MODEL, 0.0)
        await here.fails(fault, leg, here.prefill[0], here.decode[0])


@pytest.mark.parametrize(
    ("fault", "state"),
    [
        (ConnectFailed("x"), State.DOWN),
        (OutOfFiles("x"), State.UP),
        (ConnectionLost("x"), State.EJECTED),
        (EngineTimeout("x"), State.EJECTED),
        (EngineError("x"), State.EJECTED),
        (EngineError("x", 503), State.UP),
        (BadAnswer("x"), State.EJECTED),
        (BadHandoff("x"), State.EJECTED),
    ],
    ids=repr,
)
@pytest.mark.parametrize("leg", Leg)
async def test_the_engine_that_failed_is_taken_out_and_no_other(leg: Leg, fault: EngineFault, state: State) -> None:
    here = Site(reserve=9)
    await fail_often(here, fault, leg)
    engine = here.prefill[0] if leg is Leg.PREFILL else here.decode[0]
    assert engine.standing.state is state
    assert {b.standing.state for b in here.fleet.backends if b is not engine} == {State.UP}


@pytest.mark.parametrize(("worked_at", "state"), [(None, State.EJECTED), (4.0, State.EJECTED), (6.0, State.UP)])
async def test_two_timeouts_without_a_sign_of_work_are_enough(worked_at: float | None, state: State) -> None:
    here = Site(reserve=9)
    engine = here.decode[0]
    engine.progress.last_at = worked_at
    for _ in range(2):
        here.tries = here.retries.begin(MODEL, 0.0)
        await here.fails(EngineTimeout("x", waited_since=5.0), Leg.DECODE, here.prefill[0], engine)
    assert engine.standing.state is state


async def test_no_more_than_half_a_pool_is_taken_out_for_failed_requests() -> None:
    here = Site(decode=2, reserve=9)
    await fail_often(here, EngineError("x"), Leg.DECODE)
    here.decode.reverse()
    await fail_often(here, EngineError("x"), Leg.DECODE)
    assert [b.standing.state for b in here.decode] == [State.UP, State.EJECTED]


async def test_success_is_told_to_the_engines_that_had_a_part() -> None:
    here = Site()
    route = Route(RouteKind.DISAGGREGATED, here.decode[0], here.prefill[0], "why")
    for engine in (here.prefill[0], here.decode[0]):
        for _ in range(2):
            engine.standing.failed("timeout", 0.0, can_be_spared=True)
    here.journey.chosen(route.kind, "why", route.decode.id, "p")
    here.retries.worked(route, here.journey)
    for engine in (here.prefill[0], here.decode[0]):
        assert not engine.standing.failed("timeout", 0.0, can_be_spared=True)


@given(st.lists(st.tuples(st.sampled_from(range(len(FAULTS))), st.sampled_from(Leg)), min_size=12, max_size=12))
def test_tries_are_bounded_whatever_fails(events: list[tuple[int, Leg]]) -> None:
    async def run() -> int:
        here = Site(prefill=9, decode=9, reserve=99)
        fresh = {Leg.PREFILL: iter(here.prefill), Leg.DECODE: iter(here.decode)}
        for number, leg in events:
            prefill = None if here.tries.local else next(fresh[Leg.PREFILL])
            failing = Leg.DECODE if prefill is None else leg
            try:
                await here.fails(FAULTS[number], failing, prefill, next(fresh[Leg.DECODE]))
            except EngineFault:
                break
        return here.journey.retries

    assert asyncio.run(run()) <= 2 + 3


def test_every_fault_is_in_the_table() -> None:
    kinds, below = {OutOfTime, OversizedAnswer, *(type(fault) for fault in FAULTS)}, [EngineFault]
    for kind in below:
        below.extend(kind.__subclasses__())
    assert kinds == set(below[1:])


# Who hears of it


class Heard:
    """A site at 7 s whose engines' changes are noted."""

    def __init__(self, **rules: Any) -> None:
        self.site = Site(**rules)
        self.engines: list[Backend] = []
        self.site.retries = replace(self.site.retries, notice=self.engines.append, clock=lambda: 7.0)


@pytest.mark.parametrize(
    ("fault", "why"), [(ConnectFailed("x"), "connections are refused"), (EngineTimeout("x"), "timeout, 2 in a row")]
)
async def test_an_engine_that_is_taken_out_is_told_of_with_why_and_since_when(fault: EngineFault, why: str) -> None:
    heard = Heard(reserve=9)
    await fail_often(heard.site, fault, Leg.DECODE)
    (engine,) = heard.engines
    assert engine is heard.site.decode[0]
    assert (engine.standing.why, engine.standing.since) == (why, 7.0)


@pytest.mark.parametrize("leg", Leg)
async def test_an_engine_that_has_no_room_is_full_and_not_broken(leg: Leg) -> None:
    here, full = Site(reserve=9), list[Backend]()
    here.retries = replace(here.retries, full=full.append)
    await fail_often(here, EngineError("x", 503), leg)
    engine = here.prefill[0] if leg is Leg.PREFILL else here.decode[0]
    assert (full, engine.standing.state) == ([engine] * 3, State.UP)


async def test_engines_that_pass_their_trial_are_told_of() -> None:
    heard = Heard()
    here = heard.site
    for engine in (here.prefill[0], here.decode[0]):
        for _ in range(3):
            engine.standing.failed("timeout", 0.0, can_be_spared=True)
        engine.standing.good_probe(5.0)
    route = Route(RouteKind.DISAGGREGATED, here.decode[0], here.prefill[0], "why")
    here.journey.chosen(route.kind, "why", "d", "p")
    for _ in range(2):
        here.retries.worked(route, here.journey)
    assert heard.engines == [here.prefill[0], here.decode[0]]
    assert [engine.standing.since for engine in heard.engines] == [7.0, 7.0]


async def test_a_pair_that_works_is_forgiven_its_failure() -> None:
    here = Site()
    route = Route(RouteKind.DISAGGREGATED, here.decode[0], here.prefill[0], "why")
    here.journey.chosen(route.kind, "why", "d", "p")
    for _ in range(3):
        assert not here.pairs.failed(here.prefill[0].id, here.decode[0].id, 0.0)
        here.retries.worked(route, here.journey)


async def test_a_prefill_engine_whose_hand_over_was_not_used_has_proved_nothing() -> None:
    here = Site()
    for _ in range(2):
        here.prefill[0].standing.failed("timeout", 0.0, can_be_spared=True)
    here.journey.chosen(RouteKind.DISAGGREGATED, "why", "d", "p")
    here.journey.fell_back("over_age", None)
    here.retries.worked(Route(RouteKind.DISAGGREGATED, here.decode[0], here.prefill[0], "why"), here.journey)
    assert here.prefill[0].standing.failed("timeout", 0.0, can_be_spared=True)


async def test_a_retry_is_told_with_its_leg_and_reason() -> None:
    here = Site(prefill=1)
    await here.fails(EngineTimeout("x"), Leg.DECODE, here.prefill[0], here.decode[0])
    assert (here.journey.retry_leg, here.journey.retry_reason) == (Leg.DECODE, "timeout")
    await here.fails(EngineError("why"), Leg.PREFILL, here.prefill[0], here.decode[1])
    assert (here.journey.retry_leg, here.journey.retry_reason) == (Leg.PREFILL, "engine_error")
    assert here.journey.fallback_detail == "why"


# How often, and when


async def test_each_leg_has_its_own_limit() -> None:
    here = Site(decode=5, decode_tries=2, prefill_tries=4)
    await here.fails(EngineTimeout("x"), Leg.DECODE, None, here.decode[0])
    with pytest.raises(EngineTimeout) as caught:
        await here.fails(EngineTimeout("x"), Leg.DECODE, None, here.decode[1])
    assert caught.value.tries_used_up


async def test_as_many_prefill_engines_are_tried_as_the_limit_says() -> None:
    here = Site(prefill=5, prefill_tries=3)
    for prefill in here.prefill[:2]:
        tries = await here.fails(EngineTimeout("x"), Leg.PREFILL, prefill, here.decode[0])
        assert not tries.local
    assert (await here.fails(EngineTimeout("x"), Leg.PREFILL, here.prefill[2], here.decode[0])).local


async def test_every_engine_that_failed_is_avoided() -> None:
    here = Site(prefill=3, decode=3)
    await here.fails(EngineTimeout("x"), Leg.PREFILL, here.prefill[0], here.decode[0])
    tries = await here.fails(EngineTimeout("x"), Leg.DECODE, here.prefill[1], here.decode[0])
    assert tries.avoid == {here.prefill[0], here.decode[0]}


@pytest.mark.parametrize(("fault", "pause_s"), [(EngineTimeout("x"), 2.0), (ConnectionLost("x"), 0.0)])
def test_only_an_engine_that_was_reached_is_given_a_pause(fault: EngineFault, pause_s: float) -> None:
    @virtual_time
    async def test() -> None:
        here, loop = Site(min_pause_s=2, max_pause_s=2), asyncio.get_running_loop()
        began = loop.time()
        await here.fails(fault, Leg.DECODE, None, here.decode[0])
        assert loop.time() - began == pytest.approx(pause_s)

    test()
