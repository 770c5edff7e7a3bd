"""Does a request go where it was said that it would? Over sockets, with simulated engines, by the command, too."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_novelty import AWARE, MODEL, answered, words
from tests.support.fleet import Site, engine, site


async def explained(here: Site, messages: list[dict[str, str]], **headers: str) -> dict[str, Any]:
    body = {"model": MODEL, "messages": messages, "max_tokens": 20}
    answer = await here.client.post(f"{here.gateway.ops_url}/explain", json=body, headers=headers)
    tree: dict[str, Any] = answer.json()
    return tree


async def test_chats_go_as_explained_turn_by_turn() -> None:
    prefill, decode = [engine("prefill") for _ in range(2)], [engine("decode") for _ in range(3)]
    async with site(*prefill, *decode, routing=AWARE | {"min_novel_tokens": 256}) as here:
        names = {one.url.removeprefix("http://"): one for one in (*prefill, *decode)}
        reasons = []
        for chat in range(3):
            messages = [{"role": "user", "content": words(800, f"chat {chat}")}]
            for turn in range(3):
                outcome = (await explained(here, messages))["outcome"]
                reasons.append(outcome["reason"])
                before = {name: one.ledger.totals.arrived for name, one in names.items()}
                text = await answered(here, messages)
                went = {name for name, one in names.items() if one.ledger.totals.arrived > before[name]}
                assert went == {outcome["decode"], outcome["prefill"]} - {None}
                messages += [
                    {"role": "assistant", "content": text},
                    {"role": "user", "content": words(40, f"turn {turn}")},
                ]
        assert reasons == 3 * ["novel_prompt", "continuation", "continuation"]
        assert await here.metric("pd_router_decisions_total") == 9


async def test_clients_are_told_nothing_of_it() -> None:
    async with site(engine("prefill"), engine("decode"), routing=AWARE) as here:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
        path = f"{here.url}/v1/chat/completions?explain=1"
        told = await here.client.post(path, json=body, headers={"x-explain": "1"})
        assert told.headers.keys() - {"date"} == {"content-type", "content-length", "x-request-id"}
        assert told.json().keys().isdisjoint({"outcome", "judgements", "picks"})
        assert (await here.client.post(f"{here.url}/explain", json=body)).status_code == 404


async def test_the_command_tells_what_the_gateway_does(tmp_path: Path) -> None:
    async with site(engine("prefill"), engine("decode"), routing=AWARE | {"min_novel_tokens": 256}) as here:
        body = {"model": MODEL, "messages": [{"role": "user", "content": words(800, "asked")}]}
        (tmp_path / "body.json").write_text(json.dumps(body))
        command = ("explain", str(tmp_path / "body.json"), "--ops", here.gateway.ops_url, "--session", "s")
        asked = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "router", *command, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await asked.communicate()
        decode = next(one for one in here.members if one.role == "decode").url.removeprefix("http://")
        assert asked.returncode == 0
        assert out.decode().splitlines()[0].endswith(f" -> {decode}")
        assert await here.metric("pd_router_requests_total") == 0


async def test_operators_need_no_key_of_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PD_ROUTER_API_KEY", "client-key")
    monkeypatch.setenv("OPS_TOKEN", "ops-token")
    body = {"model": MODEL, "messages": [{"role": "user", "content": words(20_000, "more than changes may say")}]}
    (tmp_path / "body.json").write_text(json.dumps(body))
    secret: dict[str, Any] = {"environ": os.environ, "ops": {"port": 0, "token_env": "OPS_TOKEN"}}
    async with site(engine("prefill"), engine("decode"), routing=AWARE, **secret) as here:
        command = ("explain", str(tmp_path / "body.json"), "--ops", here.gateway.ops_url, "--token-env", "OPS_TOKEN")
        asked = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "router", *command, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await asked.communicate()
        assert (asked.returncode, b" -> " in out) == (0, True)
        for key in ("client-key", "guess"):
            given = {"authorization": f"Bearer {key}"}
            told = await here.client.post(f"{here.gateway.ops_url}/explain", json=body, headers=given)
            assert told.status_code == 401
        assert (await here.client.post(f"{here.url}/v1/chat/completions", json=body)).status_code == 401


async def test_both_arms_of_a_comparison_are_timed() -> None:
    async with site(engine("prefill"), engine("decode")) as here:
        compared = {"mode": "disaggregated", "share": 0.5, "otherwise": "local"}
        await here.client.put(f"{here.gateway.ops_url}/routing", json=compared)
        for number in range(30):
            await answered(here, [{"role": "user", "content": words(50, str(number))}])
        routes = [await here.metric("pd_router_requests_total", route=way) for way in ("disaggregated", "local")]
        assert (sum(routes), min(routes) > 5) == (30, True), routes
        body = {"model": MODEL, "messages": [], "max_tokens": 3, "stream": True}
        for number in range(20):
            body["messages"] = [{"role": "user", "content": str(number)}]
            assert (await here.ask("/v1/chat/completions", body)).status_code == 200
        arms = [
            await here.metric("pd_router_arm_ttft_seconds_count", arm=arm) for arm in ("disaggregated", "local", "auto")
        ]
        assert (sum(arms), min(arms[:2]) > 2, arms[2]) == (20, True, 0), arms
