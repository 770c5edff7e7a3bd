"""Clients that leave, and connections that carry several requests; over both ways to the client."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from tests.support.gateway import RawClient, Site, both_ways, eventually, post, settings, site
from tests.support.scripted_engine import (
    DONE,
    LAST_CHUNK,
    Connection,
    Request,
    ScriptedEngine,
    answer,
    chunk,
    completion,
    event,
    reset_on_close,
    says,
    says_and_waits,
    scripted_engine,
    stream,
    stream_head,
)

Server = type[asyncio.Protocol]
Leave = Callable[[RawClient], None]


def fin(client: RawClient) -> None:
    """Leave in good order."""
    client.writer.close()


def rst(client: RawClient) -> None:
    """Leave by reset."""
    reset_on_close(client.writer)
    client.writer.transport.abort()


leaving = pytest.mark.parametrize("leave", [fin, rst])


def before(engine: ScriptedEngine, protocol: Server) -> AbstractAsyncContextManager[Site]:
    """A gateway in front of one engine."""
    return site(settings(aggregated=engine.url), protocol)


@both_ways
@leaving
@pytest.mark.parametrize("prompt_bytes", [10, 300_000], ids=["small body", "large body"])
async def test_a_client_that_leaves_while_it_waits_is_heard_of(
    protocol: Server, leave: Leave, prompt_bytes: int
) -> None:
    async with scripted_engine(says_and_waits()) as engine, before(engine, protocol) as here:
        client = await here.open(post(stream=True, prompt="x" * prompt_bytes))
        await eventually(lambda: len(engine.requests) == 1)
        leave(client)
        await eventually(lambda: here.outcomes() == {"client_gone": 1}, within_s=0.5)
        await eventually(lambda: engine.open == 0, within_s=0.5)


@both_ways
@leaving
async def test_a_client_that_leaves_a_stream_is_heard_of(protocol: Server, leave: Leave) -> None:
    script = says_and_waits(stream_head(), chunk(event("a")))
    async with scripted_engine(script) as engine, before(engine, protocol) as here:
        client = await here.open(post(stream=True))
        assert (await client.head())[0] == 200
        leave(client)
        await eventually(lambda: here.outcomes() == {"client_gone": 1}, within_s=0.5)
        await eventually(lambda: engine.open == 0, within_s=0.5)


@both_ways
@leaving
async def test_a_client_that_leaves_in_its_body_reaches_no_engine(protocol: Server, leave: Leave) -> None:
    async with scripted_engine(says(stream("a"))) as engine, before(engine, protocol) as here:
        client = await here.open(post()[:-5])
        await asyncio.sleep(0.02)
        leave(client)
        await eventually(lambda: here.outcomes() == {"client_gone": 1}, within_s=0.5)
        assert engine.requests == []


@both_ways
async def test_requests_follow_each_other_on_one_connection(protocol: Server) -> None:
    async def script(connection: Connection, request: Request) -> None:
        await connection.send(stream("a", "b") if request.json.get("stream") else answer(completion()))

    async with scripted_engine(script) as engine, before(engine, protocol) as here:
        client = await here.open()
        for _ in range(2):
            client.writer.write(post(stream=True))
            await client.head()
            assert await client.stream() == event("a") + event("b") + DONE
            client.writer.write(post())
            assert await client.answer() == (200, completion())
            client.writer.write(post(model="nobody"))
            assert (await client.answer())[0] == 404
        client.writer.close()


@both_ways
async def test_pipelined_requests_are_answered_one_after_the_other(protocol: Server) -> None:
    async def script(connection: Connection, request: Request) -> None:
        text = request.json["prompt"]
        await connection.send(stream_head(), *(chunk(event(text)) for _ in range(3)), chunk(DONE), LAST_CHUNK)

    async with scripted_engine(script) as engine, before(engine, protocol) as here:
        client = await here.open(b"".join(post(stream=True, prompt=text) for text in "abcde"))
        for text in "abcde":
            assert (await client.head())[0] == 200
            assert await client.stream() == event(text) * 3 + DONE
        assert [request.json["prompt"] for request in engine.requests] == list("abcde")
        client.writer.close()


async def test_a_client_that_pipelines_and_leaves_leaves_nothing() -> None:
    async def script(connection: Connection, _: Request) -> None:
        await connection.send(stream_head())
        while not connection.writer.is_closing():
            await connection.send(chunk(event("a")))
            await asyncio.sleep(0.005)

    async with scripted_engine(script) as engine, site(settings(aggregated=engine.url)) as here:
        client = await here.open(post(stream=True) * 3)
        await client.head()
        rst(client)
        await eventually(lambda: here.gateway.app.connections.to(engine.url).open == 0)


async def test_an_http_1_0_client_gets_its_stream_to_the_end_of_the_connection() -> None:
    async with scripted_engine(says(stream("a", "b"))) as engine, site(settings(aggregated=engine.url)) as here:
        client = await here.open(post(stream=True).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        status, headers = await client.head()
        assert status == 200
        assert "transfer-encoding" not in headers
        assert await client.reader.read() == event("a") + event("b") + DONE
        client.writer.close()


async def test_a_large_request_behind_another_is_read_when_its_turn_comes() -> None:
    async with scripted_engine(says(answer(completion()))) as engine, site(settings(aggregated=engine.url)) as here:
        client = await here.open(post() + post(prompt="x" * 500_000) + post())
        for _ in range(3):
            assert await client.answer() == (200, completion())
        client.writer.close()
