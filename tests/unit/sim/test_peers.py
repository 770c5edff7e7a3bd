"""The client end of the side channel."""

import asyncio
from dataclasses import replace

import pytest

from router.sim.config import SimConfig
from router.sim.core import EngineCore
from router.sim.ledger import Ledger
from router.sim.metrics import Counters
from router.sim.peers import Peers, TransferError
from router.sim.remote_kv import RemoteKv
from tests.support.sim_pair import closed_port
from tests.support.virtual_time import virtual_time

CONFIG = SimConfig(role="decode", time_scale=0)


class Both:
    """A prefill engine and the peers of a decode engine."""

    def __init__(self, config: SimConfig = CONFIG, prefill: SimConfig = CONFIG) -> None:
        self.counters, self.ledger = Counters(), Ledger()
        self.core = EngineCore(replace(prefill, role="prefill"), self.ledger, lambda: None)
        self.peers = Peers(config, self.counters)

    async def __aenter__(self) -> "Both":
        await self.core.start("127.0.0.1")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.core.aclose()
        await self.peers.aclose()

    def remote(self, request_id: str = "request") -> RemoteKv:
        """A handoff of the prefill engine."""
        port = self.core.side_channel.port
        return RemoteKv(self.core.engine_id, request_id, "127.0.0.1", port, (1, 2), complete=True)


@virtual_time
async def test_a_pull_brings_what_is_in_the_blocks_and_counts_it() -> None:
    async with Both() as both:
        assert await both.peers.pull(both.remote(), [1, 2]) == both.core.pool.read([1, 2])
        assert (both.counters.transfer_bytes.count, both.counters.transfer_bytes.total) == (1, 2 * CONFIG.block_bytes)


@virtual_time
async def test_one_handshake_per_engine() -> None:
    async with Both(replace(CONFIG, time_scale=1.0, handshake_s=0.09, link_gb_per_s=1000.0)) as both:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        await asyncio.gather(both.peers.pull(both.remote(), [1]), both.peers.pull(both.remote(), [2]))
        assert loop.time() - begun_s == pytest.approx(0.09, abs=0.02)
        begun_s = loop.time()
        await both.peers.pull(both.remote(), [1])
        assert loop.time() - begun_s < 0.02


@virtual_time
async def test_pulls_share_the_link() -> None:
    async with Both(replace(CONFIG, time_scale=1.0, handshake_s=0.0, link_gb_per_s=CONFIG.block_bytes / 1e9)) as both:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        await asyncio.gather(*(both.peers.pull(both.remote(), [1]) for _ in range(3)))
        assert loop.time() - begun_s == pytest.approx(3.0, abs=0.1)


@virtual_time
@pytest.mark.parametrize(("ours", "theirs"), [(0.5, 1.0), (1.0, 0.5)])
async def test_kv_moves_at_the_speed_of_the_slower_end(ours: float, theirs: float) -> None:
    block_gb = CONFIG.block_bytes / 1e9
    config = replace(CONFIG, time_scale=1.0, handshake_s=0.0, link_gb_per_s=ours * block_gb)
    async with Both(config, replace(CONFIG, link_gb_per_s=theirs * block_gb)) as both:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        await asyncio.gather(*(both.peers.pull(both.remote(), [1]) for _ in range(3)))
        assert loop.time() - begun_s == pytest.approx(6.0, abs=0.1)


@virtual_time
async def test_a_closed_port_fails_after_the_handshake_timeout() -> None:
    async with Both() as both:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        with closed_port() as port, pytest.raises(TransferError, match="no handshake"):
            await both.peers.pull(replace(both.remote(), port=port), [1])
        assert loop.time() - begun_s == pytest.approx(5.0, abs=0.2)


@virtual_time
async def test_an_unknown_frozen_engine_fails_after_the_handshake_timeout() -> None:
    async with Both() as both:
        both.core.freeze()
        with pytest.raises(TransferError, match="no handshake"):
            await both.peers.pull(both.remote(), [1])


@virtual_time
async def test_a_stale_engine_id_fails_at_once() -> None:
    async with Both() as both:
        with pytest.raises(TransferError, match="in place of stale"):
            await both.peers.pull(replace(both.remote(), engine_id="stale"), [1])


@virtual_time
async def test_engines_that_differ_do_not_pair() -> None:
    async with Both(prefill=replace(CONFIG, version="0.31.0")) as both:
        with pytest.raises(TransferError, match=r"0\.31\.0"):
            await both.peers.pull(both.remote(), [1])


@virtual_time
async def test_blocks_that_the_engine_does_not_have_cannot_be_pulled() -> None:
    async with Both() as both:
        with pytest.raises(TransferError, match="blocks"):
            await both.peers.pull(both.remote(), [10**9])


@virtual_time
async def test_a_peer_that_dies_during_a_pull_fails_it() -> None:
    async with Both() as both:
        await both.peers.pull(both.remote(), [1])
        both.core.freeze()
        async with asyncio.TaskGroup() as group:
            pull = group.create_task(_failure(both, [1]))
            await asyncio.sleep(100)
            assert not pull.done()
            both.core.side_channel.close()
        assert "gone" in pull.result()
        assert "broken" in await _failure(both, [1])
        assert "no handshake" in await _failure(both, [1])


async def _failure(both: Both, blocks: list[int]) -> str:
    with pytest.raises(TransferError) as failure:
        await both.peers.pull(both.remote(), blocks)
    return str(failure.value)


@virtual_time
async def test_heartbeats_go_out_while_a_handoff_is_wanted() -> None:
    async with Both() as both:
        asked: list[list[str]] = []
        both.core.leases.extend = lambda request_ids: asked.append(list(request_ids))  # type: ignore[method-assign]
        both.peers.want(both.remote("one"))
        both.peers.want(both.remote("one"))
        both.peers.want(both.remote("two"))
        await asyncio.sleep(5.5)
        both.peers.unwant(both.remote("two"))
        both.peers.unwant(both.remote("one"))
        await asyncio.sleep(5)
        both.peers.unwant(both.remote("one"))
        await asyncio.sleep(60)
        assert asked == [["one", "two"], ["one"]]


@virtual_time
async def test_an_engine_that_cannot_be_reached_is_not_notified() -> None:
    async with Both() as both:
        with closed_port() as port:
            await both.peers.notify(replace(both.remote(), port=port))
        assert both.core.counters.late_notifications == 0
        await both.peers.notify(both.remote())
        await asyncio.sleep(0.01)
        assert both.core.counters.late_notifications == 1
