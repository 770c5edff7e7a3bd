import random
from collections import Counter

import pytest

from router.routing.policies.least_loaded import LeastLoaded
from router.settings.engines import Role
from tests.support.builders import a_backend, a_call, paced


def test_a_prefill_engines_work_is_its_tokens() -> None:
    few_long, many_short = (
        a_backend("prefill", 1, requests=1, tokens=9000),
        a_backend("prefill", 2, requests=9, tokens=90),
    )
    assert LeastLoaded(random.Random(1)).pick([few_long, many_short], a_call()) is many_short


@pytest.mark.parametrize("role", [Role.DECODE, Role.AGGREGATED])
def test_a_decode_engines_work_is_its_streams(role: Role) -> None:
    few_long, many_short = a_backend(role, 1, requests=1, tokens=9000), a_backend(role, 2, requests=9, tokens=90)
    assert LeastLoaded(random.Random(1)).pick([few_long, many_short], a_call()) is few_long


def test_ties_are_broken_at_random() -> None:
    free, also_free, busy = a_backend(port=1), a_backend(port=2), a_backend(port=3, requests=1)
    policy = LeastLoaded(random.Random(1))
    picked = [policy.pick([free, also_free, busy], a_call()) for _ in range(200)]
    assert 70 <= picked.count(free) <= 130
    assert busy not in picked


def test_a_load_that_follows_the_picks_stays_even() -> None:
    engines = [a_backend(port=port) for port in range(1, 5)]
    policy = LeastLoaded(random.Random(1))
    for _ in range(100):
        policy.pick(engines, a_call()).lease(10)
    assert [engine.load.requests for engine in engines] == [25] * 4


def test_an_engine_that_came_back_gets_a_share_of_what_the_others_have() -> None:
    engines = [a_backend(port=port) for port in range(1, 4)]
    engines[0].standing.share = 0.1
    policy = LeastLoaded(random.Random(1))
    for _ in range(210):
        policy.pick(engines, a_call()).lease(10)
    assert [engine.load.requests for engine in engines] == [10, 100, 100]


@pytest.mark.parametrize("role", [Role.PREFILL, Role.DECODE])
def test_a_slow_engine_that_has_nothing_to_do_is_left_alone_while_a_fast_one_has_little(role: Role) -> None:
    fast, slow = a_backend(role, 1, requests=1, tokens=100), a_backend(role, 2)
    for engine, speed in ((fast, 20_000), (slow, 2000)):
        paced(engine, prefill_tokens_per_s=speed, decode_tokens_per_s=speed)
    policy = LeastLoaded(random.Random(1))
    picked = Counter(policy.pick([fast, slow], a_call(prompt_tokens=8000)) for _ in range(320))
    assert 1 <= picked[slow] < 32, "now and then, to see whether it still is"


@pytest.mark.parametrize("role", [Role.PREFILL, Role.DECODE])
def test_an_engine_that_is_half_as_fast_gets_half(role: Role) -> None:
    engines = [a_backend(role, port) for port in range(1, 4)]
    for engine, speed in zip(engines, (200, 200, 100), strict=True):
        paced(engine, prefill_tokens_per_s=speed, decode_tokens_per_s=speed)
    policy = LeastLoaded(random.Random(1))
    for _ in range(250):
        policy.pick(engines, a_call()).lease(10)
    assert [engine.load.requests for engine in engines] == [100, 100, 50]
