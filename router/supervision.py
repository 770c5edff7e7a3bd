"""Background work with an owner: every task has a name, ends with its owner, and a crash is logged, not lost."""

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger(__name__)


@contextmanager
def last_resort(work: str) -> Iterator[None]:
    """A turn of work that goes on for ever: if it fails, by whatever, that is logged, and the next turn can come."""
    try:
        yield
    except Exception:
        log.exception("background work failed", extra={"facts": {"work": work}})


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
        """Cancel what is running and wait for it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

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
