import gc
import random
import weakref
from typing import Any

import pytest

from router.call import Call
from router.fleet.backend import Backend
from router.routing.policies import session
from router.routing.policies.session import Session
from router.settings.routing import Routing
from tests.support.builders import a_backend, a_call

SLACK_TOKENS = 1000
RULES = Routing(ttft_slack_s=0.1, prefill_tokens_per_s=10_000)


def a_policy() -> Session:
    return Session(RULES, random.Random(1))


def engines() -> list[Backend]:
    return [a_backend("prefill", port) for port in (1, 2, 3)]


def sent(policy: Session, candidates: list[Backend], call: Call) -> Backend:
    engine = policy.pick(candidates, call)
    policy.took(call, engine)
    return engine


def of(name: str, **fields: Any) -> Call:
    return a_call(user=name, **fields)


def test_a_session_comes_back_to_its_engine() -> None:
    policy, candidates = a_policy(), engines()
    first = sent(policy, candidates, of("ann"))
    first.load.tokens = SLACK_TOKENS
    assert {sent(policy, candidates, of("ann")) for _ in range(20)} == {first}


def test_sessions_are_spread_and_those_without_go_to_the_least_loaded() -> None:
    policy, candidates = a_policy(), engines()
    candidates[0].load.tokens = candidates[1].load.tokens = 5
    assert {sent(policy, candidates, call) for call in (of("ann"), of("bob"), a_call())} == {candidates[2]}
    candidates[2].load.tokens = 9
    assert sent(policy, candidates, a_call()) is not candidates[2]
    assert sent(policy, candidates, of("ann")) is candidates[2]


def test_the_hint_is_not_followed_where_that_means_waiting() -> None:
    policy, candidates = a_policy(), engines()
    first = sent(policy, candidates, of("ann"))
    first.load.tokens = SLACK_TOKENS + 1
    second = sent(policy, candidates, of("ann"))
    assert second is not first
    first.load.tokens = 0
    assert sent(policy, candidates, of("ann")) is second, "its prefix is there by now"


def test_nor_where_the_engine_is_not_to_be_had() -> None:
    policy, candidates = a_policy(), engines()
    first = sent(policy, candidates, of("ann"))
    assert sent(policy, [engine for engine in candidates if engine is not first], of("ann")) is not first


def test_models_do_not_share_sessions() -> None:
    policy, candidates = a_policy(), engines()
    first = sent(policy, candidates, of("ann"))
    first.load.tokens = 1
    assert sent(policy, candidates, of("ann", model="another")) is not first


def test_the_most_recent_sessions_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_SESSIONS", 2)
    policy, candidates = a_policy(), engines()
    homes = {name: sent(policy, candidates, of(name)) for name in ("ann", "bob")}
    sent(policy, candidates, of("ann"))
    sent(policy, candidates, of("eve"))
    homes["ann"].load.tokens = homes["bob"].load.tokens = 1
    assert sent(policy, candidates, of("ann")) is homes["ann"]
    assert sent(policy, candidates, of("bob")) is not homes["bob"]


def test_asking_binds_nothing() -> None:
    policy, candidates = a_policy(), engines()
    first = policy.pick(candidates, of("ann"))
    first.load.tokens = 1
    assert policy.pick(candidates, of("ann")) is not first


def test_a_session_goes_with_who_took_it_whoever_chose() -> None:
    policy, candidates = a_policy(), engines()
    policy.took(of("ann"), candidates[1])
    candidates[1].load.tokens = 1
    assert policy.pick(candidates, of("ann")) is candidates[1]


def test_an_engine_that_came_back_has_its_sessions_and_one_that_is_gone_is_not_kept() -> None:
    policy, candidates = a_policy(), engines()
    first = sent(policy, candidates, of("ann"))
    again = a_backend("prefill", int(first.id.rsplit(":", 1)[1]))
    again.load.tokens = 1
    gone = weakref.ref(first)
    others = [engine for engine in candidates if engine is not first]
    del candidates, first
    gc.collect()
    assert gone() is None
    assert policy.pick([*others, again], of("ann")) is again


def test_what_it_goes_by_tells_who_has_the_session() -> None:
    policy, candidates = a_policy(), engines()
    policy.took(of("ann"), candidates[1])
    candidates[1].load.tokens = 7
    weights = policy.weigh(candidates, of("ann"))
    assert weights.parts == {"pending_tokens": [0, 7, 0], "session": [False, True, False]}
    assert weights.costs[1] == min(weights.costs) == (0, 0)
