"""HTTP/1.1 on real sockets."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import uvloop

from router.sim.http_server import Exchange, HttpServer
from tests.support.virtual_time import virtual_time

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Site:
    """A server that keeps the exchanges it is given, and answers those for /now at once."""

    def __init__(self, keep_alive_s: float = 5.0) -> None:
        self.exchanges: list[Exchange] = []
        self.arrived = asyncio.Event()
        self.server = HttpServer(self._serve, keep_alive_s)

    async def open(self, sent: bytes = b"") -> Streams:
        """A connection on which `sent` was sent and has arrived."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        writer.write(sent)
        return reader, writer

    def _serve(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        if exchange.path == "/now":
            exchange.respond(200, exchange.body or b"{}")
        self.arrived.set()


@asynccontextmanager
async def site(keep_alive_s: float = 5.0) -> AsyncIterator[Site]:
    """A running server."""
    made = Site(keep_alive_s)
    await made.server.start("127.0.0.1", 0)
    yield made
    made.server.close()
    await made.server.wait_closed()


GET = b"GET /now HTTP/1.1\r\nhost: x\r\n\r\n"
LATER = b"POST /later?x=1 HTTP/1.1\r\nHost: x\r\nX-Name: v\r\ncontent-length: 4\r\n\r\nbody"


async def test_a_request_is_read_and_answered() -> None:
    async with site() as made:
        reader, writer = await made.open(LATER)
        await made.arrived.wait()
        (exchange,) = made.exchanges
        assert (exchange.method, exchange.path, exchange.body) == ("POST", "/later", b"body")
        assert exchange.headers["x-name"] == "v"
        exchange.respond(404, b'{"a":1}')
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 404 Not Found\r\nserver: uvicorn\r\ncontent-type: application/json\r\n")
        assert b"content-length: 7\r\n" in head
        assert await reader.readexactly(7) == b'{"a":1}'
        assert not exchange.open
        writer.close()


async def test_a_stream_is_one_chunk_per_event() -> None:
    async with site() as made:
        reader, writer = await made.open(LATER)
        await made.arrived.wait()
        exchange = made.exchanges[0]
        exchange.start()
        exchange.send(b"data: 1\n\n")
        exchange.send(b"data: [DONE]\n\n")
        exchange.end()
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n" in head
        assert await reader.readuntil(b"0\r\n\r\n") == b"9\r\ndata: 1\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
        writer.close()


async def test_a_connection_is_used_again_and_pipelined_requests_wait_their_turn() -> None:
    async with site() as made:
        reader, writer = await made.open(LATER + GET)
        await made.arrived.wait()
        assert len(made.exchanges) == 1
        made.exchanges[0].respond(200, b"first")
        assert (await reader.readuntil(b"{}")).index(b"first") > 0
        writer.write(GET)
        assert (await reader.readuntil(b"{}")).startswith(b"HTTP/1.1 200 OK")
        writer.close()


@virtual_time
async def test_an_idle_connection_is_closed() -> None:
    async with site(keep_alive_s=5.0) as made:
        reader, writer = await made.open(GET)
        await reader.readuntil(b"{}")
        await asyncio.sleep(4.9)
        assert not reader.at_eof()
        assert await reader.read() == b""
        writer.close()


@virtual_time
async def test_a_busy_connection_is_not_idle() -> None:
    async with site(keep_alive_s=5.0) as made:
        reader, writer = await made.open(LATER)
        await asyncio.sleep(100)
        made.exchanges[0].respond(200, b"late")
        await reader.readuntil(b"late")
        writer.close()


@virtual_time
async def test_a_slow_request_is_not_idle() -> None:
    async with site(keep_alive_s=5.0) as made:
        reader, writer = await made.open(GET[:10])
        await asyncio.sleep(100)
        writer.write(GET[10:])
        await reader.readuntil(b"{}")
        writer.close()


@pytest.mark.parametrize(
    "request_bytes", [GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"), GET.replace(b"HTTP/1.1", b"HTTP/1.0")]
)
async def test_a_client_may_ask_for_the_end_of_the_connection(request_bytes: bytes) -> None:
    async with site() as made:
        reader, writer = await made.open(request_bytes)
        answer = await reader.read()
        assert b"\r\nconnection: close\r\n" in answer
        assert answer.endswith(b"{}")
        writer.close()


async def test_what_is_no_http_is_refused() -> None:
    async with site() as made:
        reader, writer = await made.open(b"\x16\x03\x01 hello\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 Bad Request")
        writer.close()


async def test_a_body_may_be_asked_for_first() -> None:
    async with site() as made:
        head, _, body = LATER.partition(b"\r\n\r\n")
        reader, writer = await made.open(head + b"\r\nexpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        await made.arrived.wait()
        assert made.exchanges[0].body == b"body"
        writer.close()


async def test_a_client_that_leaves_is_noticed_once() -> None:
    async with site() as made:
        _, writer = await made.open(LATER)
        await made.arrived.wait()
        gone = asyncio.Event()
        exchange = made.exchanges[0]
        exchange.on_gone = gone.set
        writer.close()
        await gone.wait()
        assert not exchange.open
        exchange.respond(200, b"to nobody")
        exchange.send(b"to nobody")
        exchange.end()
        exchange.reset()


async def test_an_answered_exchange_does_not_hear_of_the_client_any_more() -> None:
    async with site() as made:
        reader, writer = await made.open(LATER)
        await made.arrived.wait()
        told: list[str] = []
        made.exchanges[0].on_gone = lambda: told.append("gone")
        made.exchanges[0].respond(200, b"{}")
        await reader.readuntil(b"{}")
        writer.close()
        await asyncio.gather(*(connection.lost for connection in made.server.connections))
        assert told == []


async def _fate(cut: str) -> str:
    """What a client reads when the server ends the connection in mid-stream."""
    async with site() as made:
        reader, writer = await made.open(LATER)
        await made.arrived.wait()
        exchange = made.exchanges[0]
        exchange.start()
        exchange.send(b"data: 1\n\n")
        await reader.readuntil(b"data: 1\n\n")
        getattr(exchange, cut)()
        try:
            return repr(await reader.read())
        except ConnectionResetError:
            return "RST"
        finally:
            writer.close()


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize(("cut", "fate"), [("reset", "RST"), ("close", repr(b"\r\n"))])
def test_a_connection_ends_by_fin_or_rst_in_either_loop(loop_factory: object, cut: str, fate: str) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:  # type: ignore[arg-type]
        assert runner.run(_fate(cut)) == fate


async def test_a_closed_server_refuses_and_has_no_connections() -> None:
    async with site() as made:
        reader, writer = await made.open(LATER)
        await made.arrived.wait()
        made.server.close()
        await made.server.wait_closed()
        assert await reader.read() == b""
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await made.open()
        assert made.server.connections == set()


async def test_large_bodies_arrive_whole() -> None:
    async with site() as made, httpx.AsyncClient() as client:
        body = struct.pack("<I", 7) * 500_000
        assert (await client.post(f"http://127.0.0.1:{made.server.port}/now", content=body)).content == body
