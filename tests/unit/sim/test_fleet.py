"""Several engines at once, and a request handed from one to another."""

import httpx
import pytest

from router.sim.config import SimConfig
from router.sim.fleet import SimFleet
from router.sim.text import reference_text

BODY = {"model": "sim-8b", "messages": [{"role": "user", "content": "The quick brown fox. " * 30}], "max_tokens": 20}
FAST = SimConfig(time_scale=0)


async def test_a_handed_over_request_gets_the_text_of_a_lone_engine() -> None:
    async with SimFleet(prefill=2, decode=2, base=FAST) as fleet, httpx.AsyncClient() as client:
        for prefill, decode in zip(fleet.prefill, fleet.decode, strict=True):
            leg = BODY | {"max_tokens": 1, "kv_transfer_params": {"do_remote_decode": True}}
            answer = (await client.post(f"{prefill.url}/v1/chat/completions", json=leg)).json()
            leg = BODY | {"kv_transfer_params": answer["kv_transfer_params"]}
            answer = (await client.post(f"{decode.url}/v1/chat/completions", json=leg)).json()
            assert answer["choices"][0]["message"]["content"] == reference_text("sim-8b", "chat", BODY).text
            assert decode.core.counters.local_compute_tokens == 0
            assert decode.core.counters.external_kv_transfer_tokens == answer["usage"]["prompt_tokens"]
        assert [engine.ledger.totals.pulled for engine in fleet.prefill] == [1, 1]


async def test_outstanding_names_the_engine_and_what_it_holds() -> None:
    async with SimFleet(base=FAST) as fleet, httpx.AsyncClient() as client:
        leg = BODY | {"max_tokens": 1, "kv_transfer_params": {"do_remote_decode": True}}
        tokens = (await client.post(f"{fleet.prefill[0].url}/v1/chat/completions", json=leg)).json()["usage"]
        blocks = -(-tokens["prompt_tokens"] // 16)
        assert fleet.outstanding() == {fleet.prefill[0].url: {"handoffs_open": 1, "blocks_in_use": blocks}}


async def test_roles_and_seeds_are_each_engines_own() -> None:
    fleet = SimFleet(prefill=2, decode=1, aggregated=1, base=SimConfig(seed=7))
    assert [engine.config.role for engine in fleet.engines] == ["prefill", "prefill", "decode", "aggregated"]
    assert [engine.config.seed for engine in fleet.engines] == [7, 8, 9, 10]


async def test_a_fleet_that_cannot_start_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = SimFleet(base=FAST)

    async def refuse(host: str = "", port: int = 0) -> None:
        raise OSError("no port")

    monkeypatch.setattr(fleet.decode[0], "start", refuse)
    with pytest.raises(OSError, match="no port"):
        await fleet.start()
    assert not any(engine.running for engine in fleet.engines)
