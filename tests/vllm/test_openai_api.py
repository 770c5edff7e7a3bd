"""Does the OpenAI SDK find what it expects: models, errors, several requests at once?"""

import asyncio

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.support.openai_sdk import Question, ask, random_prompt
from tests.support.vllm_fleet import Engines, Gateway

pytestmark = pytest.mark.timeout(60, func_only=True)

MAX_MODEL_LEN_TOKENS = 4096


def test_models_tell_their_context(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "tiny"
    assert model.model_extra is not None
    assert model.model_extra["max_model_len"] == MAX_MODEL_LEN_TOKENS
    assert client.models.retrieve("tiny").id == "tiny"


def test_a_model_that_nobody_serves_is_not_found(client: OpenAI, gateway: Gateway) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="nope", messages=[{"role": "user", "content": "Hello"}])
    assert refused.value.param == "model"
    assert refused.value.code == "model_not_found"
    answer = httpx.get(f"{gateway.url}/v1/models/nope")
    assert answer.status_code == 404
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


def test_a_prompt_beyond_the_context_is_the_engines_refusal(engines: Engines, client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=str(MAX_MODEL_LEN_TOKENS)):
        ask(client, "tiny", Question("chat", random_prompt(1500, "too long")))
    assert engines.at_rest()


async def test_several_requests_at_once_do_not_mix(engines: Engines, gateway: Gateway, plain: OpenAI) -> None:
    questions = [Question("chat", random_prompt(20 * i, f"at-once-{i}"), max_tokens=24) for i in range(1, 13)]
    before = engines.decode.prompt_tokens()
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        texts = await asyncio.gather(
            *(_text(client, question, stream=i % 2 == 0) for i, question in enumerate(questions))
        )
    decode = await asyncio.to_thread(engines.decode.prompt_tokens_since, before, 1)
    assert decode.computed == 0
    assert await asyncio.to_thread(engines.at_rest)
    for question, text in zip(questions, texts, strict=True):
        expected = await asyncio.to_thread(ask, plain, "tiny", question)
        assert text == expected.text


async def _text(client: AsyncOpenAI, question: Question, *, stream: bool) -> str:
    if not stream:
        answer = await client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": question.prompt}],
            max_tokens=question.max_tokens,
            temperature=0,
        )
        return answer.choices[0].message.content or ""
    events = await client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": question.prompt}],
        max_tokens=question.max_tokens,
        temperature=0,
        stream=True,
    )
    return "".join([choice.delta.content or "" async for event in events for choice in event.choices])
