"""Does a client still take what it is sent? One that takes nothing for too long is dropped, whatever it waits in."""

import asyncio

LOOKS = 4
"""How often the time is divided: who stalls is found within a quarter of it more."""


class Stall:
    """Looks after bytes that a transport could not send at once, until `end`; aborts it when none of them goes out.

    `wait_s` is how long a client may take to accept a byte.
    """

    __slots__ = ("_handle", "_idle_looks", "_loop", "_transport", "_unsent_bytes", "_wait_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.WriteTransport, wait_s: float) -> None:
        self._loop = loop
        self._transport = transport
        self._wait_s = wait_s / LOOKS
        self._idle_looks = 0
        self._unsent_bytes = transport.get_write_buffer_size()
        self._handle = loop.call_later(self._wait_s, self._look)

    def end(self) -> None:
        """The client has caught up, or left."""
        self._handle.cancel()

    def _look(self) -> None:
        unsent_bytes = self._transport.get_write_buffer_size()
        self._idle_looks = 0 if unsent_bytes < self._unsent_bytes else self._idle_looks + 1
        self._unsent_bytes = unsent_bytes
        if self._idle_looks == LOOKS:
            self._transport.abort()
        else:
            self._handle = self._loop.call_later(self._wait_s, self._look)
