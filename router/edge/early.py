"""Something to read for a client that waits for a stream's first event: the status, and then a comment now and then.

Balancers and proxies give up on a connection that says nothing for a minute, which a long prompt may take. Who says 200
early gives the status away: what fails later is told inside the stream. So this is off unless it is asked for.
"""

import asyncio
from collections.abc import Awaitable, Callable

from router.errors import RequestError

COMMENT = b": waiting\n\n"
"""Event-stream clients skip lines that begin with a colon."""


class EarlyStatus:
    """Calls `say` every `every_s` seconds, from `start` until `stop`."""

    def __init__(self, every_s: float, say: Callable[[], Awaitable[None]]) -> None:
        self._every_s = every_s
        self._say = say
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """The client waits from now on."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="early status")

    def stop(self) -> None:
        """The answer begins, or there is none."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            while True:
                await asyncio.sleep(self._every_s)
                await self._say()
        except RequestError:
            pass  # the client left, which whoever serves it hears as well
