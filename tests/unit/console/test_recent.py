import pytest

from router.console.recent import MAX_TIMES, MAX_TROUBLES, SLOT_S, Recent, percentiles
from router.errors import ClientGone, EngineTimeout, InvalidRequest, Leg, Outcome, RequestError, Unavailable
from router.telemetry.events import Journey, Observers, RouteKind
from router.usage import Usage
from tests.support.builders import MODEL


class Told:
    """Journeys on a clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.recent = Recent(lambda: self.now)

    def journey(self, *, stream: bool = True) -> Journey:
        journey = Journey("r-1", "chat", self.now, lambda: self.now, Observers(self.recent))
        journey.model, journey.stream = MODEL, stream
        return journey

    def stream(self, *, queue_s: float = 0.0) -> Journey:
        """A hand-over: what was waited, 0.2 s of prefill, 0.1 s until the first token."""
        journey = self.journey()
        if queue_s:
            self.now += queue_s
            journey.queued("prefill", queue_s)
        journey.chosen(RouteKind.DISAGGREGATED, "novel_prompt", "d:1", "p:1")
        journey.prefill_sent()
        self.now += 0.2
        journey.prefilled()
        self.now += 0.1
        journey.committed()
        return journey

    def failed(self, error: RequestError) -> None:
        journey = self.journey()
        journey.chosen(RouteKind.DISAGGREGATED, "novel_prompt", "d:1", "p:1")
        journey.settled(error.outcome, error.status, error)


@pytest.fixture
def told() -> Told:
    return Told()


def test_a_streams_first_token_is_told_stage_by_stage(told: Told) -> None:
    told.stream(queue_s=0.5).settled(Outcome.OK, 200)
    (slot,) = told.recent.slots(1)
    assert slot.stages_s == pytest.approx({"wait_prefill": 0.5, "prefill": 0.2, "handoff": 0.1})
    assert [*slot.ttft_s, *slot.handoff_s] == pytest.approx([0.8, 0.1])
    assert (slot.pairs, slot.outcomes) == ({("p:1", "d:1"): 1}, {"ok": 1})
    assert slot.decisions == {("disaggregated", "novel_prompt"): 1}


def test_an_engine_alone_takes_all_of_the_time(told: Told) -> None:
    journey = told.journey()
    journey.chosen(RouteKind.LOCAL, "short_prompt", "d:1", None)
    told.now += 0.3
    journey.committed()
    journey.usage = Usage(5, 7, None)
    journey.settled(Outcome.OK, 200)
    (slot,) = told.recent.slots(1)
    assert slot.stages_s == pytest.approx({"alone": 0.3})
    assert slot.tokens == 7


def test_complete_answers_have_no_first_token(told: Told) -> None:
    told.journey(stream=False).committed()
    assert told.recent.slots(1) == []


def test_old_slots_go(told: Told) -> None:
    told.stream()
    told.now += 3 * SLOT_S
    told.stream()
    assert (len(told.recent.slots(4)), len(told.recent.slots(2))) == (2, 1)
    for _ in range(100):
        told.now += SLOT_S
        told.stream()
    assert len(told.recent._slots) == 60


def test_a_slot_keeps_some_of_many_times(told: Told) -> None:
    for _ in range(MAX_TIMES + 5):
        told.recent._committed(told.stream())
        told.now = 100.0
    (slot,) = told.recent.slots(1)
    assert (len(slot.ttft_s), len(slot.handoff_s)) == (MAX_TIMES, MAX_TIMES)
    assert slot.streams == slot.handoffs == 2 * (MAX_TIMES + 5)


def test_what_went_wrong_is_told_by_names_only(told: Told) -> None:
    told.failed(EngineTimeout("secret words of an engine").in_leg(Leg.DECODE))
    told.failed(Unavailable("no engine", code="decode_saturated"))
    journey = told.stream()
    journey.retried("prefill", "connection_lost")
    journey.fell_back("bad_handoff", "secret detail")
    assert "secret" not in str(list(told.recent.troubles))
    seen = [(one["what"], one["reason"], one["leg"], one["engine"], one["status"]) for one in told.recent.troubles]
    assert seen == [
        ("fell_back", "bad_handoff", "prefill", "p:1", None),
        ("retried", "connection_lost", "prefill", "p:1", None),
        ("failed", "decode_saturated", None, None, 503),
        ("failed", "timeout", "decode", "d:1", 504),
    ]


def test_clients_that_leave_are_no_trouble(told: Told) -> None:
    told.failed(ClientGone())
    assert list(told.recent.troubles) == []
    waited = told.journey()
    waited.reason = "prefill_saturated"
    waited.settled(Outcome.CLIENT_GONE, 499, ClientGone())
    (slot,) = told.recent.slots(1)
    assert (slot.outcomes, slot.decisions.total()) == ({"client_gone": 2}, 1), "who left in line was not refused"


def test_what_clients_did_wrong_is_no_trouble(told: Told) -> None:
    told.failed(InvalidRequest("the secret field", param="secret", detail="secret"))
    assert list(told.recent.troubles) == []


def test_a_thousand_of_a_sort_are_one_and_the_last_ones_are_kept(told: Told) -> None:
    for _ in range(3):
        told.failed(Unavailable("no engine", code="decode_saturated"))
    assert [one["count"] for one in told.recent.troubles] == [3]
    for number in range(2 * MAX_TROUBLES):
        told.failed(Unavailable("no engine", code=f"code_{number % 2}"))
    seen = [(one["reason"], one["count"]) for one in told.recent.troubles]
    assert seen == [("code_1", MAX_TROUBLES), ("code_0", MAX_TROUBLES), ("decode_saturated", 3)]
    for number in range(MAX_TROUBLES):
        told.failed(Unavailable("no engine", code=f"another_{number}"))
    assert (len(told.recent.troubles), {one["count"] for one in told.recent.troubles}) == (MAX_TROUBLES, {1})


def test_requests_that_went_nowhere_are_decisions_too(told: Told) -> None:
    journey = told.journey()
    journey.reason = "decode_unavailable"
    journey.settled(Outcome.REJECTED, 503, Unavailable("none"))
    assert told.recent.slots(1)[0].decisions == {("none", "decode_unavailable"): 1}


def test_percentiles() -> None:
    assert percentiles([], 0.5) == [None]
    assert percentiles(range(100, 0, -1), 0.5, 0.9, 1.0) == [51, 91, 100]
