import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from router.edge.protocol import EXTENSION, DirectWriter, GatewayProtocol
from tests.support.client_side import ClientTransport, connected
from tests.support.edge import guards

GET = b"GET /a HTTP/1.1\r\nHost: gateway\r\n\r\n"


class Streams:
    """An application that begins a stream and waits; keeps the writers it was lent."""

    def __init__(self) -> None:
        self.writers: list[DirectWriter] = []
        self.may_end = asyncio.Event()

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        writer = scope["extensions"][EXTENSION]
        assert not writer.chunked
        self.writers.append(writer)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await self.may_end.wait()
        await send({"type": "http.response.body", "body": b""})


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def client() -> ClientTransport:
    return ClientTransport()


@pytest.fixture
def app() -> Streams:
    return Streams()


async def streaming(app: Streams, client: ClientTransport, stall_s: float = 60.0) -> GatewayProtocol:
    """A connection whose request has begun to be answered."""
    protocol = connected(app, replace(guards(), write_stall_s=stall_s), client)
    protocol.data_received(GET)
    await settle()
    return protocol


def noting(calls: list[str], name: str) -> Callable[[], None]:
    return lambda: calls.append(name)


async def test_what_is_written_directly_is_one_chunk(app: Streams, client: ClientTransport) -> None:
    protocol = await streaming(app, client)
    (writer,) = app.writers
    assert writer.chunked
    client.written = b""
    writer.write(b"data: x\n\n")
    assert client.written == b"9\r\ndata: x\n\n\r\n"
    app.may_end.set()
    await settle()
    assert client.written.endswith(b"\r\n0\r\n\r\n")
    protocol.connection_lost(None)


async def test_nothing_is_written_to_a_client_that_is_leaving(app: Streams, client: ClientTransport) -> None:
    protocol = await streaming(app, client)
    client.written = b""
    client.abort()
    app.writers[0].write(b"data: x\n\n")
    assert client.written == b""
    protocol.connection_lost(None)


async def test_each_pipelined_request_has_its_own_writer(app: Streams, client: ClientTransport) -> None:
    protocol = await streaming(app, client)
    protocol.data_received(GET)
    await settle()
    assert (len(app.writers), app.writers[0].chunked) == (1, True)
    app.may_end.set()
    await settle()
    assert (len(app.writers), app.writers[0] is not app.writers[1]) == (2, True)
    protocol.connection_lost(None)


async def test_who_feeds_the_client_hears_that_it_falls_behind(app: Streams, client: ClientTransport) -> None:
    protocol = await streaming(app, client)
    calls: list[str] = []
    app.writers[0].lend(noting(calls, "pause"), noting(calls, "resume"))
    protocol.pause_writing()
    protocol.resume_writing()
    assert calls == ["pause", "resume"]
    app.writers[0].take_back()
    protocol.pause_writing()
    assert calls == ["pause", "resume"]
    app.writers[0].lend(noting(calls, "pause"), noting(calls, "resume"))
    assert calls == ["pause", "resume", "pause"]
    protocol.connection_lost(None)
    app.may_end.set()
    await settle()


async def test_a_client_that_takes_nothing_is_dropped(app: Streams, client: ClientTransport) -> None:
    protocol = await streaming(app, client, stall_s=0.01)
    protocol.pause_writing()
    protocol.resume_writing()
    await asyncio.sleep(0.02)
    assert client.ended == ""
    protocol.pause_writing()
    await asyncio.sleep(0.02)
    assert client.ended == "aborted"
    protocol.connection_lost(None)
    app.may_end.set()
    await settle()


async def test_a_client_that_leaves_is_told_of_once(app: Streams, client: ClientTransport) -> None:
    protocol = await streaming(app, client)
    calls: list[str] = []
    app.writers[0].when_gone(noting(calls, "never"))
    app.writers[0].when_gone(None)
    app.writers[0].when_gone(noting(calls, "gone"))
    protocol.connection_lost(None)
    assert calls == ["gone"]
    client.close()
    app.writers[0].when_gone(noting(calls, "gone already"))
    assert calls == ["gone", "gone already"]
    app.may_end.set()
    await settle()


async def test_a_watched_client_is_read(app: Streams, client: ClientTransport) -> None:
    protocol = await streaming(app, client)
    protocol.flow.pause_reading()
    app.writers[0].when_gone(lambda: None)
    assert client.reading
    protocol.connection_lost(None)
    app.may_end.set()
    await settle()
