"""The server end of the side channel, spoken to by hand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from router.sim.config import SimConfig
from router.sim.kv_cache import KvCache
from router.sim.leases import Leases
from router.sim.ledger import Ledger
from router.sim.metrics import Counters
from router.sim.sequence import Sequence
from router.sim.side_channel import SideChannel, compatibility
from router.sim.wire import Head, Wire, unpack_blocks
from tests.support.sim_pair import Collector
from tests.support.virtual_time import virtual_time

CONFIG = SimConfig(role="prefill", kv_blocks=8)


class Talk:
    """One connection to a side channel, and what was said on it."""

    def __init__(self, channel: SideChannel, leases: Leases, cache: KvCache) -> None:
        self.channel, self.leases, self.cache = channel, leases, cache
        self.answers: list[tuple[Head, bytes]] = []
        self.wire = Wire(lambda _wire, head, tail: self.answers.append((head, tail)), lambda _: None, lambda _: None)

    async def say(self, head: Head) -> None:
        """Send, and wait for what comes back."""
        self.wire.send(head)
        await asyncio.sleep(0.01)


@asynccontextmanager
async def talk() -> AsyncIterator[Talk]:
    """A side channel with one handoff, `request`, of one block."""
    cache = KvCache(CONFIG)
    leases = Leases(CONFIG, cache.pool, Counters(), Ledger(), lambda: None)
    sequence = Sequence("request", b"a" * 64, 1, "length", Collector())
    cache.begin(sequence)
    cache.compute(sequence)
    leases.hold(sequence, {})
    channel = SideChannel(CONFIG, "engine", leases)
    await channel.start("127.0.0.1")
    talking = Talk(channel, leases, cache)
    await asyncio.get_running_loop().create_connection(lambda: talking.wire, "127.0.0.1", channel.port)
    yield talking
    channel.close()
    await channel.wait_closed()
    await talking.wire.closed


@virtual_time
async def test_a_handshake_says_who_it_is() -> None:
    async with talk() as talking:
        await talking.say({"op": "handshake", "id": 1})
        expected = {"id": 1, "engine_id": "engine", "compatibility": compatibility(CONFIG)}
        assert talking.answers == [(expected, b"")]


@virtual_time
async def test_a_pull_reads_and_a_notification_frees() -> None:
    async with talk() as talking:
        await talking.say({"op": "pull", "id": 2, "request_id": "request", "blocks": [1]})
        ((head, tail),) = talking.answers
        assert (head, unpack_blocks(tail)) == ({"id": 2, "link_gb_per_s": 12.0}, talking.cache.pool.read([1]))
        assert len(talking.leases) == 1
        await talking.say({"op": "notify", "request_id": "request"})
        assert len(talking.leases) == 0
        assert len(talking.answers) == 1


@virtual_time
async def test_unknown_blocks_are_an_error() -> None:
    async with talk() as talking:
        await talking.say({"op": "pull", "id": 3, "request_id": "request", "blocks": [99]})
        assert talking.answers == [({"id": 3, "error": "blocks [99] of 8"}, b"")]


@virtual_time
async def test_a_heartbeat_extends() -> None:
    async with talk() as talking:
        await asyncio.sleep(25)
        await talking.say({"op": "heartbeat", "request_ids": ["request"]})
        await asyncio.sleep(15)
        assert len(talking.leases) == 1


@virtual_time
async def test_a_frozen_engine_answers_once_it_thaws() -> None:
    async with talk() as talking:
        talking.channel.freeze()
        await talking.say({"op": "handshake", "id": 1})
        await talking.say({"op": "notify", "request_id": "request"})
        assert (talking.answers, len(talking.leases)) == ([], 1)
        talking.channel.thaw()
        await asyncio.sleep(0.01)
        assert (len(talking.answers), len(talking.leases)) == (1, 0)


def test_what_makes_a_pair() -> None:
    assert compatibility(SimConfig(role="decode")) == compatibility(CONFIG)
    assert compatibility(SimConfig(model="other")) != compatibility(CONFIG)
    assert compatibility(SimConfig(block_size_tokens=32)) != compatibility(CONFIG)
    assert compatibility(SimConfig(version="0.31.0")) != compatibility(CONFIG)
