from contextlib import suppress
from typing import Any

import pytest

from router.call import Call
from router.errors import Outcome
from router.fleet.backend import Backend
from router.routing.prefix.index import PrefixIndex
from router.routing.prefix.prefixes import Prefixes
from router.routing.route import Route
from router.routing.sent import Sent
from router.telemetry.events import RouteKind
from tests.support.builders import a_backend, a_completion

P, D = a_backend("prefill", 1), a_backend("decode", 2)
TEXT = "x" * 2560


class Sending:
    """What is known of a prompt of 640 tokens while it is under way."""

    def __init__(self) -> None:
        self.prefixes = Prefixes(PrefixIndex(100_000, 1000))
        self.call = a_completion(prompt=TEXT)

    def over(self, prefill: Backend | None = P) -> Sent:
        kind = RouteKind.DISAGGREGATED if prefill else RouteKind.LOCAL
        return Sent(self.prefixes, self.call, Route(kind, D, prefill, "why"))

    def held(self, call: Call | None = None) -> dict[Any, float]:
        return dict(self.prefixes.held(call or a_completion(prompt=TEXT)))


def test_both_engines_are_expected_to_hold_what_was_sent() -> None:
    sending = Sending()
    with sending.over():
        assert sending.held() == {P: 640, D: 640}


def test_what_came_to_a_good_end_is_held() -> None:
    sending = Sending()
    with sending.over() as sent:
        sent.prefill_over(Outcome.OK)
        sent.answered(100)
    assert sending.held(a_completion(prompt=TEXT * 2)) == {P: 640, D: 740}


def test_what_did_not_is_not() -> None:
    sending = Sending()
    with pytest.raises(ConnectionError), sending.over():
        raise ConnectionError
    assert sending.held() == {}


def test_a_prompt_that_prefill_failed_to_compute_is_not_there_when_decode_has_it_after_all() -> None:
    sending = Sending()
    with sending.over() as sent:
        sent.prefill_over(Outcome.TIMEOUT)
        sent.answered(0)
    assert sending.held() == {D: 640}


def test_a_prompt_that_prefill_has_computed_stays_there_when_decode_fails() -> None:
    sending = Sending()
    with suppress(ConnectionError), sending.over() as sent:
        sent.prefill_over(Outcome.OK)
        raise ConnectionError
    assert sending.held() == {P: 640}


def test_an_answer_that_broke_off_is_held_as_far_as_it_came() -> None:
    sending = Sending()
    with suppress(ConnectionError), sending.over(prefill=None) as sent:
        sent.answered(1)
        sent.answered(30)
        raise ConnectionError
    assert sending.held(a_completion(prompt=TEXT * 2)) == {D: 670}


def test_without_an_index_nothing_is_written_down() -> None:
    call = a_completion(prompt=TEXT)
    with Sent(None, call, Route(RouteKind.DISAGGREGATED, D, P, "why")) as sent:
        sent.prefill_over(Outcome.OK)
        sent.answered(3)
    assert call.blocks is None
