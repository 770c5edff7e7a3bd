import asyncio
import sys
from collections.abc import Awaitable

import httpx
import pytest

from router.assembly import Assembly, build
from router.errors import InvalidRequest
from router.settings.engines import BackendSettings, Role
from router.settings.faults import SettingsError
from router.settings.tree import Settings
from router.telemetry.events import NoTraces
from router.telemetry.tracing import OtlpTraces

NOWHERE = "http://127.0.0.1:9"
EXPORTER = "opentelemetry.exporter.otlp.proto.http"


def settings(**sections: object) -> Settings:
    return Settings.model_validate({"backends": [{"url": NOWHERE, "role": "decode"}]} | sections)


def test_building_starts_nothing() -> None:
    app = build(settings())
    assert app.connections.open == 0
    assert [backend.id for backend in app.fleet.backends] == ["127.0.0.1:9"]


def test_the_age_of_hand_overs_is_a_third_of_the_lease_unless_it_is_set() -> None:
    backends = [{"url": NOWHERE, "role": "prefill", "kv_lease_s": 12}, {"url": "http://127.0.0.1:7", "role": "decode"}]
    assert build(settings(backends=backends)).fleet.backends[0].handoff_max_age_s == 4
    chosen = build(settings(backends=backends, handoff={"handoff_max_age_s": 2}))
    assert chosen.fleet.backends[0].handoff_max_age_s == 2


def test_an_engines_key_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_KEY", "s3cret")
    app = build(settings(backends=[{"url": NOWHERE, "role": "decode", "key_env": "ENGINE_KEY"}]))
    assert app.fleet.backends[0].key == "s3cret"
    assert "s3cret" not in repr(app)


def test_an_engine_that_is_found_with_a_key_that_cannot_be_sent_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_KEY", "s3cret\r\nx-evil: 1")
    app = build(settings(backends=[]))
    found = BackendSettings.model_validate({"url": NOWHERE, "role": "decode", "key_env": "ENGINE_KEY"})
    (fault,) = app.membership.found("file", [found])
    assert ("ENGINE_KEY must hold printable ASCII" in fault, "s3cret" in fault) == (True, False)
    assert app.fleet.backends == ()


@pytest.mark.parametrize(
    ("endpoint", "exporter", "traced"),
    [("", EXPORTER, False), ("http://c:4318", "nowhere.at.all", False), ("http://c:4318", EXPORTER, True)],
)
async def test_requests_are_traced_where_that_is_possible(
    endpoint: str, exporter: str, traced: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    monkeypatch.setattr("router.settings.extras.OTLP_EXPORTER", exporter)
    app = build(settings())
    assert isinstance(app.traces, NoTraces) is not traced
    assert any(isinstance(observer, OtlpTraces) for observer in app.gateway.observers.all) is traced
    assert ("requests are not traced" in caplog.text) is (endpoint != "" and not traced)
    await app.traces.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_BSP_MAX_QUEUE_SIZE", "1"), ("OTEL_BSP_SCHEDULE_DELAY", "-1"), ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "x")],
)
def test_variables_that_the_exporter_refuses_stop_only_who_asked_for_traces(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")
    monkeypatch.setenv(name, value)
    assert isinstance(build(settings()).traces, NoTraces)
    assert "requests are not traced" in caplog.text
    with pytest.raises(SettingsError, match="tracing: a variable of OpenTelemetry"):
        build(settings(tracing={"otlp_endpoint": "http://c:4318/v1/traces"}))


def test_an_engine_that_is_back_may_hand_over_with_everybody() -> None:
    app = build(settings())
    (engine,) = app.fleet.backends
    while not app.pairs.failed("prefill:1", engine.id, 0.0):
        pass
    assert not app.pairs.usable("prefill:1", engine.id, 1.0)
    engine.standing.good_probe(1.0)
    app.prober._notice(engine)
    assert app.pairs.usable("prefill:1", engine.id, 1.0)


@pytest.mark.parametrize("role", ["aggregated", "decode", "prefill"])
async def test_who_waits_for_prefill_is_told_of_every_engine_that_comes_up(role: str) -> None:
    app = build(settings(backends=[{"url": NOWHERE, "role": role, "models": ["m"]}]))
    by = asyncio.get_running_loop().time() + 60
    waiting = asyncio.get_running_loop().create_task(app.line.wait("m", Role.PREFILL, by))
    await asyncio.sleep(0)
    (engine,) = app.fleet.backends
    engine.standing.good_probe(1.0)
    app.prober._notice(engine)
    await asyncio.wait([waiting], timeout=1)
    assert waiting.done()


def test_an_engine_that_comes_with_events_needs_what_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    app = build(settings(backends=[]))
    monkeypatch.setitem(sys.modules, "zmq", None)
    events = {"endpoint": "tcp://{host}:5557"}
    with pytest.raises(InvalidRequest, match="pd-router"):
        app.membership.add(BackendSettings.model_validate({"url": NOWHERE, "role": "decode", "kv_events": events}))


def test_events_are_followed_where_somebody_asks_what_engines_hold() -> None:
    assert build(settings()).kv_events is not None
    simple = {"prefill_policy": "round_robin", "decode_policy": "least_loaded"}
    assert build(settings(routing=simple)).kv_events is None


async def test_pages_that_rebind_their_name_read_nothing_of_the_fleet() -> None:
    def read(path: str, name: str) -> Awaitable[httpx.Response]:
        return client.get(path, headers={"host": f"{name}:8001"})

    app = build(settings()).operations
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8001") as client:
        for path in ("/fleet", "/routing", "/autoscale", "/", "/console/state", "/console/main.js"):
            assert [(await read(path, name)).status_code for name in ("localhost", "rebound.example")] == [200, 403]
        for path in ("/healthz", "/metrics"):
            assert [(await read(path, name)).status_code for name in ("localhost", "gateway")] == [200, 200]


def test_a_complete_gateway_shows_all_its_metrics() -> None:
    begun = Assembly(settings())
    shown = {family.name for family in begun.registry.collect()}
    all_shown = {family.name for family in begun.complete().registry.collect()}
    assert shown == set()
    assert {"pd_router_requests", "pd_router_backend_up", "pd_router_desired_replicas"} <= all_shown
