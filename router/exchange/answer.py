"""An engine's answer, pulled: the sink that lets a task await the head, then the body piece by piece.

One future at a time, and no timer of its own: the connection's deadline looks at when bytes last came instead of being
moved by each of them, so a stream of tokens costs no timer calls.
"""

import asyncio
import math
from collections.abc import Callable

from router.errors import EngineFault, EngineTimeout, OutOfTime, OversizedAnswer
from router.exchange.connection import EngineConnection

HIGH_WATER_BYTES = 64 << 10
"""Body held for a reader before the engine is made to wait."""

CHUNKS_APART = 1024
"""More are joined while they wait: each is an object, and of a byte or two it takes 30 times its size."""

END = "end"
"""What is awaited of an answer for as long as the request itself may take."""


def never() -> float:
    """When something happened that did not."""
    return -math.inf


class Answer:
    """The answer to one exchange on `connection`."""

    status: int | None = None
    complete = False
    was_paused = False
    """Whether the engine ever had to wait for the reader."""

    _held_bytes = 0
    _joined = 0
    _high_water_bytes = HIGH_WATER_BYTES
    _waiter: asyncio.Future[None] | None = None
    _fault: EngineFault | None = None
    _paused = False
    _full = False
    _awaited = END
    _idle_s = math.inf
    _due = math.inf
    _overdue: type[EngineTimeout] = EngineTimeout
    _owed_since = 0.0

    def __init__(self, connection: EngineConnection) -> None:
        self._connection = connection
        self._loop = connection.loop
        self._chunks: list[bytes] = []
        self._worked_at = never
        self.headers: dict[bytes, bytes] = {}

    # The reader's side

    async def head(self) -> int:
        """Wait for the head; returns the status. Raises `EngineFault`."""
        while self.status is None:
            await self._news()
        return self.status

    async def read(self) -> bytes:
        """The next bytes of the body, all that are there; empty at its end. Raises `EngineFault`."""
        while not self._chunks and not self.complete:
            await self._news()
        return self._take()

    def _take(self) -> bytes:
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._held_bytes = self._joined = 0
        self._owed_since = self._loop.time()
        if self._full:
            self._full = False
            if not self._paused:
                self._connection.resume()
        return data

    async def push_to(self, receive: Callable[[bytes], None]) -> None:
        """Give every further byte of the body to `receive` at once, without waking anybody; returns at its end.

        `receive` may raise `EngineFault`, which then is the answer's. Raises `EngineFault`.
        """
        if self._chunks:
            receive(await self.read())
        if not self.complete:  # else the connection is idle, and would keep what belongs to this answer
            self._connection.divert(receive)
        while not self.complete:
            await self._news()

    def pause(self) -> None:
        """Make the engine wait; it owes nothing meanwhile."""
        self._paused = self.was_paused = True
        self._connection.pause()

    def resume(self) -> None:
        """Let the engine go on."""
        self._paused = False
        self._owed_since = self._loop.time()
        self._connection.resume()

    async def read_all(self, limit_bytes: int) -> bytes:
        """The whole body. Raises `EngineFault`, `OversizedAnswer` when it is longer than the limit.

        What has arrived stays here until all has, so that after a cancelled wait somebody else can wait on.
        """
        self._high_water_bytes = limit_bytes
        if self._full:
            self._full = False
            self._connection.resume()
        while not self.complete and self._held_bytes <= limit_bytes:
            await self._news()
        if self._held_bytes > limit_bytes:
            raise OversizedAnswer(f"answer larger than {limit_bytes} bytes")
        return self._take()

    def expect(
        self,
        awaited: str,
        by: float,
        *,
        ends_at: float = math.inf,
        silent_s: float = math.inf,
        worked_at: Callable[[], float] = never,
    ) -> None:
        """Until `limit` says otherwise: if `awaited` has not come by then (loop time), that is a timeout.

        So are `silent_s` seconds without a byte and without a sign of work; `worked_at` tells when the last one was.
        At `ends_at` the request's own time is over, which is nobody's fault.
        """
        self._awaited, self._worked_at, self._idle_s = awaited, worked_at, silent_s
        self._due, self._overdue = (by, EngineTimeout) if by < ends_at else (ends_at, OutOfTime)
        if not self.complete and self._fault is None:
            self._owed_since = self._loop.time()
            self._connection.deadline.set_at(min(self._owed_since + silent_s, self._due))

    def limit(self, idle_s: float, deadline: float) -> None:
        """From now on, no byte for `idle_s` seconds is a timeout, and so is no end by `deadline` (loop time)."""
        self.expect(END, math.inf, ends_at=deadline, silent_s=idle_s)

    def within(self, wait_s: float) -> None:
        """From now on, no end in `wait_s` seconds is a timeout."""
        self.expect("answer", self._loop.time() + wait_s)

    # The connection's side

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Status and headers are here."""
        self.status, self.headers = status, headers
        self._wake()

    def on_body(self, data: bytes) -> None:
        """Some of the body is here."""
        self._chunks.append(data)
        self._held_bytes += len(data)
        if len(self._chunks) - self._joined >= CHUNKS_APART:
            self._chunks[self._joined :] = [b"".join(self._chunks[self._joined :])]
            self._joined += 1
        if self._held_bytes > self._high_water_bytes:
            self._full = self.was_paused = True
            self._connection.pause()
        self._wake()

    def on_end(self) -> None:
        """That was all."""
        self.complete = True
        self._wake()

    def on_fault(self, fault: EngineFault) -> None:
        """There will be no more."""
        self._fault = fault
        self._wake()

    def on_due(self) -> None:
        """A reader that leaves bytes lying is slow itself: only an engine that owes them is silent."""
        now = self._loop.time()
        owed_since = max(self._owed_since, self._connection.last_read_at)
        silent_s = 0.0 if self._chunks or self._paused else now - max(owed_since, self._worked_at())
        if now >= self._due:
            self._give_up(self._overdue(f"no {self._awaited} in time from {self._connection!r}", owed_since))
        elif silent_s >= self._idle_s:
            self._give_up(EngineTimeout(f"no byte for {self._idle_s:g} s from {self._connection!r}", owed_since))
        else:
            self._connection.deadline.set_at(min(now + self._idle_s - silent_s, self._due))

    # Inside

    def _news(self) -> asyncio.Future[None]:
        """Done when there is more than now."""
        if self._fault is not None:
            raise self._fault
        self._waiter = waiter = self._loop.create_future()
        return waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _give_up(self, fault: EngineTimeout) -> None:
        self._connection.abort()
        self.on_fault(fault)

    def __repr__(self) -> str:
        return f"<Answer {self.status} held={self._held_bytes} {'complete' if self.complete else 'open'}>"
