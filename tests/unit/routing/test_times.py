import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.fleet.backend import Backend
from router.fleet.links import COMPARED_TOKENS
from router.routing.policies.burden import tokens_ahead
from router.routing.times import Times, _first, quick, times
from router.settings.routing import Routing
from tests.support.builders import a_backend, a_call, linked, paced

RULES = Routing(prefill_tokens_per_s=20_000)
TOKENS = 4000


class Engines:
    """Two prefill engines and a decode engine."""

    def __init__(self) -> None:
        self.p1, self.p2, self.decode = a_backend("prefill", 1), a_backend("prefill", 2), a_backend("decode", 3)

    def times(self, *prefill: Backend, held: dict[Backend, float] | None = None, at: float = 0.0) -> Times | None:
        call = a_call(prompt_tokens=TOKENS)
        return times(call, self.decode, prefill or [self.p1], held or {}, RULES, at)


def test_nothing_is_known_before_a_hand_over() -> None:
    engines = Engines()
    paced(engines.decode, prefill_tokens_per_s=10_000)
    assert engines.times() is None
    linked(engines.p1, engines.decode, s_per_token=1e-5)
    assert times(a_call(), engines.decode, [], {}, RULES, 0.0) is None


def test_of_a_pair_that_has_never_met_the_others_of_its_decode_engine_tell() -> None:
    engines = Engines()
    linked(engines.p2, engines.decode, s_per_token=3e-4)
    told = engines.times()
    assert told is not None
    assert (told.handover_s, told.remote_s, told.link_s) == (None, None, None)
    assert told.late_s == pytest.approx(0.01 + 3e-4 * TOKENS)


def test_one_hand_over_that_was_slow_tells() -> None:
    engines = Engines()
    engines.decode.links.begin(engines.p1.id, TOKENS, 0.0).arrived(1.5)
    told = engines.times()
    assert told is not None
    assert (told.handover_s, told.remote_s) == (None, None)
    assert told.late_s == pytest.approx(1.5)


def test_each_way_is_made_of_what_was_learnt() -> None:
    engines = Engines()
    paced(engines.p1, prefill_tokens_per_s=40_000)
    paced(engines.decode, prefill_tokens_per_s=10_000)
    linked(engines.p1, engines.decode, s_per_token=1e-5)
    engines.decode.load.requests, engines.decode.load.others_requests = 7, 1
    told = engines.times()
    assert told is not None
    assert told.prefill_s == pytest.approx(0.1)
    assert told.handover_s == pytest.approx(0.05)
    assert told.remote_s == pytest.approx(0.15)
    assert (told.stay_s, told.stall_s) == pytest.approx((0.4, 8 * 0.4))
    assert told.stay_is_known
    assert told.cost_of_staying_s(0.05) == pytest.approx(0.4 + 0.05 * 3.2)


def test_waiting_in_line_counts() -> None:
    engines = Engines()
    paced(engines.p1, prefill_tokens_per_s=40_000)
    paced(engines.decode, prefill_tokens_per_s=10_000)
    linked(engines.p1, engines.decode, s_per_token=1e-5)
    engines.p1.load.tokens, engines.decode.load.local_tokens = 8000, 2000
    moving = engines.decode.links.begin(engines.p1.id, 1000, 0.0)
    told = engines.times()
    assert told is not None
    assert told.prefill_s == pytest.approx(0.3)
    assert told.stay_s == pytest.approx(0.6)
    assert told.handover_s == pytest.approx(0.06)
    assert told.late_s == 0
    moving.gone()


def test_a_short_prompt_waits_for_the_line_before_it_and_for_its_own_fixed_part_once() -> None:
    engines = Engines()
    for tokens in (256, 4096, 16_384):
        engines.decode.paces.compute.note(tokens, 0.05 + tokens / 20_000)
    linked(engines.p1, engines.decode, s_per_token=1e-5)
    engines.decode.load.local_tokens = 10 * TOKENS
    told = engines.times()
    assert told is not None
    assert told.stay_s == pytest.approx(0.05 + 11 * TOKENS / 20_000)


def test_only_what_an_engine_does_not_hold_has_to_be_computed_or_moved() -> None:
    engines = Engines()
    paced(engines.p1, prefill_tokens_per_s=40_000)
    paced(engines.decode, prefill_tokens_per_s=10_000)
    linked(engines.p1, engines.decode, s_per_token=1e-5)
    told = engines.times(held={engines.p1: 2000, engines.decode: 1000})
    assert told is not None
    assert told.prefill_s == pytest.approx(0.05)
    assert told.handover_s == pytest.approx(0.04)
    assert told.stay_s == pytest.approx(0.3)


def test_prefill_stands_in_for_decode_and_the_settings_for_both() -> None:
    engines = Engines()
    linked(engines.p1, engines.decode, s_per_token=3e-4)
    told = engines.times()
    assert told is not None
    assert (told.stay_s, told.stay_is_known, told.prefill_s) == (TOKENS / 20_000, False, None)
    paced(engines.p1, prefill_tokens_per_s=40_000)
    told = engines.times()
    assert told is not None
    assert told.stay_s == pytest.approx(0.1)
    assert not told.stay_is_known


def test_a_hand_over_under_way_tells_before_it_is_over() -> None:
    engines = Engines()
    engines.decode.links.begin(engines.p1.id, TOKENS, 10.0)
    told = engines.times(at=11.0)
    assert told is not None
    assert (told.handover_s, told.remote_s) == (None, None)
    assert told.late_s == pytest.approx(2 * TOKENS / COMPARED_TOKENS)


def test_a_late_hand_over_is_no_faster_than_it_is_late() -> None:
    assert Times(0.1, 0.2, 1.0, 0.0, stay_is_known=True, late_s=3.0).remote_s == pytest.approx(3.1)


def test_of_several_prefill_engines_the_one_that_is_done_first_is_looked_at() -> None:
    engines = Engines()
    for prefill, speed in ((engines.p1, 40_000), (engines.p2, 20_000)):
        paced(prefill, prefill_tokens_per_s=speed)
        linked(prefill, engines.decode, s_per_token=1e-5)

    def prefill_s(**held: float) -> float | None:
        told = engines.times(engines.p1, engines.p2, held={getattr(engines, name): n for name, n in held.items()})
        return told.prefill_s if told else None

    assert prefill_s() == pytest.approx(0.1)
    assert prefill_s(p2=3000) == pytest.approx(0.05)
    engines.p2.load.tokens = 3000
    assert prefill_s(p2=3000) == pytest.approx(0.1)


def test_what_others_have_there_comes_before_it() -> None:
    engines = Engines()
    for prefill in (engines.p1, engines.p2):
        paced(prefill, prefill_tokens_per_s=40_000)
        linked(prefill, engines.decode, s_per_token=1e-5)
    engines.p1.load.others_requests, engines.p2.load.tokens = 20, 400
    told = engines.times(engines.p1, engines.p2)
    assert told is not None
    assert told.prefill_s == pytest.approx(0.11)


def test_slow_links_are_left_out() -> None:
    engines = Engines()
    both = [engines.p1, engines.p2]
    assert quick(both, engines.decode, 0.0) == both
    linked(engines.p1, engines.decode, s_per_token=1e-5)
    linked(engines.p2, engines.decode, s_per_token=3e-4)
    assert quick(both, engines.decode, 0.0) == [engines.p1]
    assert quick([engines.p2], engines.decode, 0.0) == [engines.p2]


TOKEN_COUNTS, SPEEDS = st.integers(0, 9000), st.sampled_from([None, 2e4, 4e4])


@given(st.lists(st.tuples(TOKEN_COUNTS, TOKEN_COUNTS, st.integers(0, 3), SPEEDS), min_size=1, max_size=8))
def test_the_pair_is_that_of_the_first_of_those_who_would_be_done_first(
    engines: list[tuple[int, int, int, float | None]],
) -> None:
    pool, held = [a_backend("prefill", port) for port in range(1, len(engines) + 1)], {}
    for engine, (tokens, holds, others, speed) in zip(pool, engines, strict=True):
        engine.load.tokens, engine.load.others_requests, held[engine] = tokens, others, float(holds)
        paced(engine, prefill_tokens_per_s=speed)
    left_s = [(tokens_ahead(e) + 9000 - held[e]) * e.paces.compute.s_per_token for e in pool]
    assert _first(pool, 9000, held) is pool[left_s.index(min(left_s))]
