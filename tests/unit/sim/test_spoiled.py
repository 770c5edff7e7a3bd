"""Faults of answers, as a client meets them."""

import asyncio
from typing import Any

import httpx
import pytest

from router.sim.faults import Fault
from router.sim.spoiled import VARIANTS
from tests.support.sim_pair import Pair, chat, events, right_text, sim_pair, streamed_text, text_of
from tests.support.virtual_time import virtual_time

LEG = {"max_tokens": 1, "kv_transfer_params": {"do_remote_decode": True}}


async def spoiled(pair: Pair, fault: Fault, **fields: Any) -> httpx.Response:
    """The decode engine's answer with a fault in it; afterwards nothing must be left in the engine."""
    pair.decode.faults.add(fault)
    try:
        return await pair.ask(pair.decode, chat(**fields))
    finally:
        await pair.quiet()
        pair.decode.ledger.assert_quiet()
        pair.decode.faults.clear()


@virtual_time
async def test_errors_first_or_in_the_middle() -> None:
    async with sim_pair() as pair:
        first = await spoiled(pair, Fault("first_event_error"), stream=True)
        assert [list(event) for event in events(first.text)] == [["error"]]
        middle = await spoiled(pair, Fault("mid_stream_error", tokens=3), stream=True)
        *before, error = events(middle.text)
        assert (len(before), list(error)) == (4, ["error"])
        for answer in (first, middle):
            assert answer.status_code == 200
            assert answer.text.endswith("data: [DONE]\n\n")
        for kind in ("first_event_error", "mid_stream_error"):
            assert (await spoiled(pair, Fault.from_json({"kind": kind}))).status_code == 500


@pytest.mark.parametrize("how", ["rst", "fin"])
def test_a_connection_that_dies(how: Any) -> None:
    @virtual_time
    async def run() -> None:
        async with sim_pair() as pair:
            for stream in (True, False):
                with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                    await spoiled(pair, Fault("die_after_tokens", tokens=3, how=how), stream=stream)

    run()


@virtual_time
async def test_tokens_before_a_death_arrive() -> None:
    async with sim_pair(decode_step_s=0.1, time_scale=1.0) as pair:
        pair.decode.faults.add(Fault("die_after_tokens", tokens=3))
        got: list[str] = []
        url = f"{pair.decode.url}/v1/chat/completions"
        with pytest.raises(httpx.ReadError):
            await _read_stream(pair.client, url, got)
        assert streamed_text("".join(got)) == right_text(chat(max_tokens=3))


async def _read_stream(client: httpx.AsyncClient, url: str, got: list[str]) -> None:
    async with client.stream("POST", url, json=chat(stream=True)) as answer:
        async for text in answer.aiter_text():
            got.append(text)  # noqa: PERF401 what has arrived must be there when the stream breaks


@virtual_time
async def test_a_truncated_answer() -> None:
    async with sim_pair() as pair:
        stream = await spoiled(pair, Fault("truncate", tokens=5), stream=True)
        assert streamed_text(stream.text) == right_text(chat(max_tokens=5))
        assert "[DONE]" not in stream.text
        with pytest.raises(httpx.RemoteProtocolError):
            await spoiled(pair, Fault("truncate"))


@pytest.mark.parametrize("kind", ["first_event_error", "mid_stream_error", "truncate"])
def test_an_answer_cut_short_ends_the_work_on_it(kind: str) -> None:
    @virtual_time
    async def run() -> None:
        async with sim_pair(decode_step_s=1.0, time_scale=1.0) as pair:
            await spoiled(pair, Fault.from_json({"kind": kind, "tokens": 2}), stream=True, max_tokens=1000)
            assert pair.decode.core.counters.generation_tokens < 5

    run()


@virtual_time
async def test_only_the_end_of_a_stream_may_be_missing() -> None:
    async with sim_pair() as pair:
        stream = await spoiled(pair, Fault("truncate", tokens=20), stream=True)
        assert streamed_text(stream.text) == right_text(chat())
        assert "[DONE]" not in stream.text


@virtual_time
async def test_a_big_event_is_a_valid_one() -> None:
    async with sim_pair() as pair:
        stream = await spoiled(pair, Fault("big_event", size_bytes=300_000), stream=True)
        assert streamed_text(stream.text) == right_text(chat())
        assert [len(event) > 300_000 for event in stream.text.split("\n\n")][:3] == [True, False, False]


@virtual_time
async def test_garbage() -> None:
    async with sim_pair() as pair:
        stream = await spoiled(pair, Fault("garbage", tokens=2), stream=True)
        assert stream.text.count("data: {not json\n\n") == 1
        assert (await spoiled(pair, Fault("garbage"))).content == b"\x00{not json"


@virtual_time
async def test_a_late_answer_is_whole_and_its_handoff_old() -> None:
    async with sim_pair() as pair:
        loop = asyncio.get_running_loop()
        pair.prefill.faults.add(Fault("late_answer", delay_s=12, count=1))
        begun_s = loop.time()
        async with asyncio.TaskGroup() as group:
            leg = group.create_task(pair.prefill_leg(chat()))
            await asyncio.sleep(6)
            assert pair.prefill.ledger.totals.issued == 1
        assert loop.time() - begun_s == pytest.approx(12, abs=0.1)
        assert leg.result()["remote_num_tokens"] > 0
        stream = await spoiled(pair, Fault("late_answer", delay_s=5), stream=True)
        assert streamed_text(stream.text) == right_text(chat())


@virtual_time
async def test_missing_parameters() -> None:
    async with sim_pair() as pair:
        pair.prefill.faults.add(Fault("missing_params", count=1))
        assert await pair.prefill_leg(chat()) is None
        assert pair.prefill.ledger.outstanding()["handoffs_open"] == 1
        assert await pair.prefill_leg(chat()) is not None


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_malformed_variant_is_not_what_was_issued(variant: str) -> None:
    @virtual_time
    async def run() -> None:
        async with sim_pair() as pair:
            good = await pair.prefill_leg(chat())
            pair.prefill.faults.add(Fault("malformed_params", variant=variant))
            bad = await pair.prefill_leg(chat())
            varying = ("remote_request_id", "remote_block_ids", "remote_prefill_cached_tokens")
            if not isinstance(bad, dict) or not bad:
                assert bad in ({}, "params") or isinstance(bad, list)
            elif all(bad.get(name) == good[name] for name in good if name not in varying) and "padding" not in bad:
                assert "remote_request_id" not in bad or bad["remote_block_ids"] != [list(range(8, 15))]

    run()


@virtual_time
async def test_plain_answers_have_no_parameters_to_spoil() -> None:
    async with sim_pair() as pair:
        answer = await spoiled(pair, Fault("malformed_params"))
        assert text_of(answer) == right_text(chat())
        assert answer.json()["kv_transfer_params"] is None
