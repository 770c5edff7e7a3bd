import asyncio
import os
import socket
from collections.abc import Callable

import httpx
import pytest
import uvloop

from router.app import build, running
from router.edge.server import ListenError, listen, url_of
from router.settings import Settings
from router.telemetry.events import NoTraces
from router.telemetry.tracing import OtlpTraces

NOWHERE = "http://127.0.0.1:9"
EXPORTER = "opentelemetry.exporter.otlp.proto.http"


def settings(**sections: object) -> Settings:
    defaults: dict[str, object] = {
        "listen": {"host": "127.0.0.1", "port": 0},
        "ops": {"port": 0},
        "drain": {"drain_accept_s": 0, "drain_timeout_s": 1},
        "backends": [{"url": NOWHERE, "role": "decode"}],
    }
    return Settings.model_validate(defaults | sections)


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


@pytest.mark.parametrize(
    ("endpoint", "exporter", "traced"),
    [("", EXPORTER, False), ("http://c:4318", "nowhere.at.all", False), ("http://c:4318", EXPORTER, True)],
)
async def test_requests_are_traced_where_that_is_possible(
    endpoint: str, exporter: str, traced: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    monkeypatch.setattr("router.settings.OTLP_EXPORTER", exporter)
    app = build(settings())
    assert isinstance(app.traces, NoTraces) is not traced
    assert any(isinstance(observer, OtlpTraces) for observer in app.data._gateway.observers) is traced
    assert ("requests are not traced" in caplog.text) is (endpoint != "" and not traced)
    await app.traces.close()


def test_an_engine_that_is_back_may_hand_over_with_everybody() -> None:
    app = build(settings())
    (engine,) = app.fleet.backends
    while not app.pairs.failed("prefill:1", engine.id, 0.0):
        pass
    assert not app.pairs.usable("prefill:1", engine.id, 1.0)
    engine.standing.good_probe(1.0)
    app.prober._notice(engine)
    assert app.pairs.usable("prefill:1", engine.id, 1.0)


async def test_a_gateway_without_usable_engines_is_alive_but_not_ready() -> None:
    async with running(settings()) as gateway, httpx.AsyncClient(base_url=gateway.ops_url) as client:
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/fleet")).json()["pools"]["decode"][0]["state"] == "down"


async def test_nothing_is_left_of_a_gateway_that_ended() -> None:
    before = asyncio.all_tasks()
    async with running(settings()) as gateway:
        pass
    assert asyncio.all_tasks() == before
    assert gateway.app.connections.open == 0
    with pytest.raises(httpx.ConnectError):
        await httpx.AsyncClient().get(gateway.data_url)


async def test_a_gateway_serves_on_a_socket_that_it_inherits() -> None:
    with listen("127.0.0.1", 0) as supervisors:
        async with running(settings(listen={"fd": os.dup(supervisors.fileno())})) as gateway:
            assert gateway.data_url == url_of(supervisors)
            async with httpx.AsyncClient(base_url=gateway.data_url) as client:
                assert (await client.get("/v1/models")).status_code == 200
        assert supervisors.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


async def test_every_answer_closes_its_connection_once_the_gateway_drains() -> None:
    async with running(settings()) as gateway, httpx.AsyncClient(base_url=gateway.data_url) as client:
        before = await client.get("/v1/models")
        gateway.app.readiness.draining = True
        after = await client.get("/v1/models")
    assert ("connection" in before.headers, after.headers["connection"]) == (False, "close")


@pytest.mark.parametrize("make_loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def test_nothing_listens_any_more_when_the_block_has_failed(make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def fail(urls: list[str]) -> None:
        async with running(settings()) as gateway:
            urls.extend((gateway.data_url, gateway.ops_url))
            await asyncio.sleep(0.05)
            raise ValueError

    async def answering() -> list[str]:
        urls: list[str] = []
        with pytest.raises(ExceptionGroup) as kept:
            await fail(urls)
        assert kept.value.exceptions, "its frames hold on to what was not closed"
        async with httpx.AsyncClient() as client:
            asked = [await asyncio.gather(client.get(url, timeout=1), return_exceptions=True) for url in urls]
        return [url for url, (answer,) in zip(urls, asked, strict=True) if not isinstance(answer, httpx.ConnectError)]

    loop = make_loop()
    left = loop.run_until_complete(answering())
    if not left:  # uvloop waits for what still listens
        loop.close()
    assert left == []


async def test_an_address_that_is_taken_leaves_the_other_free() -> None:
    async with running(settings()) as first:
        taken = int(first.ops_url.rsplit(":", 1)[1])
        with pytest.raises(ListenError):
            async with running(settings(ops={"port": taken})):
                pass
