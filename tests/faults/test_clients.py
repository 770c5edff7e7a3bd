"""Clients that are many or slow: what does that cost the gateway, and the others? Ids as in docs/failures.md."""

import asyncio
import random

import pytest

from tests.support.fault_rows import NO_LIMIT
from tests.support.gateway_process import gateway_process, lines_of
from tests.support.process_rows import engines, row, some_body

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
        load.url = gateway.url
        rng = random.Random(0)
        most = 0
        asked = asyncio.gather(load.all_at_once([some_body(rng, str(n), max_tokens=40) for n in range(400)]))
        while not asked.done():
            most = max(most, gateway.files)
            await asyncio.sleep(0.01)
        print(load.verdicts, len(load.lost), set(load.lost), most)
        print(await gateway.metric("shed_total"), await gateway.metric("retries_total"))
        load.row.leaked = len(await gateway.quiet())
        await load.all_at_once([some_body(rng, f"again {n}") for n in range(40)])
        print(load.verdicts)
        print([l for l in lines_of(gateway.log) if l["message"] != "request"])
        print([l for l in lines_of(gateway.log) if l["message"] == "request" and l.get("level") != "info"][:5])
