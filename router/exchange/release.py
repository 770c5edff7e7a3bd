"""Gives KV back that nobody will pull, within milliseconds instead of at the end of the engine's lease.

A prefill engine holds the blocks of a finished prompt until somebody pulls them. When the client left between the legs,
or decode refused the request, nobody will. A decode engine is asked to turn the claim down, which makes it tell the
prefill engine; see the dialect for how. This runs beside the requests, bounded and counted; what cannot be given back
is counted as stranded and left to the lease.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any

from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random

from router.call import Api, Trace
from router.engines.handoff import Handoff, HandoffState
from router.errors import (
    BadAnswer,
    ConnectFailed,
    ConnectionLost,
    EngineError,
    EngineFault,
    EngineRefusal,
    EngineTimeout,
    OutOfFiles,
    OutOfTime,
    OversizedAnswer,
    RequestError,
)
from router.exchange.head import post
from router.exchange.pool import Checkout, Connections
from router.fleet.backend import Backend
from router.settings.exchange import HandoffSettings
from router.supervision import Tasks
from router.telemetry.events import ReleaseObserver

Settlement = Callable[[], Coroutine[Any, Any, None]]

FAREWELL_S = 0.15
"""How long a leg stays open after its request gave it up.

An engine that is closed upon in the moment between finishing a prompt and answering keeps its KV with nobody to name
it; a decode engine that is closed upon before it has read the request never tells prefill that the KV is free. Both
moments are a few milliseconds, but 1 to 2 % of random aborts hit them. A longer prefill is worth aborting.
"""

TOO_MANY = "too_many_releases"

OTHERS = 2
"""How many other engines are asked, where one cannot give a hand-over back."""

LAST_WORDS_S = 1.0
"""How long it is listened to an engine that was told so: it closes at once, or had answered already."""

STRANDED_BY = (
    TOO_MANY,
    ConnectFailed.reason,
    OutOfFiles.reason,
    ConnectionLost.reason,
    EngineTimeout.reason,
    OutOfTime.reason,
    BadAnswer.reason,
    OversizedAnswer.reason,
)
"""Every reason for which KV is left to its lease."""


class Releases:
    """Releases under way. `close` when no more can come.

    `others` names engines that can give back what one of them cannot.
    """

    def __init__(
        self,
        connections: Connections,
        settings: HandoffSettings,
        observer: ReleaseObserver,
        others: Callable[[Backend], Sequence[Backend]] = lambda _: (),
    ) -> None:
        self._connections = connections
        self._settings = settings
        self._observer = observer
        self._others = others
        self._tasks = Tasks()

    def unless_used(self, handoff: Handoff | None, decode: Backend) -> "Custody":
        """A block at whose end `handoff` is released unless a decode engine has taken it."""
        return Custody(self, handoff, decode)

    def release(self, handoff: Handoff, decode: Backend, reason: str, *, decode_failed: bool = False) -> None:
        """Give `handoff` back by way of `decode`, or first of others where that has just failed, in the background."""
        body = decode.paired.release_body(handoff)
        others = self._others(decode)[:OTHERS]
        ways = (*others, decode) if decode_failed else (decode, *others)
        if len(self._tasks) >= self._settings.max_releases:
            self._observer.stranded(TOO_MANY)
            return
        trace = Trace(f"{handoff.call.trace.request_id}-release")
        self._tasks.spawn(self._release(ways, trace, body, reason), name=trace.request_id)

    def leave(self, reason: str) -> None:
        """A hand-over that nobody may give back is left to the engine's lease."""
        self._observer.stranded(reason)

    def see_off(self, held: Checkout, settle: Settlement) -> None:
        """Keep a leg that its request gave up open for a moment, while `settle` learns what became of it."""
        self._tasks.spawn(self._see_off(held, settle), name="leg given up")

    async def close(self) -> None:
        """Let the releases under way end; each is bounded by its own timeout."""
        await self._tasks.drain(self._settings.release_timeout_s)
        await self._tasks.close()

    @property
    def open(self) -> int:
        """Releases under way."""
        return len(self._tasks)

    async def _see_off(self, held: Checkout, settle: Settlement) -> None:
        try:
            if not await _ended(settle, FAREWELL_S):
                held.leave()
                await _ended(settle, LAST_WORDS_S)
        except RequestError:
            pass
        finally:
            held.close()

    async def _release(self, ways: Sequence[Backend], trace: Trace, body: bytes, reason: str) -> None:
        """Way by way, each with its share of the time that is left: one that is silent is not to cost all of it."""
        clock = asyncio.get_running_loop().time
        ends_at = clock() + self._settings.release_timeout_s
        why: str | None = None
        for number, decode in enumerate(ways):
            share_s = (ends_at - clock()) / (len(ways) - number)
            why = await self._refused(decode, trace, body, share_s)
            if why is None:
                self._observer.released(reason)
                return
        self._observer.stranded(why or BadAnswer.reason)

    async def _refused(self, decode: Backend, trace: Trace, body: bytes, within_s: float) -> str | None:
        """Have an engine turn the claim down; why it did not, or None."""
        try:
            async with asyncio.timeout(within_s):
                status = await self._ask(decode, post(decode, Api.CHAT, len(body), trace), body)
        except TimeoutError:
            return EngineTimeout.reason
        except EngineFault as fault:
            return fault.reason
        return None if status == decode.paired.release_status else BadAnswer.reason

    @retry(
        retry=retry_if_exception_type((ConnectFailed, ConnectionLost)),
        stop=stop_after_attempt(3),
        wait=wait_random(0.01, 0.1),
        reraise=True,
    )
    async def _ask(self, decode: Backend, head: bytes, body: bytes) -> int:
        """The status of a release; asking twice frees nothing twice, so a connection that breaks is tried again."""
        with self._connections.to(decode.url).checkout() as held:
            answer = await held.exchange(head, body)
            status = await answer.head()
            await answer.read_all(64 << 10)
            return status


class Custody:
    """Holds a hand-over while its decode leg is opened and relayed, and releases it at the end if it was not used.

    It is unused when it was never sent, and when the engine it was sent to has answered that it refused or failed: a
    refusal by validation, an overloaded server or a transfer that broke leave the blocks with the prefill engine, and a
    whole answer that is none may. After any other end a decode engine may still pull, so that the lease has to end it.
    """

    __slots__ = ("_decode", "_handoff", "_releases")

    def __init__(self, releases: Releases, handoff: Handoff | None, decode: Backend) -> None:
        self._releases = releases
        self._handoff = handoff
        self._decode = decode

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        handoff = self._handoff
        if handoff is None or (error is None and handoff.state is not HandoffState.FRESH):
            return
        if handoff.state is HandoffState.FRESH:
            failed = isinstance(error, EngineFault)
            self._releases.release(handoff, self._decode, _reason(error), decode_failed=failed)
        elif isinstance(error, EngineFault | EngineRefusal) and handoff.state is HandoffState.SENT:
            self._sent_in_vain(handoff, error)

    def _sent_in_vain(self, handoff: Handoff, error: EngineFault | EngineRefusal) -> None:
        match error:
            case EngineRefusal():
                self._releases.release(handoff, self._decode, "decode_refused")
            case EngineError() | BadAnswer(over=True):
                self._releases.release(handoff, self._decode, "decode_failed", decode_failed=True)
            case _:
                self._releases.leave(error.reason)


async def _ended(settle: Settlement, within_s: float) -> bool:
    """Whether it came to an end in time."""
    try:
        async with asyncio.timeout(within_s):
            await settle()
    except TimeoutError:
        return False
    return True


def _reason(ended: BaseException | None) -> str:
    """The name under which an unsent hand-over is counted."""
    if isinstance(ended, RequestError):
        return ended.code
    return "client_gone" if isinstance(ended, asyncio.CancelledError) else "unused"
