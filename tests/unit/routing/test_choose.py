import random
from typing import Any

import pytest

from router.call import Call
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.routing.choose import Chooser
from router.routing.disaggregation import Reason
from router.routing.route import Route, Shortage
from router.settings import Role, Routing
from router.telemetry.events import RouteKind
from tests.support.builders import MODEL, a_backend, a_call, linked, paced

LONG = 600


def choose(
    *backends: Backend,
    call: Call | None = None,
    full: tuple[Backend, ...] = (),
    cold: tuple[tuple[Backend, Backend], ...] = (),
    at: float = 0.0,
    **rules: Any,
) -> Route | Shortage:
    """Where a long prompt goes; everything pays unless `rules` say otherwise."""
    routing = Routing(**{"min_novel_tokens": 0, "min_concurrency": 0} | rules)
    ids = {(prefill.id, decode.id) for prefill, decode in cold}
    chooser = Chooser(routing, lambda backend, _: backend not in full, random.Random(1), cold=lambda: ids)
    return chooser.choose(call or a_call(prompt_tokens=LONG), Fleet(backends).snapshot(MODEL, at=at))


def route(*backends: Backend, **how: Any) -> Route:
    chosen = choose(*backends, **how)
    assert isinstance(chosen, Route)
    return chosen


def shortage(*backends: Backend, **how: Any) -> Shortage:
    short = choose(*backends, **how)
    assert isinstance(short, Shortage)
    return short


def down(backend: Backend) -> Backend:
    for _ in range(3):
        backend.standing.bad_probe("x", 1.0)
    return backend


P1, P2 = a_backend("prefill", 1), a_backend("prefill", 2)
D1, D2 = a_backend("decode", 11), a_backend("decode", 12)
A1 = a_backend("aggregated", 21)


def test_a_novel_prompt_goes_over_both_pools() -> None:
    assert route(P1, D1) == Route(RouteKind.DISAGGREGATED, D1, P1, Reason.NOVEL_PROMPT)


def test_a_short_prompt_stays_on_decode() -> None:
    assert route(P1, D1, min_novel_tokens=10_000) == Route(RouteKind.LOCAL, D1, None, Reason.SHORT_PROMPT)


def test_what_stays_goes_to_an_aggregated_engine_if_there_is_one() -> None:
    assert route(P1, D1, A1, mode="local") == Route(RouteKind.AGGREGATED, A1, None, Reason.FORCED_LOCAL)


def test_or_to_decode_while_the_aggregated_ones_are_full() -> None:
    assert route(P1, D1, A1, full=(A1,), mode="local").decode is D1


def test_aggregated_engines_serve_a_fleet_without_decode() -> None:
    assert route(A1) == Route(RouteKind.AGGREGATED, A1, None, Reason.DECODE_UNAVAILABLE)


def test_full_engines_are_passed_over() -> None:
    chosen = route(P1, P2, D1, D2, full=(P1, D2))
    assert (chosen.prefill, chosen.decode) == (P2, D1)


def test_a_full_prefill_pool_leaves_the_prompt_to_decode() -> None:
    assert route(P1, D1, full=(P1,)) == Route(RouteKind.LOCAL, D1, None, Reason.PREFILL_SATURATED)


def test_or_within_its_budget_and_else_makes_it_wait() -> None:
    wait = Shortage(Role.PREFILL, saturated=True, reason=Reason.PREFILL_SATURATED)
    assert shortage(P1, D1, full=(P1,), local_prefill_budget_tokens=10) == wait
    assert shortage(P1, D1, full=(P1,), on_prefill_unavailable="fail") == wait
    always = route(P1, D1, full=(P1,), local_prefill_budget_tokens=10, on_prefill_unavailable="local")
    assert always.kind is RouteKind.LOCAL


def test_room_is_asked_for_by_the_length_of_the_prompt() -> None:
    chooser = Chooser(Routing(), lambda _, tokens: tokens == LONG, random.Random(1))
    assert isinstance(chooser.choose(a_call(prompt_tokens=LONG), Fleet([D1]).snapshot(MODEL)), Route)
    assert isinstance(chooser.choose(a_call(prompt_tokens=LONG - 1), Fleet([D1]).snapshot(MODEL)), Shortage)


def test_without_a_prefill_engine_decode_computes_the_prompt() -> None:
    prefill = down(a_backend("prefill", 1))
    assert route(prefill, D1) == Route(RouteKind.LOCAL, D1, None, Reason.PREFILL_UNAVAILABLE)


GONE = down(a_backend("prefill", 3))


def test_decode_stands_in_for_prefill_within_its_budget() -> None:
    busy, free = a_backend("decode", 13), a_backend("decode", 14, requests=9)
    busy.load.local_tokens = 500
    assert route(GONE, busy, free, local_prefill_budget_tokens=1000).decode is free
    assert shortage(GONE, busy, local_prefill_budget_tokens=1000) == Shortage(
        Role.PREFILL, saturated=False, reason=Reason.PREFILL_UNAVAILABLE
    )
    assert route(GONE, busy, local_prefill_budget_tokens=1100).decode is busy


def test_the_budget_is_only_for_standing_in() -> None:
    assert route(D1, local_prefill_budget_tokens=10).decode is D1
    assert route(P1, D1, mode="local", local_prefill_budget_tokens=10).decode is D1
    assert route(GONE, D1, local_prefill_budget_tokens=10, on_prefill_unavailable="local").decode is D1


def test_after_a_failed_hand_over_there_is_none() -> None:
    chooser = Chooser(Routing(), lambda _, __: True, random.Random(1))
    chosen = chooser.choose(a_call(prompt_tokens=LONG), Fleet([P1, D1]).snapshot(MODEL), local=True)
    assert chosen == Route(RouteKind.LOCAL, D1, None, Reason.HANDOVER_FAILED)


def test_engines_that_cannot_talk_are_not_paired() -> None:
    chooser = Chooser(
        Routing(mode="disaggregated"), lambda _, __: True, random.Random(1), lambda p, d: (p, d) == (P2, D1)
    )
    chosen = chooser.choose(a_call(prompt_tokens=LONG), Fleet([P1, P2, D1, D2]).snapshot(MODEL))
    assert chosen == Route(RouteKind.DISAGGREGATED, D1, P2, Reason.NOVEL_PROMPT)


def test_unless_the_settings_would_rather_fail() -> None:
    assert shortage(D1, on_prefill_unavailable="fail") == Shortage(
        Role.PREFILL, saturated=False, reason=Reason.PREFILL_UNAVAILABLE
    )


def test_failing_without_prefill_concerns_only_prompts_that_would_go_there() -> None:
    assert route(D1, on_prefill_unavailable="fail", min_novel_tokens=10_000).decode is D1


@pytest.mark.parametrize(
    ("fleet", "full", "reason"),
    [
        ((), (), Reason.DECODE_UNAVAILABLE),
        ((P1,), (), Reason.DECODE_UNAVAILABLE),
        ((down(a_backend(port=9)),), (), Reason.DECODE_UNAVAILABLE),
        ((P1, D1), (D1,), Reason.DECODE_SATURATED),
        ((A1,), (A1,), Reason.DECODE_SATURATED),
    ],
)
def test_nobody_to_answer_is_a_shortage_of_decode(
    fleet: tuple[Backend, ...], full: tuple[Backend, ...], reason: Reason
) -> None:
    saturated = reason is Reason.DECODE_SATURATED
    assert shortage(*fleet, full=full) == Shortage(Role.DECODE, saturated=saturated, reason=reason)


def test_pairs_form_inside_a_group_even_if_another_groups_prefill_is_free() -> None:
    red, blue = a_backend("prefill", 1, group="red", tokens=999), a_backend("prefill", 2, group="blue")
    red_decode, blue_decode = a_backend("decode", 11, group="red"), a_backend("decode", 12, group="blue", requests=9)
    chosen = route(red, blue, red_decode, blue_decode)
    assert (chosen.prefill, chosen.decode) == (red, red_decode)


def test_a_group_whose_prefill_engines_are_full_or_gone_is_left_out_where_a_hand_over_is_wanted() -> None:
    red, blue = a_backend("prefill", 1, group="red"), a_backend("prefill", 2, group="blue")
    red_decode, blue_decode = a_backend("decode", 11, group="red"), a_backend("decode", 12, group="blue", requests=9)
    for engines in ((red, blue), (blue,)):
        chosen = route(*engines, red_decode, blue_decode, full=(red,))
        assert (chosen.prefill, chosen.decode) == (blue, blue_decode)
    short = route(red, blue, red_decode, blue_decode, full=(red,), min_novel_tokens=10_000)
    assert short == Route(RouteKind.LOCAL, red_decode, None, Reason.SHORT_PROMPT)


def test_a_prefill_engine_without_a_partner_is_no_prefill_engine() -> None:
    lonely = a_backend("prefill", 1, group="red")
    assert route(lonely, D1) == Route(RouteKind.LOCAL, D1, None, Reason.PREFILL_UNAVAILABLE)


def test_a_group_whose_decode_engines_are_full_is_left_out() -> None:
    red, blue = a_backend("prefill", 1, group="red"), a_backend("prefill", 2, group="blue", tokens=999)
    red_decode, blue_decode = a_backend("decode", 11, group="red"), a_backend("decode", 12, group="blue")
    assert route(red, blue, red_decode, blue_decode, full=(red_decode,)).prefill is blue


def test_pairs_that_have_met_are_preferred() -> None:
    new_p, old_p = a_backend("prefill", 1), a_backend("prefill", 2, tokens=900)
    old_d, new_d = a_backend("decode", 11, requests=9), a_backend("decode", 12)
    cold = ((new_p, old_d), (new_p, new_d), (old_p, new_d))
    chosen = route(new_p, old_p, old_d, new_d, cold=cold)
    assert (chosen.prefill, chosen.decode) == (old_p, old_d)


def test_a_prefill_engine_needs_one_partner_that_it_has_met() -> None:
    new, old = a_backend("prefill", 1), a_backend("prefill", 2, tokens=900)
    busy = a_backend("decode", 13, requests=9)
    assert route(new, old, busy, D2, cold=((new, busy),)).prefill is new
    chosen = route(new, old, busy, D2, cold=((new, D2), (old, D2)))
    assert (chosen.prefill, chosen.decode) == (new, busy)


def test_where_nobody_has_met_requests_do_not_wait() -> None:
    assert route(P1, D1, cold=((P1, D1),)) == Route(RouteKind.DISAGGREGATED, D1, P1, Reason.NOVEL_PROMPT)


def test_an_engine_of_another_group_is_no_partner_to_have_met() -> None:
    new, old = a_backend("prefill", 1), a_backend("prefill", 2, tokens=900)
    other = a_backend("decode", 12, group="blue")
    assert route(new, old, D1, other, cold=((new, D1),)).prefill is old


def test_each_pool_has_its_own_policy() -> None:
    busy_p, free_p = a_backend("prefill", 1, tokens=900), a_backend("prefill", 2)
    busy_d, free_d = a_backend("decode", 11, requests=9), a_backend("decode", 12)
    chosen = route(busy_p, free_p, busy_d, free_d, prefill_policy="round_robin", decode_policy="least_loaded")
    assert (chosen.prefill, chosen.decode) == (busy_p, free_d)
    chosen = route(busy_p, free_p, busy_d, free_d, prefill_policy="least_loaded", decode_policy="round_robin")
    assert (chosen.prefill, chosen.decode) == (free_p, busy_d)


def test_a_call_that_must_not_be_split_is_not() -> None:
    chosen = route(P1, D1, call=a_call(n=2), mode="disaggregated")
    assert (chosen.kind, chosen.reason) == (RouteKind.LOCAL, Reason.NOT_DISAGGREGATABLE)


# What engines hold


LOADED: dict[str, Any] = {"prefill_policy": "least_loaded", "decode_policy": "least_loaded"}
AWARE = {"prefill_policy": "prefix_aware", "decode_policy": "prefix_aware"}


def an_aware_chooser(**rules: Any) -> Chooser:
    routing = Routing(**{"min_concurrency": 0} | AWARE | rules)
    return Chooser(routing, lambda _, __: True, random.Random(1))


def sent_to(chooser: Chooser, call: Call, *engines: Backend) -> None:
    assert chooser.prefixes is not None
    for engine in engines:
        chooser.prefixes.expect(call, engine).confirm()


def longer(call: Call, tokens: int) -> Call:
    """The same prompt and so many tokens more."""
    return a_call(messages=[*call.fields["messages"], {"role": "user", "content": "more" * tokens}])


def test_a_continuation_goes_to_the_decode_engine_that_holds_it_and_stays_there() -> None:
    chooser, first = an_aware_chooser(), a_call(prompt_tokens=4000)
    sent_to(chooser, first, D2)
    chosen = chooser.choose(longer(first, 300), Fleet([P1, D1, D2, A1]).snapshot(MODEL))
    assert chosen == Route(RouteKind.LOCAL, D2, None, Reason.CONTINUATION, decode_cached_tokens=3972)
    assert isinstance(chosen, Route)
    assert chosen.cached_tokens == 3972


def test_a_long_one_is_computed_by_the_prefill_engine_that_holds_most() -> None:
    chooser, first = an_aware_chooser(), a_call(prompt_tokens=4000)
    sent_to(chooser, first, P2, D2)
    chosen = chooser.choose(longer(first, 3000), Fleet([P1, P2, D1, D2]).snapshot(MODEL))
    assert isinstance(chosen, Route)
    assert (chosen.prefill, chosen.decode, chosen.reason) == (P2, D2, Reason.NOVEL_PROMPT)
    assert chosen.cached_tokens == chosen.prefill_cached_tokens == chosen.decode_cached_tokens > 3900


def test_what_an_aggregated_engine_holds_is_continued_there() -> None:
    chooser, first = an_aware_chooser(), a_call(prompt_tokens=4000)
    sent_to(chooser, first, A1)
    chosen = chooser.choose(longer(first, 300), Fleet([P1, D1, A1]).snapshot(MODEL))
    assert chosen == Route(RouteKind.AGGREGATED, A1, None, Reason.CONTINUATION, decode_cached_tokens=3972)
    novel = chooser.choose(longer(first, 3000), Fleet([P1, D1, A1]).snapshot(MODEL))
    assert isinstance(novel, Route)
    assert novel.kind is RouteKind.DISAGGREGATED


def test_decode_stands_in_for_what_it_does_not_hold_only() -> None:
    chooser, first = (
        an_aware_chooser(local_prefill_budget_tokens=1000, max_local_tokens=500),
        a_call(prompt_tokens=4000),
    )
    sent_to(chooser, first, D1)
    chosen = chooser.choose(longer(first, 700), Fleet([GONE, D1]).snapshot(MODEL))
    assert isinstance(chosen, Route)
    assert (chosen.decode, chosen.reason) == (D1, Reason.PREFILL_UNAVAILABLE)


def test_nothing_is_hashed_where_no_policy_asks() -> None:
    chooser = Chooser(Routing(**LOADED), lambda _, __: True, random.Random(1))
    call = a_call(prompt_tokens=LONG)
    chooser.choose(call, Fleet([P1, D1]).snapshot(MODEL))
    assert (chooser.prefixes, call.blocks) == (None, None)


# What has been learnt


def slow_and_fast() -> tuple[Backend, Backend, Backend]:
    """Two prefill engines, the first with a slow link, and a decode engine; all compute as fast."""
    slow, fast, decode = a_backend("prefill", 31), a_backend("prefill", 32), a_backend("decode", 33, requests=20)
    for engine in (slow, fast, decode):
        paced(engine, prefill_tokens_per_s=30_000)
    linked(slow, decode, s_per_token=3e-4)
    linked(fast, decode, s_per_token=1e-5)
    return slow, fast, decode


def test_a_slow_hand_over_is_not_made() -> None:
    slow, _, decode = slow_and_fast()
    assert route(slow, decode) == Route(RouteKind.LOCAL, decode, None, Reason.SLOW_HANDOVER)
    assert route(slow, decode, rule="thresholds").reason is Reason.NOVEL_PROMPT


def test_a_fast_one_is() -> None:
    _, fast, decode = slow_and_fast()
    assert route(fast, decode) == Route(RouteKind.DISAGGREGATED, decode, fast, Reason.FASTER_REMOTE)


def test_the_engine_with_the_fast_link_is_preferred_even_if_it_has_more_to_do() -> None:
    slow, fast, decode = slow_and_fast()
    fast.load.tokens = 100
    assert route(slow, fast, decode).prefill is fast
    assert route(slow, fast, decode, rule="thresholds").prefill is slow
    assert route(slow, fast, decode, mode="disaggregated", full=(fast,)).prefill is slow


def test_a_prompt_is_not_kept_waiting_for_a_full_engine_behind_a_slow_link() -> None:
    slow, _, decode = slow_and_fast()
    assert route(slow, decode, full=(slow,)).reason is Reason.SLOW_HANDOVER


def test_another_decode_engine_with_a_fast_link_gets_what_this_one_would_get_slowly() -> None:
    slow, _, decode = slow_and_fast()
    other = paced(a_backend("decode", 34, requests=30), prefill_tokens_per_s=30_000)
    linked(slow, other, s_per_token=1e-5)
    assert route(slow, decode, other) == Route(RouteKind.DISAGGREGATED, other, slow, Reason.FASTER_REMOTE)
    slow.load.tokens = 900_000
    assert route(slow, decode, other) == Route(RouteKind.LOCAL, decode, None, Reason.SLOW_HANDOVER)


def test_now_and_then_a_slow_link_is_tried() -> None:
    slow, fast, decode = slow_and_fast()
    decode.links.asked = 1000
    assert route(slow, decode, at=0.0).reason is Reason.SLOW_HANDOVER
    assert route(slow, decode, at=99.0) == Route(RouteKind.DISAGGREGATED, decode, slow, Reason.TRIAL)
    assert route(slow, fast, decode, at=99.0).prefill is slow


def test_what_was_learnt_of_an_engine_that_is_another_now_is_void() -> None:
    slow, _, decode = slow_and_fast()
    Fleet([slow, decode]).forget_paces(slow)
    assert route(slow, decode).reason is Reason.NOVEL_PROMPT
