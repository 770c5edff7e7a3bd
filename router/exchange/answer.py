"""An engine's answer, pulled: the sink that lets a task await the head, then the body piece by piece.

One future at a time, one timer per answer. The timer looks at when bytes last came instead of being reset by each
of them, so a stream of tokens costs no timer calls.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from router.errors import BadAnswer, EngineFault, EngineTimeout
from router.exchange.connection import EngineConnection

HIGH_WATER_BYTES = 64 << 10
"""Body held for a reader before the engine is made to wait."""


class Answer:
    """The answer to one exchange on `connection`."""

    def __init__(self, connection: EngineConnection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._chunks: deque[bytes] = deque()
        self._held_bytes = 0
        self._high_water_bytes = HIGH_WATER_BYTES
        self._waiter: asyncio.Future[None] | None = None
        self._fault: EngineFault | None = None
        self._receive: Callable[[bytes], None] | None = None
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._idle_s = 0.0
        self._deadline = 0.0
        self._last_byte_at = self._loop.time()
        self.status: int | None = None
        self.headers: dict[bytes, bytes] = {}
        self.complete = False

    # The reader's side

    async def head(self) -> int:
        """Wait for the head; returns the status. Raises `EngineFault`."""
        while self.status is None:
            await self._wait()
        return self.status

    async def read(self) -> bytes:
        """The next bytes of the body, all that are there; empty at its end. Raises `EngineFault`."""
        while not self._chunks and not self.complete:
            await self._wait()
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._held_bytes = 0
        if not self._paused:
            self._connection.resume()
        return data

    async def push_to(self, receive: Callable[[bytes], None]) -> None:
        """Give every further byte of the body to `receive` at once, without waking anybody; returns at its end.

        `receive` may raise `EngineFault`, which then is the answer's. Raises `EngineFault`.
        """
        if self._chunks:
            receive(await self.read())
        self._receive = receive
        while not self.complete:
            await self._wait()

    def pause(self) -> None:
        """Make the engine wait; it owes nothing meanwhile."""
        self._paused = True
        self._connection.pause()

    def resume(self) -> None:
        """Let the engine go on."""
        self._paused = False
        self._last_byte_at = self._loop.time()
        self._connection.resume()

    async def read_all(self, limit_bytes: int) -> bytes:
        """The whole body. Raises `EngineFault`, `BadAnswer` when it is longer than the limit.

        What has arrived stays here until all has, so that after a cancelled wait somebody else can wait on.
        """
        self._high_water_bytes = limit_bytes
        self._connection.resume()
        while not self.complete and self._held_bytes <= limit_bytes:
            await self._wait()
        if self._held_bytes > limit_bytes:
            raise BadAnswer(f"answer larger than {limit_bytes} bytes")
        return await self.read()

    def limit(self, idle_s: float, deadline: float) -> None:
        """From now on, no byte for `idle_s` seconds is a timeout, and so is no end by `deadline` (loop time)."""
        if self.complete or self._fault is not None:
            return
        self._idle_s, self._deadline = idle_s, deadline
        self._last_byte_at = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_at(min(self._last_byte_at + idle_s, deadline), self._check_limits)

    def close(self) -> None:
        """Stop the timer; the connection is its owner's business."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # The connection's side

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Status and headers are here."""
        self.status, self.headers = status, headers
        self._last_byte_at = self._loop.time()
        self._wake()

    def on_body(self, data: bytes) -> None:
        """Some of the body is here."""
        if self._receive is not None:
            self._last_byte_at = self._loop.time()
            try:
                self._receive(data)
            except EngineFault as fault:
                self._connection.abort()
                self.on_fault(fault)
            return
        self._chunks.append(data)
        self._held_bytes += len(data)
        self._last_byte_at = self._loop.time()
        if self._held_bytes > self._high_water_bytes:
            self._connection.pause()
        self._wake()

    def on_end(self) -> None:
        """That was all."""
        self.complete = True
        self.close()
        self._wake()

    def on_fault(self, fault: EngineFault) -> None:
        """There will be no more."""
        self._fault = fault
        self.close()
        self._wake()

    # Inside

    async def _wait(self) -> None:
        if self._fault is not None:
            raise self._fault
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _check_limits(self) -> None:
        """A reader that leaves bytes lying is slow itself: only an engine that owes them is silent."""
        now = self._loop.time()
        silent_s = 0.0 if self._chunks or self._paused else now - self._last_byte_at
        if now >= self._deadline:
            self._give_up(f"no end in time from {self._connection!r}")
        elif silent_s >= self._idle_s:
            self._give_up(f"no byte for {self._idle_s:g} s from {self._connection!r}")
        else:
            self._timer = self._loop.call_at(min(now + self._idle_s - silent_s, self._deadline), self._check_limits)

    def _give_up(self, detail: str) -> None:
        self._connection.abort()
        self.on_fault(EngineTimeout(detail))

    def __repr__(self) -> str:
        return f"<Answer {self.status} held={self._held_bytes} {'complete' if self.complete else 'open'}>"
