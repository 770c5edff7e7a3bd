import asyncio
import gc
import math
import weakref
from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.admission.line import Line
from router.admission.permits import FULL_S, Permit, Permits, concerned_pools
from router.settings.admission import Admission
from router.settings.engines import Role
from tests.support.builders import MODEL, a_backend
from tests.support.virtual_time import virtual_time

LIMITS = Admission(prefill_permits=1, decode_permits=2)


@pytest.mark.parametrize(("role", "limit"), [(Role.PREFILL, 1), (Role.DECODE, 2), (Role.AGGREGATED, 2)])
def test_each_engine_of_a_pool_has_the_pools_limit(role: Role, limit: int) -> None:
    permits, backend, other = Permits(LIMITS), a_backend(role, 1), a_backend(role, 2)
    for _ in range(limit):
        assert permits.has_room(backend, 10)
        permits.take(backend, 10)
    assert (permits.has_room(backend, 10), permits.has_room(other, 10)) == (False, True)


def test_no_limit_is_no_limit() -> None:
    permits, backend = Permits(Admission(decode_permits=0)), a_backend()
    for _ in range(1000):
        permits.take(backend, 10)
    assert permits.has_room(backend, 10)


def test_a_permit_given_back_makes_room() -> None:
    permits, backend = Permits(LIMITS), a_backend("prefill")
    permit = permits.take(backend, 10)
    permit.release()
    assert (permits.has_room(backend, 10), permits.taken(backend), permit.open) == (True, 0, False)


def test_a_permit_is_given_back_once() -> None:
    permits, backend = Permits(LIMITS), a_backend()
    first, _ = permits.take(backend, 10), permits.take(backend, 10)
    first.release()
    first.release()
    assert permits.taken(backend) == 1


def test_taking_where_there_is_no_room_is_a_mistake() -> None:
    permits, backend = Permits(LIMITS), a_backend("prefill")
    permits.take(backend, 10)
    with pytest.raises(AssertionError, match="no permit left"):
        permits.take(backend, 10)


def test_a_pools_permits_are_counted() -> None:
    permits, pool = Permits(LIMITS), [a_backend(port=1), a_backend(port=2)]
    permits.take(pool[0], 10)
    assert permits.of_pool(pool) == (3.0, 1)
    assert permits.of_pool([]) == (0.0, 0)
    assert Permits(Admission(decode_permits=0)).of_pool(pool) == (math.inf, 0)


def test_what_an_engine_has_free_that_may_not_be_used_is_no_room() -> None:
    permits, pool = Permits(LIMITS), [a_backend(port=port) for port in (1, 2, 3, 4)]
    for backend in pool[:3]:
        permits.take(backend, 10)
    pool[0].standing.drained = True
    for _ in range(10):
        pool[1].standing.bad_probe("no answer", 1.0)
        pool[3].standing.bad_probe("no answer", 1.0)
    assert permits.of_pool(pool) == (1.0, 3)
    assert permits.of_pool(pool[:2]) == (0.0, 2)
    assert Permits(Admission(decode_permits=0)).of_pool(pool[:2]) == (math.inf, 0)


@given(st.lists(st.booleans(), max_size=60), st.randoms(use_true_random=False))
def test_in_any_order_permits_stay_within_limits_and_return_to_zero(takes: list[bool], rng: Random) -> None:
    permits = Permits(LIMITS)
    engines = [a_backend("prefill", 1), a_backend("decode", 2), a_backend("decode", 3)]
    held: list[Permit] = []
    for take in takes:
        engine = rng.choice(engines)
        if take and permits.has_room(engine, 10):
            held.append(permits.take(engine, 10))
        elif held:
            rng.choice(held).release()
        for backend, limit in zip(engines, (1, 2, 2), strict=True):
            out = sum(permit.open for permit in held if permit.backend is backend)
            assert permits.taken(backend) == out <= limit
    for permit in held:
        permit.release()
    assert [permits.taken(engine) for engine in engines] == [0, 0, 0]


def test_their_lines_of_facts() -> None:
    permits = Permits(LIMITS)
    permit = permits.take(a_backend(port=1), 10)
    assert (repr(permit), repr(permits)) == ("<Permit 127.0.0.1:1 open>", "<Permits 1 taken>")
    permit.release()
    assert (repr(permit), repr(permits)) == ("<Permit 127.0.0.1:1 released>", "<Permits 0 taken>")


def test_a_prefill_engines_permits_are_for_tokens() -> None:
    permits = Permits(Admission(prefill_permits=4, prefill_permit_tokens=1000))
    prefill, decode = a_backend("prefill", 1), a_backend("decode", 2)
    first = permits.take(prefill, 1001)
    permits.take(decode, 1001)
    assert (permits.taken(prefill), permits.taken(decode), permits.requests(prefill)) == (2, 1, 1)
    assert (permits.has_room(prefill, 2000), permits.has_room(prefill, 2001)) == (True, False)
    first.release()
    assert (permits.taken(prefill), permits.requests(prefill), permits.all_requests) == (0, 0, 1)


def test_a_prompt_longer_than_all_permits_gets_in_when_the_engine_is_free() -> None:
    permits, prefill = Permits(Admission(prefill_permits=4, prefill_permit_tokens=1000)), a_backend("prefill", 1)
    permit = permits.take(prefill, 128_000)
    assert (permits.taken(prefill), permits.has_room(prefill, 1)) == (4, False)
    permit.release()
    short = permits.take(prefill, 1)
    assert not permits.has_room(prefill, 128_000)
    short.release()
    assert permits.has_room(prefill, 128_000)


def test_without_a_limit_a_long_prompt_weighs_what_it_weighs() -> None:
    permits, prefill = Permits(Admission(prefill_permits=0, prefill_permit_tokens=1000)), a_backend("prefill", 1)
    permits.take(prefill, 128_000)
    assert (permits.taken(prefill), permits.has_room(prefill, 128_000)) == (128, True)


class Hears(Line):
    """A line that notes what it is told."""

    def __init__(self) -> None:
        super().__init__(LIMITS, lambda: 0.0)
        self.heard: list[tuple[str, list[str], Role]] = []

    def freed(self, models: Iterable[str], pool: Role) -> None:
        self.heard.append(("freed", list(models), pool))

    def call_first(self, models: Iterable[str], pool: Role) -> None:
        self.heard.append(("room", list(models), pool))


@pytest.mark.parametrize(
    ("role", "pool"),
    [(Role.PREFILL, Role.PREFILL), (Role.DECODE, Role.DECODE), (Role.AGGREGATED, Role.DECODE)],
)
def test_who_waits_for_the_models_and_the_pool_of_an_engine_hears_of_its_room(role: Role, pool: Role) -> None:
    line = Hears()
    permits, backend = Permits(LIMITS, line), a_backend(role, models=("a", "b"))
    permits.take(backend, 1).release()
    assert line.heard == [("freed", ["a", "b"], pool)]


@pytest.mark.parametrize(
    ("role", "pools"),
    [
        (Role.PREFILL, {Role.PREFILL}),
        (Role.DECODE, {Role.DECODE, Role.PREFILL}),
        (Role.AGGREGATED, {Role.DECODE, Role.PREFILL}),
    ],
)
def test_what_answers_concerns_also_who_waits_for_prefill(role: Role, pools: set[Role]) -> None:
    assert set(concerned_pools(a_backend(role))) == pools


def test_nobody_waits_where_there_is_no_limit() -> None:
    line = Hears()
    Permits(Admission(decode_permits=0), line).take(a_backend(), 1).release()
    assert line.heard == []


def test_who_waits_for_prefill_hears_of_a_prompt_that_decode_has_computed() -> None:
    line = Hears()
    Permits(LIMITS, line).prompt_computed(a_backend(models=("a", "b")))
    assert line.heard == [("room", ["a", "b"], Role.PREFILL)]


def test_requests_are_counted_engine_by_engine() -> None:
    permits, first, second = Permits(LIMITS), a_backend(port=1), a_backend(port=2)
    assert permits.requests(first) == 0
    held = [permits.take(first, 1), permits.take(first, 1), permits.take(second, 1)]
    assert (permits.requests(first), permits.requests(second), permits.all_requests) == (2, 1, 3)
    held[0].release()
    assert (permits.requests(first), permits.requests(second)) == (1, 1)


def test_a_prompt_just_as_long_as_a_permit_is_for_takes_one() -> None:
    permits, prefill = Permits(Admission(prefill_permits=4, prefill_permit_tokens=100)), a_backend("prefill")
    assert [permits.take(prefill, tokens).weight for tokens in (100, 101)] == [1, 2]


@virtual_time
async def test_an_engine_that_says_that_it_is_full_has_no_room_for_a_while() -> None:
    line = Line(Admission(), asyncio.get_running_loop().time)
    permits, engine = Permits(LIMITS, line), a_backend()
    permits.note_full(engine)
    assert not permits.has_room(engine, 10)
    began = asyncio.get_running_loop().time()
    await asyncio.sleep(FULL_S / 2)
    permits.note_full(engine)
    await line.wait(MODEL, Role.DECODE, began + 10)
    assert asyncio.get_running_loop().time() - began == pytest.approx(1.5 * FULL_S)
    assert permits.has_room(engine, 10)


def test_nothing_of_an_engine_is_kept_that_has_no_request() -> None:
    permits, gone = Permits(LIMITS), a_backend()
    permits.take(gone, 10).release()
    kept = weakref.ref(gone)
    del gone
    gc.collect()
    assert kept() is None


def test_a_pool_is_asked_about_at_once() -> None:
    engines = [a_backend(Role.DECODE, port) for port in (1, 2, 3)]
    permits = Permits(Admission(decode_permits=1))
    held = permits.take(engines[1], 10)
    assert permits.with_room(engines, 10) == [engines[0], engines[2]]
    held.release()
    assert permits.with_room(engines, 10) == engines
    assert permits.with_room([], 10) == []
    assert Permits(Admission(decode_permits=0)).with_room(engines, 10) == engines


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9000)), max_size=12),
    st.sampled_from([Role.PREFILL, Role.DECODE]),
    st.integers(1, 9000),
)
def test_all_at_once_are_those_that_have_room_each(taken: list[tuple[int, int]], role: Role, tokens: int) -> None:
    engines, other = [a_backend(role, port) for port in range(1, 5)], a_backend(Role.AGGREGATED, 9)
    permits = Permits(Admission(decode_permits=2, prefill_permits=3, prefill_permit_tokens=2048))
    permits.take(other, 10)
    for which, prompt in taken:
        if permits.taken(engines[which]) + permits._weight(role, prompt) <= permits.limit(engines[which]):
            permits.take(engines[which], prompt)
    most = permits.limit(engines[0]) - permits._weight(role, tokens)
    assert permits.with_room(engines, tokens) == [engine for engine in engines if permits.taken(engine) <= most]
    assert [permits.has_room(engine, tokens) for engine in engines] == [permits.taken(e) <= most for e in engines]
