from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest

from router.app import Running, running
from router.settings.tree import Settings
from tests.support.builders import MODEL, a_body

ENGINES = [{"url": f"http://127.0.0.1:{port}", "role": role} for port, role in ((1, "prefill"), (2, "decode"))]
JSON = {"content-type": "application/json"}
CHAT = a_body()


@pytest.fixture
async def gateway() -> AsyncIterator[Running]:
    """A gateway whose engines nobody must ask."""
    settings = Settings.model_validate(
        {
            "listen": {"host": "127.0.0.1", "port": 0},
            "ops": {"port": 0},
            "backends": [engine | {"models": [MODEL]} for engine in ENGINES],
            "probes": {"interval_s": 3600, "down_interval_s": 3600},
            "edge": {"max_body_bytes": 4096, "max_json_depth": 8},
            "drain": {"drain_accept_s": 0, "drain_timeout_s": 1},
        }
    )
    async with running(settings) as serving:
        for backend in serving.app.fleet.backends:
            backend.standing.good_probe(0.0)
            backend.standing.good_probe(0.0)
        yield serving


async def post(url: str, path: str, body: bytes, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        return await client.post(path, content=body, headers=JSON | headers)


async def explain(gateway: Running, body: bytes = CHAT, query: str = "", **headers: str) -> httpx.Response:
    return await post(gateway.ops_url, f"/explain{query}", body, **headers)


async def test_a_chat_is_explained_and_not_sent(gateway: Running) -> None:
    answer = await explain(gateway, CHAT, "", **{"x-session-id": "s-1"})
    tree = answer.json()
    assert (answer.status_code, tree["outcome"]["decode"], tree["request"]["api"]) == (200, "127.0.0.1:2", "chat")
    assert (tree["outcome"]["reason"], tree["request"]["session"]) == ("short_prompt", "s-1")
    assert [backend.load.ever for backend in gateway.app.fleet.backends] == [0, 0]
    assert gateway.app.registry.get_sample_value(
        "pd_router_decisions_total", {"route": "local", "reason": "short_prompt"}
    ) in (None, 0)


async def test_a_completion_and_a_mode_can_be_asked_for(gateway: Running) -> None:
    body = orjson.dumps({"model": MODEL, "prompt": "Once"})
    tree = (await explain(gateway, body, "?api=completions&mode=disaggregated")).json()
    assert (tree["request"]["api"], tree["outcome"]["route"]) == ("completions", "disaggregated")
    assert tree["mode"]["of_this_request"] == "disaggregated"


BAD: list[tuple[bytes, dict[str, Any]]] = [
    (b"{", {}),
    (b"[]", {}),
    (b"[" * 20, {}),
    (a_body(model=""), {}),
    (a_body(model="another"), {}),
    (a_body(stream="yes"), {}),
    (a_body(kv_transfer_params={}), {}),
    (a_body(user="x" * 5000), {}),
    (a_body(), {"content-type": "text/plain"}),
    (a_body(), {"content-encoding": "gzip"}),
]


@pytest.mark.parametrize(("body", "headers"), BAD)
async def test_what_clients_are_refused_is_refused_in_the_same_words(
    gateway: Running, body: bytes, headers: dict[str, str]
) -> None:
    here = await explain(gateway, body, "", **headers)
    there = await post(gateway.data_url, "/v1/chat/completions", body, **headers)
    assert here.status_code == there.status_code >= 400
    assert here.json() == there.json()


@pytest.mark.parametrize(("query", "param"), [("?api=images", "api"), ("?mode=fast", "mode")])
async def test_what_cannot_be_asked_is_named(gateway: Running, query: str, param: str) -> None:
    answer = await explain(gateway, query=query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_operators_may_ask_and_pages_may_not(gateway: Running) -> None:
    assert (await explain(gateway, origin="http://elsewhere")).status_code == 403
    assert (await explain(gateway, host="rebound.example")).status_code == 403


async def test_clients_cannot_ask(gateway: Running) -> None:
    assert (await post(gateway.data_url, "/explain", a_body())).status_code == 404


async def test_only_post_is_taken(gateway: Running) -> None:
    async with httpx.AsyncClient(base_url=gateway.ops_url, trust_env=False) as client:
        assert (await client.get("/explain")).status_code == 405


async def test_no_memory_for_bodies_is_kept(gateway: Running) -> None:
    for body in (a_body(), b"{", a_body(user="x" * 5000)):
        await explain(gateway, body)
    limits = gateway.app.data.__dict__["_limits"]
    assert limits.bodies.held_bytes == 0
