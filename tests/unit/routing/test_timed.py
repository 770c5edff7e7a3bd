from contextlib import suppress

import pytest

from router.errors import Outcome
from router.fleet.fleet import Fleet
from router.fleet.pace import Pace
from router.routing.route import Route
from router.routing.timed import Timed
from router.telemetry.events import RouteKind
from tests.support.builders import a_backend, a_call

TOKENS = 4000


class Engines:
    """A pair, and calls over it or over decode alone."""

    def __init__(self) -> None:
        self.prefill, self.decode = a_backend("prefill", 1), a_backend("decode", 2)

    def timed(self, *, local: bool = False, stream: bool = True, cached: int = 0) -> Timed:
        call = a_call(prompt_tokens=TOKENS, stream=stream)
        kind = RouteKind.LOCAL if local else RouteKind.DISAGGREGATED
        return Timed(call, Route(kind, self.decode, None if local else self.prefill, "x", cached, cached), 10.0)

    def handed_over(self, *, stream: bool = True, cached: int = 0, to_the_end: bool = True) -> None:
        with self.timed(stream=stream, cached=cached) as timed:
            timed.prefill_over(Outcome.OK, 10.2)
            timed.answer_began(11.2, handed_over=True)
            if to_the_end:
                timed.ended(51, 12.2)

    def computed(self, *, stream: bool = True) -> None:
        with self.timed(local=True, stream=stream) as timed:
            timed.answer_began(10.4, handed_over=False)
            timed.ended(51, 11.4)

    @property
    def link(self) -> Pace:
        link = self.decode.links.get(self.prefill.id)
        assert link is not None
        return link.pace

    @property
    def moving_tokens(self) -> int:
        return sum(link.moving_tokens for _, link in self.decode.links.items())


def total_s(pace: Pace) -> float | None:
    return pace.seconds(TOKENS)


def test_each_leg_tells_of_who_made_it() -> None:
    engines = Engines()
    for _ in range(3):
        engines.handed_over()
    assert total_s(engines.prefill.paces.compute) == pytest.approx(0.2)
    assert total_s(engines.link) == pytest.approx(1.0)
    assert engines.decode.paces.decode.seconds(51) == pytest.approx(1.0)
    assert engines.decode.paces.compute.samples == 0


def test_a_local_prefill_tells_of_decode() -> None:
    engines = Engines()
    for _ in range(3):
        engines.computed()
    assert total_s(engines.decode.paces.compute) == pytest.approx(0.4)
    assert engines.decode.paces.decode.samples == 3
    assert engines.prefill.paces.compute.samples == len(engines.decode.links) == 0


def test_what_was_cached_took_no_time() -> None:
    engines = Engines()
    for _ in range(3):
        engines.handed_over(cached=3000)
    assert engines.prefill.paces.compute.seconds(1000) == pytest.approx(0.2)
    assert engines.link.seconds(1000) == pytest.approx(1.0)


def test_what_was_ahead_in_line_took_its_time() -> None:
    engines = Engines()
    engines.prefill.load.tokens, engines.decode.load.local_tokens = 6000, 1000
    for _ in range(3):
        engines.handed_over()
        engines.computed()
    assert engines.prefill.paces.compute.seconds(10_000) == pytest.approx(0.2)
    assert engines.decode.paces.compute.seconds(5000) == pytest.approx(0.4)


def test_complete_answers_tell_of_prefill_only() -> None:
    engines = Engines()
    for _ in range(3):
        engines.handed_over(stream=False)
        engines.computed(stream=False)
    assert total_s(engines.prefill.paces.compute) == pytest.approx(0.2)
    decode = engines.decode
    assert (len(decode.links), decode.paces.compute.samples, decode.paces.decode.samples) == (0, 0, 0)


def test_failures_tell_nothing() -> None:
    engines = Engines()
    with engines.timed() as timed:
        timed.prefill_over(Outcome.UPSTREAM_ERROR, 10.2)
    with suppress(ConnectionError), engines.timed() as timed:
        timed.prefill_over(Outcome.OK, 10.2)
        assert engines.moving_tokens == TOKENS
        raise ConnectionError
    assert engines.moving_tokens == 0
    with engines.timed() as timed:
        timed.prefill_over(Outcome.OK, 10.2)
        timed.answer_began(11.2, handed_over=False)
    assert (engines.prefill.paces.compute.samples, engines.link.samples) == (2, 0)


def test_what_decode_computes_in_place_of_a_hand_over_is_moving_no_longer_while_it_answers() -> None:
    engines = Engines()
    with engines.timed() as timed:
        timed.prefill_over(Outcome.OK, 10.2)
        timed.answer_began(11.2, handed_over=False)
        assert engines.moving_tokens == 0
        assert not engines.decode.links.slow_now(70.0)


def test_nothing_is_learnt_of_an_engine_that_was_forgotten_while_it_computed() -> None:
    engines = Engines()
    for _ in range(3):
        with engines.timed() as timed:
            Fleet([engines.prefill, engines.decode]).forget_paces(engines.prefill)
            timed.prefill_over(Outcome.OK, 10.2)
            timed.answer_began(11.2, handed_over=True)
    assert (engines.prefill.paces.compute.samples, len(engines.decode.links)) == (0, 0)


def test_a_few_tokens_tell_nothing_of_a_pace() -> None:
    engines = Engines()
    with engines.timed() as timed:
        timed.answer_began(11.0, handed_over=False)
        timed.ended(7, 12.0)
    assert engines.decode.paces.decode.samples == 0


def test_a_hand_over_that_is_not_made_is_counted_on_the_engine_that_it_was_not_made_to() -> None:
    engines, other = Engines(), a_backend("aggregated", 3)
    engines.handed_over()
    for passed_over in (engines.decode, None):
        route = Route(RouteKind.AGGREGATED, other, None, "x", passed_over=passed_over)
        Timed(a_call(prompt_tokens=TOKENS), route, 10.0)
    assert (engines.decode.links.asked, other.links.asked) == (2, 0)
