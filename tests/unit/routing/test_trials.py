import random
from collections import Counter

import pytest

from router.errors import Outcome
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.fleet.links import NEW_REQUESTS, TRIAL_LOSS_S, TRIAL_REQUESTS, TRIAL_S
from router.routing.choose import Chooser
from router.routing.disaggregation import Reason
from router.routing.route import Route
from router.routing.timed import Timed
from router.routing.trials import to_try
from router.settings.routing import Routing
from tests.support.builders import MODEL, a_backend, a_call, linked, paced

FAST_S, SLOW_S = 5e-6, 1.35e-4
"""A token over a link: 8,000 of them in less and in more time than decode needs to compute them, at 20,000 a second."""

SPEED = 20_000
STEP_S = 0.5
SEED = 1


def a_prefill(port: int) -> Backend:
    return paced(a_backend("prefill", port), prefill_tokens_per_s=SPEED)


def a_decode(port: int, requests: int = 20) -> Backend:
    return paced(a_backend("decode", port, requests=requests), prefill_tokens_per_s=SPEED)


class Traffic:
    """Streams one after the other over some engines, each timed as it would be; all pairs have met."""

    def __init__(self, *engines: Backend, slow: tuple[Backend, ...] = ()) -> None:
        self.fleet, self.now, self.number = Fleet(engines), 0.0, 0
        self.chooser = Chooser(Routing(), lambda pool, _: list(pool), random.Random(SEED))
        prefill = [engine for engine in engines if engine.role == "prefill"]
        decode = [engine for engine in engines if engine.role == "decode"]
        self.s_per_token = {(p, d): SLOW_S if {p, d} & set(slow) else FAST_S for p in prefill for d in decode}
        for (p, d), each_s in self.s_per_token.items():
            linked(p, d, s_per_token=each_s)

    def route(self, tokens: int, *, stream: bool = True) -> tuple[Route, Timed]:
        self.number += 1
        call = a_call(prompt_tokens=tokens, request_id=f"r-{self.number}", stream=stream, user=str(self.number))
        call.blocks = None  # nobody holds anything of it
        route = self.chooser.choose(call, self.fleet.snapshot(MODEL, at=self.now))
        assert isinstance(route, Route)
        return route, Timed(call, route, self.now)

    def one(self, tokens: int, *, stream: bool = True) -> Route:
        self.now += STEP_S
        route, timed = self.route(tokens, stream=stream)
        with timed:
            computed_at = self.now + tokens / SPEED
            if route.prefill is not None:
                timed.prefill_over(Outcome.OK, computed_at)
                moved_s = 0.01 + self.s_per_token[route.prefill, route.decode] * tokens
                timed.answer_began(computed_at + moved_s, handed_over=True)
            else:
                timed.answer_began(computed_at, handed_over=False)
        return route

    def many(self, count: int, tokens: int, *, stream: bool = True) -> list[Route]:
        return [self.one(tokens, stream=stream) for _ in range(count)]


def reasons(routes: list[Route]) -> Counter[str]:
    return Counter(route.reason for route in routes)


def test_prompts_that_would_lose_much_by_a_trial_go_over_the_fast_link_beside_the_slow_one() -> None:
    fast, slow = a_prefill(1), a_prefill(2)
    routes = Traffic(fast, slow, a_decode(3), slow=(slow,)).many(1000, tokens=8000)
    assert set(reasons(routes)) == {Reason.FASTER_REMOTE, Reason.TRIAL}
    assert {route.prefill for route in routes if route.reason == Reason.FASTER_REMOTE} == {fast}
    loss_s = 0.01 + 8000 * SLOW_S - 8000 / SPEED
    assert 8 <= reasons(routes)[Reason.TRIAL] <= 1000 / (TRIAL_REQUESTS * loss_s / TRIAL_LOSS_S)


def test_a_slow_link_that_was_mended_beside_a_fast_one_is_used_again() -> None:
    fast, slow, decode = a_prefill(1), a_prefill(2), a_decode(3)
    traffic = Traffic(fast, slow, decode, slow=(slow,))
    traffic.s_per_token[slow, decode] = FAST_S
    traffic.many(300, tokens=2048)
    assert decode.links.slow == frozenset()


def test_a_link_that_was_mended_is_found_again_while_an_aggregated_engine_takes_what_is_passed_over() -> None:
    prefill, decode, aggregated = a_prefill(1), a_decode(2), a_backend("aggregated", 3)
    traffic = Traffic(prefill, decode, aggregated, slow=(prefill,))
    before = traffic.many(100, tokens=2000)
    assert {route.decode for route in before if route.reason == Reason.SLOW_HANDOVER} == {aggregated}
    traffic.s_per_token[prefill, decode] = FAST_S
    assert reasons(traffic.many(100, tokens=2000))[Reason.FASTER_REMOTE] >= 50


def test_a_link_that_was_mended_is_found_again_while_another_decode_engine_has_a_faster_one() -> None:
    prefill, near, other = a_prefill(1), a_decode(2, requests=5), a_decode(3, requests=20)
    traffic = Traffic(prefill, near, other, slow=(near,))
    before = traffic.many(100, tokens=2000)
    assert reasons(before).keys() == {Reason.FASTER_REMOTE, Reason.TRIAL}
    assert {route.decode for route in before if route.reason == Reason.FASTER_REMOTE} == {other}
    traffic.s_per_token[prefill, near] = FAST_S
    assert traffic.many(100, tokens=2000)[-1].decode is near


@pytest.mark.parametrize("count", [1, 2, 8, 32])
def test_there_are_as_few_trials_with_many_prefill_engines_and_each_has_some(count: int) -> None:
    prefill = [a_prefill(port) for port in range(1, count + 1)]
    routes = Traffic(*prefill, a_decode(99), slow=tuple(prefill)).many(3300, tokens=2000)
    assert reasons(routes).keys() == {Reason.SLOW_HANDOVER, Reason.TRIAL}
    assert 90 <= reasons(routes)[Reason.TRIAL] <= 3300 / TRIAL_REQUESTS
    assert {route.prefill for route in routes if route.reason == Reason.TRIAL} == set(prefill)


def test_requests_that_come_at_once_make_one_trial() -> None:
    prefill = a_prefill(1)
    traffic = Traffic(prefill, a_decode(2), slow=(prefill,))
    traffic.many(TRIAL_REQUESTS, tokens=2000)
    assert reasons([traffic.route(2000)[0] for _ in range(20)])[Reason.TRIAL] == 1


def test_requests_that_come_at_once_after_a_trial_that_surprised_make_one_more() -> None:
    prefill, decode = a_prefill(1), a_decode(2)
    traffic = Traffic(prefill, decode, slow=(prefill,))
    traffic.s_per_token[prefill, decode] = FAST_S
    while traffic.one(2000).reason != Reason.TRIAL:
        pass
    traffic.now += STEP_S
    assert reasons([traffic.route(2000)[0] for _ in range(20)])[Reason.TRIAL] == 1


def test_complete_answers_try_nothing() -> None:
    prefill = a_prefill(1)
    traffic = Traffic(prefill, a_decode(2), slow=(prefill,))
    assert reasons(traffic.many(200, tokens=2000, stream=False)) == {Reason.SLOW_HANDOVER: 200}
    assert traffic.one(2000).reason == Reason.TRIAL


def test_a_trial_is_for_requests_that_lose_little() -> None:
    prefill, decode = a_prefill(1), a_decode(2)
    linked(prefill, decode, s_per_token=SLOW_S)

    def tries(tokens: int) -> bool:
        return to_try([prefill], decode, tokens, Routing(), at, Reason.FASTER_LOCAL) is prefill

    at = TRIAL_S
    assert not tries(2000)
    decode.links.asked = TRIAL_REQUESTS
    assert (tries(2000), tries(4000)) == (True, False)
    decode.links.asked *= 2
    assert (tries(2000), tries(4000)) == (True, False)
    at = 2 * TRIAL_S
    assert tries(4000)
    assert to_try([], decode, 4000, Routing(), at, Reason.SLOW_HANDOVER) is None
    remote = to_try([prefill], decode, 4000, Routing(), at, Reason.FASTER_REMOTE)
    assert remote is None, "it is the best that there is"


def test_the_line_on_a_prefill_engine_is_lost_by_a_trial_too() -> None:
    engines = Strangers()
    for line_tokens, tries in ((0, True), (SPEED // 4, False)):
        engines.one.load.tokens = engines.other.load.tokens = line_tokens
        assert (engines.tried(1000) is not None) is tries


class Strangers:
    """A decode engine that knows one prefill engine, whose link is slow, and two that never handed over."""

    def __init__(self) -> None:
        self.known, self.one, self.other = a_prefill(1), a_prefill(2), a_prefill(3)
        self.decode = a_decode(4)
        linked(self.known, self.decode, s_per_token=SLOW_S)

    def tried(self, tokens: int, reason: Reason = Reason.SLOW_HANDOVER) -> Backend | None:
        return to_try([self.known, self.one, self.other], self.decode, tokens, Routing(), 0.0, reason)


def test_an_engine_that_never_handed_over_is_tried_at_once_by_a_short_prompt() -> None:
    engines = Strangers()
    assert engines.tried(8000) is None
    assert engines.tried(1000, Reason.FASTER_LOCAL) is None, "nothing speaks against its link"
    assert engines.tried(1000) in (engines.one, engines.other)


def test_a_prompt_that_is_handed_over_anyway_makes_no_acquaintances() -> None:
    engines = Strangers()
    linked(engines.one, engines.decode, s_per_token=FAST_S)
    assert engines.decode.links.slow == {engines.known.id}
    assert engines.tried(1000, Reason.FASTER_REMOTE) is None
    assert engines.tried(1000) is engines.other


def test_the_next_engine_of_which_little_is_known_waits_its_turn() -> None:
    engines = Strangers()
    links = engines.decode.links
    links.ask(0.0, engines.one.id, trial=True)
    for _ in range(NEW_REQUESTS):
        links.ask(0.0)
    assert engines.tried(1000) is None
    links.begin(engines.one.id, 600, 0.0).arrived(9.0)
    tried = []
    for _ in range(2):
        tried.append(engines.tried(1000))
        links.ask(0.0)
    assert set(tried) == {engines.other, None}, "what took 9 s is too dear to be tried again soon"


def test_a_link_whose_first_hand_over_was_held_up_is_used_again_after_a_trial() -> None:
    prefill, decode = a_prefill(1), a_decode(2)
    traffic = Traffic(prefill, decode)
    decode.links.forget(prefill.id)
    decode.links.begin(prefill.id, 2000, 0.0).arrived(0.5)
    assert reasons(traffic.many(20, tokens=2000)) == {Reason.SLOW_HANDOVER: 20}
    assert reasons(traffic.many(20, tokens=1000))[Reason.TRIAL] >= 1
    assert reasons(traffic.many(20, tokens=2000)) == {Reason.FASTER_REMOTE: 20}


@pytest.mark.parametrize(("tokens", "held_up_s"), [(4000, 1.0), (4000, 3.5), (12_000, 3.5)])
def test_one_first_hand_over_that_was_held_up_costs_some_tens_of_long_prompts_their_hand_over(
    tokens: int, held_up_s: float
) -> None:
    prefill, decode = [a_prefill(port) for port in (1, 2, 3, 4)], a_decode(9)
    traffic = Traffic(*prefill, decode)
    for engine in prefill:
        decode.links.forget(engine.id)
    decode.links.begin(prefill[0].id, tokens, 0.0).arrived(held_up_s)
    assert 1 <= reasons(traffic.many(90, tokens=tokens))[Reason.SLOW_HANDOVER] <= 64


@pytest.mark.parametrize("heard", [1, 2])
def test_a_link_that_was_fast_once_is_used_beside_one_whose_first_hand_over_was_slow(heard: int) -> None:
    slow, fast, decode = a_prefill(1), a_prefill(2), a_decode(3)
    traffic = Traffic(slow, fast, decode, slow=(slow,))
    for engine in (slow, fast):
        decode.links.forget(engine.id)
    decode.links.begin(slow.id, 12_000, 0.0).arrived(3.5)
    for tokens in (6000, 12_000)[:heard]:
        decode.links.begin(fast.id, tokens, 0.0).arrived(0.01 + FAST_S * tokens)
    traffic.now = 20.0
    assert {route.prefill for route in traffic.many(30, tokens=12_000)} == {fast}


@pytest.mark.parametrize(("tokens", "within"), [(2000, 40), (12_000, 200)])
def test_a_new_engine_with_a_fast_link_is_found_beside_a_slow_one_also_by_long_prompts_only(
    tokens: int, within: int
) -> None:
    slow, new, decode = a_prefill(1), a_backend("prefill", 2), a_decode(3)
    traffic = Traffic(slow, new, decode, slow=(slow,))
    decode.links.forget(new.id)
    traffic.many(within, tokens=tokens)
    assert {route.prefill for route in traffic.many(20, tokens=tokens)} <= {new}


def test_a_new_engine_beside_a_fast_link_and_a_slow_one_is_used_at_once() -> None:
    fast, slow, new, decode = a_prefill(1), a_prefill(2), a_backend("prefill", 3), a_decode(4)
    traffic = Traffic(fast, slow, new, decode, slow=(slow,))
    decode.links.forget(new.id)
    assert reasons(traffic.many(30, tokens=2000))[Reason.SLOW_HANDOVER] == 0


def test_nothing_is_tried_for_lines_of_prompts_where_all_links_are_fast() -> None:
    prefill, decode = [a_prefill(port) for port in range(1, 9)], a_decode(99, requests=1)
    traffic = Traffic(*prefill, decode)
    for engine in prefill:
        engine.load.tokens = 5 * SPEED
        if engine is not prefill[0]:
            decode.links.forget(engine.id)
    assert Reason.TRIAL not in reasons(traffic.many(200, tokens=4000))


def test_an_engine_that_is_drained_while_its_link_is_in_doubt_keeps_no_others_waiting() -> None:
    drained, other, decode = a_prefill(1), a_prefill(2), a_decode(3)
    traffic = Traffic(drained, other, decode, slow=(drained, other))
    traffic.s_per_token[drained, decode] = FAST_S
    while traffic.one(2000).prefill is not drained:
        pass
    drained.standing.drained = True
    traffic.s_per_token[other, decode] = FAST_S
    assert {route.prefill for route in traffic.many(100, tokens=2000)[-20:]} == {other}
