"""Clients that are slow, silent, many or large: each is let go in time, and the others are served meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest

from router.edge import pace
from router.edge.guarded import LINGER_BYTES, GuardedProtocol
from tests.hostile.conftest import Front, hello
from tests.support.gateway import eventually, post, settings, site
from tests.support.raw_http import Answer, answers, connected_to, talk
from tests.support.scripted_engine import Connection, Request, completion, scripted_engine
from tests.support.scripted_engine import answer as json_answer

LIMIT_BYTES = 100_000


@asynccontextmanager
async def front_with(**edge: Any) -> AsyncIterator[Front]:
    """A gateway with these limits."""
    async with scripted_engine(hello) as engine, site(settings(aggregated=engine.url, edge=edge)) as running:
        yield Front(running, engine)


async def drip(front: Front, raw: bytes, pause_s: float = 0.01) -> bytes:
    """Send a byte at a time until the server has had enough; returns what it said."""
    async with connected_to(front.url) as (reader, writer):
        said = asyncio.get_running_loop().create_task(reader.read())
        for at in range(len(raw)):
            writer.write(raw[at : at + 1])
            if said.done():
                break
            await asyncio.sleep(pause_s)
        async with asyncio.timeout(5):
            return await said


async def test_a_slow_head_is_given_up() -> None:
    async with front_with(head_timeout_s=0.2) as front:
        (answer,) = answers(await drip(front, b"GET / HTTP/1.1\r\nHost: gateway\r\nX: " + b"a" * 500))
        assert (answer.status, answer.error["code"]) == (408, "request_timeout")


async def test_the_time_of_a_head_begins_with_each_request() -> None:
    async with front_with(head_timeout_s=0.3) as front, connected_to(front.url) as (reader, writer):
        for _ in range(3):
            await asyncio.sleep(0.15)
            writer.write(b"GET /health HTTP/1.1\r\n")
            await asyncio.sleep(0.15)
            writer.write(b"Host: gateway\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_a_slow_body_is_given_up() -> None:
    head, _, body = post(prompt="a" * 500).partition(b"\r\n\r\n")
    async with front_with(body_timeout_s=0.3) as front, connected_to(front.url) as (reader, writer):
        writer.write(head + b"\r\n\r\n" + body[:100])
        async with asyncio.timeout(5):
            (answer,) = answers(await reader.read())
        assert (answer.status, answer.error["code"]) == (408, "request_timeout")
        assert front.engine.requests == []


async def test_a_body_behind_its_rate_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "RATE_GRACE_S", 0.2)
    async with front_with(min_body_bytes_per_s=10_000) as front:
        (answer,) = answers(await drip(front, post(prompt="a" * 2000), pause_s=0.002))
        assert answer.status == 408


async def test_silent_connections_are_closed_without_a_word() -> None:
    async with front_with(head_timeout_s=1) as front, AsyncExitStack() as held:
        silent = [await held.enter_async_context(connected_to(front.url)) for _ in range(300)]
        for _ in range(20):
            assert (await front.site.ask()).status_code == 200
        async with asyncio.timeout(5):
            assert await asyncio.gather(*(reader.read() for reader, _ in silent)) == [b""] * 300
        await eventually(lambda: front.site.gateway.app.data_guards.census.open <= 1)


@pytest.mark.parametrize("noise", [b"", b"\r\n"], ids=["silent", "empty lines"])
async def test_an_idle_connection_is_closed(noise: bytes) -> None:
    async with front_with(keep_alive_s=0.3) as front, connected_to(front.url) as (reader, writer):
        loop = asyncio.get_running_loop()
        writer.write(b"GET /health HTTP/1.1\r\nHost: gateway\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        begun = loop.time()
        said = loop.create_task(reader.read())
        while not said.done() and loop.time() < begun + 3:
            writer.write(noise)
            await asyncio.sleep(0.02)
        with suppress(ConnectionResetError):  # noise may cross the close
            assert await said == b""
        assert 0.2 < loop.time() - begun < 2


async def test_a_long_answer_is_not_an_idle_connection() -> None:
    async with front_with(keep_alive_s=0.1, head_timeout_s=0.1, body_timeout_s=0.1) as front:
        release = asyncio.Event()

        async def late(connection: Any, request: Any) -> None:
            await release.wait()
            await hello(connection, request)

        front.engine.script = late
        asked = asyncio.get_running_loop().create_task(front.site.ask())
        await asyncio.sleep(0.4)
        release.set()
        assert (await asked).status_code == 200


async def test_connections_over_the_limit_are_shed_and_room_comes_back() -> None:
    async with front_with(max_connections=2, max_connections_per_address=2) as front:
        async with connected_to(front.url), connected_to(front.url):
            await eventually(lambda: front.site.gateway.app.data_guards.census.open == 2)
            (answer,) = answers(await talk(front.url, post()))
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert (answer.error["code"], answer.error["type"]) == ("connections", "service_unavailable")
        assert front.site.count("shed", reason="connections") == 1
        await eventually(lambda: front.site.gateway.app.data_guards.census.open == 0)
        assert (await front.site.ask()).status_code == 200


async def test_one_address_is_shed_before_all() -> None:
    async with front_with(max_connections=10, max_connections_per_address=1) as front, connected_to(front.url):
        await eventually(lambda: front.site.gateway.app.data_guards.census.open == 1)
        (answer,) = answers(await talk(front.url, post()))
        assert (answer.status, answer.error["code"]) == (503, "address_connections")


async def test_connections_are_shown() -> None:
    async with front_with() as front, connected_to(front.url):
        app = front.site.gateway.app
        await eventually(lambda: app.registry.get_sample_value("pd_router_connections") == 1)


async def test_bodies_over_all_their_memory_are_shed_and_it_comes_back() -> None:
    async with front_with(max_buffered_body_bytes=10_000) as front:
        head, _, body = post(prompt="a" * 8000).partition(b"\r\n\r\n")
        memory = front.site.gateway.app.data._limits.bodies
        async with connected_to(front.url) as (_, holder):
            holder.write(head + b"\r\n\r\n" + body[:6000])
            await eventually(lambda: memory.held_bytes >= 6000)
            (answer,) = answers(await talk(front.url, post(prompt="a" * 5000)))
            assert (answer.status, answer.error["code"]) == (503, "body_memory")
        await eventually(lambda: memory.held_bytes == 0)
        assert (await front.site.ask(prompt="a" * 5000)).status_code == 200
        assert memory.held_bytes == 0
        assert front.site.count("shed", reason="body_memory") == 1


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_refused_hardly_read(chunked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[int] = []
    receive = GuardedProtocol.data_received

    def counted(protocol: GuardedProtocol, data: bytes) -> None:
        received.append(len(data))
        receive(protocol, data)

    monkeypatch.setattr(GuardedProtocol, "data_received", counted)
    async with front_with(max_body_bytes=LIMIT_BYTES) as front:
        answer = await _send_without_end(front, chunked)
        assert (answer.status, answer.error["code"], answer.headers["connection"]) == (
            413,
            "request_too_large",
            "close",
        )
        read_at_once = max(received)
        allowed = (LIMIT_BYTES if chunked else 0) + LINGER_BYTES + 3 * read_at_once
        assert sum(received) <= allowed
        assert front.engine.requests == []


async def _send_without_end(front: Front, chunked: bool) -> Answer:
    """Offer 50 MB, whether the server takes it or not."""
    framing = b"transfer-encoding: chunked" if chunked else b"content-length: 50000000"
    head = b"POST /v1/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n%b\r\n\r\n" % framing
    piece = b"10000\r\n" + b"a" * 0x10000 + b"\r\n" if chunked else b"a" * 0x10000
    async with connected_to(front.url) as (reader, writer), asyncio.timeout(10), asyncio.TaskGroup() as group:
        writer.write(head)
        group.create_task(_offer(writer, piece))
        (answer,) = answers(await reader.read())
        writer.transport.abort()
    return answer


async def _offer(writer: asyncio.StreamWriter, piece: bytes) -> None:
    with suppress(ConnectionError):
        for _ in range(760):
            writer.write(piece)
            await writer.drain()


async def test_a_flood_of_requests_on_one_connection_is_refused() -> None:
    flood = b"GET /health HTTP/1.1\r\nHost: gateway\r\n\r\n" * 20_000
    async with front_with() as front:
        async with connected_to(front.url) as (reader, writer), asyncio.timeout(10):
            sending = asyncio.get_running_loop().create_task(_flood(writer, flood))
            told = list(answers(await reader.read()))
            sending.cancel()
        statuses = [answer.status for answer in told]
        assert statuses[:-1] == [200] * (len(told) - 1)
        assert (statuses[-1], told[-1].error["code"]) == (400, "too_many_waiting")
        assert front.site.count("refused", code="too_many_waiting") == 1


async def _flood(writer: asyncio.StreamWriter, raw: bytes) -> None:
    with suppress(ConnectionError):
        while True:
            writer.write(raw)
            await writer.drain()


def _open_connections(front: Front) -> int:
    return front.site.gateway.app.data_guards.census.open


@asynccontextmanager
async def front_that_says(text: str, write_stall_s: float, **edge: Any) -> AsyncIterator[Front]:
    """A gateway whose answers are this long, and whose clients may take so long for a byte."""

    async def say(connection: Connection, _: Request) -> None:
        await connection.send(json_answer(completion(text)))

    timeouts = {"write_stall_s": write_stall_s}
    async with (
        scripted_engine(say) as engine,
        site(settings(aggregated=engine.url, edge=edge, timeouts=timeouts)) as running,
    ):
        yield Front(running, engine)


@pytest.mark.parametrize("more", ["", "connection: close\r\n"], ids=["kept alive", "closed"])
@pytest.mark.parametrize("answer_bytes", [20_000, 100_000, 1_000_000])
async def test_who_does_not_take_its_answer_is_let_go(answer_bytes: int, more: str) -> None:
    async with front_that_says("x" * answer_bytes, write_stall_s=0.2, keep_alive_s=0.2) as front:
        client = await front.site.open(post(more=more), receive_buffer_bytes=4096)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await eventually(lambda: len(front.engine.requests) == 1)
        await eventually(lambda: _open_connections(front) == 0)
        client.writer.transport.abort()


async def test_who_takes_a_large_answer_slowly_but_steadily_gets_all_of_it() -> None:
    text = "x" * 2_000_000
    async with front_that_says(text, write_stall_s=0.4) as front:
        client = await front.site.open(post(), receive_buffer_bytes=1 << 16)
        _, headers = await client.head()
        left = int(headers["content-length"])
        begun_at = asyncio.get_running_loop().time()
        while left:
            left -= len(await client.reader.read(min(left, 40_000)))
            await asyncio.sleep(0.02)
        assert asyncio.get_running_loop().time() - begun_at > 2 * 0.4
        client.writer.close()
