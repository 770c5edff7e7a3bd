"""One life of an engine process."""

import pytest

from router.sim.config import SimConfig
from router.sim.core import EngineCore
from router.sim.ledger import Ledger
from router.sim.sequence import Sequence
from tests.support.sim_pair import Collector
from tests.support.virtual_time import virtual_time


def core(ledger: Ledger | None = None, **settings: object) -> EngineCore:
    """A core that nobody watches."""
    config = SimConfig(**({"time_scale": 0.0} | settings))  # type: ignore[arg-type]
    return EngineCore(config, ledger or Ledger(), lambda: None)


@virtual_time
async def test_every_life_has_an_id_of_its_own() -> None:
    assert core().engine_id != core().engine_id


@pytest.mark.parametrize(("role", "listens"), [("prefill", True), ("decode", True), ("aggregated", False)])
def test_only_engines_of_a_pair_listen_for_pulls(role: str, listens: bool) -> None:
    @virtual_time
    async def run() -> None:
        made = core(role=role)
        await made.start("127.0.0.1")
        assert (made.side_channel.port > 0) is listens
        await made.aclose()

    run()


@virtual_time
async def test_gauges_show_what_is_held_and_nothing_after_death() -> None:
    made = core()
    made.scheduler.add(Sequence("id", b"a" * 80, 4, "length", Collector()))
    gauges = made.gauges(connections_open=2, exchanges_open=1)
    assert (gauges.requests_running, gauges.blocks_in_use, gauges.connections_open) == (1, 2, 2)
    assert gauges.blocks_in_use + gauges.blocks_free == 8192
    made.die("test")
    gauges = made.gauges(connections_open=2, exchanges_open=1)
    assert (gauges.requests_running, gauges.blocks_in_use, gauges.exchanges_open) == (0, 0, 1)
    await made.aclose()


@virtual_time
async def test_an_orderly_end_is_no_death() -> None:
    ledger = Ledger()
    made = core(ledger)
    heard = Collector()
    made.scheduler.add(Sequence("id", b"a" * 80, 4, "length", heard))
    await made.aclose()
    assert (ledger.totals.deaths, heard.ends) == (0, ["The engine is shutting down."])
