"""How long handoffs are held."""

import asyncio

import pytest

from router.sim.config import SimConfig
from router.sim.kv_cache import KvCache
from router.sim.leases import Leases, UnknownBlockError
from router.sim.ledger import Ledger
from router.sim.metrics import Counters
from router.sim.sequence import Sequence
from tests.support.sim_pair import Collector
from tests.support.virtual_time import virtual_time


class Bench:
    """Leases with their surroundings."""

    def __init__(self, lease_s: float = 30.0) -> None:
        config = SimConfig(kv_blocks=20, lease_s=lease_s)
        self.cache, self.counters, self.ledger, self.freed = KvCache(config), Counters(), Ledger(), 0
        self.leases = Leases(config, self.cache.pool, self.counters, self.ledger, self._freed)

    def hold(self, request_id: str, prompt: bytes = b"a" * 400) -> Sequence:
        """A handoff of seven blocks."""
        sequence = Sequence(request_id, prompt, 1, "length", Collector())
        self.cache.begin(sequence)
        self.cache.compute(sequence)
        self.leases.hold(sequence, {"remote_engine_id": "engine", "remote_host": "h", "remote_port": 1})
        return sequence

    def _freed(self) -> None:
        self.freed += 1


@virtual_time
async def test_the_parameters() -> None:
    sequence = Bench().hold("request")
    assert sequence.kv_transfer_params == {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "remote_block_ids": [[1, 2, 3, 4, 5, 6, 7]],
        "remote_engine_id": "engine",
        "remote_request_id": "request",
        "remote_host": "h",
        "remote_port": 1,
        "tp_size": 1,
        "dcp_size": 1,
        "pp_size": 1,
        "remote_num_tokens": 100,
        "remote_blocks_expiry_time": None,
        "transfer_mode": "pull",
        "remote_prefill_cached_tokens": 0,
    }
    assert sequence.blocks == []


@virtual_time
async def test_each_lease_ends_in_its_own_time() -> None:
    bench = Bench()
    bench.hold("first")
    await asyncio.sleep(10)
    bench.hold("second", b"b" * 400)
    await asyncio.sleep(20.01)
    assert (len(bench.leases), bench.freed, bench.cache.pool.in_use) == (1, 1, 7)
    await asyncio.sleep(10)
    assert (len(bench.leases), bench.freed, bench.cache.pool.in_use) == (0, 2, 0)
    assert bench.counters.expired_handoffs == 2


@virtual_time
async def test_a_heartbeat_leaves_at_least_two_thirds() -> None:
    bench = Bench()
    bench.hold("wanted")
    bench.hold("forgotten", b"b" * 400)
    await asyncio.sleep(5)
    bench.leases.extend(["wanted"])
    await asyncio.sleep(24)
    bench.leases.extend(["wanted", "unknown"])
    await asyncio.sleep(19)
    assert len(bench.leases) == 1
    await asyncio.sleep(2)
    assert len(bench.leases) == 0


@pytest.mark.parametrize(("pull", "ending"), [(True, "pulled"), (False, "released")])
def test_a_notification_ends_a_lease(pull: bool, ending: str) -> None:
    @virtual_time
    async def run() -> None:
        bench = Bench()
        bench.hold("request")
        if pull:
            bench.leases.read("request", [1])
        bench.leases.notified("request")
        assert bench.ledger.handoffs["request"].ending == ending
        assert bench.cache.pool.in_use == 0
        bench.leases.notified("request")
        assert bench.counters.late_notifications == 1

    run()


@virtual_time
async def test_blocks_are_read_whoever_has_them() -> None:
    bench = Bench()
    bench.hold("request")
    bench.leases.notified("request")
    assert bench.leases.read("request", [1]) == bench.cache.pool.read([1])
    assert bench.ledger.totals.pulled_late == 1
    with pytest.raises(UnknownBlockError):
        bench.leases.read("request", [1, 21])


@virtual_time
async def test_a_frozen_engine_ends_no_lease_until_it_thaws() -> None:
    bench = Bench()
    bench.hold("request")
    bench.leases.freeze()
    await asyncio.sleep(100)
    assert len(bench.leases) == 1
    bench.leases.thaw()
    assert len(bench.leases) == 0


@virtual_time
async def test_leases_end_with_the_engine() -> None:
    bench = Bench()
    bench.hold("request")
    bench.leases.close()
    assert (len(bench.leases), bench.ledger.totals.lost) == (0, 1)
    await asyncio.sleep(100)
    assert bench.ledger.totals.expired == 0
