"""Names in DNS move from engine to engine under load: who of the clients notices? Ids as in docs/failures.md."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from urllib.parse import urlsplit

import pytest

from router.sim.config import SimConfig
from tests.support.client import Verdict
from tests.support.dns_server import ZoneServer, dns_server, pool_of, services
from tests.support.fault_rows import PACE, Trial, trial
from tests.support.fleet import FleetProcess, fleet_process, until

pytestmark = pytest.mark.timeout(120)

USED_WITHIN_S = 5
PREFILL = {"name": pool_of("prefill"), "srv": True}


def zone_of(engines: Sequence[FleetProcess]) -> str:
    """A zone that lists these engines, each by its service."""
    return services([fleet.members[0] for fleet in engines])


async def moves(here: Trial, old: FleetProcess, new: FleetProcess, move: Callable[[], None]) -> None:
    """Under load, a name moves from one engine to another, which is used soon; then the old one is not missed."""
    gateway, (was,), (is_,) = here.here.app.fleet, old.members, new.members
    moved_at = [0.0]

    async def begin() -> None:
        move()
        moved_at[0] = time.monotonic()

    await here.load(200, (0.3, begin))
    while not (await here.totals([new]))["requests"]:
        assert time.monotonic() - moved_at[0] < USED_WITHIN_S
        await here.load(40)
    assert time.monotonic() - moved_at[0] < USED_WITHIN_S
    await until(lambda: was.url not in [b.url for b in gateway.backends], "the old one to go", within_s=USED_WITHIN_S)
    assert is_.url in [backend.url for backend in gateway.backends]
    old.kill()
    await here.load(100)
    assert here.verdicts == {Verdict.RIGHT: here.row.tried}
    assert await here.here.metric("pd_router_retries_total") == 0


async def test_f27_a_service_moves_to_another_port() -> None:
    with dns_server() as server:
        pools = {"prefill": PREFILL, "decode": {"name": pool_of("decode"), "srv": True}}

        def list_all_but_the_last(engines: Sequence[FleetProcess]) -> None:
            server.zone = zone_of(engines[:-1])

        async with trial(
            "F27",
            "a DNS service moves to another port",
            discovery={"dns": pools | server.settings()},
            listed=list_all_but_the_last,
        ) as here:
            old, new = here.decode

            def move() -> None:
                server.zone = zone_of([*here.prefill, new])

            await moves(here, old, new, move)


async def test_f27_a_name_moves_to_another_address() -> None:
    config = SimConfig(role="decode", **PACE)
    with dns_server() as server:
        async with fleet_process(config) as old:
            port = urlsplit(old.members[0].url).port or 0
            async with fleet_process(config, host="127.0.0.2", port=port) as new:
                await a_name_moves(server, old, new, port)


async def a_name_moves(server: ZoneServer, old: FleetProcess, new: FleetProcess, port: int) -> None:
    """The name has the first engine's address, then the other's."""

    def point_to(address: str, prefill: Sequence[FleetProcess]) -> None:
        server.zone = f"{zone_of(prefill)}\ndecode.internal. 1 A {address}"

    pools = {"prefill": PREFILL, "decode": {"name": "decode.internal", "port": port}}
    async with trial(
        "F27",
        "a DNS name moves to another address",
        decode=0,
        discovery={"dns": pools | server.settings()},
        listed=partial(point_to, "127.0.0.1"),
    ) as here:
        await moves(here, old, new, lambda: point_to("127.0.0.2", here.prefill))
