"""Engines are replaced one by one by a version that cannot hand over to the old one, while clients keep asking."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import pytest

from router.sim.engine import SimEngine
from tests.support.client import Verdict, ask, judge
from tests.support.fleet import Site, engine, site, until

OLD, NEW = "0.31.0", "0.32.0"
LIVELY = {"interval_s": 0.02, "down_interval_s": 0.02}
ROLES = ("prefill", "prefill", "decode", "decode")
CLIENTS = 8


@dataclass
class Load:
    """Clients that ask again as soon as they are answered."""

    here: Site
    numbers: "count[int]" = field(default_factory=count)
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    over: bool = False

    async def client(self) -> None:
        """Streams with prompts of their own, one after the other."""
        while not self.over:
            text = f"{next(self.numbers)} " + "word " * 60
            messages = [{"role": "user", "content": text}]
            body: dict[str, Any] = {"model": "sim-8b", "messages": messages, "max_tokens": 10, "stream": True}
            self.verdicts[judge(await ask(self.here.url, body), body)] += 1

    async def goes_on(self) -> None:
        """Wait until every client will have seen the fleet as it is now."""
        enough = self.verdicts.total() + 3 * CLIENTS
        await until(lambda: self.verdicts.total() >= enough, "requests", within_s=20)


@asynccontextmanager
async def load_on(here: Site) -> AsyncIterator[Load]:
    """Load that ends with the block."""
    load = Load(here)
    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(load.client())
        try:
            yield load
        finally:
            load.over = True


async def upgrade(here: Site, old: SimEngine, held: AsyncExitStack) -> SimEngine:
    """Drain an engine, put the new version at the same address, and enable it once it is known."""
    url = f"{here.gateway.ops_url}/fleet/backends/{old.url.removeprefix('http://')}"
    backend = here.app.fleet.backend(old.url.removeprefix("http://"))
    (await here.client.post(f"{url}/drain")).raise_for_status()
    await until(lambda: not (backend.load.requests or old.ledger.outstanding()), "its last requests", within_s=10)
    await old.stop()
    new = SimEngine(replace(old.config, version=NEW))
    await new.start(port=int(old.url.rsplit(":", 1)[1]))
    held.push_async_callback(new.stop)
    await until(lambda: backend.group == f"{NEW} sim-8b", "the new version to be known", within_s=10)
    (await here.client.post(f"{url}/enable")).raise_for_status()
    return new


@pytest.mark.parametrize(
    ("order", "always_a_pair"),
    [((0, 1, 2, 3), False), ((2, 3, 0, 1), False), ((0, 2, 1, 3), True)],
    ids=["P P D D", "D D P P", "P D P D"],
)
async def test_a_rolling_upgrade_costs_no_request(order: tuple[int, ...], always_a_pair: bool) -> None:
    old = [engine(role, version=OLD, time_scale=1, decode_step_s=0.002) for role in ROLES]
    async with AsyncExitStack() as held, site(*old, probes=LIVELY) as here:
        new = []
        async with load_on(here) as load:
            for number in order:
                await load.goes_on()
                new.append(await upgrade(here, old[number], held))
            await load.goes_on()
        assert load.verdicts == {Verdict.RIGHT: load.verdicts.total()}
        assert await here.metric("pd_router_retries_total") == 0
        alone = await here.metric("pd_router_decisions_total", route="local", reason="prefill_unavailable")
        assert (alone == 0) is always_a_pair
        assert sum(one.ledger.totals.failed_pulls for one in (*old, *new)) == 0
        assert all(one.ledger.totals.pulled > 0 for one in new if one.config.role == "prefill")


async def test_the_fleet_view_tells_the_group_and_whether_it_was_learnt() -> None:
    async with site(engine("prefill", version=OLD), engine("decode", version=NEW)) as here:
        pools = (await here.client.get(f"{here.gateway.ops_url}/fleet")).json()["pools"]
        told = [
            [pools[role][0][name] for name in ("version", "group", "group_learnt")] for role in ("prefill", "decode")
        ]
        assert told == [[OLD, f"{OLD} sim-8b", True], [NEW, f"{NEW} sim-8b", True]]
