import asyncio
from collections.abc import Callable

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from router.call import Trace
from router.errors import EngineTimeout, Leg, Outcome
from router.settings.telemetry import Tracing
from router.telemetry.events import Journey, Observers, RouteKind
from router.telemetry.tracing import OtlpTraces

CLIENTS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = CLIENTS[:-1] + "0"


class Played:
    """A recorder of traces, a clock, and one request."""

    def __init__(self, traceparent: str | None = None) -> None:
        self.now = 100.0
        self.exporter = InMemorySpanExporter()
        self.traces = OtlpTraces(Tracing(), lambda: self.now, self.exporter)
        self.trace = self.traces.begin(Trace("r-1", traceparent), "/v1/completions", 99.5)
        self.journey = Journey("r-1", "completions", 99.5, lambda: self.now, Observers(self.traces), self.trace)

    def after(self, seconds: float, step: Callable[[], object]) -> object:
        """A step of the request, some time later."""
        self.now += seconds
        return step()

    async def spans(self) -> dict[str, ReadableSpan]:
        """What was sent, by name."""
        await self.traces.close()
        sent = self.exporter.get_finished_spans()
        assert len({span.name for span in sent}) == len(sent)
        return {span.name: span for span in sent}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER"):
        monkeypatch.delenv(name, raising=False)


def seconds(span: ReadableSpan) -> float:
    """How long it took."""
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


def handed_over(played: Played) -> None:
    """A hand-over that goes well."""
    journey = played.journey
    journey.placing_at = 100.0
    played.after(1, lambda: journey.chosen(RouteKind.DISAGGREGATED, "novel_prompt", "d:1", "p:1"))
    journey.prefill_sent()
    played.trace.of_leg(Leg.PREFILL)
    played.after(2, journey.prefilled)
    played.trace.of_leg(Leg.DECODE)
    played.after(3, journey.committed)
    played.after(4, lambda: journey.settled(Outcome.OK, 200))


async def test_a_request_is_one_trace_with_a_span_for_each_part() -> None:
    played = Played()
    handed_over(played)
    spans = await played.spans()
    root = spans["POST /v1/completions"]
    took = {name: seconds(span) for name, span in spans.items()}
    assert took == pytest.approx(
        {"POST /v1/completions": 10.5, "admit": 1, "choose": 1, "prefill": 2, "handoff": 3, "decode": 7, "relay": 4}
    )
    parents = {name: span.parent.span_id if span.parent else None for name, span in spans.items()}
    ids = {name: span.context.span_id for name, span in spans.items()}
    assert parents.pop("choose") == ids["admit"]
    assert parents.pop("relay") == ids["decode"]
    assert parents.pop(root.name) is None
    assert set(parents.values()) == {ids[root.name]}
    assert {span.context.trace_id for span in spans.values()} == {int(played.trace.trace_id or "", 16)}
    assert (root.kind, spans["prefill"].kind, root.status.status_code) == (
        SpanKind.SERVER,
        SpanKind.CLIENT,
        StatusCode.UNSET,
    )
    assert root.attributes is not None
    told = {"pd_router.route": "disaggregated", "pd_router.request_id": "r-1", "http.response.status_code": 200}
    assert told.items() <= root.attributes.items()
    assert root.resource.attributes["service.name"] == "pd-router"
    assert spans["prefill"].attributes == {"pd_router.engine": "p:1"}


async def test_a_wait_in_line_belongs_to_admit_and_not_to_choose() -> None:
    played = Played()
    played.journey.placing_at = 100.0
    played.journey.queued("decode", 1.5)
    played.after(2, lambda: played.journey.chosen(RouteKind.LOCAL, "short_prompt", "d:1", None))
    played.journey.settled(Outcome.OK, 200)
    spans = await played.spans()
    assert (seconds(spans["admit"]), seconds(spans["choose"])) == pytest.approx((2, 0.5))


async def test_the_clients_trace_goes_on_here_and_to_the_engines() -> None:
    played = Played(CLIENTS)
    prefill, decode = played.trace.of_leg(Leg.PREFILL), played.trace.of_leg(Leg.DECODE)
    played.journey.settled(Outcome.OK, 200)
    spans = await played.spans()
    root = spans["POST /v1/completions"]
    assert root.parent is not None
    assert f"{root.parent.trace_id:032x}-{root.parent.span_id:016x}" == CLIENTS[3:52]
    for leg, name in ((prefill, "prefill"), (decode, "decode")):
        assert leg.traceparent == f"{CLIENTS[:35]}-{spans[name].context.span_id:016x}-01"
        assert leg.request_id == "r-1"


async def test_who_is_not_sampled_is_passed_on_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(UNSAMPLED)
    assert played.trace.of_leg(Leg.DECODE).traceparent == UNSAMPLED
    handed_over(played)
    assert (await played.spans(), played.journey.trace_id) == ({}, None)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    assert Played().trace.of_leg(Leg.DECODE) == Trace("r-1", None)


async def test_each_failed_leg_has_its_reason() -> None:
    played = Played()
    journey, trace = played.journey, played.trace
    journey.chosen(RouteKind.DISAGGREGATED, "novel_prompt", "d:1", "p:1")
    trace.of_leg(Leg.PREFILL)
    played.after(1, lambda: journey.retried(Leg.PREFILL, "timeout"))
    journey.fell_back("timeout", None)
    trace.of_leg(Leg.DECODE)
    played.after(1, lambda: journey.settled(Outcome.TIMEOUT, 504, EngineTimeout("no answer from d:1")))
    spans = await played.spans()
    reasons = {name: (s.status.status_code, s.status.description) for name, s in spans.items() if s.status.description}
    assert reasons == {
        "prefill": (StatusCode.ERROR, "timeout"),
        "decode": (StatusCode.ERROR, "timeout"),
        "POST /v1/completions": (StatusCode.ERROR, "upstream_timeout"),
    }


async def test_closing_does_not_hold_the_loop() -> None:
    played = Played()
    async with asyncio.timeout(5):
        await played.traces.close()
