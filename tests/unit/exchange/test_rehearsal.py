import asyncio
from typing import Any

import pytest

from router.errors import BadHandoff, ConnectFailed, EngineError, EngineFault, EngineRefusal, EngineTimeout, Leg
from router.exchange.rehearsal import Rehearsal, Rehearsed, common_model
from router.fleet.backend import ModelCard
from tests.support.builders import a_backend
from tests.support.legs import Stand, stand
from tests.support.scripted_engine import Script, answer, completion, error, handover, says, says_and_waits
from tests.support.virtual_time import virtual_time

PREFILLED = says(answer(handover()))
ANSWERED = says(answer(completion(usage={"prompt_tokens": 9})))


async def rehearse(made: Stand, timeout_s: float = 5) -> Rehearsed:
    rehearsal = Rehearsal(made.exchange, timeout_s, asyncio.get_running_loop().time)
    assert made.legs.prefill is not None
    try:
        return await rehearsal.of(made.legs.prefill, made.legs.decode, "m", "id-7")
    finally:
        await made.at_rest()


@virtual_time
async def test_a_tiny_request_goes_the_way_of_requests() -> None:
    async with stand(PREFILLED, ANSWERED) as made:
        assert (await rehearse(made)).prompt_tokens == 9
        first, second = made.prefill.requests[0], made.decode.requests[0]
        assert first.path == second.path == "/v1/completions"
        assert first.headers["x-request-id"] == "id-7"
        assert second.json["kv_transfer_params"] == handover()["kv_transfer_params"]
        asked = {name: second.json[name] for name in ("model", "prompt", "max_tokens")}
        assert asked == {"model": "m", "prompt": "id-7 says hello to", "max_tokens": 1}
        assert not made.told.counts


@virtual_time
async def test_the_legs_are_timed() -> None:
    async def prefill(connection: Any, request: Any) -> None:
        await asyncio.sleep(2)
        await PREFILLED(connection, request)

    async def decode(connection: Any, request: Any) -> None:
        await asyncio.sleep(1)
        await ANSWERED(connection, request)

    async with stand(prefill, decode) as made:
        rehearsed = await rehearse(made)
    assert rehearsed.prefill_s == pytest.approx(2, abs=0.1)
    assert rehearsed.handoff_s == pytest.approx(1, abs=0.1)


@virtual_time
async def test_an_answer_without_usage_is_one() -> None:
    async with stand(PREFILLED, says(answer(completion()))) as made:
        assert (await rehearse(made)).prompt_tokens is None


SILENT = says_and_waits()
NOTHING_HELD = says(answer(completion(choices=[{"index": 0, "text": "", "finish_reason": "stop"}])))


@pytest.mark.parametrize(
    ("prefill", "decode", "kind", "leg"),
    [
        (says(answer(error(500), "500 Oops")), ANSWERED, EngineError, Leg.PREFILL),
        (says(answer(completion())), ANSWERED, BadHandoff, Leg.PREFILL),
        (NOTHING_HELD, ANSWERED, BadHandoff, Leg.PREFILL),
        (SILENT, ANSWERED, EngineTimeout, Leg.PREFILL),
        (PREFILLED, SILENT, EngineTimeout, Leg.DECODE),
        (PREFILLED, says(answer(error(500), "500 Oops")), EngineError, Leg.DECODE),
    ],
)
def test_what_failed_and_where(prefill: Script, decode: Script, kind: type[EngineFault], leg: Leg) -> None:
    @virtual_time
    async def run() -> None:
        async with stand(prefill, decode) as made:
            with pytest.raises(kind) as caught:
                await rehearse(made)
        assert caught.value.leg is leg

    run()


@virtual_time
async def test_a_refusal_is_told() -> None:
    async with stand(says(answer(error(404), "404 Not Found")), ANSWERED) as made:
        with pytest.raises(EngineRefusal):
            await rehearse(made)


@virtual_time
async def test_an_engine_that_is_not_there() -> None:
    async with stand(PREFILLED, ANSWERED) as made:
        assert made.legs.prefill is not None
        rehearsal = Rehearsal(made.exchange, 5, asyncio.get_running_loop().time)
        with pytest.raises(ConnectFailed) as caught:
            await rehearsal.of(made.legs.prefill, a_backend("decode", 9), "m", "id-7")
        assert caught.value.leg is Leg.DECODE
        assert made.prefill.requests == []


def test_the_model_of_both_that_decode_lists_first() -> None:
    prefill, decode = a_backend("prefill"), a_backend("decode")
    prefill.models = {name: ModelCard(name) for name in ("b", "a")}
    decode.models = {name: ModelCard(name) for name in ("c", "a", "b")}
    assert common_model(prefill, decode) == "a"
    prefill.models = {}
    assert common_model(prefill, decode) is None
