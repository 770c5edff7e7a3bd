import weakref

import pytest
from prometheus_client import CollectorRegistry

from router.admission.line import Line
from router.admission.permits import Permits
from router.engines import PLAIN
from router.engines.gauges import Gauges
from router.errors import Outcome, Unavailable
from router.exchange.events import EventStream
from router.exchange.release import STRANDED_BY
from router.fleet.fleet import Fleet
from router.fleet.pairs import Pairs
from router.settings.admission import Admission
from router.settings.engines import Role
from router.settings.fleet import PairRules
from router.telemetry.events import GAPS_PER_BATCH, Journey, Observers, RouteKind
from router.telemetry.metrics import TOGETHER, FleetMetrics, RequestMetrics
from router.usage import Usage
from tests.support.builders import MODEL, a_backend, linked, paced


class Watch:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Told:
    """Metrics of journeys, and the values that Prometheus would read."""

    def __init__(self) -> None:
        self.clock = Watch()
        self.registry = CollectorRegistry()
        self.metrics = RequestMetrics(self.registry)

    def journey(self, *, stream: bool = True) -> Journey:
        told = Journey("r-1", "chat", self.clock(), self.clock, Observers(self.metrics))
        told.model, told.stream = MODEL, stream
        return told

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"pd_router_{name}", labels)


def hand_over(told: Told, journey: Journey) -> None:
    """A disaggregated stream: 1 s of prefill, 2 s of hand-over, two gaps, 4 s in all."""
    journey.chosen(RouteKind.DISAGGREGATED, "novel_prompt", "d:1", "p:1")
    journey.prefill_sent()
    told.clock.now += 1
    journey.prefilled()
    told.clock.now += 2
    journey.committed()
    journey.events = 3
    journey.event_gaps_s += [0.5, 0.5]
    told.clock.now += 1
    journey.settled(Outcome.OK, 200)


def test_a_stream_is_counted_and_timed() -> None:
    told = Told()
    hand_over(told, told.journey())
    by_route = {"model": MODEL, "route": "disaggregated"}
    assert told.value("requests_total", api="chat", outcome="ok", **by_route) == 1
    assert told.value("decisions_total", route="disaggregated", reason="novel_prompt") == 1
    assert told.value("prefill_seconds_sum", model=MODEL) == 1
    assert told.value("handoff_seconds_sum", model=MODEL) == 2
    assert told.value("ttft_seconds_sum", **by_route) == 3
    assert told.value("request_seconds_sum", **by_route) == 4
    assert told.value("inter_token_seconds_count", **by_route) == 2


def test_requests_that_ended_are_counted_when_somebody_looks_or_there_are_some() -> None:
    told = Told()
    for ended in range(1, 2 * TOGETHER + 2):
        hand_over(told, told.journey())
        assert len(told.metrics._ended) == ended % TOGETHER
    assert told.value("request_seconds_count", model=MODEL, route="disaggregated") == 2 * TOGETHER + 1
    assert not told.metrics._ended


def test_no_request_that_waits_to_be_counted_keeps_an_error_and_what_failed_with_it() -> None:
    told, error = Told(), Unavailable("no decode engine is free")
    gone = weakref.ref(error)
    told.journey().settled(error.outcome, error.status, error)
    del error
    assert gone() is None


def test_a_complete_answer_has_no_time_to_first_token() -> None:
    told = Told()
    hand_over(told, told.journey(stream=False))
    by_route = {"model": MODEL, "route": "disaggregated"}
    assert told.value("ttft_seconds_count", **by_route) is None
    assert told.value("request_seconds_count", **by_route) == 1


def test_no_gap_of_a_long_stream_is_lost_or_counted_twice() -> None:
    told = Told()
    journey = told.journey()
    journey.chosen(RouteKind.LOCAL, "short_prompt", "d:1", None)
    journey.committed()
    stream = EventStream(PLAIN, journey, shows_usage=False)
    for _ in range(1 + 2 * GAPS_PER_BATCH + 7):
        stream.take(b'data: {"a":1}\n\n')
    journey.settled(Outcome.OK, 200)
    assert told.value("inter_token_seconds_count", model=MODEL, route="local") == 2 * GAPS_PER_BATCH + 7


def test_a_fallback_is_counted_and_moves_the_request_to_its_new_route() -> None:
    told = Told()
    journey = told.journey()
    journey.chosen(RouteKind.DISAGGREGATED, "novel_prompt", "d:1", "p:1")
    journey.fell_back("timeout", None)
    journey.settled(Outcome.OK, 200)
    assert told.value("fallback_total", pool="prefill", reason="timeout") == 1
    assert told.value("requests_total", model=MODEL, api="chat", route="local", outcome="ok") == 1


def test_a_request_without_a_route_tells_what_was_short() -> None:
    told = Told()
    journey = told.journey()
    journey.reason = "decode_saturated"
    error = Unavailable("no decode engine is free")
    journey.settled(error.outcome, error.status, error)
    assert told.value("decisions_total", route="none", reason="decode_saturated") == 1
    assert told.value("requests_total", model=MODEL, api="chat", route="none", outcome="rejected") == 1


def test_releases_are_counted_by_reason() -> None:
    told = Told()
    told.metrics.released("client_gone")
    told.metrics.stranded("timeout")
    assert told.value("kv_released_total", reason="client_gone") == 1
    assert told.value("kv_stranded_total", reason="timeout") == 1


def test_hand_overs_left_to_their_lease_are_counted_from_0_on() -> None:
    """A series that is there from its first count on has not risen by it, however much came at once."""
    told = Told()
    assert {told.value("kv_stranded_total", reason=reason) for reason in STRANDED_BY} == {0}
    told.metrics.stranded("connection_lost")
    assert told.value("kv_stranded_total", reason="connection_lost") == 1


def test_warm_ups_are_counted() -> None:
    told = Told()
    told.metrics.warmed_up("ok")
    assert told.value("warm_ups_total", outcome="ok") == 1


def test_a_further_try_is_counted_and_the_decision_only_once() -> None:
    told = Told()
    journey = told.journey()
    journey.chosen(RouteKind.DISAGGREGATED, "novel_prompt", "d:1", "p:1")
    journey.retried("prefill", "connection_lost")
    journey.chosen(RouteKind.DISAGGREGATED, "novel_prompt", "d:1", "p:2")
    journey.settled(Outcome.OK, 200)
    assert told.value("retries_total", pool="prefill", reason="connection_lost") == 1
    assert told.value("decisions_total", route="disaggregated", reason="novel_prompt") == 1


def test_gauges_are_read_from_the_fleet() -> None:
    registry = CollectorRegistry()
    up, down = a_backend(Role.DECODE, 1, requests=2, tokens=30), a_backend(Role.PREFILL, 2, up=False)
    permits = Permits(Admission(decode_permits=5, prefill_permits=0))
    permits.take(up, 10)
    pairs = Pairs(PairRules(failures=1))
    pairs.failed("p:1", "d:1", 0.0)
    fleet = Fleet([up, down])
    up.load.note_others(3)
    linked(paced(down, prefill_tokens_per_s=20_000), paced(up, decode_tokens_per_s=40), s_per_token=1e-3)
    fleet.sources |= {"file": None, "dns decode": "no answer"}
    registry.register(FleetMetrics(fleet, permits, Line(Admission(), lambda: 1.0), pairs, lambda: 1.0))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"pd_router_{name}", labels)

    assert value("backend_up", pool="decode", backend="127.0.0.1:1") == 1
    assert value("backend_up", pool="prefill", backend="127.0.0.1:2") == 0
    assert value("backend_state", pool="decode", backend="127.0.0.1:1", state="up") == 1
    assert value("backend_state", pool="prefill", backend="127.0.0.1:2", state="up") == 0
    assert (value("quarantined_pairs"), value("slow_pairs")) == (1, 1)
    assert value("learnt_prefill_tokens_per_second", pool="prefill", backend="127.0.0.1:2") == pytest.approx(20_000)
    assert value("learnt_prefill_tokens_per_second", pool="decode", backend="127.0.0.1:1") is None
    assert value("learnt_decode_tokens_per_second", pool="decode", backend="127.0.0.1:1") == pytest.approx(40)
    assert value("learnt_handover_seconds", pool="decode", backend="127.0.0.1:1") == pytest.approx(4.106)
    assert value("others_requests", pool="decode", backend="127.0.0.1:1") == 3
    assert (value("discovery_ok", source="file"), value("discovery_ok", source="dns decode")) == (1, 0)
    assert value("queue_depth", pool="decode") == 0
    assert value("inflight_requests", pool="decode", backend="127.0.0.1:1") == 2
    assert value("inflight_tokens", pool="decode", backend="127.0.0.1:1") == 30
    assert value("permits", pool="decode", state="taken") == 1
    assert value("permits", pool="decode", state="free") == 4
    assert value("permits", pool="prefill", state="free") == float("inf")
    assert value("ready") == 1


def test_a_pool_whose_last_usable_engine_is_full_has_nothing_free() -> None:
    registry = CollectorRegistry()
    full, drained = a_backend(Role.DECODE, 1), a_backend(Role.DECODE, 2)
    permits = Permits(Admission(decode_permits=2))
    for backend in (full, full, drained):
        permits.take(backend, 10)
    drained.standing.drained = True
    fleet, line = Fleet([full, drained, a_backend(Role.DECODE, 3, up=False)]), Line(Admission(), lambda: 0.0)
    registry.register(FleetMetrics(fleet, permits, line, Pairs(PairRules()), lambda: 0.0))
    shown = {
        state: registry.get_sample_value("pd_router_permits", {"pool": "decode", "state": state})
        for state in ("taken", "free")
    }
    assert shown == {"taken": 3, "free": 0}


@pytest.mark.parametrize(
    ("route", "pool", "reused"),
    [
        (RouteKind.DISAGGREGATED, "prefill", 40),
        (RouteKind.LOCAL, "decode", 96),
        (RouteKind.AGGREGATED, "aggregated", 96),
    ],
)
def test_tokens_are_counted_as_engines_told_them(route: RouteKind, pool: str, reused: int) -> None:
    told = Told()
    journey = told.journey()
    journey.chosen(route, "why", "d:1", "p:1")
    journey.committed()
    journey.prefill_usage, journey.usage = Usage(100, 1, 40), Usage(100, 7, 96)
    journey.events = 5
    journey.settled(Outcome.OK, 200)
    assert told.value("tokens_total", model=MODEL, kind="prompt") == 100
    assert told.value("tokens_total", model=MODEL, kind="generated") == 7
    assert told.value("prefix_tokens_total", pool=pool, kind="reused") == reused
    assert told.value("prefix_tokens_total", pool=pool, kind="computed") == 100 - reused


def test_an_engine_that_had_more_than_the_prompt_computed_nothing() -> None:
    told = Told()
    journey = told.journey()
    journey.chosen(RouteKind.LOCAL, "why", "d:1", None)
    journey.committed()
    journey.usage = Usage(100, 7, 150)
    journey.settled(Outcome.OK, 200)
    assert told.value("prefix_tokens_total", pool="decode", kind="computed") == 0
    assert told.value("requests_total", model=MODEL, api="chat", route="local", outcome="ok") == 1


def test_tokens_that_no_engine_told_are_estimated_and_those_without_an_answer_not_counted() -> None:
    told = Told()
    for committed in (True, False):
        journey = told.journey()
        journey.chosen(RouteKind.LOCAL, "why", "d:1", None)
        journey.prompt_tokens, journey.events = 90, 5
        if committed:
            journey.committed()
        journey.settled(Outcome.UPSTREAM_ERROR, 502)
    assert told.value("tokens_total", model=MODEL, kind="prompt") == 90
    assert told.value("tokens_total", model=MODEL, kind="generated") == 5
    assert told.value("prefix_tokens_total", pool="decode", kind="computed") is None


def test_what_engines_say_of_themselves_is_shown_again() -> None:
    backends = [a_backend("prefill", 1), a_backend("decode", 2)]
    backends[0].progress.note(Gauges(1, 2, 0.5, 9.0, 0.25, 4.0, 3.0, 7.0), 0.0)
    registry = CollectorRegistry()
    fleet = Fleet(backends)
    line = Line(Admission(), lambda: 0.0)
    registry.register(FleetMetrics(fleet, Permits(Admission()), line, Pairs(PairRules()), lambda: 0.0))
    labels = {"pool": "prefill", "backend": "127.0.0.1:1"}
    values = {
        name: registry.get_sample_value(f"pd_router_engine_{name}", labels)
        for name in (
            "waiting",
            "running",
            "kv_usage_ratio",
            "kv_transfer_seconds_sum",
            "kv_transfer_seconds_count",
            "kv_transfer_failures_total",
            "kv_expired_total",
        )
    }
    assert list(values.values()) == [1, 2, 0.5, 0.25, 4, 3, 7]
    unknown = {"pool": "decode", "backend": "127.0.0.1:2"}
    assert registry.get_sample_value("pd_router_engine_waiting", unknown) is None


def test_times_are_told_by_mode_while_two_are_compared() -> None:
    told = Told()
    for arm in ("auto", "local", ""):
        journey = told.journey()
        journey.arm = arm
        hand_over(told, journey)
    for arm in ("auto", "local"):
        assert told.value("arm_ttft_seconds_sum", arm=arm) == 3
        assert (
            told.value("arm_ttft_seconds_count", arm=arm),
            told.value("arm_inter_token_seconds_count", arm=arm),
        ) == (1, 2)
    assert told.value("arm_ttft_seconds_count", arm="") is None
    assert told.value("ttft_seconds_count", model=MODEL, route="disaggregated") == 3


def test_one_request_that_cannot_be_counted_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    odd, good = told.journey(), told.journey()
    counted = told.metrics._count

    def count(journey: Journey) -> None:
        if journey is odd:
            raise ArithmeticError
        counted(journey)

    monkeypatch.setattr(told.metrics, "_count", count)
    for journey in (odd, good):
        journey.settled(Outcome.OK, 200)
    with pytest.raises(ArithmeticError):
        told.value("requests_total", model=MODEL, api="chat", route="none", outcome="ok")
    assert told.value("requests_total", model=MODEL, api="chat", route="none", outcome="ok") == 1


def test_the_gaps_of_a_stream_wait_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    seen: list[list[float]] = []
    monkeypatch.setattr(told.metrics._inter_token_s, "observe_all", lambda _, gaps: seen.append(list(gaps)))
    hand_over(told, told.journey())
    assert seen == [[0.5, 0.5]]
