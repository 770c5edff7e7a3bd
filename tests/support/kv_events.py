"""Simulated engines that publish KV events, and a gateway that follows them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router.fleet.backend import Backend
from router.fleet.kv_events.holdings import Holdings
from router.sim.engine import SimEngine
from tests.support.fleet import Member, Site, engine, gateway_over, until


@dataclass(frozen=True, slots=True)
class Followed(Member):
    """An engine whose events are followed."""

    kv_events: dict[str, Any]


def publishing(folder: Path, name: str, role: str, **settings: Any) -> SimEngine:
    """An engine that publishes its events on sockets in a folder."""
    where = {"kv_events": f"ipc://{folder}/{name}", "kv_events_replay": f"ipc://{folder}/{name}.replay"}
    return engine(role, **where, kv_events_topic=f"kv@{name}", **settings)


@asynccontextmanager
async def followed(*engines: SimEngine, replay: bool = True, **sections: Any) -> AsyncIterator[Site]:
    """Engines and a gateway that follows them; with `replay` it has repeated what it missed."""
    async with AsyncExitStack() as held:
        for one in engines:
            await one.start()
            held.push_async_callback(one.stop)
        async with following(*engines, replay=replay, **sections) as here:
            here.engines = engines
            yield here
            await here.quiet()


@asynccontextmanager
async def following(*engines: SimEngine, replay: bool = True, **sections: Any) -> AsyncIterator[Site]:
    """A gateway that follows engines that run."""
    members = [Followed(one.url, one.config.role, _rules(one, replay)) for one in engines]
    async with gateway_over(members, **sections) as here:
        for one in engines:
            await _connected(here, one)
        yield here


async def _connected(here: Site, one: SimEngine) -> None:
    """What is published before a subscription reaches the engine is lost: publish until something arrives."""
    holdings = holdings_of(here, one)

    def arrived() -> bool:
        if not holdings.batches and one.core.cache.journal is not None and one.core._parts.publish is not None:
            one.core.cache.journal.removed(bytes(8))
            one.core._parts.publish()
        return holdings.batches > 0

    await until(arrived, "events to arrive")


def _rules(one: SimEngine, replay: bool) -> dict[str, Any]:
    rules = {"endpoint": one.config.kv_events, "topic": one.config.kv_events_topic}
    return rules | ({"replay_endpoint": one.config.kv_events_replay} if replay else {})


def backend_of(here: Site, one: SimEngine) -> Backend:
    """What the gateway knows of an engine."""
    return next(backend for backend in here.app.fleet.backends if backend.url == one.url)


def holdings_of(here: Site, one: SimEngine) -> Holdings:
    """What an engine has told of its cache."""
    holdings = backend_of(here, one).holdings
    assert holdings is not None
    return holdings


def cached_tokens(one: SimEngine) -> int:
    """What is truly there."""
    return one.core.pool.cached * one.config.block_size_tokens


async def heard(here: Site, one: SimEngine) -> None:
    """Wait until the gateway has heard all that an engine has published."""
    publisher, holdings = one.core._events, holdings_of(here, one)
    assert publisher is not None
    await until(lambda: holdings.next == publisher._sent, lambda: f"{holdings!r} to be at {publisher._sent}")


async def told(here: Site, one: SimEngine) -> None:
    """Wait until the gateway knows all that an engine holds."""
    holdings = holdings_of(here, one)
    await until(
        lambda: holdings.tokens == cached_tokens(one), lambda: f"{holdings!r} to be {cached_tokens(one)}", within_s=5
    )
