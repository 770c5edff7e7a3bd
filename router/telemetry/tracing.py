"""One trace for each request, sent to an OpenTelemetry collector: where did its time go?

    POST /v1/chat/completions          from the first byte of the request to the last of the answer
      admit                            until a route has room
        choose                         the last decision, after any wait in line
      prefill                          the leg, as its engine sees it too
      handoff                          the prefill answer to decode's first event
      decode                           the leg
        relay                          what the client gets, from its first byte on

A failed leg has its reason; each further try has legs of its own. Engines get the context of their leg. Only imported
where requests are traced: without, none of this is there.
"""

import asyncio
import os
import time
from dataclasses import dataclass, field
from functools import partial

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from router.call import Trace
from router.errors import Leg, Outcome
from router.settings.telemetry import Tracing
from router.telemetry.events import Clock, Journey, Stage

NS_PER_S = 1_000_000_000

SERVICE = "pd-router"

PROPAGATOR = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True)
class Recorded(Trace):
    """A request that is recorded. `zero_ns` is Unix time at zero of the gateway's clock."""

    root: Span = field(kw_only=True, repr=False)
    tracer: Tracer = field(kw_only=True, repr=False)
    clock: Clock = field(kw_only=True, repr=False)
    zero_ns: int = field(kw_only=True, repr=False)
    legs: dict[Leg, Span] = field(default_factory=dict, repr=False)
    """Those that are open."""

    @property
    def trace_id(self) -> str:
        """Under which the request is recorded."""
        return format_trace_id(self.root.get_span_context().trace_id)

    def of_leg(self, leg: Leg) -> Trace:
        """The leg's own context; its span begins."""
        context, now_ns = set_span_in_context(self.root), self.at(self.clock())
        span = self.legs[leg] = self.tracer.start_span(leg.value, context, SpanKind.CLIENT, start_time=now_ns)
        carrier: dict[str, str] = {}
        PROPAGATOR.inject(carrier, set_span_in_context(span))
        return Trace(self.request_id, carrier["traceparent"])

    def span(self, name: str, begin: float, end: float, parent: Span | None = None) -> Span:
        """Something that is over. Times are the gateway's."""
        context = set_span_in_context(parent or self.root)
        span = self.tracer.start_span(name, context, start_time=self.at(begin))
        span.end(self.at(end))
        return span

    def end_leg(self, leg: Leg, at: float, engine: str | None, fault: str | None = None) -> None:
        """A leg is over; `fault` is why, if it failed."""
        span = self.legs.pop(leg, None)
        if span is None:
            return
        span.set_attribute("pd_router.engine", engine or "")
        if fault is not None:
            span.set_status(StatusCode.ERROR, fault)
        span.end(self.at(at))

    def at(self, seconds: float) -> int:
        """Unix time in ns."""
        return self.zero_ns + round(seconds * NS_PER_S)


class OtlpTraces:
    """Records requests as the sampler decides (`OTEL_TRACES_SAMPLER`; as the client's context says, else all).

    An observer of journeys. `exporter` is OTLP over HTTP unless another is given.
    """

    def __init__(self, settings: Tracing, clock: Clock, exporter: SpanExporter | None = None) -> None:
        self._clock = clock
        named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        resource = Resource.create({} if named else {"service.name": SERVICE})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        sent_by = exporter or OTLPSpanExporter(endpoint=settings.otlp_endpoint)
        self._provider.add_span_processor(BatchSpanProcessor(sent_by))
        self._tracer = self._provider.get_tracer(SERVICE)
        stages = frozenset(Stage) - {Stage.QUEUED, Stage.PACED}
        self.notes = {stage: partial(self.observe, stage) for stage in stages}

    def begin(self, trace: Trace, path: str, received_at: float) -> Trace:
        """A recorded trace, or what the client sent when this request is not sampled."""
        zero_ns = time.time_ns() - round(self._clock() * NS_PER_S)
        parent = PROPAGATOR.extract({"traceparent": trace.traceparent}, Context()) if trace.traceparent else Context()
        start_ns = zero_ns + round(received_at * NS_PER_S)
        root = self._tracer.start_span(f"POST {path}", parent, SpanKind.SERVER, start_time=start_ns)
        if not root.is_recording():
            return trace
        root.set_attributes({"http.request.method": "POST", "url.path": path, "pd_router.request_id": trace.request_id})
        return Recorded(
            trace.request_id,
            trace.traceparent,
            root=root,
            tracer=self._tracer,
            clock=self._clock,
            zero_ns=zero_ns,
        )

    def observe(self, stage: Stage, journey: Journey) -> None:
        """Take note of what begins and ends at a stage."""
        trace = journey.trace
        if not isinstance(trace, Recorded):
            return
        now = journey.clock()
        match stage:
            case Stage.CHOSEN:
                _chosen(trace, journey, now)
            case Stage.PREFILLED | Stage.FELL_BACK:
                trace.end_leg(Leg.PREFILL, now, journey.prefill)
            case Stage.RETRIED:
                leg = Leg(journey.retry_leg or Leg.DECODE)
                trace.end_leg(leg, now, _engine(leg, journey), journey.retry_reason)
            case Stage.COMMITTED if journey.handoff_s is not None:
                trace.span("handoff", now - journey.handoff_s, now)
            case Stage.SETTLED:
                _settled(trace, journey, now)

    async def close(self) -> None:
        """Send what was recorded; may take seconds."""
        await asyncio.to_thread(self._provider.shutdown)


def _engine(leg: Leg, journey: Journey) -> str | None:
    return journey.prefill if leg is Leg.PREFILL else journey.decode


def _chosen(trace: Recorded, journey: Journey, now: float) -> None:
    begun_at = now if journey.placing_at is None else journey.placing_at
    admit = trace.span("admit", begun_at, now)
    trace.span("choose", begun_at + journey.queue_s, now, admit)


def _settled(trace: Recorded, journey: Journey, now: float) -> None:
    if journey.committed_at is not None and Leg.DECODE in trace.legs:
        trace.span("relay", journey.committed_at, now, trace.legs[Leg.DECODE])
    fault = None if journey.outcome is Outcome.OK else str(journey.outcome)
    for leg in tuple(trace.legs):
        trace.end_leg(leg, now, _engine(leg, journey), fault)
    attributes: dict[str, AttributeValue] = {
        "http.response.status_code": journey.status or 0,
        "gen_ai.request.model": journey.model,
        "gen_ai.usage.input_tokens": journey.told_prompt_tokens,
        "gen_ai.usage.output_tokens": journey.generated_tokens,
        "pd_router.route": journey.route.value,
        "pd_router.reason": journey.reason,
        "pd_router.outcome": str(journey.outcome),
        "pd_router.retries": journey.retries,
    }
    if journey.queue:
        attributes["pd_router.queue"] = journey.queue
    trace.root.set_attributes(attributes)
    if journey.outcome in (Outcome.UPSTREAM_ERROR, Outcome.TIMEOUT, Outcome.INTERNAL_ERROR):
        trace.root.set_status(StatusCode.ERROR, journey.error.code if journey.error else "")
    trace.root.end(trace.at(now))
