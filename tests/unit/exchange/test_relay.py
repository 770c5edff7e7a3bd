import asyncio
from contextlib import AbstractAsyncContextManager

import orjson
import pytest

from tests.support.gateway import Site, both_ways, eventually, post, settings, site
from tests.support.scripted_engine import (
    DONE,
    LAST_CHUNK,
    Connection,
    Request,
    Script,
    ScriptedEngine,
    answer,
    chunk,
    completion,
    error,
    event,
    handover,
    head,
    says,
    says_and_closes,
    says_and_waits,
    scripted_engine,
    stream_head,
)

Server = type[asyncio.Protocol]

A, B = chunk(event("a")), chunk(event("b"))
END = chunk(DONE) + LAST_CHUNK


def bounded(engine: ScriptedEngine, protocol: Server, **timeouts: float) -> AbstractAsyncContextManager[Site]:
    """A gateway with timeouts of its own."""
    return site(settings(aggregated=engine.url, timeouts=timeouts), protocol)


async def _resets(connection: Connection, _: Request) -> None:
    await connection.send(stream_head(), A, B)
    connection.rst()


GOOD: dict[str, Script] = {
    "in one write": says(stream_head() + A + B + END),
    "piece by piece": says(stream_head(), A, B, END),
    "byte by byte": says(*(bytes([byte]) for byte in stream_head() + A + B + END)),
    "with a length": says(
        head(content_type="text/event-stream", content_length=str(len(event("a") + event("b") + DONE))),
        event("a"),
        event("b") + DONE,
    ),
    "to the end of the connection": says_and_closes(
        head(content_type="text/event-stream") + event("a"), event("b") + DONE
    ),
    "crlf": says(
        stream_head(), *(chunk(part.replace(b"\n", b"\r\n")) for part in (event("a"), event("b"), DONE)), LAST_CHUNK
    ),
    "comments": says(stream_head(), chunk(b": ping\n\n"), A, chunk(b": ping\n\n"), B, END),
    "trailers": says(stream_head(), A, B, chunk(DONE), b"0\r\nx-late: 1\r\n\r\n"),
}

BROKEN: dict[str, tuple[Script, str]] = {
    "no done": (says(stream_head(), A, B, LAST_CHUNK), "upstream_error"),
    "fin": (says_and_closes(stream_head(), A, B), "upstream_error"),
    "fin in an event": (says_and_closes(stream_head(), A, B, b"40\r\ndata"), "upstream_error"),
    "rst": (_resets, "upstream_error"),
    "an error": (
        says(stream_head(), A, B, chunk(b'data: {"error":{"message":"at e:1","code":500}}\n\n'), END),
        "upstream_error",
    ),
    "more after done": (says(stream_head(), A, B, chunk(DONE + event("c")), LAST_CHUNK), "upstream_error"),
    "more after done, later": (says(stream_head(), A, B, chunk(DONE), A, LAST_CHUNK), "upstream_error"),
    "a large event": (says(stream_head(), A, B, chunk(b"data: " + b"x" * (3 << 20)), END), "upstream_error"),
    "bad framing": (says(stream_head(), A, B, b"zz\r\n"), "upstream_error"),
    "silence": (says_and_waits(stream_head(), A, B), "upstream_timeout"),
}


@both_ways
@pytest.mark.parametrize("script", GOOD.values(), ids=GOOD)
async def test_a_good_stream_arrives_event_by_event(protocol: Server, script: Script) -> None:
    async with scripted_engine(script) as engine, site(settings(aggregated=engine.url), protocol) as here:
        for _ in range(2):
            got = await here.ask(stream=True)
            assert (got.status_code, got.content) == (200, event("a") + event("b") + DONE)
        assert here.outcomes() == {"ok": 2}


@both_ways
@pytest.mark.parametrize(("script", "code"), BROKEN.values(), ids=BROKEN)
async def test_a_stream_that_breaks_ends_in_one_error(protocol: Server, script: Script, code: str) -> None:
    async with scripted_engine(script) as engine, bounded(engine, protocol, stream_idle_s=0.2) as here:
        got = await here.ask(stream=True)
        assert got.status_code == 200
        *events, last, done, rest = got.content.split(b"\n\n")
        assert [each + b"\n\n" for each in events] == [event("a"), event("b")]
        assert (done + b"\n\n", rest) == (DONE, b"")
        assert orjson.loads(last.removeprefix(b"data: "))["error"]["code"] == code
        assert engine.url[7:] not in got.text
        assert "e:1" not in got.text
        assert here.outcomes() == {"timeout" if code == "upstream_timeout" else "upstream_error": 1}


@both_ways
async def test_the_total_time_bounds_a_stream_that_never_ends(protocol: Server) -> None:
    async def endless(connection: Connection, _: Request) -> None:
        await connection.send(stream_head())
        while not connection.writer.is_closing():
            await connection.send(A)
            await asyncio.sleep(0.01)

    async with scripted_engine(endless) as engine, bounded(engine, protocol, total_s=0.3) as here:
        got = await here.ask(stream=True)
        assert b'"code":"upstream_timeout"' in got.content
        await eventually(lambda: here.gateway.app.connections.to(engine.url).open == 0)


@both_ways
async def test_cached_tokens_of_a_stream_are_those_of_the_prefill_engine(protocol: Server) -> None:
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":12,"prompt_tokens_details":{"cached_tokens":9}}}\n\n'
    script = says(stream_head(), A, chunk(usage), END)
    async with (
        scripted_engine(says(answer(handover(cached_tokens=3)))) as prefill,
        scripted_engine(script) as decode,
        site(settings(prefill=prefill.url, decode=decode.url), protocol) as here,
    ):
        got = await here.ask(stream=True, stream_options={"include_usage": True})
    assert got.content == event("a") + usage.replace(b"9", b"3") + DONE


@both_ways
async def test_a_complete_answer_has_a_length(protocol: Server) -> None:
    script = says(answer(completion(kv_transfer_params=None)))
    async with scripted_engine(script) as engine, site(settings(aggregated=engine.url), protocol) as here:
        got = await here.ask()
    assert got.json() == completion()
    assert got.headers["content-length"] == str(len(got.content))


@both_ways
@pytest.mark.parametrize("first_bytes", [100, 600_000], ids=["small first event", "large first event"])
async def test_a_client_that_does_not_read_makes_the_engine_wait(protocol: Server, first_bytes: int) -> None:
    sent_bytes = 0
    part = chunk(event("b" * 100_000))

    async def flood(connection: Connection, _: Request) -> None:
        nonlocal sent_bytes
        await connection.send(stream_head() + chunk(event("a" * first_bytes)))
        while True:
            await connection.send(part)
            sent_bytes += len(part)

    async with scripted_engine(flood) as engine, site(settings(aggregated=engine.url), protocol) as here:
        client = await here.open(post(stream=True), receive_buffer_bytes=1 << 16)
        await eventually(lambda: sent_bytes > 0)
        before = -1
        while sent_bytes > before:
            before = sent_bytes
            await asyncio.sleep(0.1)
        assert before < 30 << 20, "sockets take it, memory must not"
        assert (await client.head())[0] == 200
        first = await client.chunk()  # with the events that came in the same read
        assert first.startswith(event("a" * first_bytes))
        while sent_bytes == before:
            await client.reader.read(1 << 16)
        client.writer.transport.abort()


@both_ways
async def test_a_client_that_takes_nothing_for_long_is_dropped(protocol: Server) -> None:
    async def flood(connection: Connection, _: Request) -> None:
        await connection.send(stream_head())
        while True:
            await connection.send(chunk(event("b" * 100_000)))

    async with scripted_engine(flood) as engine, bounded(engine, protocol, write_stall_s=0.2) as here:
        client = await here.open(post(stream=True), receive_buffer_bytes=1 << 16)
        await eventually(lambda: here.outcomes() == {"client_gone": 1}, within_s=5)
        await eventually(lambda: here.gateway.app.connections.to(engine.url).open == 0)
        client.writer.transport.abort()


@both_ways
async def test_a_stream_that_is_left_ends_at_the_engine(protocol: Server) -> None:
    script = says_and_waits(stream_head(), A)
    async with scripted_engine(script) as engine, site(settings(aggregated=engine.url), protocol) as here:
        client = await here.open(post(stream=True))
        await client.head()
        assert await client.chunk() == event("a")
        client.writer.close()
        await eventually(lambda: here.gateway.app.connections.to(engine.url).open == 0, within_s=2)
        assert here.outcomes() == {"client_gone": 1}


def late(delay_s: float, *parts: bytes) -> Script:
    """An engine that takes its time."""

    async def script(connection: Connection, _: Request) -> None:
        await asyncio.sleep(delay_s)
        await connection.send(*parts)

    return script


EARLY = {"early_status_s": 0.05}
COMMENT = b": waiting\n\n"


@both_ways
async def test_who_waits_for_a_stream_may_be_told_so_meanwhile(protocol: Server) -> None:
    script = late(0.3, stream_head() + A + B + END)
    async with (
        scripted_engine(script) as engine,
        site(settings(aggregated=engine.url, edge=EARLY), protocol) as here,
    ):
        got = await here.ask(stream=True)
    comments, events = got.content.count(COMMENT), got.content.replace(COMMENT, b"")
    assert events == event("a") + event("b") + DONE
    assert got.content.startswith(COMMENT)
    assert 2 <= comments <= 6
    assert here.outcomes() == {"ok": 1}


@both_ways
@pytest.mark.parametrize("status", [400, 500])
async def test_then_what_fails_is_told_inside_the_stream(protocol: Server, status: int) -> None:
    refusal = answer(error(status, "no"), status=f"{status} x")
    async with (
        scripted_engine(late(0.1, refusal)) as engine,
        site(settings(aggregated=engine.url, edge=EARLY, retries={"decode_tries": 1}), protocol) as here,
    ):
        got = await here.ask(stream=True)
    *_, told, done, nothing = got.content.split(b"\n\n")
    assert (got.status_code, done, nothing) == (200, b"data: [DONE]", b"")
    assert "error" in orjson.loads(told.removeprefix(b"data: "))


@both_ways
async def test_a_complete_answer_has_no_early_status(protocol: Server) -> None:
    script = late(0.15, answer(completion(kv_transfer_params=None)))
    async with (
        scripted_engine(script) as engine,
        site(settings(aggregated=engine.url, edge=EARLY), protocol) as here,
    ):
        got = await here.ask()
    assert got.json() == completion()


@both_ways
async def test_a_client_that_leaves_while_it_is_told_to_wait_is_gone(protocol: Server) -> None:
    async with (
        scripted_engine(says_and_waits()) as engine,
        site(settings(aggregated=engine.url, edge=EARLY), protocol) as here,
    ):
        client = await here.open(post(stream=True))
        await client.head()
        client.writer.transport.abort()
        await eventually(lambda: here.outcomes() == {"client_gone": 1}, within_s=2)
