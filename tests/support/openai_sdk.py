"""Asking through the OpenAI SDK, as users do: one function over both APIs, streamed or not."""

import random
from dataclasses import dataclass
from typing import Literal

from openai import OpenAI
from openai.types.completion_usage import CompletionUsage

Kind = Literal["chat", "completions"]

WORDS = ("river", "stone", "market", "garden", "winter", "letter", "engine", "silver", "bridge", "paper", "cloud")


@dataclass(frozen=True)
class Answer:
    """What a user gets to see."""

    text: str
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Question:
    """A greedy request."""

    kind: Kind
    prompt: str
    max_tokens: int = 32


def sdk(url: str) -> OpenAI:
    """A client that does not try again: every failure shows."""
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)


def random_prompt(words: int, seed: str) -> str:
    """A prompt that shares no block of KV with those of other seeds."""
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def ask(client: OpenAI, model: str, question: Question, *, stream: bool = False) -> Answer:
    """The answer to a question; of a stream all events taken together."""
    if question.kind == "chat":
        return (_chat_stream if stream else _chat)(client, model, question)
    return (_completion_stream if stream else _completion)(client, model, question)


def _chat(client: OpenAI, model: str, question: Question) -> Answer:
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question.prompt}],
        max_tokens=question.max_tokens,
        temperature=0,
    )
    return _answer(answer.choices[0].message.content or "", answer.choices[0].finish_reason, answer.usage)


def _chat_stream(client: OpenAI, model: str, question: Question) -> Answer:
    text, reason, usage = "", None, None
    for chunk in client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question.prompt}],
        max_tokens=question.max_tokens,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    return _answer(text, reason, usage)


def _completion(client: OpenAI, model: str, question: Question) -> Answer:
    answer = client.completions.create(
        model=model, prompt=question.prompt, max_tokens=question.max_tokens, temperature=0
    )
    return _answer(answer.choices[0].text, answer.choices[0].finish_reason, answer.usage)


def _completion_stream(client: OpenAI, model: str, question: Question) -> Answer:
    text, usage = "", None
    reason: str | None = None
    for chunk in client.completions.create(
        model=model,
        prompt=question.prompt,
        max_tokens=question.max_tokens,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.text
            reason = choice.finish_reason
    return _answer(text, reason, usage)


def _answer(text: str, reason: str | None, usage: CompletionUsage | None) -> Answer:
    assert usage is not None, "no usage was sent"
    return Answer(text, reason, usage.prompt_tokens, usage.completion_tokens)
