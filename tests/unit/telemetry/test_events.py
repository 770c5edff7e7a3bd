from functools import partial

import pytest

from router.errors import ClientGone, Outcome
from router.telemetry.events import Journey, Observers, RouteKind, Stage


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Seen:
    """An observer that remembers stages and, of each, how many gaps it saw."""

    def __init__(self) -> None:
        self.notes = {stage: partial(self.observe, stage) for stage in Stage}
        self.reached: list[Stage] = []
        self.gaps: list[int] = []

    def observe(self, stage: Stage, journey: Journey) -> None:
        self.reached.append(stage)
        self.gaps.append(len(journey.event_gaps_s))


def journey(clock: Clock, *observers: Seen) -> Journey:
    return Journey("r-1", "chat", clock(), clock, Observers(*observers))


def test_every_stage_is_shown_once_in_order() -> None:
    clock, seen = Clock(), Seen()
    told = journey(clock, seen)
    told.chosen(RouteKind.DISAGGREGATED, "novel_prompt", "d:1", "p:1")
    told.prefill_sent()
    told.prefilled()
    told.committed()
    told.settled(Outcome.OK, 200)
    assert seen.reached == [Stage.CHOSEN, Stage.PREFILLED, Stage.COMMITTED, Stage.SETTLED]


def test_times_are_those_of_the_clock() -> None:
    clock = Clock()
    told = journey(clock)
    told.chosen(RouteKind.DISAGGREGATED, "novel_prompt", "d:1", "p:1")
    for seconds, step in ((1, told.prefill_sent), (2, told.prefilled), (3, told.committed)):
        clock.now += seconds
        step()
    clock.now += 4
    told.settled(Outcome.OK, 200)
    assert (told.prefill_s, told.handoff_s, told.ttft_s, told.total_s) == (2, 3, 6, 10)


def test_a_request_that_fell_back_has_no_hand_over_time() -> None:
    clock = Clock()
    told = journey(clock)
    told.chosen(RouteKind.DISAGGREGATED, "novel_prompt", "d:1", "p:1")
    told.prefill_sent()
    told.fell_back("connect_failed", "p:1: refused")
    told.committed()
    assert told.route is RouteKind.LOCAL
    assert told.handoff_s is None
    assert told.prefill_s is None


def test_a_further_try_keeps_the_time_of_the_last_prefill_that_was_of_use() -> None:
    clock = Clock()
    told = journey(clock)
    told.chosen(RouteKind.DISAGGREGATED, "novel_prompt", "d:1", "p:1")
    told.prefill_sent()
    clock.now += 1
    told.prefilled()
    clock.now += 5
    told.prefill_sent()
    told.fell_back("connect_failed", "p:2: refused")
    told.committed()
    assert (told.prefill_s, told.handoff_s, told.ttft_s) == (1, None, 6)


def test_a_request_without_an_answer_has_no_times_of_one() -> None:
    told = journey(Clock())
    gone = ClientGone()
    told.settled(gone.outcome, gone.status, gone)
    assert (told.ttft_s, told.handoff_s) == (None, None)
    assert told.total_s == 0


def test_an_end_comes_once() -> None:
    told = journey(Clock())
    told.settled(Outcome.OK, 200)
    with pytest.raises(AssertionError, match="settled twice"):
        told.settled(Outcome.OK, 200)


def test_gaps_are_shown_in_batches_and_then_forgotten() -> None:
    seen = Seen()
    told = journey(Clock(), seen)
    told.event_gaps_s += [0.01] * 3
    told.paced()
    assert (seen.reached, seen.gaps, told.event_gaps_s) == ([Stage.PACED], [3], [])
