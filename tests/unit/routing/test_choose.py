import random
from collections.abc import Sequence
from typing import Any, get_args

import pytest

from router.call import Call
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.fleet.pairs import Pairs
from router.routing.choose import Chooser, partners_of
from router.routing.disaggregation import Reason
from router.routing.modes import Modes
from router.routing.route import Route, Shortage
from router.settings.engines import Role
from router.settings.fleet import PairRules
from router.settings.routing import PolicyName, Routing
from router.telemetry.events import RouteKind
from tests.support.builders import MODEL, a_backend, a_call, linked, paced

LONG = 600


def all_roomy(pool: Sequence[Backend], _: int) -> list[Backend]:
    return list(pool)


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
    chooser = Chooser(
        routing, lambda pool, _: [engine for engine in pool if engine not in full], random.Random(1), cold=lambda: ids
    )
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
    chooser = Chooser(Routing(), lambda pool, tokens: list(pool) if tokens == LONG else [], random.Random(1))
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
    chooser = Chooser(Routing(), all_roomy, random.Random(1))
    chosen = chooser.choose(a_call(prompt_tokens=LONG), Fleet([P1, D1]).snapshot(MODEL), local=True)
    assert chosen == Route(RouteKind.LOCAL, D1, None, Reason.HANDOVER_FAILED)


def test_engines_that_cannot_talk_are_not_paired() -> None:
    def partners(decode: Backend, prefill: Sequence[Backend]) -> list[Backend]:
        return [engine for engine in prefill if (engine, decode) == (P2, D1)]

    chooser = Chooser(Routing(mode="disaggregated"), all_roomy, random.Random(1), partners)
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
    return Chooser(routing, all_roomy, random.Random(1))


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
    chooser = Chooser(Routing(**LOADED), all_roomy, random.Random(1))
    call = a_call(prompt_tokens=LONG)
    chooser.choose(call, Fleet([P1, D1]).snapshot(MODEL))
    assert (chooser.prefixes, call.blocks) == (None, None)


ENGINES = [
    *(a_backend("prefill", port) for port in (31, 32, 33)),
    *(a_backend("decode", port) for port in (41, 42, 43)),
]
POLICIES = get_args(PolicyName)


def a_chooser(**rules: Any) -> Chooser:
    return Chooser(Routing(**{"min_novel_tokens": 0, "min_concurrency": 0} | rules), all_roomy, random.Random(1))


def asked(number: int) -> Call:
    """Some of several sessions, with prompts that begin alike or do not."""
    text = f"{number % 5}" * 3000 + str(number)
    messages = [{"role": "user", "content": text}]
    return a_call(request_id=f"r-{number}", messages=messages, user=f"user {number % 7}" if number % 3 else None)


def play(chooser: Chooser, *, explained: bool) -> list[Route | Shortage]:
    """What becomes of many requests, each of which stays under way; some are explained before, several times."""
    snapshot, outcomes = Fleet(ENGINES).snapshot(MODEL), []
    for number in range(60):
        for _ in range(2 if explained else 0):
            foretold = chooser.explain(asked(number), snapshot).outcome
            chooser.explain(asked(number + 1), snapshot, "local")
        call = asked(number)
        outcomes.append(chooser.choose(call, snapshot))
        assert not explained or foretold == outcomes[-1]
        assert isinstance(outcomes[-1], Route)
        if chooser.prefixes:
            chooser.prefixes.expect(call, outcomes[-1].decode)
    return outcomes


@pytest.mark.parametrize("policy", POLICIES)
def test_a_call_goes_the_way_that_was_explained_and_all_others_as_if_it_had_not_been(policy: PolicyName) -> None:
    def chooser() -> Chooser:
        return a_chooser(prefill_policy=policy, decode_policy=policy, mode_share=0.5)

    assert play(chooser(), explained=True) == play(chooser(), explained=False)


def test_an_explanation_has_every_pick_and_judgement() -> None:
    chooser = a_chooser()
    explained = chooser.explain(a_call(prompt_tokens=LONG), Fleet(ENGINES).snapshot(MODEL))
    assert [(pick.pool, len(pick.candidates)) for pick in explained.picks] == [(Role.DECODE, 3), (Role.PREFILL, 3)]
    assert [(made.remote, made.reason) for made in explained.judgements] == [(True, Reason.NOVEL_PROMPT)]
    assert isinstance(explained.outcome, Route)
    assert [pick.picked for pick in explained.picks] == [explained.outcome.decode, explained.outcome.prefill]


def test_what_it_would_be_in_another_mode_can_be_asked() -> None:
    chooser, snapshot = a_chooser(), Fleet(ENGINES).snapshot(MODEL)
    explained = chooser.explain(a_call(prompt_tokens=LONG), snapshot, "local")
    assert isinstance(explained.outcome, Route)
    assert (explained.outcome.kind, explained.rules.mode) == (RouteKind.LOCAL, "local")
    assert chooser.modes == Modes("auto")


def test_a_shortage_is_explained_too() -> None:
    chooser = Chooser(Routing(), lambda *_: [], random.Random(1))
    explained = chooser.explain(a_call(), Fleet(ENGINES).snapshot(MODEL))
    assert isinstance(explained.outcome, Shortage)
    assert explained.picks == []


def test_two_modes_share_the_requests_by_their_ids() -> None:
    chooser, snapshot = a_chooser(), Fleet(ENGINES).snapshot(MODEL)
    chooser.modes = Modes("disaggregated", 0.5, "local")
    calls = [a_call(request_id=f"r-{number}", prompt_tokens=LONG) for number in range(40)]
    ways = {chooser.modes.of(call.trace.request_id): set[RouteKind]() for call in calls}
    for call in calls:
        route = chooser.choose(call, snapshot)
        assert isinstance(route, Route)
        ways[chooser.modes.of(call.trace.request_id)].add(route.kind)
    assert ways == {"disaggregated": {RouteKind.DISAGGREGATED}, "local": {RouteKind.LOCAL}}


@pytest.mark.parametrize("gone", ["prefill", "decode"])
def test_a_session_is_bound_in_both_pools_apart(gone: str) -> None:
    chooser = a_chooser(prefill_policy="session", decode_policy="session")
    engines = [a_backend(role, port) for port, role in enumerate(3 * ("prefill", "decode"), 1)]
    ann = a_call(prompt_tokens=LONG, user="ann")
    first = chooser.choose(ann, Fleet(engines).snapshot(MODEL))
    assert isinstance(first, Route)
    assert first.prefill is not None
    for engine in (first.prefill, first.decode):
        engine.load.requests = engine.load.tokens = 1  # others would be picked else
    lost, kept = (first.prefill, first.decode) if gone == "prefill" else (first.decode, first.prefill)
    second = chooser.choose(ann, Fleet([engine for engine in engines if engine is not lost]).snapshot(MODEL))
    assert isinstance(second, Route)
    assert kept in (second.prefill, second.decode)
    assert lost not in (second.prefill, second.decode)


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
    decode.links.asked, call = 1000, a_call(prompt_tokens=LONG, stream=True)
    assert route(slow, decode, at=0.0, call=call).reason is Reason.SLOW_HANDOVER
    assert route(slow, decode, at=99.0, call=call) == Route(RouteKind.DISAGGREGATED, decode, slow, Reason.TRIAL)
    assert route(slow, fast, decode, at=99.0, call=call).prefill is slow
    assert route(slow, fast, decode, at=99.0, call=call, full=(slow,)).prefill is fast


def test_a_route_tells_to_which_engine_no_hand_over_is_made() -> None:
    slow, fast, decode = slow_and_fast()
    assert route(slow, decode).passed_over is decode
    assert route(slow, decode, A1) == Route(RouteKind.AGGREGATED, A1, None, Reason.SLOW_HANDOVER)
    assert route(slow, decode, A1).passed_over is decode
    assert route(fast, decode).passed_over is None
    other = paced(a_backend("decode", 34, requests=30), prefill_tokens_per_s=30_000)
    linked(slow, other, s_per_token=1e-5)
    assert route(slow, decode, other).passed_over is decode


def test_what_was_learnt_of_an_engine_that_is_another_now_is_void() -> None:
    slow, _, decode = slow_and_fast()
    Fleet([slow, decode]).forget_paces(slow)
    assert route(slow, decode).reason is Reason.NOVEL_PROMPT


def test_partners_are_of_one_group_and_not_left_alone() -> None:
    now = 0.0
    pairs = Pairs(PairRules(failures=1, quarantine_s=60))
    partners = partners_of(pairs, lambda: now)
    decode, near, also_near = a_backend("decode", 1), a_backend("prefill", 2), a_backend("prefill", 3)
    far = a_backend("prefill", 4, group="another")
    everyone = [near, also_near, far]
    assert partners(decode, everyone) == [near, also_near]
    pairs.failed(near.id, decode.id, now)
    assert partners(decode, everyone) == [also_near]
    now = 60.0
    assert (partners(decode, everyone), pairs.any_left_alone) == ([near, also_near], False)
