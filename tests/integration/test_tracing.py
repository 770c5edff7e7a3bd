"""Traces, as an OpenTelemetry collector receives them from a gateway over simulated engines."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings

from router.sim.faults import Fault
from tests.support.fleet import Site, engine, site

CLIENTS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CHAT: dict[str, Any] = {"model": "sim-8b", "messages": [{"role": "user", "content": "Why? " * 50}], "max_tokens": 8}
PARTS = {"admit", "choose", "prefill", "handoff", "decode", "relay"}
ROOT = "POST /v1/chat/completions"


@asynccontextmanager
async def collector() -> AsyncIterator[tuple[str, list[Span]]]:
    """Where spans are sent, and those that came."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    spans: list[Span] = []

    async def keep(receiver: OtelTapHttpProtobufReceiver) -> None:
        async for span in receiver.stream_traces():
            spans.append(span)  # noqa: PERF401 - they are looked at while more of them come

    settings = OtelTapHttpProtobufReceiverSettings(http_port=port)
    async with OtelTapHttpProtobufReceiver(settings) as receiver, asyncio.TaskGroup() as group:
        keeping = group.create_task(keep(receiver))
        yield f"http://127.0.0.1:{port}", spans
        keeping.cancel()


async def sent(spans: list[Span], count: int) -> dict[str, Span]:
    """So many spans, by name, once they have come."""
    async with asyncio.timeout(10):
        while len(spans) < count:  # noqa: ASYNC110 - the receiver has no event for it
            await asyncio.sleep(0.02)
    return {span.name: span for span in spans}


async def ask(here: Site, **headers: str) -> None:
    """A streamed chat."""
    answer = await here.client.post(f"{here.url}/v1/chat/completions", json=CHAT | {"stream": True}, headers=headers)
    assert answer.text.endswith("[DONE]\n\n")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")


async def test_a_collector_gets_the_whole_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async with collector() as (url, spans):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        async with site(engine("prefill"), engine("decode")) as here:
            await ask(here, traceparent=CLIENTS)
            by_name = await sent(spans, 1 + len(PARTS))
            assert by_name.keys() == PARTS | {ROOT}
            assert {span.trace_id.hex() for span in spans} == {CLIENTS[3:35]}
            assert not any("Why?" in str(span) for span in spans)
            root = by_name[ROOT]
            assert root.parent_span_id.hex() == CLIENTS[36:52]
            for span in spans:
                assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
                assert span.end_time_unix_nano <= root.end_time_unix_nano
            page = await here.client.get(
                f"{here.gateway.ops_url}/metrics", headers={"accept": "application/openmetrics-text"}
            )
    for histogram in ("ttft", "request"):
        assert re.search(
            rf'pd_router_{histogram}_seconds_bucket.* # {{trace_id="{CLIENTS[3:35]}"}} [\d.e-]+ ', page.text
        )


async def test_each_try_has_a_leg_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async with collector() as (url, spans):
        faulty = engine("prefill")
        faulty.faults.add(Fault("status"))
        tracing = {"otlp_endpoint": f"{url}/v1/traces"}
        async with site(faulty, engine("prefill"), engine("decode"), tracing=tracing) as here:
            for _ in range(4):
                await ask(here)
        await sent(spans, 4 * (1 + len(PARTS)) + faulty.ledger.totals.faults)
    failed = [span for span in spans if span.name == "prefill" and span.status.message]
    assert {span.status.message for span in failed} == {"engine_error"}
    assert len(failed) == faulty.ledger.totals.faults > 0
    assert len({span.trace_id for span in spans}) == 4
    for span in failed:
        legs = [other for other in spans if other.trace_id == span.trace_id and other.name == "prefill"]
        assert len(legs) == 2


async def test_a_collector_that_is_away_costs_nobody_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    async with asyncio.timeout(15), site(engine("prefill"), engine("decode")) as here:
        await ask(here)
