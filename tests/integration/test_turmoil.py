"""Thousands of streams while clients leave, read slowly or reset, and engines die or answer badly.

Whoever stays to the end has the right text, or is told of the failure; afterwards nothing is held by anybody.
`TURMOIL_REQUESTS` says how many requests.
"""

import asyncio
import os
import random
from collections import Counter
from typing import Any

import pytest

from router.call import Api
from router.sim.config import SimConfig
from router.sim.faults import Fault
from tests.support.client import Asker, Verdict, asker, judge, request
from tests.support.fleet import FleetProcess, Site, fleet_process, gateway_over, until

REQUESTS = int(os.environ.get("TURMOIL_REQUESTS", "5000"))
CLIENTS = 100
SMALL_BUFFER_BYTES = 4 << 10
LEASE_S = 6.0
"""As short as vLLM allows: what a decode engine that was reset left behind ends with it."""

NO_LIMIT = {"prefill_permits": 0, "decode_permits": 0}

PREFILL_FAULTS = (
    Fault("status", status=500, share=0.01),
    Fault("reset", share=0.01),
    Fault("missing_params", share=0.01),
    Fault("delay", delay_s=0.05, share=0.05),
)
DECODE_FAULTS = (
    Fault("status", status=503, share=0.01),
    Fault("reset", share=0.01),
    Fault("first_event_error", share=0.01),
    Fault("die_after_tokens", tokens=3, how="rst", share=0.02),
    Fault("die_after_tokens", tokens=5, how="fin", share=0.02),
    Fault("truncate", tokens=4, share=0.01),
    Fault("mid_stream_error", tokens=2, share=0.01),
)

WAYS = {"read": 70, "fin": 10, "reset": 10, "slow": 10}
"""What clients do, and how often of a hundred times."""

pytestmark = pytest.mark.timeout(60 + REQUESTS / 25)


def some_body(rng: random.Random, number: int) -> dict[str, Any]:
    """A chat with a prompt of its own."""
    words = " ".join(rng.choices(("river", "stone", "market", "garden"), k=rng.randint(5, 60)))
    messages = [{"role": "user", "content": f"{number} {words}"}]
    return {"model": "sim-8b", "messages": messages, "stream": rng.random() < 0.9, "max_tokens": rng.randint(4, 24)}


async def ask(url: str, rng: random.Random, number: int) -> str:
    """One request, in one of the ways; what came of it."""
    (way,) = rng.choices(list(WAYS), list(WAYS.values()))
    body = some_body(rng, number)
    async with asyncio.timeout(30), asker(url, receive_buffer_bytes=SMALL_BUFFER_BYTES * (way == "slow")) as client:
        client.send(request(Api.CHAT, body))
        if way in ("fin", "reset"):
            await leave(client, rng)
            if way == "reset":
                client.reset()
            return way
        if way == "slow":
            await read_slowly(client)
        return judge(await client.read_all(), body).value


async def read_slowly(client: Asker) -> None:
    """A hundred bytes a millisecond."""
    while not client.reply.complete and await client.read(100):  # noqa: ASYNC110 - that is what it is to be slow
        await asyncio.sleep(0.001)


async def leave(client: Asker, rng: random.Random) -> None:
    """Stay for up to a tenth of a second, reading or not."""
    try:
        async with asyncio.timeout(rng.uniform(0, 0.1)):
            while rng.random() < 0.8 and not client.reply.complete:
                await client.read()
            await asyncio.sleep(1)
    except TimeoutError:
        pass


async def all_requests(here: Site) -> Counter[str]:
    """Every client asks one thing after the other; what came of it all."""
    numbers = iter(range(REQUESTS))
    came = Counter[str]()

    async def keep_asking(seed: int) -> None:
        rng = random.Random(seed)
        for number in numbers:
            came[await ask(here.url, rng, number)] += 1

    async with asyncio.TaskGroup() as group:
        for seed in range(CLIENTS):
            group.create_task(keep_asking(seed))
    return came


async def engines_at_rest(fleet: FleetProcess) -> None:
    """Every engine holds nothing for requests any more."""
    for _ in range(round(LEASE_S + 2) * 10):
        outstanding = [name for ledger in await fleet.ledgers() for name in ledger["outstanding"].items()]
        if not outstanding:
            return
        await asyncio.sleep(0.1)
    pytest.fail(f"left on the engines: {outstanding}")


async def test_every_text_is_right_or_its_failure_told_and_nothing_is_left() -> None:
    prefill = SimConfig(role="prefill", lease_s=LEASE_S)
    decode = SimConfig(role="decode", decode_step_s=0.005)
    configs = (prefill, prefill, decode, decode)
    async with (
        fleet_process(*configs) as fleet,
        gateway_over(fleet.members, admission=NO_LIMIT, engines={"kv_lease_s": LEASE_S}) as here,
    ):
        await fleet.add("prefill", *PREFILL_FAULTS)
        await fleet.add("decode", *DECODE_FAULTS)
        tasks = len(asyncio.all_tasks())
        came = await all_requests(here)
        await until(lambda: not here.held(), here.held, within_s=5)
        here.assert_audited()
        edge = here.app.data_guards.census
        await until(lambda: edge.open == 0, f"{edge.open} clients' connections to end")
        assert len(asyncio.all_tasks()) <= tasks
        assert here.app.data._limits.bodies.held_bytes == 0
        await engines_at_rest(fleet)
        totals = [ledger["totals"] for ledger in await fleet.ledgers()]
        left = await here.metric("pd_router_kv_stranded_total")
        unnamed = await here.metric("pd_router_retries_total", reason="bad_handoff")
    print(f"{REQUESTS} requests: {dict(came)}; {totals}")
    assert came.total() == REQUESTS
    assert came[Verdict.RIGHT.value] > REQUESTS / 2
    assert came[Verdict.BROKEN_OFF.value] > 0
    for wrong in ("wrong_texts", "pulled_again", "pulled_late"):
        assert sum(total[wrong] for total in totals) == 0, wrong
    expired = sum(total["expired"] for total in totals)
    assert expired <= left + unnamed, "KV that was neither lost with its decode engine nor without a name expired"
