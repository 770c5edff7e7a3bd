"""The gateway itself is stopped, replaced or killed under load: who notices? Ids as in docs/failures.md."""

import asyncio
import random
import socket
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.support.client import Verdict
from tests.support.fault_rows import FULL, NO_LIMIT, scaled
from tests.support.gateway_process import GatewayProcess, gateway_process
from tests.support.process_rows import engines, kept_by, row, some_body

pytestmark = pytest.mark.timeout(240)

LEASE_S = 6.0
"""As short as vLLM allows."""

READY_S = 2 if FULL else 5
"""It takes 1.4 s; more where all share the cores with other work."""


async def test_f20_stopped_with_two_hundred_streams() -> None:
    drain = {"drain_accept_s": 0, "drain_timeout_s": 3}
    async with (
        row("F20", "SIGTERM with 200 streams, half of them too long") as load,
        engines(decode=2, decode_step_s=0.2) as fleet,
        gateway_process(fleet.members, drain=drain, admission=NO_LIMIT) as gateway,
    ):
        load.url = gateway.url
        rng = random.Random(0)
        bodies = [some_body(rng, str(n), max_tokens=rng.choice((10, 200)), ignore_eos=True) for n in range(200)]
        asked = asyncio.gather(load.all_at_once(bodies))
        await gateway.busy_with(200)
        gateway.terminate()
        await asked
        assert (load.lost, load.verdicts[Verdict.REFUSED]) == ([], 0)
        assert load.verdicts[Verdict.RIGHT] > 50 < load.verdicts[Verdict.BROKEN_OFF]
        assert await gateway.ended() == 0
        _, kept = await kept_by(fleet, within_s=2)
        load.row.leaked = len(kept)
        assert kept == []


async def test_f21_replaced_ten_times_on_the_same_socket() -> None:
    drain = {"drain_accept_s": 0, "drain_timeout_s": 30}
    statuses = []
    async with AsyncExitStack() as held:
        load = await held.enter_async_context(row("F21", "gateway replaced 10 times on an inherited socket"))
        fleet = await held.enter_async_context(engines(prefill=2, decode=2))
        listening = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4096))

        async def another() -> GatewayProcess:
            started = gateway_process(fleet.members, fd=listening.fileno(), drain=drain, admission=NO_LIMIT)
            return await held.enter_async_context(started)

        serving = await another()
        load.url, over = serving.url, asyncio.Event()
        asking = asyncio.gather(load.clients(scaled(20, 40), over))
        for _ in range(10):
            old, serving = serving, await another()
            await asyncio.sleep(scaled(1, 10) / 2)
            old.terminate()
            statuses.append(await old.ended(40))
        over.set()
        await asking
        load.row.leaked = len(await serving.quiet())
        assert (load.lost, load.row.errors, load.row.leaked) == ([], 0, 0)
        assert statuses == [0] * 10
        assert load.row.complete == load.row.tried > 100


async def test_f22_killed_and_started_again() -> None:
    ready_s = []
    async with (
        row("F22", "gateway killed with 40 streams and restarted, x2") as load,
        engines(decode=2, lease_s=LEASE_S) as fleet,
    ):
        lease: dict[str, Any] = {"engines": {"kv_lease_s": LEASE_S}, "admission": NO_LIMIT}
        rng = random.Random(0)
        for _ in range(2):
            async with gateway_process(fleet.members, **lease) as gateway:
                load.url = gateway.url
                bodies = [some_body(rng, str(n), max_tokens=400, ignore_eos=True) for n in range(40)]
                asked = asyncio.gather(load.all_at_once(bodies))
                await gateway.busy_with(len(bodies))
                gateway.process.kill()
                await asked
            since = time.monotonic()
            async with gateway_process(fleet.members, **lease) as again:
                ready_s.append(time.monotonic() - since)
                load.url = again.url
                assert (await again.client.get(f"{again.ops_url}/readyz")).status_code == 200
                await load.all_at_once([some_body(rng, f"again {n}") for n in range(40)])
        freed_s, kept = await kept_by(fleet, within_s=LEASE_S)
        load.row.leaked = len(kept)
        print(f"ready after {ready_s} s; engines free after {freed_s:.1f} s")
        assert kept == []
        assert (load.row.lost, load.row.complete) == (80, 80), "who had a stream of the killed one, and nobody else"
        assert min(ready_s) <= READY_S
