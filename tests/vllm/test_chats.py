"""Chats: from the second turn on, decode holds the conversation, and computes what is new of it by itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from tests.support.openai_sdk import random_prompt, sdk
from tests.support.vllm_fleet import Engines, gateway_process

pytestmark = pytest.mark.timeout(180, func_only=True)

BLOCK_TOKENS = 128
"""Of the engines on a CPU; what does not fill one is computed again."""

TURNS = 5


@pytest.fixture(scope="module")
def by_novelty(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    """The SDK on a gateway that hands over what is new in 256 tokens or more."""
    log: Path = tmp_path_factory.mktemp("chats") / "gateway.log"
    rules = {"ROUTING__MIN_NOVEL_TOKENS": "256"}
    with gateway_process(engines.prefill.url, engines.decode.url, log, **rules) as gateway, sdk(gateway.url) as client:
        yield client


@pytest.mark.parametrize("chat", ["Ann", "Bob", "Cleo"])
def test_later_turns_go_straight_to_decode_which_computes_the_suffix_only(
    chat: str, engines: Engines, by_novelty: OpenAI
) -> None:
    messages: list[ChatCompletionMessageParam] = []
    before_tokens = 0
    for turn in range(TURNS):
        messages.append({"role": "user", "content": random_prompt(20 if turn else 300, f"{chat} {turn}")})
        prefill, decode = engines.prefill.prompt_tokens(), engines.decode.prompt_tokens()
        answer = by_novelty.chat.completions.create(model="tiny", messages=messages, max_tokens=16, temperature=0)
        assert answer.usage is not None
        messages.append({"role": "assistant", "content": answer.choices[0].message.content or ""})
        tokens = answer.usage.prompt_tokens
        grown = engines.decode.prompt_tokens_since(decode, expected=tokens)
        on_prefill = engines.prefill.prompt_tokens() - prefill
        if turn == 0:
            assert (grown.computed, on_prefill.total) == (0, tokens), "a new prompt is handed over"
            assert tokens > 800
        else:
            assert (grown.pulled, on_prefill.total) == (0, 0), "nobody but decode hears of it"
            assert grown.computed <= tokens - before_tokens + BLOCK_TOKENS
            assert grown.cached > tokens / 2
        before_tokens = tokens
