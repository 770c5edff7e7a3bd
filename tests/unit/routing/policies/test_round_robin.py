import gc
import weakref

from router.fleet.backend import Backend
from router.routing.policies.round_robin import RoundRobin
from tests.support.builders import a_backend, a_call

A, B, C = (a_backend(port=port) for port in (1, 2, 3))


def picks(policy: RoundRobin, candidates: list[Backend], times: int) -> list[Backend]:
    return [taken(policy, candidates) for _ in range(times)]


def taken(policy: RoundRobin, candidates: list[Backend]) -> Backend:
    engine = policy.pick(candidates, a_call())
    policy.took(a_call(), engine)
    return engine


def test_each_engine_has_its_turn() -> None:
    assert picks(RoundRobin(), [A, B, C], 6) == [A, B, C, A, B, C]


def test_the_order_of_the_candidates_does_not_matter_once_it_is_set() -> None:
    policy = RoundRobin()
    picks(policy, [A, B, C], 3)
    assert picks(policy, [C, B, A], 3) == [A, B, C]


def test_an_engine_that_was_away_is_next_once_and_gets_no_arrears() -> None:
    policy = RoundRobin()
    picks(policy, [A, B, C], 3)
    picks(policy, [A, B], 10)
    assert picks(policy, [A, B, C], 4) == [C, A, B, C]


def test_load_is_of_no_interest() -> None:
    busy = a_backend(port=4, requests=99)
    assert picks(RoundRobin(), [busy, A], 2) == [busy, A]


def test_an_engine_that_is_gone_is_forgotten() -> None:
    policy, gone = RoundRobin(), a_backend(port=1)
    taken(policy, [gone])
    kept = weakref.ref(gone)
    del gone
    gc.collect()
    assert kept() is None


def test_asking_takes_no_turn() -> None:
    policy = RoundRobin()
    assert {policy.pick([A, B, C], a_call()) for _ in range(5)} == {A}
    policy.took(a_call(), A)
    assert policy.pick([A, B, C], a_call()) is B


def test_what_it_goes_by_are_the_last_turns() -> None:
    policy = RoundRobin()
    picks(policy, [A, B], 3)
    assert policy.weigh([A, B, C], a_call()).costs == [3, 2, 0]
