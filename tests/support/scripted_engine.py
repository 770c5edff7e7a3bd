"""An engine whose every byte a test decides: what it sends, when, and how its connections end."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

MODEL = "scripted"

LAST_CHUNK = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Request:
    """What the engine got. Header names are lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return orjson.loads(self.body)


class Connection:
    """One connection to the engine, as a script sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def read_request(self) -> Request:
        """The next request. Raises `IncompleteReadError` or `ConnectionError` when the peer is gone."""
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:] if line)}
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return Request(method, path, headers, body)

    async def send(self, *pieces: bytes) -> None:
        """Write pieces so that each of them is a read of its own at the other end."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(0.001)

    async def gone(self) -> None:
        """Wait until the peer has left."""
        try:
            while await self._reader.read(1 << 16):
                pass
        except ConnectionError:
            pass

    def fin(self) -> None:
        """Close in good order."""
        self.writer.close()

    def rst(self) -> None:
        """Reset the connection."""
        reset_on_close(self.writer)
        self.writer.transport.abort()


Script = Callable[[Connection, Request], Awaitable[None]]


@dataclass
class ScriptedEngine:
    """Answers every generating request by `script`, probes by itself. `open` counts connections not yet ended."""

    script: Script
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    open: int = 0
    accepted: int = 0

    @property
    def bodies(self) -> list[Any]:
        """What the generating requests asked for."""
        return [request.json for request in self.requests]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        self.open += 1
        self.accepted += 1
        connection = Connection(reader, writer)
        try:
            while not writer.is_closing():
                request = await connection.read_request()
                if request.method == "GET":
                    await connection.send(probe_answer(request.path))
                else:
                    self.requests.append(request)
                    await self.script(connection, request)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def scripted_engine(script: Script) -> AsyncIterator[ScriptedEngine]:
    """A running engine on a free port of the loopback."""
    engine = ScriptedEngine(script)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(engine.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=1 << 26)
    engine.url = "http://{}:{}".format(*server.sockets[0].getsockname())
    try:
        yield engine
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def says(*pieces: bytes) -> Script:
    """A script that sends pieces and keeps the connection."""

    async def script(connection: Connection, _: Request) -> None:
        await connection.send(*pieces)

    return script


def says_and_closes(*pieces: bytes) -> Script:
    """A script that sends pieces and ends the connection in good order."""

    async def script(connection: Connection, _: Request) -> None:
        await connection.send(*pieces)
        connection.fin()

    return script


def says_and_waits(*pieces: bytes) -> Script:
    """A script that sends pieces and then nothing, until the peer leaves."""

    async def script(connection: Connection, _: Request) -> None:
        await connection.send(*pieces)
        await connection.gone()
        connection.fin()

    return script


def head(status: str = "200 OK", **headers: str) -> bytes:
    """The head of an answer; `_` in a header's name stands for `-`."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode()


def answer(content: object, status: str = "200 OK", **headers: str) -> bytes:
    """A complete JSON answer."""
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    headers = {"content_type": "application/json", "content_length": str(len(body))} | headers
    return head(status, **headers) + body


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream_head(**headers: str) -> bytes:
    """The head of a chunked event stream."""
    return head(**({"content_type": "text/event-stream; charset=utf-8", "transfer_encoding": "chunked"} | headers))


def event(text: str) -> bytes:
    """One event with one piece of text."""
    content = {"id": "c", "object": "text_completion", "model": MODEL, "choices": [{"index": 0, "text": text}]}
    return b"data: " + orjson.dumps(content) + b"\n\n"


def stream(*texts: str) -> bytes:
    """A complete stream."""
    return stream_head() + b"".join(chunk(event(text)) for text in texts) + chunk(DONE) + LAST_CHUNK


def completion(text: str = "hello", **fields: object) -> dict[str, Any]:
    """The content of a complete answer."""
    choices = [{"index": 0, "text": text, "finish_reason": "length"}]
    return {"id": "c", "object": "text_completion", "model": MODEL, "choices": choices} | fields


def handover(cached_tokens: int = 0, **parameters: object) -> dict[str, Any]:
    """The content of a prefill answer."""
    fields = {
        "do_remote_prefill": True,
        "remote_engine_id": "engine-1",
        "remote_request_id": "cmpl-1",
        "remote_block_ids": [1, 2],
        "remote_host": "127.0.0.1",
        "remote_port": 5600,
    }
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": cached_tokens}}
    return completion("h", kv_transfer_params=fields | parameters, usage=usage)


def error(status: int, message: str = "no") -> dict[str, Any]:
    """The content of a vLLM error."""
    return {"error": {"message": message, "type": "BadRequestError", "param": None, "code": status}}


def probe_answer(path: str) -> bytes:
    """What `/health` and `/v1/models` say."""
    return answer({"object": "list", "data": [{"id": MODEL, "max_model_len": 4096}]} if path == "/v1/models" else {})


def reset_on_close(writer: asyncio.StreamWriter) -> None:
    """Make the end of a connection a reset instead of a FIN."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
