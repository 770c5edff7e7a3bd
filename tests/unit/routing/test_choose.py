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
from tests.support.builders import MODEL, a_backend, a_call

LONG = 600


def choose(
    *backends: Backend,
    call: Call | None = None,
    full: tuple[Backend, ...] = (),
    cold: tuple[tuple[Backend, Backend], ...] = (),
    **rules: Any,
) -> Route | Shortage:
    """Where a long prompt goes; everything pays unless `rules` say otherwise."""
    routing = Routing(**{"min_novel_tokens": 0, "min_concurrency": 0} | rules)
    ids = {(prefill.id, decode.id) for prefill, decode in cold}
    chooser = Chooser(routing, lambda backend, _: backend not in full, random.Random(1), cold=lambda: ids)
    return chooser.choose(call or a_call(prompt_tokens=LONG), Fleet(backends).snapshot(MODEL))


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


def test_pairs_form_inside_a_group_even_if_another_groups_decode_is_free() -> None:
    red, blue = a_backend("prefill", 1, group="red", tokens=999), a_backend("prefill", 2, group="blue")
    red_decode, blue_decode = a_backend("decode", 11, group="red"), a_backend("decode", 12, group="blue", requests=9)
    chosen = route(red, blue, red_decode, blue_decode)
    assert (chosen.prefill, chosen.decode) == (blue, blue_decode)


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
    chosen = route(new, old, D1, D2, cold=((new, D1),))
    assert (chosen.prefill, chosen.decode) == (new, D2)


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
