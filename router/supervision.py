"""Background work with an owner: every task has a name, ends with its owner, and a crash is logged, not lost.

Work that goes on for ever has turns, and a `LastResort`, so that one that fails is not the last. A fault that stays
is met at every turn: it is told in full once, then ever more rarely and counted, and once more when it is gone.
"""

import asyncio
import logging
import os
import traceback
from collections.abc import Coroutine, Hashable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 60.0
"""Between a fault's first line and its second; every further pause is twice as long."""

LONGEST_PAUSE_S = 3600.0
"""However long a fault stays, somebody who looks at the last hour of the log sees it."""

QUIET_S = 60.0
"""So long without a failure, a fault is gone; what fails at every second turn is one fault, not many."""


PACKAGE = f"{Path(__file__).parent}{os.sep}"


CANCELLED_AGAIN_S = 0.5
"""For how long work may tidy up before it is cancelled once more. Before Python 3.12, one that waits for a library's
`asyncio.wait_for` goes on as if nothing had happened when what it waits for comes in the same moment."""


class Telling(Enum):
    """How much of a failure the log is told."""

    ALL = "with its traceback"
    BRIEFLY = "that it is still so"
    NOTHING = "counted"


class Trouble:
    """A fault of some work, from its first failure until it is gone. Times are the event loop's, in seconds."""

    def __init__(self, now: float) -> None:
        self.began_at = self.failed_at = now
        self.failures = 0
        self._known: set[Hashable] = set()
        self._pause_s = FIRST_PAUSE_S
        self._tell_at = now + FIRST_PAUSE_S

    def failed(self, kind: Hashable, now: float) -> Telling:
        """Once more; what to tell of it. A failure of another kind is news however soon it comes."""
        self.failures += 1
        self.failed_at = now
        if kind not in self._known:
            self._known.add(kind)
            return Telling.ALL
        if now < self._tell_at:
            return Telling.NOTHING
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._tell_at = now + self._pause_s
        return Telling.BRIEFLY

    def gone(self, now: float) -> bool:
        """Whether a turn that goes well now is more than luck."""
        return now - self.failed_at >= QUIET_S


class LastResort:
    """Of one piece of work that goes on for ever: whatever a turn of it fails by, the next one can come.

    `expected` are failures that are no mistake in the gateway: they are told without a traceback. `lasting`: a turn of
    it never ends but by failing, so that one that lasts is well.
    """

    def __init__(
        self, work: str, expected: type[Exception] | tuple[type[Exception], ...] = (), *, lasting: bool = False
    ) -> None:
        self._work = work
        self._expected = expected
        self._lasting = lasting
        self._trouble: Trouble | None = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One turn; a failure in it ends the turn and is logged, or counted, and goes no further."""
        well = self._lasting and self._trouble and asyncio.get_running_loop().call_later(QUIET_S, self._gone)
        try:
            yield
        except Exception as error:  # noqa: BLE001 - it is logged
            self._failed(error)
        else:
            if self._trouble and self._trouble.gone(_now()):
                self._gone()
        finally:
            if well:
                well.cancel()

    def _failed(self, error: Exception) -> None:
        now = _now()
        self._trouble = trouble = self._trouble or Trouble(now)
        match trouble.failed(_kind(error), now):
            case Telling.ALL:
                facts: dict[str, object] = {"work": self._work, "why": _why(error)}
                mistake = None if isinstance(error, self._expected) else error
                log.error("background work failed", exc_info=mistake, extra={"facts": facts})
            case Telling.BRIEFLY:
                facts = {**self._facts(trouble, now), "why": _why(error)}
                log.error("background work still fails", extra={"facts": facts})

    def _gone(self) -> None:
        if self._trouble:
            facts = self._facts(self._trouble, self._trouble.failed_at)
            log.info("background work is well again", extra={"facts": facts})
            self._trouble = None

    def _facts(self, trouble: Trouble, until: float) -> dict[str, object]:
        return {"work": self._work, "failures": trouble.failures, "for_s": round(until - trouble.began_at)}


def _now() -> float:
    return asyncio.get_running_loop().time()


def _kind(error: Exception) -> Hashable:
    """Failures of one sort, raised at one place, are one fault: what they say may differ from turn to turn.

    The place is where it was raised, and where in the gateway that was called: libraries fail at few places.
    """
    error = _first(error)
    places = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [place for place in places if place[0].startswith(PACKAGE) and place[0] != __file__]
    return type(error), *own[-1:], *places[-1:]


def _first(error: Exception) -> Exception:
    """Of several that failed together."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _why(error: Exception) -> str:
    """One line."""
    error = _first(error)
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


class Tasks:
    """A set of running tasks; whoever makes it closes it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        """Run `work` until it ends or the owner closes."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Cancel what is running and wait for it; again where that got lost, as `asyncio.wait_for` may lose it."""
        while running := [task for task in self._tasks if not task.done()]:
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=CANCELLED_AGAIN_S)

    async def drain(self, timeout_s: float) -> None:
        """Let what is running end by itself, for a while; what it starts in turn, too."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self._tasks and (left_s := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._tasks, timeout=left_s)

    def __len__(self) -> int:
        return len(self._tasks)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("background task %r failed", task.get_name(), exc_info=error)
