"""Do the engines hold KV for nobody? Whenever a request ends, in whatever phase, both are empty within 2 s.

Left alone, the prefill engine would keep the blocks of a hand-over that nobody takes for its lease of 30 s.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.support.holding_proxy import Direction, holding_proxy
from tests.support.openai_sdk import random_prompt
from tests.support.vllm_fleet import Engines, Gateway, gateway_process, until

pytestmark = pytest.mark.timeout(120, func_only=True)

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
LONG_WORDS = 1050
"""Prompts of 3,500 tokens: long enough in prefill to be left there."""


LEASE_S = 30


@pytest.fixture(autouse=True)
def _at_rest_before(engines: Engines) -> None:
    """What another test left to its lease is not this one's fault."""
    assert until(lambda: not (engines.prefill.kv_usage or engines.decode.kv_usage), LEASE_S + 10)


@pytest.fixture
async def http(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """A client that closes its connection when a request is cancelled."""
    async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as opened:
        yield opened


def chat(words: int, seed: str, **fields: Any) -> dict[str, Any]:
    """A chat request."""
    messages = [{"role": "user", "content": random_prompt(words, seed)}]
    return {"model": "tiny", "messages": messages, "max_tokens": 100, "temperature": 0, **fields}


async def leave(request: "asyncio.Task[Any]") -> None:
    """The client gives its request up."""
    request.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await request


async def test_clients_leave_during_prefill(engines: Engines, gateway: Gateway, http: httpx.AsyncClient) -> None:
    clients = 6
    before = engines.decode.prompt_tokens()
    gone = gateway.count("requests_total", "outcome").get("client_gone", 0)
    async with asyncio.TaskGroup() as group:
        bodies = [chat(LONG_WORDS, f"prefill-{i}") for i in range(clients)]
        requests = [group.create_task(http.post(CHAT, json=body)) for body in bodies]
        while gateway.count("inflight_requests", "pool").get("prefill", 0) < clients:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for request in requests:
            request.cancel()
    assert engines.at_rest()
    assert engines.decode.prompt_tokens() == before
    assert gateway.count("requests_total", "outcome")["client_gone"] == gone + clients


@pytest.mark.parametrize(
    ("direction", "word"),
    [("from_engine", b'"remote_block_ids"'), ("to_engine", b'"remote_block_ids"')],
    ids=["prefill_answers", "decode_is_asked"],
)
async def test_client_leaves_between_the_legs(
    engines: Engines, gateway: Gateway, tmp_path_factory: pytest.TempPathFactory, direction: Direction, word: bytes
) -> None:
    del gateway  # only so that the pair has met before; this test has a gateway of its own
    held_engine = engines.prefill if direction == "from_engine" else engines.decode
    log = tmp_path_factory.mktemp("between") / "gateway.log"
    async with contextlib.AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(holding_proxy(held_engine.url, direction, word))
        urls = {engines.prefill.url: engines.prefill.url, engines.decode.url: engines.decode.url}
        urls[held_engine.url] = proxy.url
        process = gateway_process(urls[engines.prefill.url], urls[engines.decode.url], log)
        gateway = await asyncio.to_thread(process.__enter__)
        stack.push_async_callback(asyncio.to_thread, process.__exit__, None, None, None)
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=gateway.url, timeout=60))
        async with asyncio.TaskGroup() as group:
            request = group.create_task(http.post(CHAT, json=chat(60, f"between-{direction}")))
            await proxy.held.wait()
            assert engines.prefill.kv_usage > 0
            await leave(request)
            await asyncio.sleep(0.03)  # the gateway learns of it first, as far as a busy machine lets it
            proxy.go.set()
        assert await asyncio.to_thread(engines.at_rest), log.read_text()


async def test_client_leaves_while_decode_streams(engines: Engines, http: httpx.AsyncClient) -> None:
    body = chat(80, "decode", stream=True, max_tokens=2000, ignore_eos=True)
    async with http.stream("POST", CHAT, json=body) as answer:
        events = answer.aiter_lines()
        for _ in range(6):
            await anext(events)
        assert await asyncio.to_thread(until, lambda: engines.decode.running == 1)
    assert await asyncio.to_thread(engines.at_rest)


async def test_clients_leave_at_any_moment(engines: Engines, http: httpx.AsyncClient) -> None:
    """Moments from before prefill until decode, 4 ms apart, on a prompt that takes about 100 ms to its first token.

    On a machine so busy that prefill takes as long as a leg is seen off, one may be closed upon as it ends.
    """
    left, expired = 0, engines.prefill.expired
    for step in range(40):
        async with asyncio.TaskGroup() as group:
            request = group.create_task(http.post(CHAT, json=chat(120, f"moment-{step}", max_tokens=40)))
            await asyncio.sleep(0.004 * step)
            left += not request.done()
            await leave(request)
    assert left > 20
    if not await asyncio.to_thread(engines.at_rest):
        assert await asyncio.to_thread(until, lambda: not engines.prefill.kv_usage, LEASE_S + 10)
        assert engines.prefill.expired - expired == 1


MALFORMED = {"stream": True, "stream_options": {"include_usage": "maybe"}}
TOO_MANY_TOKENS = {"max_tokens": 5000}


@pytest.mark.parametrize("fields", [MALFORMED, TOO_MANY_TOKENS], ids=["malformed", "too_many_tokens"])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_only_decode_refuses(engines: Engines, gateway: Gateway, path: str, fields: dict[str, Any]) -> None:
    refused_by_decode(engines, gateway, path, fields)


def refused_by_decode(engines: Engines, gateway: Gateway, path: str, fields: dict[str, Any]) -> None:
    """A request whose prefill leg hides what decode will refuse: the prompt is computed before anybody hears of it."""
    prompt = random_prompt(60, f"{path}-{fields}-{engines.decode.prompt_tokens()}")
    asked = {"messages": [{"role": "user", "content": prompt}]} if path == CHAT else {"prompt": prompt}
    before = engines.prefill.prompt_tokens()
    answer = httpx.post(gateway.url + path, json={"model": "tiny", **asked, **fields}, timeout=60)
    assert engines.at_rest()
    assert answer.status_code == 400
    assert {"message", "type", "param", "code"} <= answer.json()["error"].keys()
    assert engines.prefill.prompt_tokens_since(before, 1).total > 0
