"""A proxy in front of an engine, in the test's process: it sees every byte, and can speak, wait or vanish for it.

An engine whose process is stopped cannot answer `/health`; a front can in its place, as the living HTTP server of a
frozen engine would.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from router.supervision import Tasks
from tests.support.scripted_engine import answer, reset_on_close

CHUNK_BYTES = 1 << 20
NAME = re.compile(rb'"content":"(\d+) ')
"""How a request is named: the number at the beginning of its first message."""
LAST_CHUNK = b"0\r\n\r\n"


@dataclass
class Front:
    """Listens on `port` for the engine at `engine_port`. What is not set to do something is passed on as it is."""

    engine_port: int
    port: int = 0
    own_answers: dict[str, bytes] = field(default_factory=dict)
    """Answers by path that the engine is not asked for."""
    hold_question_s: Callable[[], float] = lambda: 0.0
    hold_answer_s: Callable[[], float] = lambda: 0.0
    hold_probe_s: Callable[[], float] = lambda: 0.0
    """How long the bytes of requests, of their answers, and of what else is asked are held up."""
    change: Callable[[bytes], bytes] = lambda data: data
    """What a request's bytes become on their way."""
    on_answer: Callable[[int], None] = lambda number: None
    """Told of a request's number when the engine has begun to answer it."""
    asked_at: list[float] = field(default_factory=list)
    """When (monotonic seconds) requests with a number came."""
    given_up_at: dict[int, float] = field(default_factory=dict)
    """When (monotonic seconds) the gateway closed upon a request that was not answered to its end, by number."""
    _server: asyncio.Server | None = None
    _connections: set["_Connection"] = field(default_factory=set)
    _tasks: Tasks = field(default_factory=Tasks)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        """Listen, on the same port each time."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    def shut(self) -> None:
        """Refuse connections and reset those that there are, as when the engine's process has ended."""
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.reset()

    async def close(self) -> None:
        """The end of all connections."""
        self.shut()
        await self._tasks.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, reader, writer)
        self._connections.add(connection)
        self._tasks.spawn(self._serve(connection), name="connection to a front")

    async def _serve(self, connection: "_Connection") -> None:
        try:
            await connection.serve()
        except (OSError, EOFError):
            connection.reset()
        finally:
            self._connections.discard(connection)


@dataclass(eq=False)
class _Connection:
    """One of the gateway's connections, and the one to the engine that belongs to it."""

    front: Front
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    engine: asyncio.StreamWriter | None = None
    asked: bool = False
    """Whether a request is under way; `number` is its name."""
    number: int | None = None

    def reset(self) -> None:
        """Break both."""
        for writer in (self.writer, self.engine):
            if writer is not None and not writer.transport.is_closing():
                reset_on_close(writer)
                writer.transport.abort()

    async def serve(self) -> None:
        """Pass on until the gateway or the engine leaves. Raises `OSError` when they break it off."""
        tasks, questions = Tasks(), asyncio.Queue[bytes]()
        tasks.spawn(self._pass_on(questions, tasks), name="questions through a front")
        try:
            while data := await self.reader.read(CHUNK_BYTES):
                if (own := self._own_answer(data)) is not None:
                    self.writer.write(own)
                else:
                    self._note(data)
                    questions.put_nowait(data)
        finally:
            if self.asked and self.number is not None:
                self.front.given_up_at[self.number] = time.monotonic()
            questions.put_nowait(b"")
            await tasks.drain(5)
            await tasks.close()
            self.writer.transport.abort()
            if self.engine is not None:
                self.engine.transport.abort()

    async def _pass_on(self, questions: asyncio.Queue[bytes], tasks: Tasks) -> None:
        """Questions, each held up for as long as it is to be, then the end."""
        try:
            while data := await questions.get():
                if self.engine is None:
                    reader, self.engine = await asyncio.open_connection("127.0.0.1", self.front.engine_port)
                    tasks.spawn(self._pass_back(reader), name="answers through a front")
                hold_s = self.front.hold_question_s if self.asked else self.front.hold_probe_s
                if wait_s := hold_s():
                    await asyncio.sleep(wait_s)
                self.engine.write(self.front.change(data) if self.asked else data)
            if self.engine is not None:
                self.engine.write_eof()
        except OSError:
            self.reset()

    async def _pass_back(self, reader: asyncio.StreamReader) -> None:
        try:
            while data := await reader.read(CHUNK_BYTES):
                if self.number is not None:
                    self.front.on_answer(self.number)
                if self.asked and (wait_s := self.front.hold_answer_s()):
                    await asyncio.sleep(wait_s)
                self.asked = self.asked and not _is_last(data)
                self.writer.write(data)
        except OSError:
            self.reset()
        else:
            self.writer.close()

    def _own_answer(self, data: bytes) -> bytes | None:
        method, _, rest = data.partition(b" ")
        path = rest.partition(b" ")[0].decode("latin-1")
        content = self.front.own_answers.get(path) if method == b"GET" else None
        return None if content is None else answer(content)

    def _note(self, data: bytes) -> None:
        if data.startswith(b"POST ") or not self.asked:
            self.asked, self.number = data.startswith(b"POST "), None
        if self.number is None and (named := NAME.search(data)):
            self.number = int(named[1])
            self.front.asked_at.append(time.monotonic())


def _is_last(data: bytes) -> bool:
    """Whether an answer ends here: those that are no streams come in one piece."""
    return data.endswith(LAST_CHUNK) or b"content-length:" in data[:400]


@asynccontextmanager
async def front_of(engine_url: str) -> AsyncIterator[Front]:
    """A front that listens while the block lasts."""
    front = Front(int(engine_url.rsplit(":", 1)[1]))
    await front.open()
    try:
        yield front
    finally:
        await front.close()
