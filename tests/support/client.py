"""A client that sees every byte, and judges: is this answer right, or did it say that it failed? Nothing else may be.

The worst that a gateway can do is to pass a failure off as success: a text that is wrong, or one that just ends.
"""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

import httptools
import orjson

from router.call import Api
from router.sim.text import reference_text

READ_BYTES = 64 << 10
LINGER_NOT = struct.pack("ii", 1, 0)


class WrongText(AssertionError):
    """An answer that looks right and is not."""


class Verdict(StrEnum):
    """What a client may conclude from an answer."""

    RIGHT = "right"
    REFUSED = "refused"
    """A JSON error instead of an answer."""
    BROKEN_OFF = "broken_off"
    """The beginning of the right text, then an error event and `[DONE]`."""


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
    parts = urlsplit(url)
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    await asyncio.get_running_loop().sock_connect(sock, (parts.hostname, parts.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=receive_buffer_bytes or READ_BYTES)
    try:
        yield Asker(reader, writer, Reply())
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


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


def judge(reply: Reply, body: dict[str, Any], api: Api = Api.CHAT) -> Verdict:
    """What a client may conclude; fails when that would be wrong. Text is that of the only choice."""
    assert reply.complete, f"silently cut off after {len(reply.body)} bytes of status {reply.status}"
    kind = reply.headers.get("content-type", "").partition(";")[0]
    if reply.status != 200:
        assert kind == "application/json", kind
        assert _json(reply.body)["error"]["message"]
        return Verdict.REFUSED
    right = reference_text(body["model"], "chat" if api is Api.CHAT else "completions", body)
    if not body.get("stream"):
        assert kind == "application/json", kind
        (choice,) = _json(reply.body)["choices"]
        _compare(_text(choice), right.text)
        assert choice["finish_reason"] == right.finish_reason
        return Verdict.RIGHT
    assert kind == "text/event-stream", kind
    return _judge_stream(bytes(reply.body), right.text, right.finish_reason)


def _judge_stream(data: bytes, right: str, finish_reason: str) -> Verdict:
    *events, done, rest = data.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b""), f"a stream that ends with {data[-60:]!r}"
    contents = [_json(event.removeprefix(b"data: ")) for event in events]
    errors = [number for number, content in enumerate(contents) if "error" in content]
    assert errors in ([], [len(contents) - 1]), f"error events {errors} of {len(contents)}"
    choices = [choice for content in contents for choice in content.get("choices", ())]
    text = "".join(map(_text, choices))
    if errors:
        _compare(text, right[: len(text)])
        return Verdict.BROKEN_OFF
    _compare(text, right)
    assert choices[-1]["finish_reason"] == finish_reason
    return Verdict.RIGHT


def _json(data: bytes | bytearray) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        raise AssertionError(f"passed on as JSON: {bytes(data[:60])!r}") from None


def _compare(text: str, right: str) -> None:
    if text != right:
        raise WrongText(f"{text!r} instead of {right!r}")


def _text(choice: dict[str, Any]) -> str:
    if "text" in choice:
        return str(choice["text"])
    return str((choice["delta"] if "delta" in choice else choice["message"])["content"])
