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

    async def __call__(self, scope: Any, _receive: Any, _send: Any) -> None:
        writer = scope["extensions"][EXTENSION]
        self.writers.append(writer)
        await writer.start(b"x-a: b\r\n", b"data: 1\n\n")
        await self.may_end.wait()
        await writer.finish(b"data: [DONE]\n\n")


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
    assert writer.chunks
    client.written = b""
    writer.write(b"data: x\n\n")
    await asyncio.sleep(0)
    assert client.written == b"9\r\ndata: x\n\n\r\n"
    writer.write(b"data: y\n\n")
    app.may_end.set()
    await settle()
    assert client.written.endswith(b"data: y\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
    protocol.connection_lost(None)


async def test_head_and_first_bytes_are_one_write(app: Streams, client: ClientTransport) -> None:
    protocol = await streaming(app, client)
    assert client.writes == 1
    head, _, body = client.written.partition(b"\r\n\r\n")
    assert head == b"HTTP/1.1 200 OK\r\nx-a: b\r\ntransfer-encoding: chunked"
    assert body == b"9\r\ndata: 1\n\n\r\n"
    app.may_end.set()
    await settle()
    assert (client.writes, client.ended, protocol.cycle.response_complete) == (2, "", True)
    protocol.data_received(GET)
    await settle()
    assert client.writes == 4
    protocol.connection_lost(None)


async def test_a_connection_that_is_to_close_says_so_and_does(app: Streams, client: ClientTransport) -> None:
    app.may_end.set()
    protocol = connected(app, guards(), client)
    protocol.data_received(GET.replace(b"Host", b"Connection: close\r\nHost"))
    await settle()
    assert b"\r\nconnection: close\r\n" in client.written
    assert client.ended == "closed"
    protocol.connection_lost(None)


async def test_a_whole_response_is_one_write(client: ClientTransport) -> None:
    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        await scope["extensions"][EXTENSION].answer(404, ((b"content-length", b"2"),), b"{}")

    protocol = connected(app, guards(), client)
    protocol.data_received(GET)
    await settle()
    assert (client.writes, client.ended) == (1, "")
    assert client.written == b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}"
    protocol.connection_lost(None)


class Reads:
    """An application that asks for its whole body at once or else receives it, and answers."""

    def __init__(self) -> None:
        self.bodies: list[bytes | None] = []
        self.messages: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, _send: Any) -> None:
        writer = scope["extensions"][EXTENSION]
        self.bodies.append(writer.whole_body())
        while self.bodies[-1] is None and (not self.messages or self.messages[-1].get("more_body")):
            self.messages.append(await receive())
        await writer.answer(200, ((b"content-length", b"0"),), b"")
        self.messages.append(await receive())


POST = b"POST /a HTTP/1.1\r\nHost: gateway\r\nContent-Length: 6\r\n\r\n"


async def test_a_body_that_is_there_is_not_waited_for(client: ClientTransport) -> None:
    app = Reads()
    protocol = connected(app, guards(), client)
    for pieces in ((POST + b"abcdef",), (POST + b"ab", b"c", b"def")):
        for piece in pieces:
            protocol.data_received(piece)
        await settle()
    assert app.bodies == [b"abcdef", b"abcdef"]
    assert all(type(body) is bytes for body in app.bodies)
    assert [message["type"] for message in app.messages] == ["http.disconnect"] * 2
    protocol.connection_lost(None)


async def test_after_a_long_body_what_follows_is_read(client: ClientTransport) -> None:
    """uvicorn stops reading after 64 KiB of a body, until that is taken."""
    app = Reads()
    protocol = connected(app, guards(), client)
    long = b"x" * 70_000
    protocol.data_received(POST.replace(b"6", b"70000") + long + POST[:9])
    await settle()
    assert (app.bodies, client.reading) == ([long], True)
    protocol.data_received(POST[9:] + b"abcdef")
    await settle()
    assert app.bodies == [long, b"abcdef"]
    protocol.connection_lost(None)


async def test_what_is_answered_before_it_was_sent_is_the_last_on_its_connection(client: ClientTransport) -> None:
    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        await scope["extensions"][EXTENSION].answer(405, ((b"content-length", b"2"),), b"no")

    protocol = connected(app, guards(), client)
    protocol.data_received(POST + b"abc")
    await settle()
    assert b"\r\nconnection: close\r\n" in client.written
    protocol.connection_lost(None)


async def test_an_answer_to_head_has_no_body(client: ClientTransport) -> None:
    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        await scope["extensions"][EXTENSION].answer(405, ((b"content-length", b"2"),), b"no")

    protocol = connected(app, guards(), client)
    protocol.data_received(GET.replace(b"GET", b"HEAD"))
    await settle()
    assert client.written.endswith(b"content-length: 2\r\n\r\n")
    protocol.connection_lost(None)


async def test_a_body_that_is_not_there_yet_is_received(client: ClientTransport) -> None:
    app = Reads()
    protocol = connected(app, guards(), client)
    protocol.data_received(POST + b"abc")
    await settle()
    assert (app.bodies, client.written) == ([None], b"")
    protocol.data_received(b"def")
    await settle()
    received = b"".join(message.get("body", b"") for message in app.messages)
    assert received == b"abcdef"
    protocol.connection_lost(None)


async def test_after_the_whole_body_only_the_clients_end_is_received(client: ClientTransport) -> None:
    messages: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, _send: Any) -> None:
        scope["extensions"][EXTENSION].whole_body()
        messages.append(await receive())

    protocol = connected(app, guards(), client)
    protocol.data_received(POST + b"abcdef")
    await settle()
    assert messages == []
    protocol.connection_lost(None)
    await settle()
    assert messages == [{"type": "http.disconnect"}]


async def test_nobodys_body_is_whole_once_the_client_has_left(client: ClientTransport) -> None:
    app = Reads()
    protocol = connected(app, guards(), client)
    protocol.data_received(POST + b"abcdef")
    protocol.connection_lost(None)
    await settle()
    assert app.bodies == [None]
    assert app.messages[0]["type"] == "http.disconnect"


async def test_a_client_that_is_behind_gets_no_more_until_it_has_caught_up(
    app: Streams, client: ClientTransport
) -> None:
    protocol = await streaming(app, client)
    protocol.pause_writing()
    app.may_end.set()
    await settle()
    assert not client.written.endswith(b"0\r\n\r\n")
    protocol.resume_writing()
    await settle()
    assert client.written.endswith(b"0\r\n\r\n")
    protocol.connection_lost(None)


async def test_http_1_0_has_no_chunks(app: Streams, client: ClientTransport) -> None:
    protocol = connected(app, guards(), client)
    protocol.data_received(GET.replace(b"HTTP/1.1", b"HTTP/1.0"))
    await settle()
    assert not app.writers[0].chunks
    protocol.connection_lost(None)
    app.may_end.set()
    await settle()


async def test_nothing_is_written_to_a_client_that_is_leaving(app: Streams, client: ClientTransport) -> None:
    protocol = await streaming(app, client)
    client.written = b""
    app.writers[0].write(b"data: x\n\n")
    client.abort()
    await settle()
    assert client.written == b""
    protocol.connection_lost(None)


async def test_each_pipelined_request_has_its_own_writer(app: Streams, client: ClientTransport) -> None:
    protocol = await streaming(app, client)
    protocol.data_received(GET)
    await settle()
    assert len(app.writers) == 1
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
    before = app.writers[0].leaving
    protocol.connection_lost(None)
    assert calls == ["gone"]
    assert (before, app.writers[0].leaving) == (False, True)
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
