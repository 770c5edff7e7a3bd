"""A gateway whose engines a DNS server knows, over real sockets."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from router.call import Api
from router.sim.engine import SimEngine
from tests.support.client import Verdict, ask, judge
from tests.support.dns_server import SILENCE, ZoneServer, dns_server, pool_of, services
from tests.support.fleet import Member, Site, engine, gateway_over, until

SOON = {"refresh_s": 0.05, "timeout_s": 0.2}
BODY = {"model": "sim-8b", "messages": [{"role": "user", "content": "why?"}], "max_tokens": 20}


@pytest.fixture
def server() -> Iterator[ZoneServer]:
    with dns_server() as server:
        yield server


def pools(server: ZoneServer, *roles: str, **rules: Any) -> dict[str, Any]:
    """Settings by which pools are looked up."""
    return {"dns": {role: {"name": pool_of(role), "srv": True} for role in roles} | SOON | server.settings() | rules}


def zone(*engines: SimEngine) -> str:
    return services([Member(one.url, one.config.role) for one in engines], ttl_s=0)


def urls(here: Site) -> set[str]:
    return {backend.url for backend in here.app.fleet.backends}


async def right(here: Site, **fields: Any) -> None:
    body = BODY | fields
    assert judge(await ask(here.url, body, Api.CHAT), body) is Verdict.RIGHT


async def looks(server: ZoneServer, more: int) -> None:
    """Wait until so many more questions were asked."""
    enough = server.asked.total() + more
    await until(lambda: server.asked.total() >= enough, "more questions", within_s=10)


@pytest.mark.parametrize("make_loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def test_engines_are_known_before_the_door_opens(
    server: ZoneServer, make_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def one_request() -> None:
        async with engine("prefill") as prefill, engine("decode") as decode:
            server.zone = zone(prefill, decode)
            async with gateway_over([], discovery=pools(server, "prefill", "decode", refresh_s=3600)) as here:
                await right(here)
                assert await here.metric("pd_router_requests_total", route="disaggregated") == 1

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(one_request())


async def test_an_engine_that_comes_is_used_and_one_that_goes_finishes(server: ZoneServer) -> None:
    async with engine("aggregated", time_scale=1.0, decode_step_s=0.02) as old, engine("aggregated") as new:
        server.zone = zone(old)
        async with gateway_over([], discovery=pools(server, "aggregated")) as here:
            going_on = asyncio.get_running_loop().create_task(right(here, stream=True, max_tokens=50))
            await here.busy(old)
            server.zone = zone(new)
            await until(lambda: urls(here) == {new.url}, lambda: urls(here))
            await here.state_of(new, "up")
            await right(here)
            assert not going_on.done()
            await going_on


async def test_a_dns_server_that_fails_changes_nothing_and_nothing_there_is_believed_slowly(server: ZoneServer) -> None:
    async with engine("aggregated") as one:
        server.zone = zone(one)
        async with gateway_over([], discovery=pools(server, "aggregated")) as here:
            for fault in ("SERVFAIL", "REFUSED", SILENCE):
                server.faults[f"{pool_of('aggregated')}."] = fault
                await until(lambda: here.app.fleet.sources["dns aggregated"] is not None, "the failure", within_s=5)
                await looks(server, 4)
                assert urls(here) == {one.url}
                assert await here.metric("pd_router_discovery_ok", source="dns aggregated") == 0
                await right(here)
                server.faults.clear()
                await until(lambda: here.app.fleet.sources["dns aggregated"] is None, "an answer", within_s=5)
            server.zone = ""
            server.asked.clear()
            await until(lambda: urls(here) == set(), lambda: urls(here), within_s=5)
            assert server.asked[f"{pool_of('aggregated')}.", "SRV", "udp"] >= 3


async def test_a_gateway_starts_without_an_answer_and_goes_on_asking(server: ZoneServer) -> None:
    async with engine("aggregated") as one:
        server.zone = zone(one)
        server.faults[f"{pool_of('aggregated')}."] = SILENCE
        async with gateway_over([], discovery=pools(server, "aggregated")) as here:
            assert (urls(here), here.app.fleet.ready) == (set(), False)
            server.faults.clear()
            await until(lambda: here.app.fleet.ready, "an engine", within_s=5)
            await right(here)


async def test_what_is_configured_stays(server: ZoneServer) -> None:
    async with engine("aggregated") as named, engine("aggregated") as found:
        server.zone = zone(named, found)
        async with gateway_over([Member(named.url, "aggregated")], discovery=pools(server, "aggregated")) as here:
            assert urls(here) == {named.url, found.url}
            server.zone = ""
            await until(lambda: urls(here) == {named.url}, lambda: urls(here), within_s=5)
            await right(here)


async def test_more_engines_than_fit_a_datagram(server: ZoneServer) -> None:
    name = f"{pool_of('aggregated')}."
    server.zone = "host.internal. 60 A 127.0.0.1\n" + "\n".join(
        f"{name} 60 SRV 0 0 {port} host.internal." for port in range(1, 65)
    )
    async with gateway_over([], discovery=pools(server, "aggregated")) as here:
        assert len(urls(here)) == 64
        assert server.asked[name, "SRV", "tcp"] >= 1
