import pytest

from router.scaling.work import Done, PrefillWork
from router.telemetry.events import Journey, Observers, RouteKind
from router.usage import Usage
from tests.support.builders import MODEL


class Told:
    """Journeys at chosen times, and what the counts make of them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.work = PrefillWork()

    def journey(self, tokens: int = 1000) -> Journey:
        journey = Journey("r-1", "chat", self.now, lambda: self.now, Observers(self.work))
        journey.model, journey.prompt_tokens = MODEL, tokens
        return journey

    def prefill(self, begin: float, end: float, usage: Usage | None = None, engine: str = "p:1") -> None:
        journey = self.journey()
        journey.chosen(RouteKind.DISAGGREGATED, "novel_prompt", "d:1", engine)
        self.now = begin
        journey.prefill_sent()
        self.now = end
        journey.prefilled()
        journey.prefill_usage = usage
        journey.committed()


@pytest.fixture
def told() -> Told:
    return Told()


def test_tokens_over_the_time_in_which_an_engine_had_any_prompt(told: Told) -> None:
    told.prefill(0, 2)
    told.prefill(1, 3)  # a second of it is the first one's, too
    told.prefill(10, 11)
    assert told.work.of(MODEL) == Done(prompts=3, tokens=3000, busy_s=4)


def test_two_engines_work_at_the_same_time(told: Told) -> None:
    told.prefill(0, 2, engine="p:1")
    told.prefill(0, 2, engine="p:2")
    assert told.work.of(MODEL).busy_s == 4


def test_what_was_cached_was_not_computed(told: Told) -> None:
    told.prefill(0, 1, Usage(900, 1, 700))
    told.prefill(1, 2, Usage(900, 1, None))
    assert told.work.of(MODEL).tokens == 200 + 900


@pytest.mark.parametrize(("reason", "tokens"), [("prefill_saturated", 1000), ("short_prompt", 0)])
def test_what_decode_computes_in_prefills_stead_is_missed(told: Told, reason: str, tokens: int) -> None:
    journey = told.journey()
    journey.chosen(RouteKind.LOCAL, reason, "d:1", None)
    journey.committed()
    assert told.work.of(MODEL) == Done(missed_tokens=tokens)


def test_what_has_left_the_fleet_is_forgotten(told: Told) -> None:
    told.prefill(0, 1)
    told.work.keep({MODEL}, {"p:1"})
    assert told.work.of(MODEL).prompts == 1
    told.work.keep(set(), set())
    assert told.work.of(MODEL) == Done()
    assert told.work._busy_until == {}
