"""An event loop that takes one step when it is told to, the one it is told to: a test chooses what happens next.

What is ready runs in any order, not only first come, first served: interleavings that a busy loop would show once in a
thousand runs are as likely as any other. Time stands still until it is moved. There are no sockets, but connections
that lead to a `Network` which the test plays.
"""

import asyncio
import heapq
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, Protocol, TypeVarTuple, Unpack

MAX_STEPS = 20_000

Ts = TypeVarTuple("Ts")


class Network(Protocol):
    """Where connections lead to."""

    async def dial(self, port: int) -> asyncio.Transport:
        """A connection to a port of this host. Raises `OSError`."""


class SteppedLoop(asyncio.BaseEventLoop):
    """A loop whose every step is chosen. `crashes` are what nobody caught."""

    def __init__(self, network: Network | None = None) -> None:
        super().__init__()
        self._network = network
        self._steps: list[asyncio.Handle] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._armed = 0
        self._now_s = 1000.0
        self.crashes: list[dict[str, Any]] = []

    # What a test does

    @contextmanager
    def running(self) -> Iterator[None]:
        """What is made in the block finds this loop running."""
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(before)

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """A task that takes no step yet."""
        with self.running():
            return self.create_task(work, name=name)

    def step(self, which: int) -> bool:
        """Take one of the steps that are due, counted round; False when there is none."""
        self._steps = [handle for handle in self._steps if not handle.cancelled()]
        if not self._steps:
            return False
        handle = self._steps.pop(which % len(self._steps))
        with self.running():
            handle._run()
        return True

    @property
    def is_busy(self) -> bool:
        """Whether a step is due."""
        return any(not handle.cancelled() for handle in self._steps)

    def settle(self, order: Callable[[], int] = lambda: 0) -> None:
        """Take steps until none is due."""
        for _ in range(MAX_STEPS):
            if not self.step(order()):
                return
        raise AssertionError(f"still busy after {MAX_STEPS} steps")

    def pass_time(self, longest_s: float = float("inf")) -> bool:
        """Move the clock to when something waits for it, or by `longest_s`; False when nothing waits."""
        self._forget_cancelled()
        due = self._timers[0][0] if self._timers else float("inf")
        if due == longest_s == float("inf"):
            return False
        self._now_s = max(self._now_s, min(due, self._now_s + longest_s))
        while self._timers and self._timers[0][0] <= self._now_s:
            self._steps.append(heapq.heappop(self._timers)[2])
            self._forget_cancelled()
        return True

    def _forget_cancelled(self) -> None:
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)

    # What asyncio needs of a loop

    def time(self) -> float:
        return self._now_s

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._steps.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._armed += 1
        heapq.heappush(self._timers, (when, self._armed, timer))
        return timer

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: Any = None, context: Context | None = None) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, name=name, context=context)

    async def create_connection(self, protocol_factory: Any, *args: Any, **_: Any) -> Any:
        """As asyncio does it: the protocol is told of its transport before the caller hears of it, a step later."""
        assert self._network is not None
        transport = await self._network.dial(args[1])
        made = self.create_future()
        try:
            protocol = protocol_factory()
            transport.set_protocol(protocol)
            self.call_soon(self._made, protocol, transport, made)
            await made
        except BaseException:
            transport.abort()
            raise
        return transport, protocol

    def _made(self, protocol: asyncio.Protocol, transport: asyncio.Transport, made: asyncio.Future[None]) -> None:
        protocol.connection_made(transport)
        if not made.done():
            made.set_result(None)

    def is_closed(self) -> bool:
        """There is nothing to close."""
        return True

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.crashes.append(context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is passed over when its time comes."""
