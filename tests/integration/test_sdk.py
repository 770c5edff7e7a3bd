"""The OpenAI SDK against the gateway: what it asks for comes back, right and by way of a hand-over."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from router.sim.text import reference_text
from tests.support.fleet import Site, engine, site

MODEL = "sim-8b"
MESSAGES: list[Any] = [{"role": "user", "content": "Why are there two pools of engines? " * 20}]
CHAT: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "max_tokens": 24}
COMPLETION: dict[str, Any] = {"model": MODEL, "prompt": "Two pools are better than one, " * 20, "max_tokens": 24}


@pytest.fixture
async def here() -> AsyncIterator[Site]:
    """One prefill and one decode engine."""
    async with site(engine("prefill"), engine("decode")) as here:
        yield here


@pytest.fixture
async def sdk(here: Site) -> AsyncIterator[openai.AsyncOpenAI]:
    """The SDK as a user makes it, but for retries, which would hide failures."""
    async with openai.AsyncOpenAI(base_url=f"{here.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


async def handed_over(here: Site) -> tuple[int, int]:
    """Hand-overs that the prefill engine gave out, and of these the ones that were pulled once."""
    ledger = (await here.client.get(f"{here.members[0].url}/sim/ledger")).json()
    assert ledger["totals"]["pulled_again"] == ledger["totals"]["expired"] == 0
    return ledger["totals"]["issued"], ledger["totals"]["pulled"]


async def test_a_chat(here: Site, sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.chat.completions.create(**CHAT)
    expected = reference_text(MODEL, "chat", CHAT)
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].finish_reason == expected.finish_reason
    assert answer.usage is not None
    assert answer.usage.completion_tokens == expected.completion_tokens
    assert answer.usage.prompt_tokens == expected.prompt_tokens
    assert "kv_transfer_params" not in (answer.model_extra or {})
    assert await handed_over(here) == (1, 1)


async def test_a_key_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PD_ROUTER_API_KEY", "right")
    async with site(engine("prefill"), engine("decode")) as here:
        for key, allowed in (("right", True), ("wrong", False)):
            async with openai.AsyncOpenAI(base_url=f"{here.url}/v1", api_key=key, max_retries=0) as sdk:
                if allowed:
                    await sdk.chat.completions.create(**CHAT)
                    assert [model.id async for model in sdk.models.list()] == [MODEL]
                else:
                    with pytest.raises(openai.AuthenticationError) as caught:
                        await sdk.chat.completions.create(**CHAT)
                    assert caught.value.code == "invalid_api_key"
        assert await handed_over(here) == (1, 1)


async def test_a_streamed_chat_with_its_usage(here: Site, sdk: openai.AsyncOpenAI) -> None:
    stream = await sdk.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    expected = reference_text(MODEL, "chat", CHAT)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == expected.text
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == expected.finish_reason
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == expected.completion_tokens
    assert await handed_over(here) == (1, 1)


async def test_a_stream_has_no_usage_that_was_not_asked_for(sdk: openai.AsyncOpenAI) -> None:
    stream = await sdk.chat.completions.create(**CHAT, stream=True)
    assert [chunk.usage async for chunk in stream if chunk.usage or not chunk.choices] == []


async def test_completions(here: Site, sdk: openai.AsyncOpenAI) -> None:
    expected = reference_text(MODEL, "completions", COMPLETION)
    answer = await sdk.completions.create(**COMPLETION)
    assert answer.choices[0].text == expected.text
    stream = await sdk.completions.create(**COMPLETION, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == expected.text
    assert await handed_over(here) == (2, 2)


async def test_several_choices_come_from_one_engine(here: Site, sdk: openai.AsyncOpenAI) -> None:
    expected = [choice.text for choice in reference_text(MODEL, "chat", CHAT | {"n": 3}).choices]
    answer = await sdk.chat.completions.create(**CHAT, n=3)
    assert [choice.message.content for choice in answer.choices] == expected
    texts = ["", "", ""]
    async for chunk in await sdk.chat.completions.create(**CHAT, n=3, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == expected
    assert await handed_over(here) == (0, 0)
    assert await here.metric("pd_router_decisions_total", reason="not_disaggregatable") == 2


async def test_without_a_limit_the_engine_stops_by_itself(here: Site, sdk: openai.AsyncOpenAI) -> None:
    body = {"model": MODEL, "messages": MESSAGES}
    expected = reference_text(MODEL, "chat", body)
    answer = await sdk.chat.completions.create(model=MODEL, messages=MESSAGES, stop=["\n\n"])
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (expected.text, "stop")
    assert await handed_over(here) == (1, 1)


async def test_the_new_name_of_the_limit(here: Site, sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.chat.completions.create(model=MODEL, messages=MESSAGES, max_completion_tokens=7)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 7
    assert await handed_over(here) == (1, 1)


async def test_the_synchronous_client(here: Site) -> None:
    def ask() -> tuple[str | None, str]:
        with openai.OpenAI(base_url=f"{here.url}/v1", api_key="none", max_retries=0) as sdk:
            whole = sdk.chat.completions.create(**CHAT).choices[0].message.content
            stream = sdk.chat.completions.create(**CHAT, stream=True)
            return whole, "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    expected = reference_text(MODEL, "chat", CHAT).text
    assert await asyncio.to_thread(ask) == (expected, expected)
    assert await handed_over(here) == (2, 2)


async def test_models(here: Site, sdk: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in sdk.models.list()] == [MODEL]
    assert (await sdk.models.retrieve(MODEL)).id == MODEL
    with pytest.raises(openai.NotFoundError):
        await sdk.models.retrieve("another")


async def test_an_unknown_model(here: Site, sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="another") as caught:
        await sdk.chat.completions.create(model="another", messages=MESSAGES)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert await handed_over(here) == (0, 0)


@pytest.mark.parametrize(
    ("fault", "param"),
    [({"temperature": "hot"}, "temperature"), ({"max_tokens": 0}, "max_tokens"), ({"model": ""}, "model")],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_bad_body(here: Site, sdk: openai.AsyncOpenAI, fault: dict[str, Any], param: str, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.chat.completions.create(**(CHAT | fault), stream=stream)
    assert caught.value.param == param
    assert (await handed_over(here))[1] == 0


@pytest.mark.parametrize("field", ["kv_transfer_params", "priority", "cache_salt", "bootstrap_host"])
async def test_fields_that_steer_engines_are_refused_by_name(here: Site, sdk: openai.AsyncOpenAI, field: str) -> None:
    with pytest.raises(openai.BadRequestError, match=field) as caught:
        await sdk.chat.completions.create(**CHAT, extra_body={field: {"do_remote_prefill": True}})
    assert caught.value.param == field
    assert await handed_over(here) == (0, 0)
