"""What probes, scrapes and the doctor need to ask engines: short questions, each with a short reply."""

from typing import NamedTuple, Protocol

from router.fleet.backend import Backend

OK = 200
SERVER_ERROR = 500


class Reply(NamedTuple):
    """What an engine said."""

    status: int
    body: bytes

    @property
    def ok(self) -> bool:
        """It answers the question."""
        return self.status == OK


class Ask(Protocol):
    """Puts a question to an engine, with the gateway's key for it."""

    async def __call__(self, backend: Backend, path: str, timeout_s: float, content: bytes = b"") -> Reply:
        """GET `path`, or POST `content`, which is JSON, there. Raises `EngineFault`."""
