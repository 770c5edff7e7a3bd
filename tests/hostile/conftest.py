"""A gateway before an engine that records whatever reaches it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest_asyncio

from tests.support.gateway import Site, settings, site
from tests.support.scripted_engine import (
    Connection,
    Request,
    ScriptedEngine,
    answer,
    completion,
    scripted_engine,
    stream,
)


@dataclass
class Front:
    """The gateway and the engine behind it."""

    site: Site
    engine: ScriptedEngine

    @property
    def url(self) -> str:
        """Where clients connect."""
        return self.site.gateway.data_url


async def hello(connection: Connection, request: Request) -> None:
    """The engine says `hello`, as a stream or at once."""
    await connection.send(stream("hel", "lo") if request.json.get("stream") else answer(completion()))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front() -> AsyncIterator[Front]:
    """One gateway with the default limits for all tests of a module."""
    async with scripted_engine(hello) as engine, site(settings(aggregated=engine.url)) as running:
        yield Front(running, engine)
