"""Who waits for whom on a client connection: in place of uvicorn's flow control and of its events.

Theirs know one reason not to read, and whoever has dealt with it reads on. An `asyncio.Event` makes a deque at once, of
760 bytes, and a connection with a request has two of them; most streams never wait for their client.
"""

import asyncio


class LazyEvent:
    """An event for which an `asyncio.Event` is made only when somebody waits."""

    __slots__ = ("_event", "_is_set")

    def __init__(self) -> None:
        self._is_set = False
        self._event: asyncio.Event | None = None

    def is_set(self) -> bool:
        """Whether nobody has to wait."""
        return self._is_set

    def set(self) -> None:
        """Let all who wait go on, and let nobody wait."""
        self._is_set = True
        if self._event is not None:
            self._event.set()

    def clear(self) -> None:
        """From now on, whoever comes has to wait."""
        self._is_set = False
        if self._event is not None:
            self._event.clear()

    async def wait(self) -> None:
        """Until it is set."""
        if self._is_set:
            return
        if self._event is None:
            self._event = asyncio.Event()
        await self._event.wait()


class Flow:
    """The transport is told once, and a writer waits for a client that is slow."""

    __slots__ = ("_held", "_transport", "_writable", "read_paused", "write_paused")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._writable = LazyEvent()
        self._writable.set()
        self._held = False
        self.read_paused = False
        self.write_paused = False

    async def drain(self) -> None:
        """Until the client has caught up, or left."""
        await self._writable.wait()

    def pause_reading(self) -> None:
        """Let the client feel that it is too fast."""
        if not self.read_paused:
            self.read_paused = True
            self._transport.pause_reading()

    def hold(self) -> None:
        """Read nothing before `release`, whoever else would like to go on."""
        self._held = True
        self.pause_reading()

    def release(self) -> None:
        """Read on."""
        self._held = False
        self.resume_reading()

    def resume_reading(self) -> None:
        """Read on, unless it is held."""
        if self.read_paused and not self._held:
            self.read_paused = False
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """The client falls behind."""
        self.write_paused = True
        self._writable.clear()

    def resume_writing(self) -> None:
        """The client has caught up, or left."""
        self.write_paused = False
        self._writable.set()
