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
from tests.support.fault_rows import NO_LIMIT, scaled
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


READERS = scaled(200, 1000)
STALL_S = scaled(6, 60)
BUFFERED_BYTES = (64 << 10) + (256 << 10)
"""What a slow reader may cost: the buffer in front of it, and one read of its engine."""


async def flood(connection: Connection, _: Request) -> None:
    """Events without end, as fast as they are taken."""
    await connection.send(stream_head())
    while True:
        await connection.send(chunk(event("x" * 1000)) * 16)


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
        await others(load)
        alone_s = load.took_s[Verdict.RIGHT].copy()
        before_bytes, began = gateway.memory_bytes(), time.monotonic()
        async with slow_readers(gateway.url, READERS) as readers:
            print(f"{len(readers)} there after {time.monotonic() - began:.1f}")
            await asyncio.sleep(1)
            print(f"{(gateway.memory_bytes() - before_bytes) / READERS / 1024:.0f} KiB each")
            load.took_s[Verdict.RIGHT].clear()
            await others(load)
            beside_s = load.took_s[Verdict.RIGHT]
            print(
                f"{(gateway.memory_bytes() - before_bytes) / READERS / 1024:.0f} KiB each",
                (gateway.memory_bytes("VmHWM") - before_bytes) / READERS / 1024,
            )
            for s in (0.5, 0.9, 0.99):
                print(s, share(alone_s, s), share(beside_s, s))
            print(await gateway.metric("connections"), time.monotonic() - began)
            while c := await gateway.metric("connections"):
                await asyncio.sleep(0.5)
                print(c, time.monotonic() - began)


async def others(load: Load) -> None:
    """Clients that read."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(scaled(3, 20), over.set)
    await load.clients(10, over)
