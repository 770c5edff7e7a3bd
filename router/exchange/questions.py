"""Short questions to engines beside the requests, on the same connections.

A fleet of 64 engines is asked a hundred times a second, so that a question has to cost as little as a leg.
"""

from router.exchange.head import question
from router.exchange.pool import Connections
from router.fleet.ask import Reply
from router.fleet.backend import Backend

MAX_REPLY_BYTES = 4 << 20
"""A page of vLLM's metrics has some 100 KB."""


class Questions:
    """Asks over `connections`, which it does not own."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def ask(self, backend: Backend, path: str, timeout_s: float, content: bytes = b"") -> Reply:
        """GET `path`, or POST `content`, which is JSON, there. Raises `EngineFault`.

        `timeout_s` is for the reply; how long a connect may take, the pools know.
        """
        with self._connections.to(backend.url).checkout() as checkout:
            answer = await checkout.exchange(question(backend, path, len(content)), content)
            answer.within(timeout_s)
            status = await answer.head()
            return Reply(status, await answer.read_all(MAX_REPLY_BYTES))
