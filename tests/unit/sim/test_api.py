"""Paths, and the faults of requests."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from router.sim.config import SimConfig
from router.sim.engine import SimEngine
from router.sim.faults import Fault
from router.sim.text import reference_text
from tests.support.sim_pair import chat, right_text, sim_pair, text_of
from tests.support.virtual_time import virtual_time

FAST = SimConfig(time_scale=0, aliases=("small",), kv_blocks=100)


@virtual_time
async def test_the_openai_sdk_gets_all_answers() -> None:
    async with SimEngine(FAST) as engine, openai.AsyncOpenAI(base_url=f"{engine.url}/v1", api_key="-") as client:
        body: Any = {"model": "small", "messages": [{"role": "user", "content": "Why two pools?"}], "max_tokens": 12}
        right = reference_text("sim-8b", "chat", body)
        answer = await client.chat.completions.create(**body)
        assert answer.choices[0].message.content == right.text
        assert answer.model == "small"
        stream = await client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == right.text
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 12
        completion = await client.completions.create(model="sim-8b", prompt=["one", "two"], n=2, max_tokens=3)
        texts = [choice.text for choice in completion.choices]
        right = reference_text("sim-8b", "completions", {"prompt": ["one", "two"], "n": 2, "max_tokens": 3})
        assert texts == [choice.text for choice in right.choices]
        with pytest.raises(openai.NotFoundError, match="nope"):
            await client.chat.completions.create(**body | {"model": "nope"})
        models = [model async for model in client.models.list()]
        assert [model.id for model in models] == ["sim-8b", "small"]


@virtual_time
async def test_the_small_endpoints() -> None:
    async with SimEngine(FAST) as engine, httpx.AsyncClient(base_url=engine.url) as client:
        for path in ("/health", "/ping"):
            answer = await client.get(path)
            assert (answer.status_code, answer.content) == (200, b"")
        assert (await client.get("/version")).json() == {"version": "0.32.0"}
        assert (await client.get("/load")).json() == {"server_load": 0}
        models = (await client.get("/v1/models")).json()
        assert [card["max_model_len"] for card in models["data"]] == [1600, 1600]
        answer = (await client.post("/tokenize", json={"prompt": "hello"})).json()
        assert (answer["count"], answer["max_model_len"]) == (2, 1600)
        assert (await client.post("/detokenize", json={"tokens": answer["tokens"]})).json() == {"prompt": "hello"}
        answer = (await client.post("/tokenize", json={"messages": [{"role": "user", "content": "hello"}]})).json()
        assert answer["count"] > 2
        metrics = await client.get("/metrics")
        assert metrics.headers["content-type"].startswith("text/plain")
        assert "vllm:num_requests_running" in metrics.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/chat/completions", 405), ("POST", "/health", 405), ("POST", "/v1/nothing", 404), ("GET", "/", 404)],
)
def test_other_paths_and_methods(method: str, path: str, status: int) -> None:
    @virtual_time
    async def run() -> None:
        async with SimEngine(FAST) as engine, httpx.AsyncClient(base_url=engine.url) as client:
            answer = await client.request(method, path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, status)

    run()


@virtual_time
async def test_the_request_id_becomes_part_of_both_ids() -> None:
    async with sim_pair() as pair:
        url = f"{pair.prefill.url}/v1/completions"
        body = {"prompt": "hi", "max_tokens": 1, "kv_transfer_params": {"do_remote_decode": True}}
        answer = (await pair.client.post(url, json=body, headers={"X-Request-Id": "abc"})).json()
        assert answer["id"] == "cmpl-abc"
        prefix, _, suffix = answer["kv_transfer_params"]["remote_request_id"].rpartition("-")
        assert (prefix, len(suffix), int(suffix, 16) >= 0) == ("cmpl-abc", 8, True)


@virtual_time
async def test_requests_are_counted_by_how_they_end() -> None:
    async with sim_pair(decode_step_s=1.0, time_scale=1.0) as pair:
        await pair.ask(pair.decode, chat(max_tokens=2))
        await pair.ask(pair.decode, chat(max_tokens=0))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3.5):
                await pair.ask(pair.decode, chat())
        await pair.quiet()
        pair.decode.core.die("test")
        await pair.ask(pair.decode, chat())
        totals = pair.decode.ledger.totals
        assert (totals.requests, totals.completed, totals.refused, totals.aborted, totals.failed) == (4, 1, 1, 1, 1)


@virtual_time
async def test_faults_of_requests() -> None:
    async with sim_pair() as pair:
        faults = pair.decode.faults
        faults.add(Fault("status", status=503, count=1), Fault("status", status=429, body="slow down", count=1))
        answer = await pair.ask(pair.decode, chat())
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, 503)
        answer = await pair.ask(pair.decode, chat())
        assert (answer.status_code, answer.text) == (429, "slow down")
        faults.add(Fault("empty_200", count=1), Fault("wrong_content_type", count=1))
        answer = await pair.ask(pair.decode, chat())
        assert (answer.status_code, answer.content) == (200, b"")
        answer = await pair.ask(pair.decode, chat())
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html")
        faults.add(Fault("reset", count=1))
        with pytest.raises(httpx.ReadError):
            await pair.ask(pair.decode, chat())
        assert text_of(await pair.ask(pair.decode, chat())) == right_text(chat())
        totals = pair.decode.ledger.totals
        assert (totals.arrived, totals.requests, totals.faults) == (6, 1, 5)


@virtual_time
async def test_a_hanging_request_is_outstanding_until_the_client_leaves() -> None:
    async with sim_pair() as pair:
        pair.decode.faults.add(Fault("hang", count=1))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1000):
                await pair.ask(pair.decode, chat())
        await pair.quiet()
        pair.decode.ledger.assert_quiet()
        assert pair.decode.ledger.totals.requests == 0


@virtual_time
async def test_a_delayed_request_starts_late_or_not_at_all() -> None:
    async with sim_pair() as pair:
        loop = asyncio.get_running_loop()
        pair.decode.faults.add(Fault("delay", delay_s=20))
        begun_s = loop.time()
        assert text_of(await pair.ask(pair.decode, chat())) == right_text(chat())
        assert loop.time() - begun_s == pytest.approx(20, abs=0.1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await pair.ask(pair.decode, chat())
        await asyncio.sleep(30)
        assert pair.decode.ledger.totals.requests == 1


@virtual_time
async def test_faults_by_http() -> None:
    async with sim_pair() as pair:
        url = f"{pair.decode.url}/sim/faults"
        fault = {"kind": "status", "status": 502, "count": 3, "path": "/health"}
        assert (await pair.client.post(url, json=[fault])).json() == {"added": 1}
        assert (await pair.client.get(f"{pair.decode.url}/health")).status_code == 502
        pending = (await pair.client.get(url)).json()
        assert (pending["happened"], pending["pending"][0]["count"]) == (1, 2)
        assert (await pair.client.post(url, json={"kind": "meteor"})).status_code == 400
        assert (await pair.client.post(url, content=b"{")).status_code == 400
        await pair.client.post(url, json={"kind": "freeze"})
        async with asyncio.TaskGroup() as group:
            answer = group.create_task(pair.ask(pair.decode, chat()))
            await asyncio.sleep(100)
            assert not answer.done()
            assert (await pair.client.delete(url)).json()["pending"] == []
        assert text_of(answer.result()) == right_text(chat())


@virtual_time
async def test_the_ledger_by_http() -> None:
    async with sim_pair() as pair:
        await pair.prefill_leg(chat())
        ledger = (await pair.client.get(f"{pair.prefill.url}/sim/ledger")).json()
        assert ledger["engine_id"] == pair.prefill.core.engine_id
        assert ledger["totals"]["issued"] == 1
        assert ledger["outstanding"] == pair.prefill.ledger.outstanding()
        assert ledger["outstanding"]["handoffs_open"] == 1


@virtual_time
async def test_bad_bodies_of_the_tokeniser_are_refused() -> None:
    async with SimEngine(FAST) as engine, httpx.AsyncClient(base_url=engine.url) as client:
        assert (await client.post("/tokenize", content=b"{")).status_code == 400
        assert (await client.post("/tokenize", json={})).status_code == 400
        assert (await client.post("/detokenize", json={"tokens": ["x"]})).status_code == 400
        answer = await client.post("/detokenize", json=[])
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, "The body must be an object.")


async def test_kv_events_are_where_the_engine_says_and_tell_of_a_reset(tmp_path: Path) -> None:
    config = replace(FAST, kv_events=f"ipc://{tmp_path}/e", kv_events_topic="kv")
    published: list[str] = []
    async with SimEngine(config) as engine, httpx.AsyncClient(base_url=engine.url) as client:
        source = (await client.get("/kv_event_sources")).json()["0"]
        assert (source["endpoint"], source["replay_endpoint"], source["topic"]) == (config.kv_events, None, "kv")
        assert engine.core._events is not None
        engine.core._events.publish = lambda events: published.extend(event["type"] for event in events)  # type: ignore[method-assign]
        for number in range(2):
            await client.post("/v1/completions", json={"model": "sim-8b", "prompt": f"{number}" * 80, "max_tokens": 1})
            assert (await client.post("/reset_prefix_cache")).status_code == 200
    assert published == ["BlockStored", "AllBlocksCleared", "BlockStored"]


async def test_without_events_there_is_no_source_and_a_cache_in_use_is_not_reset() -> None:
    slow = replace(FAST, time_scale=1, decode_step_s=60)
    async with SimEngine(slow) as engine, httpx.AsyncClient(base_url=engine.url) as client:
        assert (await client.get("/kv_event_sources")).json() == {}
        body = {"model": "sim-8b", "prompt": "1" * 80, "max_tokens": 9, "stream": True}
        async with client.stream("POST", "/v1/completions", json=body):
            assert (await client.post("/reset_prefix_cache")).status_code == 503
