"""A pair of engines from the outside: the hand-over, and what happens when things go wrong."""

import asyncio

import httpx
import pytest

from router.sim.config import SimConfig
from router.sim.engine import SimEngine
from router.sim.faults import Fault
from tests.support.sim_pair import chat, closed_port, events, right_text, sim_pair, streamed_text, text_of
from tests.support.virtual_time import virtual_time


@virtual_time
async def test_a_handover_frees_the_prefill_blocks_at_once() -> None:
    async with sim_pair() as pair:
        params = await pair.prefill_leg(chat())
        assert pair.prefill.ledger.outstanding() == {
            "handoffs_open": 1,
            "blocks_in_use": len(params["remote_block_ids"][0]),
        }
        answer = await pair.decode_leg(chat(), params)
        assert text_of(answer) == right_text(chat())
        assert answer.json()["kv_transfer_params"] is None
        await pair.quiet()
        pair.prefill.ledger.assert_quiet()
        pair.decode.ledger.assert_quiet()
        assert pair.prefill.ledger.totals.pulled == 1
        assert not pair.decode.core.peers._wanted


@virtual_time
async def test_nobody_pulls() -> None:
    async with sim_pair(lease_s=30) as pair:
        await pair.prefill_leg(chat())
        await asyncio.sleep(29.9)
        assert pair.prefill.ledger.outstanding()["handoffs_open"] == 1
        await asyncio.sleep(0.2)
        pair.prefill.ledger.assert_quiet()
        assert pair.prefill.core.counters.expired_handoffs == 1


@virtual_time
async def test_a_late_pull_of_blocks_not_reused_gives_the_right_text() -> None:
    async with sim_pair() as pair:
        params = await pair.prefill_leg(chat())
        await asyncio.sleep(31)
        assert text_of(await pair.decode_leg(chat(), params)) == right_text(chat())
        await pair.quiet()
        assert pair.prefill.core.counters.late_notifications == 1
        assert pair.prefill.ledger.totals.pulled_late == 1


@virtual_time
async def test_a_late_pull_of_reused_blocks_gives_wrong_text_and_poisons_the_cache() -> None:
    async with sim_pair(kv_blocks=12) as pair:
        params = await pair.prefill_leg(chat())
        await asyncio.sleep(31)
        await pair.ask(pair.prefill, chat("Something else entirely. ", 20))
        answer = await pair.decode_leg(chat(), params)
        assert (answer.status_code, text_of(answer) == right_text(chat())) == (200, False)
        again = await pair.ask(pair.decode, chat())
        assert (again.status_code, text_of(again) == right_text(chat())) == (200, False)
        assert pair.decode.ledger.totals.wrong_texts == 2
        assert pair.decode.core.counters.failed_transfers == 0


@virtual_time
async def test_more_prefills_than_the_pool_holds_wait_for_leases() -> None:
    async with sim_pair(kv_blocks=10) as pair, asyncio.TaskGroup() as group:
        legs = [group.create_task(pair.prefill_leg(chat(f"{number:04d} blah blah", 30))) for number in range(2)]
        await pair.quiet()
        assert sorted(leg.done() for leg in legs) == [False, True]
        assert pair.prefill.ledger.gauges().requests_waiting == 1
        await asyncio.sleep(30.1)
        assert all(leg.done() for leg in legs)


@pytest.mark.parametrize("policy", ["fail", "recompute"])
@pytest.mark.parametrize("known", [True, False])
def test_a_dead_prefill_engine(policy: str, known: bool) -> None:
    @virtual_time
    async def run() -> None:
        async with sim_pair(kv_load_failure_policy=policy) as pair:
            if known:
                await pair.decode_leg(chat("hello"), await pair.prefill_leg(chat("hello")))
            params = await pair.prefill_leg(chat())
            await pair.prefill.kill()
            loop = asyncio.get_running_loop()
            asked_s = loop.time()
            answer = await pair.decode_leg(chat(stream=True), params)
            assert loop.time() - asked_s == pytest.approx(0.0 if known else 5.0, abs=0.2)
            assert answer.status_code == 200
            if policy == "recompute":
                assert streamed_text(answer.text) == right_text(chat())
            else:
                assert events(answer.text) == [
                    {
                        "error": {
                            "message": "Internal server error",
                            "type": "InternalServerError",
                            "param": None,
                            "code": 500,
                        }
                    }
                ]
                assert answer.text.endswith("data: [DONE]\n\n")
            pair.decode.ledger.assert_quiet()
            assert pair.decode.core.counters.failed_transfers == 1

    run()


@virtual_time
async def test_a_failed_load_of_a_plain_answer_is_a_500() -> None:
    async with sim_pair() as pair:
        params = await pair.prefill_leg(chat())
        await pair.prefill.restart()
        answer = await pair.decode_leg(chat(), params)
        assert answer.status_code == 500
        assert answer.json()["error"]["message"] == "Internal server error"


@virtual_time
async def test_a_restarted_prefill_engine_has_a_new_id_and_no_blocks() -> None:
    async with sim_pair(kv_load_failure_policy="recompute") as pair:
        params = await pair.prefill_leg(chat())
        engine_id, url = pair.prefill.core.engine_id, pair.prefill.url
        await pair.prefill.restart(down_s=1.0)
        assert pair.prefill.url == url
        assert pair.prefill.core.engine_id != engine_id
        assert pair.prefill.ledger.totals.lost == 1
        assert text_of(await pair.decode_leg(chat(), params)) == right_text(chat())
        assert pair.decode.core.counters.failed_transfers == 1


@virtual_time
async def test_a_known_peer_is_found_whatever_port_the_parameters_name() -> None:
    async with sim_pair() as pair:
        await pair.decode_leg(chat("hello"), await pair.prefill_leg(chat("hello")))
        params = await pair.prefill_leg(chat())
        assert text_of(await pair.decode_leg(chat(), params | {"remote_port": 1})) == right_text(chat())


@virtual_time
async def test_a_frozen_prefill_engine_hangs_the_pull_until_it_thaws() -> None:
    async with sim_pair() as pair:
        await pair.decode_leg(chat("hello"), await pair.prefill_leg(chat("hello")))
        params = await pair.prefill_leg(chat())
        pair.prefill.freeze()
        async with asyncio.TaskGroup() as group:
            answer = group.create_task(pair.decode_leg(chat(), params))
            await asyncio.sleep(120)
            assert not answer.done()
            assert (await pair.client.get(f"{pair.prefill.url}/health")).status_code == 200
            pair.prefill.thaw()
        assert text_of(answer.result()) == right_text(chat())


@virtual_time
async def test_a_frozen_engine_finishes_late_what_it_had() -> None:
    async with sim_pair() as pair, asyncio.TaskGroup() as group:
        pair.prefill.faults.add(Fault("freeze", delay_s=50))
        answer = group.create_task(pair.ask(pair.prefill, chat()))
        await asyncio.sleep(49)
        assert not answer.done()
        await asyncio.sleep(2)
        assert answer.done()


@virtual_time
async def test_a_wrong_request_id_pulls_well_and_pins_the_blocks() -> None:
    async with sim_pair() as pair:
        params = await pair.prefill_leg(chat())
        answer = await pair.decode_leg(chat(), params | {"remote_request_id": "chatcmpl-other-00000000"})
        assert text_of(answer) == right_text(chat())
        await pair.quiet()
        assert pair.prefill.ledger.outstanding()["handoffs_open"] == 1


@virtual_time
async def test_a_missing_host_hangs_for_ever_and_loses_the_blocks() -> None:
    async with sim_pair() as pair:
        params = await pair.prefill_leg(chat())
        del params["remote_host"]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1000):
                await pair.decode_leg(chat(), params)
        await pair.quiet()
        assert pair.decode.ledger.outstanding().keys() == {"blocks_in_use"}


@pytest.mark.parametrize("blocks", [None, [], [[]], [[1]]])
def test_too_few_blocks_kill_the_decode_engine(blocks: object) -> None:
    @virtual_time
    async def run() -> None:
        async with sim_pair() as pair:
            params = await pair.prefill_leg(chat())
            answer = await pair.decode_leg(chat(), params | {"remote_block_ids": blocks})
            assert answer.status_code == 500
            assert (await pair.client.get(f"{pair.decode.url}/health")).status_code == 503
            assert (await pair.ask(pair.decode, chat())).status_code == 500
            await asyncio.sleep(1.1)
            with pytest.raises(httpx.ConnectError):
                await pair.client.get(f"{pair.decode.url}/health")
            assert pair.decode.ledger.totals.deaths == 1

    run()


@virtual_time
async def test_a_dead_engine_may_be_restarted_before_its_server_has_ended() -> None:
    async with sim_pair() as pair:
        pair.decode.core.die("test")
        await pair.decode.restart()
        await asyncio.sleep(5)
        assert (await pair.client.get(f"{pair.decode.url}/health")).status_code == 200


@virtual_time
async def test_a_dying_engine_ends_its_streams_with_an_error_event() -> None:
    async with sim_pair(decode_step_s=0.1, time_scale=1.0) as pair, asyncio.TaskGroup() as group:
        stream = group.create_task(pair.ask(pair.decode, chat(stream=True)))
        await asyncio.sleep(0.55)
        pair.decode.faults.add(Fault("core_death"))
        answer = await stream
        assert "EngineCore encountered an issue" in events(answer.text)[-1]["error"]["message"]
        assert answer.text.endswith("data: [DONE]\n\n")


@virtual_time
async def test_parameters_that_ask_for_nothing_are_computed_locally() -> None:
    async with sim_pair() as pair:
        params = await pair.prefill_leg(chat())
        answer = await pair.decode_leg(chat(), params | {"do_remote_prefill": False})
        assert text_of(answer) == right_text(chat())
        assert pair.decode.core.counters.external_kv_transfer_tokens == 0


@virtual_time
async def test_parameters_used_twice_are_counted() -> None:
    async with sim_pair() as pair:
        params = await pair.prefill_leg(chat())
        await pair.decode_leg(chat(), params)
        await pair.decode.restart()
        assert text_of(await pair.decode_leg(chat(), params)) == right_text(chat())
        assert pair.prefill.ledger.totals.pulled_again == 1


@pytest.mark.parametrize(
    ("change", "status"),
    [({"model": "nope", "messages": []}, 404), ({"max_tokens": 0}, 400), ({"max_tokens": 10**9}, 400), ({"n": 0}, 400)],
)
def test_a_refusal_after_validation_releases_the_handoff(change: dict[str, object], status: int) -> None:
    @virtual_time
    async def run() -> None:
        async with sim_pair() as pair:
            params = await pair.prefill_leg(chat())
            assert (await pair.decode_leg(chat() | change, params)).status_code == status
            await pair.quiet()
            pair.prefill.ledger.assert_quiet()
            assert pair.prefill.ledger.totals.released == 1
            assert pair.decode.core.counters.transfer_bytes.count == 0

    run()


@pytest.mark.parametrize(
    "change", [{"temperature": "hot"}, {"stream_options": {"include_usage": True}}, {"messages": 3}]
)
def test_a_refusal_by_validation_pins_the_blocks(change: dict[str, object]) -> None:
    @virtual_time
    async def run() -> None:
        async with sim_pair() as pair:
            params = await pair.prefill_leg(chat())
            assert (await pair.decode_leg(chat() | change, params)).status_code == 400
            await pair.quiet()
            assert pair.prefill.ledger.outstanding()["handoffs_open"] == 1

    run()


@virtual_time
async def test_parameters_that_are_no_object_are_refused() -> None:
    async with sim_pair() as pair:
        answer = await pair.decode_leg(chat(), "params")
        assert (answer.status_code, "dict_type" in answer.json()["error"]["message"]) == (400, True)


@pytest.mark.parametrize("after_s", [0.0, 0.35])
def test_a_client_that_leaves_decode_frees_both_engines(after_s: float) -> None:
    @virtual_time
    async def run() -> None:
        async with sim_pair(decode_step_s=0.1, time_scale=1.0) as pair:
            params = await pair.prefill_leg(chat())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(after_s + 0.01):
                    await pair.decode_leg(chat(stream=True), params)
            await asyncio.sleep(0.5)
            pair.prefill.ledger.assert_quiet()
            pair.decode.ledger.assert_quiet()
            assert pair.decode.ledger.totals.aborted == 1

    run()


@virtual_time
async def test_a_client_that_leaves_prefill_leaves_nothing() -> None:
    async with sim_pair(gpu="h200", time_scale=1.0) as pair:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await pair.prefill_leg(chat(times=500))
        await asyncio.sleep(1)
        pair.prefill.ledger.assert_quiet()
        assert pair.prefill.ledger.totals.issued == 0


@virtual_time
async def test_a_client_that_leaves_a_busy_decode_engine_frees_the_prefill_engine_at_once() -> None:
    async with sim_pair(max_num_seqs=1, decode_step_s=1.0, time_scale=1.0) as pair, asyncio.TaskGroup() as group:
        busy = group.create_task(pair.ask(pair.decode, chat("busy", max_tokens=60)))
        params = await pair.prefill_leg(chat())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await pair.decode_leg(chat(), params)
        await asyncio.sleep(0.5)
        pair.prefill.ledger.assert_quiet()
        assert pair.prefill.ledger.totals.released == 1
        assert not busy.done()


@virtual_time
async def test_a_prompt_that_has_arrived_goes_before_those_that_wait() -> None:
    async with sim_pair(max_num_seqs=1, decode_step_s=0.1, time_scale=1.0, link_gb_per_s=0.02) as pair:
        params = await pair.prefill_leg(chat())
        ended: list[str] = []
        async with asyncio.TaskGroup() as group:
            for name, given in (("remote", params), ("first", None), ("second", None)):
                leg = group.create_task(pair.decode_leg(chat(), given))
                leg.add_done_callback(lambda _leg, name=name: ended.append(name))  # type: ignore[misc]
                await asyncio.sleep(0.05)
        assert ended == ["first", "remote", "second"]


@virtual_time
async def test_a_list_of_prompts_is_handed_over_wrongly() -> None:
    async with sim_pair() as pair:
        prompts = ["one " * 40, "two " * 40]
        body = {"model": "sim-8b", "prompt": prompts, "max_tokens": 5}
        params = await pair.prefill_leg(body, "completions")
        answer = await pair.decode_leg(body, params, "completions")
        texts = [choice["text"] for choice in answer.json()["choices"]]
        right = [right_text(body | {"prompt": prompt}, "completions") for prompt in prompts]
        assert (texts[0] == right[0], texts[1] == right[1]) == (True, False)


@virtual_time
async def test_decode_heartbeats_keep_a_lease_alive() -> None:
    async with sim_pair(max_num_seqs=1, decode_step_s=1.0, time_scale=1.0) as pair, asyncio.TaskGroup() as group:
        busy = group.create_task(pair.ask(pair.decode, chat("busy", max_tokens=60)))
        await asyncio.sleep(1)
        params = await pair.prefill_leg(chat())
        answer = await pair.decode_leg(chat(max_tokens=2), params)
        assert busy.done()
        assert text_of(answer) == right_text(chat(max_tokens=2))
        assert (pair.prefill.ledger.totals.expired, pair.prefill.ledger.totals.pulled) == (0, 1)


@virtual_time
async def test_a_streamed_prefill_carries_no_parameters() -> None:
    async with sim_pair() as pair:
        body = chat(max_tokens=1, stream=True, kv_transfer_params={"do_remote_decode": True})
        answer = await pair.ask(pair.prefill, body)
        assert "kv_transfer_params" not in answer.text
        assert pair.prefill.ledger.outstanding()["handoffs_open"] == 1


@virtual_time
async def test_an_aggregated_engine_ignores_parameters() -> None:
    async with SimEngine(SimConfig(time_scale=0)) as engine, httpx.AsyncClient() as client:
        for params in ({"do_remote_decode": True}, {"do_remote_prefill": True, "remote_block_ids": None}):
            body = chat(kv_transfer_params=params)
            answer = (await client.post(f"{engine.url}/v1/chat/completions", json=body)).json()
            assert answer["kv_transfer_params"] is None
            engine.ledger.assert_quiet()


@virtual_time
async def test_starting_twice_or_on_a_busy_port_fails_cleanly() -> None:
    async with SimEngine() as engine:
        with pytest.raises(RuntimeError, match="running"):
            await engine.start()
        other = SimEngine()
        with pytest.raises(OSError, match="address already in use"):
            await other.start(port=int(engine.url.rpartition(":")[2]))
        assert not other.running


@virtual_time
async def test_an_engine_that_could_not_start_holds_no_port() -> None:
    with closed_port() as side_channel_port:
        pass
    async with SimEngine() as engine:
        other = SimEngine(SimConfig(role="prefill", side_channel_port=side_channel_port))
        with pytest.raises(OSError, match="address already in use"):
            await other.start(port=int(engine.url.rpartition(":")[2]))
        await other.start()
        await other.stop()


async def test_a_restart_waits_on_the_real_clock_too() -> None:
    engine = SimEngine()
    await engine.start()
    engine.faults.add(Fault("restart"))
    async with asyncio.timeout(2):
        while engine.ledger.totals.restarts == 0:  # noqa: ASYNC110 the fault has no event to wait for
            await asyncio.sleep(0.001)
    assert engine.running
    await engine.stop()
    assert repr(engine) == f"<SimEngine aggregated {engine.url.removeprefix('http://')} stopped>"
