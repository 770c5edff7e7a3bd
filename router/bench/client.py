"""A client that sees every byte of an answer, and may leave anywhere."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools
import orjson

from router.call import Api

READ_BYTES = 64 << 10
LINGER_NOT = struct.pack("ii", 1, 0)


@dataclass
class Reply:
    """An answer as far as it has come; part of httptools' protocol."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False
    asked_at: float = field(default_factory=time.monotonic)
    first_at: float | None = None
    """When the first of the body came."""

    def __post_init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Some bytes of the answer."""
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Part of httptools' protocol."""
        self.headers[name.decode().lower()] = value.decode()

    def on_headers_complete(self) -> None:
        """Part of httptools' protocol."""
        self.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        """Part of httptools' protocol."""
        if self.first_at is None:
            self.first_at = time.monotonic()
        self.body += data

    def on_message_complete(self) -> None:
        """Part of httptools' protocol."""
        self.complete = True


@dataclass(frozen=True)
class Asker:
    """A connection to a gateway with a request to make, which may be cut off anywhere."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    reply: Reply

    def send(self, data: bytes) -> None:
        """Write some of the request."""
        self.writer.write(data)

    async def read(self, limit_bytes: int = READ_BYTES) -> bytes:
        """The next bytes of the answer, parsed too; empty at the end of the connection."""
        data = await self.reader.read(limit_bytes)
        self.reply.feed(data)
        return data

    async def read_all(self) -> Reply:
        """Everything up to the end of the answer, or of the connection."""
        while not self.reply.complete and await self.read():
            pass
        return self.reply

    def reset(self) -> None:
        """Leave by RST."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        self.writer.transport.abort()


@asynccontextmanager
async def asker(url: str, *, receive_buffer_bytes: int = 0) -> AsyncIterator[Asker]:
    """A connection of its own, closed by FIN at the end; a small receive buffer makes a client's slowness felt."""
    reader, writer = await _connect(url, receive_buffer_bytes)
    try:
        yield Asker(reader, writer, Reply())
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def _connect(url: str, receive_buffer_bytes: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    with ExitStack() as held:
        sock = held.enter_context(socket.socket())
        sock.setblocking(False)
        if receive_buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        await asyncio.get_running_loop().sock_connect(sock, (parts.hostname, parts.port))
        streams = await asyncio.open_connection(sock=sock, limit=receive_buffer_bytes or READ_BYTES)
        held.pop_all()
    return streams


def request(api: Api, body: dict[str, Any]) -> bytes:
    """The bytes of a request."""
    content = orjson.dumps(body)
    return b"POST %b HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        api.value.encode(),
        len(content),
        content,
    )


async def ask(url: str, body: dict[str, Any], api: Api = Api.CHAT) -> Reply:
    """One request on a connection of its own, read to the end."""
    async with asker(url) as one:
        one.send(request(api, body))
        return await one.read_all()
