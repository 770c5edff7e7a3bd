from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.routing.disaggregation import Pools, Reason, decide
from router.settings import Routing
from tests.support.builders import a_call

RULES = Routing(min_novel_tokens=512, min_concurrency=10, long_prompt_tokens=8192)
BUSY = Pools(prefill_usable=True, prefill_room=True, decode_usable=True, inflight=50)
LONG = 600


def verdict(pools: Pools = BUSY, rules: Routing = RULES, *, prompt_tokens: int = LONG, **fields: Any) -> Reason:
    remote, reason = decide(a_call(prompt_tokens=prompt_tokens, **fields), pools, rules)
    assert remote is (reason is Reason.NOVEL_PROMPT)
    return reason


def test_a_long_prompt_in_a_busy_fleet_goes_over_two_engines() -> None:
    assert verdict() is Reason.NOVEL_PROMPT


@pytest.mark.parametrize(("tokens", "reason"), [(511, Reason.SHORT_PROMPT), (512, Reason.NOVEL_PROMPT)])
def test_a_prompt_shorter_than_the_threshold_stays(tokens: int, reason: Reason) -> None:
    assert verdict(prompt_tokens=tokens) is reason


@pytest.mark.parametrize(
    ("inflight", "tokens", "reason"),
    [
        (9, 600, Reason.LOW_CONCURRENCY),
        (10, 600, Reason.NOVEL_PROMPT),
        (0, 8191, Reason.LOW_CONCURRENCY),
        (0, 8192, Reason.NOVEL_PROMPT),
    ],
)
def test_a_quiet_fleet_stalls_nobody_unless_the_prompt_is_very_long(inflight: int, tokens: int, reason: Reason) -> None:
    assert verdict(replace(BUSY, inflight=inflight), prompt_tokens=tokens) is reason


def test_what_two_engines_would_get_wrong_stays_even_if_forced() -> None:
    forced = Routing(mode="disaggregated")
    assert verdict(rules=forced, n=2) is Reason.NOT_DISAGGREGATABLE
    assert verdict(rules=forced, max_tokens=1) is Reason.SINGLE_TOKEN


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prefill_usable": False, "prefill_room": False}, Reason.PREFILL_UNAVAILABLE),
        ({"prefill_room": False}, Reason.PREFILL_SATURATED),
        ({"decode_usable": False}, Reason.DECODE_UNAVAILABLE),
    ],
)
def test_without_an_engine_for_each_leg_it_stays(change: dict[str, Any], reason: Reason) -> None:
    assert verdict(replace(BUSY, **change)) is reason


def test_forced_to_disaggregate_nothing_is_too_short() -> None:
    quiet = replace(BUSY, inflight=0)
    assert verdict(quiet, Routing(mode="disaggregated"), prompt_tokens=5) is Reason.NOVEL_PROMPT


def test_forced_to_stay_nothing_is_too_long() -> None:
    assert verdict(rules=Routing(mode="local"), prompt_tokens=100_000) is Reason.FORCED_LOCAL


@given(
    st.builds(Pools, st.booleans(), st.booleans(), st.booleans(), st.integers(0, 20)),
    st.sampled_from(["auto", "local", "disaggregated"]),
    st.integers(4, 9000),
    st.sampled_from([{}, {"n": 2}, {"max_tokens": 1}, {"max_tokens": None}]),
)
def test_two_engines_are_used_only_where_both_can_be(
    pools: Pools, mode: Any, tokens: int, fields: dict[str, Any]
) -> None:
    call = a_call(prompt_tokens=tokens, **fields)
    remote, reason = decide(call, pools, Routing(mode=mode))
    assert remote is (reason is Reason.NOVEL_PROMPT)
    if remote:
        assert pools.decode_usable
        assert pools.prefill_usable
        assert pools.prefill_room
        assert call.undisaggregatable is None
        assert mode != "local"
