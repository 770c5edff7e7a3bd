from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.routing.disaggregation import Home, Pools, Reason, decide
from router.routing.times import Times
from router.settings.routing import Routing
from tests.support.builders import a_call

RULES = Routing(min_novel_tokens=512, min_concurrency=10, long_prompt_tokens=8192)
BUSY = Pools(prefill_usable=True, prefill_room=True, decode_usable=True, inflight=50)
LONG = 600


REMOTE = (Reason.NOVEL_PROMPT, Reason.DECODE_BUSY, Reason.ENGINE_REQUIRES)
EMPTY = Home()


def verdict(
    pools: Pools = BUSY, rules: Routing = RULES, home: Home = EMPTY, *, prompt_tokens: int = LONG, **fields: Any
) -> Reason:
    remote, reason = decide(a_call(prompt_tokens=prompt_tokens, **fields), home, pools, rules)
    assert remote is (reason in REMOTE)
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
    assert verdict(BUSY._replace(inflight=inflight), prompt_tokens=tokens) is reason


@pytest.mark.parametrize(
    ("prompt", "cached", "reason"),
    [
        (1200, 0, Reason.NOVEL_PROMPT),
        (1200, 688, Reason.NOVEL_PROMPT),
        (1200, 689, Reason.CONTINUATION),  # 511 new tokens
        (3000, 2100, Reason.NOVEL_PROMPT),
        (3000, 2101, Reason.CONTINUATION),  # less than 0.3 of it
        (9000, 6953, Reason.CONTINUATION),
        (9000, 6952, Reason.NOVEL_PROMPT),  # 2048 new tokens, whatever their part
        (9000, 9000, Reason.CONTINUATION),
        (500, 400, Reason.SHORT_PROMPT),
    ],
)
def test_only_what_decode_has_not_cached_counts(prompt: int, cached: int, reason: Reason) -> None:
    assert verdict(home=Home(cached), prompt_tokens=prompt) is reason


def test_a_continuation_is_one_in_a_quiet_fleet_too() -> None:
    quiet = BUSY._replace(inflight=0)
    assert verdict(quiet, home=Home(8500), prompt_tokens=9000) is Reason.CONTINUATION
    assert verdict(quiet, home=Home(809), prompt_tokens=9000) is Reason.LOW_CONCURRENCY
    assert verdict(quiet, home=Home(808), prompt_tokens=9000) is Reason.NOVEL_PROMPT


def test_short_prompts_that_come_together_stall_streams_as_well() -> None:
    at_limit = Home(local_tokens=8192 - 400)
    assert verdict(home=at_limit, prompt_tokens=400) is Reason.SHORT_PROMPT
    assert verdict(home=at_limit, prompt_tokens=401) is Reason.DECODE_BUSY
    assert verdict(home=Home(8600, 8192 - 400), prompt_tokens=9000) is Reason.CONTINUATION
    assert verdict(home=Home(8599, 8192 - 400), prompt_tokens=9000) is Reason.DECODE_BUSY
    assert verdict(BUSY._replace(prefill_room=False), home=at_limit, prompt_tokens=401) is Reason.SHORT_PROMPT


def test_the_budget_is_for_what_comes_together() -> None:
    rules = Routing(min_novel_tokens=512, local_prefill_budget_tokens=100)
    assert verdict(rules=rules, prompt_tokens=400) is Reason.SHORT_PROMPT


def test_an_engine_that_cannot_compute_prompts_needs_another() -> None:
    needy = Home(9000, decodes_alone=False)
    for rules in (RULES, Routing(mode="local")):
        assert verdict(home=needy, rules=rules, prompt_tokens=5) is Reason.ENGINE_REQUIRES
    assert verdict(BUSY._replace(prefill_room=False), home=needy) is Reason.PREFILL_SATURATED
    assert verdict(home=needy, n=2) is Reason.NOT_DISAGGREGATABLE


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
    assert verdict(BUSY._replace(**change)) is reason


def test_forced_to_disaggregate_nothing_is_too_short() -> None:
    quiet = BUSY._replace(inflight=0)
    assert verdict(quiet, Routing(mode="disaggregated"), prompt_tokens=5) is Reason.NOVEL_PROMPT


def test_forced_to_stay_nothing_is_too_long() -> None:
    assert verdict(rules=Routing(mode="local"), prompt_tokens=100_000) is Reason.FORCED_LOCAL


@given(
    st.builds(Pools, st.booleans(), st.booleans(), st.booleans(), st.integers(0, 20)),
    st.builds(Home, st.integers(0, 9000), st.integers(0, 9000), st.booleans()),
    st.sampled_from(["auto", "local", "disaggregated"]),
    st.integers(4, 9000),
    st.sampled_from([{}, {"n": 2}, {"max_tokens": 1}, {"max_tokens": None}]),
)
def test_two_engines_are_used_only_where_both_can_be(
    pools: Pools, home: Home, mode: Any, tokens: int, fields: dict[str, Any]
) -> None:
    call = a_call(prompt_tokens=tokens, **fields)
    remote, reason = decide(call, home, pools, Routing(mode=mode))
    assert remote is (reason in REMOTE)
    if remote:
        assert pools.decode_usable
        assert pools.prefill_usable
        assert pools.prefill_room
        assert call.undisaggregatable is None
        assert mode != "local" or not home.decodes_alone


# What has been learnt


def learnt(**changes: Any) -> Times:
    """Two engines and decode alone take as long."""
    values: dict[str, Any] = {
        "prefill_s": 0.1,
        "handover_s": 0.1,
        "stay_s": 0.2,
        "stall_s": 0.0,
        "stay_is_known": True,
    } | changes
    return Times(**values)


def by_times(times: Times, pools: Pools = BUSY, rules: Routing = RULES, **call: Any) -> Reason:
    remote, reason = decide(a_call(**{"prompt_tokens": LONG} | call), Home(), pools, rules, times)
    assert remote is (reason in (*REMOTE, Reason.FASTER_REMOTE, Reason.TRIAL))
    return reason


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        (learnt(), Reason.FASTER_LOCAL),
        (learnt(stay_s=0.21), Reason.FASTER_REMOTE),
        (learnt(stall_s=1.0), Reason.FASTER_REMOTE),
        (learnt(prefill_s=0.3, stall_s=1.0), Reason.FASTER_LOCAL),
        (learnt(handover_s=0.19), Reason.FASTER_LOCAL),
        (learnt(handover_s=0.2), Reason.SLOW_HANDOVER),
        (learnt(handover_s=0.26, stall_s=1.0), Reason.SLOW_HANDOVER),
        (learnt(late_s=0.3), Reason.SLOW_HANDOVER),
    ],
)
def test_what_is_faster_is_done_where_that_is_known(times: Times, reason: Reason) -> None:
    assert by_times(times) is reason


@pytest.mark.parametrize("unknown", [{"prefill_s": None}, {"handover_s": None}, {"stay_is_known": False}])
def test_what_is_not_known_is_left_to_the_thresholds_unless_the_hand_over_alone_is_too_long(
    unknown: dict[str, Any],
) -> None:
    quiet = BUSY._replace(inflight=0)
    assert by_times(learnt(**unknown)) is Reason.NOVEL_PROMPT
    assert by_times(learnt(**unknown), quiet) is Reason.LOW_CONCURRENCY
    assert by_times(learnt(**unknown | {"late_s": 0.3})) is Reason.SLOW_HANDOVER


def test_short_prompts_and_continuations_stay_whatever_is_faster() -> None:
    faster = learnt(stay_s=9.0)
    assert by_times(faster, prompt_tokens=511) is Reason.SHORT_PROMPT
    assert decide(a_call(prompt_tokens=3000), Home(2900), BUSY, RULES, faster) == (False, Reason.CONTINUATION)


def test_a_quiet_fleet_goes_by_what_is_faster_as_well() -> None:
    quiet = BUSY._replace(inflight=0)
    assert by_times(learnt(stay_s=0.21), quiet) is Reason.FASTER_REMOTE
    assert by_times(learnt(), quiet, prompt_tokens=9000) is Reason.FASTER_LOCAL


def test_short_prompts_that_come_together_do_not_go_over_a_slow_link() -> None:
    full = Home(local_tokens=8192)
    assert decide(a_call(prompt_tokens=400), full, BUSY, RULES, learnt(handover_s=9.0)) == (False, Reason.SLOW_HANDOVER)
    assert decide(a_call(prompt_tokens=400), full, BUSY, RULES, learnt(stay_s=9.0)) == (True, Reason.FASTER_REMOTE)


def test_modes_and_full_pools_go_before_what_was_learnt() -> None:
    slow, fast = learnt(handover_s=9.0), learnt(stay_s=9.0)
    assert by_times(slow, rules=Routing(mode="disaggregated")) is Reason.NOVEL_PROMPT
    assert by_times(fast, rules=Routing(mode="local")) is Reason.FORCED_LOCAL
    assert by_times(fast, BUSY._replace(prefill_room=False)) is Reason.PREFILL_SATURATED
    assert by_times(slow, BUSY._replace(prefill_room=False)) is Reason.SLOW_HANDOVER


def test_how_much_the_streams_count_is_a_setting() -> None:
    times = learnt(stall_s=1.0)
    assert by_times(times, rules=Routing(stall_weight=0)) is Reason.FASTER_LOCAL
    assert by_times(times, rules=Routing(stall_weight=0.01)) is Reason.FASTER_REMOTE
