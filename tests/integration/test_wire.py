"""What travels between clients, gateway and engines, byte by byte: engines are scripted, sockets are real."""

import asyncio
import random

import orjson
import pytest

from tests.support.gateway import COMPLETIONS, RawClient, Site, body, both_ways, eventually, post, settings, site
from tests.support.scripted_engine import (
    Connection,
    Request,
    Script,
    answer,
    chunk,
    completion,
    error,
    event,
    handover,
    head,
    reset_on_close,
    says,
    says_and_waits,
    scripted_engine,
    stream,
    stream_head,
)

Server = type[asyncio.Protocol]

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

CLIENT_HEADERS = {
    "authorization": "Bearer client-secret",
    "x-request-id": "mine",
    "x-data-parallel-rank": "3",
    "x-session-id": "s",
    "x-forwarded-for": "10.0.0.1",
    "cookie": "a=b",
    "traceparent": TRACEPARENT,
    "tracestate": "a=b",
    "accept-encoding": "gzip, br",
    "x-kv-transfer-params": "{}",
}

TO_ENGINES = {
    "host",
    "content-type",
    "accept",
    "accept-encoding",
    "x-request-id",
    "content-length",
    "authorization",
    "traceparent",
}

ENGINE_HEADERS = {"server": "engine", "set_cookie": "a=b", "x_request_id": "engines", "x_internal": "10.0.0.7"}


async def test_engines_get_no_header_of_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_KEY", "engine-secret")
    async with (
        scripted_engine(says(answer(handover()))) as prefill,
        scripted_engine(says(answer(completion()))) as decode,
    ):
        backends = [
            {"url": prefill.url, "role": "prefill", "key_env": "ENGINE_KEY"},
            {"url": decode.url, "role": "decode", "key_env": "ENGINE_KEY"},
        ]
        async with site(settings(backends=backends, routing={"mode": "disaggregated"})) as here:
            got = await here.client.post(COMPLETIONS, json=body(), headers=CLIENT_HEADERS)
        (first,), (second,) = prefill.requests, decode.requests
    assert got.status_code == 200
    for request, engine in ((first, prefill), (second, decode)):
        assert request.headers.keys() == TO_ENGINES
        assert request.headers["host"] == engine.url.removeprefix("http://")
        assert request.headers["authorization"] == "Bearer engine-secret"
        assert request.headers["accept-encoding"] == "identity"
        assert request.headers["traceparent"] == TRACEPARENT
    assert first.headers["x-request-id"] == second.headers["x-request-id"] == got.headers["x-request-id"] != "mine"


@pytest.mark.parametrize(
    "traceparent", ["", "mine", TRACEPARENT + "-x", TRACEPARENT.upper(), TRACEPARENT[:-1], "ff" + TRACEPARENT[2:]]
)
async def test_a_trace_context_travels_only_when_it_is_one(traceparent: str) -> None:
    async with scripted_engine(says(answer(completion()))) as engine, site(settings(aggregated=engine.url)) as here:
        await here.client.post(COMPLETIONS, json=body(), headers={"traceparent": traceparent})
    assert "traceparent" not in engine.requests[0].headers
    assert "authorization" not in engine.requests[0].headers


@both_ways
@pytest.mark.parametrize(
    ("script", "fields", "status", "names"),
    [
        (says(answer(completion(), **ENGINE_HEADERS)), {}, 200, {"content-length"}),
        (
            says(stream_head(**ENGINE_HEADERS), stream("a")[len(stream_head()) :]),
            {"stream": True},
            200,
            {"transfer-encoding", "cache-control", "x-accel-buffering"},
        ),
        (says(answer(error(422), "422 Unprocessable Entity", **ENGINE_HEADERS)), {}, 422, {"content-length"}),
        (
            says(answer(error(500), "500 Internal Server Error", **ENGINE_HEADERS)),
            {},
            502,
            {"content-length", "x-should-retry"},
        ),
    ],
    ids=["complete", "stream", "refusal", "failure"],
)
async def test_clients_get_no_header_of_an_engine(
    protocol: Server, script: Script, fields: dict[str, bool], status: int, names: set[str]
) -> None:
    async with scripted_engine(script) as engine, site(settings(aggregated=engine.url), protocol) as here:
        got = await here.ask(**fields)
    assert got.status_code == status
    assert set(got.headers) == {"date", "content-type", "x-request-id"} | names
    assert got.headers["x-request-id"] != "engines"
    assert got.headers["content-type"] == ("text/event-stream" if "stream" in fields else "application/json")


@both_ways
@pytest.mark.parametrize("streams", [False, True])
async def test_an_engines_refusal_is_passed_on_in_its_words(protocol: Server, streams: bool) -> None:
    script = says(answer(error(400, "max_tokens is too large"), "400 Bad Request"))
    async with scripted_engine(script) as engine, site(settings(aggregated=engine.url), protocol) as here:
        got = await here.ask(stream=streams)
        assert (got.status_code, got.json()) == (400, error(400, "max_tokens is too large"))
        assert here.outcomes() == {"client_error": 1}


FAILURES: dict[str, tuple[Script, int]] = {
    "401": (says(answer(error(401, "bad key sk-secret"), "401 Unauthorized", www_authenticate="Bearer")), 502),
    "500": (says(answer(error(500, "at sk-secret"), "500 Internal Server Error")), 502),
    "redirect": (says(head("302 Found", location="http://127.0.0.1:9/sk-secret", content_length="0")), 502),
    "first event is an error": (says(stream_head() + chunk(b'data: {"error":{"message":"sk-secret"}}\n\n')), 502),
    "empty": (says(head(content_type="text/event-stream", content_length="0")), 502),
    "html": (says(answer(b"<html>sk-secret", content_type="text/html")), 502),
    "gzip": (says(stream_head(content_encoding="gzip") + chunk(event("sk-secret"))), 502),
    "head": (says(b"HTTP/1.1 200 OK\r\nx: " + b"sk-secret" * 40_000), 502),
    "silence": (says_and_waits(), 504),
    "no event": (says_and_waits(stream_head()), 504),
}


@both_ways
@pytest.mark.parametrize(("script", "status"), FAILURES.values(), ids=FAILURES)
async def test_a_failure_before_the_first_event_has_a_status_and_no_details(
    protocol: Server, script: Script, status: int
) -> None:
    async with scripted_engine(script) as engine:
        configured = settings(aggregated=engine.url, timeouts={"first_event_timeout_s": 0.1})
        async with site(configured, protocol) as here:
            got = await here.ask(stream=True)
    assert got.status_code == status
    assert got.json()["error"]["type"] == ("timeout" if status == 504 else "upstream_error")
    assert "sk-secret" not in got.text
    assert engine.url.removeprefix("http://") not in got.text


@pytest.mark.parametrize(
    ("method", "path", "headers", "content", "status"),
    [
        ("POST", COMPLETIONS, {"content-type": "text/plain"}, b"{}", 415),
        ("POST", COMPLETIONS, {"content-type": "application/json", "content-encoding": "gzip"}, b"\x1f\x8b", 415),
        ("POST", COMPLETIONS, {}, b"{", 400),
        ("POST", COMPLETIONS, {}, b"[]", 400),
        ("POST", COMPLETIONS, {}, b"", 400),
        ("POST", COMPLETIONS, {}, orjson.dumps(body(kv_transfer_params={})), 400),
        ("POST", COMPLETIONS, {}, b" " * 3000, 413),
        ("GET", COMPLETIONS, {}, b"", 405),
        ("DELETE", COMPLETIONS, {}, b"", 405),
        ("POST", "/v1/models", {}, b"", 405),
        ("GET", "/v1/nothing", {}, b"", 404),
        ("POST", "/tokenize", {}, b"{}", 404),
        ("GET", "/health/", {}, b"", 404),
        ("POST", "//v1/completions", {}, b"{}", 404),
        ("GET", "/metrics", {}, b"", 404),
        ("GET", "/v1/models/nobody", {}, b"", 404),
    ],
)
async def test_what_is_not_served_is_refused_in_the_shape_of_openai(
    method: str, path: str, headers: dict[str, str], content: bytes, status: int
) -> None:
    async with (
        scripted_engine(says(answer(completion()))) as engine,
        site(settings(aggregated=engine.url, edge={"max_body_bytes": 2000})) as here,
    ):
        got = await here.client.request(method, here.gateway.data_url + path, headers=headers, content=content)
    assert got.status_code == status
    assert got.json()["error"].keys() == {"message", "type", "param", "code"}
    assert got.json()["error"]["type"] == "invalid_request_error"
    assert got.headers["x-request-id"]
    assert engine.requests == []


async def _leave(here: Site, rng: random.Random) -> None:
    """Ask, read for a random while, and leave in one of two ways."""
    client: RawClient = await here.open(post(stream=True))
    if rng.random() < 0.7:
        await client.head()
        for _ in range(rng.randrange(3)):
            await client.chunk()
    else:
        await asyncio.sleep(rng.random() * 0.005)
    if rng.random() < 0.5:
        reset_on_close(client.writer)
        client.writer.transport.abort()
    else:
        client.writer.close()


@both_ways
async def test_a_thousand_clients_that_leave_leave_nothing(protocol: Server) -> None:
    async def endless(connection: Connection, _: Request) -> None:
        await connection.send(stream_head())
        while not connection.writer.is_closing():
            await connection.send(chunk(event("a")))
            await asyncio.sleep(0.002)

    rng = random.Random(1)
    async with (
        scripted_engine(says(answer(handover()))) as prefill,
        scripted_engine(endless) as decode,
        site(settings(prefill=prefill.url, decode=decode.url), protocol) as here,
    ):
        for _ in range(50):
            async with asyncio.TaskGroup() as group:
                for _ in range(20):
                    group.create_task(_leave(here, rng))
        await eventually(lambda: sum(here.outcomes().values()) == 1000, within_s=10)
        assert here.outcomes() == {"client_gone": 1000}
        await here.assert_at_rest()
        pools = [here.gateway.app.connections.to(engine.url) for engine in (prefill, decode)]
        await eventually(lambda: [prefill.open, decode.open] == [pool.idle for pool in pools])
