"""Clients that are many or slow: what does that cost the gateway, and the others? Ids as in docs/failures.md."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from router.call import Api
from router.edge.census import connections_for
from tests.support.client import Asker, Verdict, asker, request
from tests.support.fault_rows import FULL, NO_LIMIT, scaled
from tests.support.fleet import Member
from tests.support.gateway_process import gateway_process, lines_of
from tests.support.process_rows import Load, engines, row, share, some_body
from tests.support.scripted_engine import MODEL, Connection, Request, chunk, event, scripted_engine, stream_head

pytestmark = pytest.mark.timeout(240)

MAX_FILES = 256
EDGE = {"max_connections_per_address": 10_000}
"""All of a test's clients have one address."""


async def test_f30_hardly_any_files_may_be_open() -> None:
    async with (
        row("F30", "400 clients at a gateway that may open 256 files") as load,
        engines(decode_step_s=0.5) as fleet,
        gateway_process(fleet.members, max_files=MAX_FILES, admission=NO_LIMIT, edge=EDGE) as gateway,
    ):
        load.url, rng = gateway.url, random.Random(0)
        await load.all_at_once([some_body(rng, str(n), max_tokens=40) for n in range(400)])
        assert (load.lost, load.verdicts[Verdict.BROKEN_OFF]) == ([], 0)
        assert load.row.complete >= connections_for(MAX_FILES)
        assert load.row.errors == await gateway.metric("shed_total")
        load.row.leaked = len(await gateway.quiet())
        before = load.row.complete
        await load.all_at_once([some_body(rng, f"again {n}") for n in range(40)])
        assert (load.row.complete - before, load.row.leaked) == (40, 0)
        assert lines_of(gateway.log, "engine down") == []


READERS, STALL_S, OTHERS_S = scaled(100, 1000), scaled(10, 60), scaled(3, 20)
EACH_BYTES = 2 * ((64 << 10) + (256 << 10))
"""What a slow reader may cost: the buffer in front of it and one read of its engine, in many small objects."""

SLOWER, BUSY_MACHINES_S = (1.2, 0.02) if FULL else (3, 0.5)
"""By how much times may differ: 20 %, and much more without a reason where all share the cores with other work."""


async def flood(connection: Connection, _request: Request) -> None:
    """Two megabytes of events, as fast as they are taken; then nothing."""
    await connection.send(stream_head())
    for _ in range(128):
        await connection.send(chunk(event("x" * 1000)) * 16)
    await connection.gone()


@asynccontextmanager
async def slow_readers(url: str, count: int) -> AsyncIterator[list[Asker]]:
    """Clients that have read the head of a stream and then nothing more."""
    async with AsyncExitStack() as held:

        async def one(number: int) -> Asker:
            client = await held.enter_async_context(asker(url, receive_buffer_bytes=4 << 10))
            client.send(request(Api.COMPLETIONS, {"model": MODEL, "prompt": str(number), "stream": True}))
            await client.read(512)
            return client

        yield await asyncio.gather(*map(one, range(count)))


async def test_f26_clients_that_do_not_read() -> None:
    settings: dict[str, Any] = {"edge": EDGE, "admission": NO_LIMIT, "timeouts": {"write_stall_s": STALL_S}}
    async with (
        row("F26", f"{READERS} clients that do not read") as load,
        scripted_engine(flood) as flooding,
        engines() as fleet,
        gateway_process([*fleet.members, Member(flooding.url, "aggregated")], **settings) as gateway,
    ):
        load.url = gateway.url
        alone_s = await others(load)
        before_bytes = gateway.memory_bytes()
        async with slow_readers(gateway.url, READERS):
            stalled_at = time.monotonic()
            beside_s = await others(load)
            assert await gateway.metric("connections") >= READERS
            each_bytes = (gateway.memory_bytes("VmHWM") - before_bytes) / READERS
            load.row.leaked = len(await gateway.quiet(within_s=STALL_S + 10))
            closed_s = time.monotonic() - stalled_at
        alone_s = max(alone_s, await others(load), key=lambda took_s: share(took_s, 0.99))
        gateway.terminate()
        assert await gateway.ended() == 0
        p99_s, beside_p99_s = share(alone_s, 0.99), share(beside_s, 0.99)
        print(f"{each_bytes / 1024:.0f} KiB for each slow reader, closed after {closed_s:.1f} s")
        print(f"the others: p50 {share(alone_s, 0.5) * 1e3:.0f} -> {share(beside_s, 0.5) * 1e3:.0f} ms, ", end="")
        print(f"p99 {p99_s * 1e3:.0f} -> {beside_p99_s * 1e3:.0f} ms")
        assert (load.lost, load.row.errors, load.row.leaked) == ([], 0, 0)
        assert each_bytes < EACH_BYTES
        assert share(beside_s, 0.5) < SLOWER * share(alone_s, 0.5)
        assert beside_p99_s < SLOWER * p99_s + BUSY_MACHINES_S
        ends = [line for line in lines_of(gateway.log, "request") if line["model"] == MODEL]
        assert [line["outcome"] for line in ends] == ["client_gone"] * READERS
        assert min(line["total_s"] for line in ends) > 0.9 * STALL_S


async def others(load: Load) -> list[float]:
    """Clients that read, for a while; how long their answers took."""
    load.took_s[Verdict.RIGHT].clear()
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(OTHERS_S, over.set)
    await load.clients(10, over)
    return load.took_s[Verdict.RIGHT].copy()
