"""Is a disaggregated answer the one that a single engine gives, and was its prompt computed only once?"""

from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.support.openai_sdk import Kind, Question, ask, random_prompt
from tests.support.vllm_fleet import Engines, Gateway

pytestmark = pytest.mark.timeout(60, func_only=True)

PROMPT_WORDS = (1, 3, 10, 35, 80, 160, 320, 600, 850, 1050)
SMALLEST_TOKENS, LARGEST_TOKENS = 3, 3500

CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 6}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "schema": CITY}}

PATHS: dict[Kind, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


def test_the_prompts_reach_from_a_few_tokens_to_most_of_the_context(engines: Engines) -> None:
    def tokens(words: int) -> int:
        body = {"model": "tiny", "prompt": random_prompt(words, f"completions-False-{words}")}
        return int(httpx.post(f"{engines.reference.url}/tokenize", json=body).json()["count"])

    assert tokens(PROMPT_WORDS[0]) <= SMALLEST_TOKENS
    assert tokens(PROMPT_WORDS[-1]) >= LARGEST_TOKENS


@pytest.mark.parametrize("words", PROMPT_WORDS)
@pytest.mark.parametrize("stream", [False, True], ids=["complete", "stream"])
@pytest.mark.parametrize("kind", ["chat", "completions"])
def test_greedy_text_is_equal_and_decode_computes_no_prompt_token(
    engines: Engines, client: OpenAI, plain: OpenAI, kind: Kind, stream: bool, words: int
) -> None:
    question = Question(kind, random_prompt(words, f"{kind}-{stream}-{words}"))
    before = engines.decode.prompt_tokens()
    answer = ask(client, "tiny", question, stream=stream)
    decode = engines.decode.prompt_tokens_since(before, answer.prompt_tokens)
    assert decode.computed == 0
    assert decode.pulled + decode.cached == answer.prompt_tokens
    assert engines.at_rest()
    assert answer == ask(plain, "tiny", question)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("chat", {"stop": ["e"]}),
        ("completions", {"stop": ["e", "a"], "include_stop_str_in_output": True}),
        ("chat", {"logprobs": True, "top_logprobs": 3}),
        ("completions", {"logprobs": 3}),
        ("completions", {"echo": True}),
        ("chat", {"tools": [TOOL], "tool_choice": "none"}),
        ("chat", {"response_format": SCHEMA, "max_tokens": 40}),
        ("completions", {"response_format": SCHEMA, "max_tokens": 40}),
        ("chat", {"presence_penalty": 1.5, "repetition_penalty": 1.2, "logit_bias": {"300": 5}}),
        ("chat", {"temperature": 0.9, "top_p": 0.9, "seed": 11}),
        ("chat", {"min_tokens": 20, "stop": ["e"]}),
        ("chat", {"max_tokens": None, "max_completion_tokens": 7}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_options_of_a_request_mean_the_same_on_two_engines(
    engines: Engines, gateway: Gateway, kind: Kind, fields: dict[str, Any]
) -> None:
    body = _body(kind, fields)
    before = engines.decode.prompt_tokens()
    answer = _post(gateway.url, kind, body)
    decode = engines.decode.prompt_tokens_since(before, answer["usage"]["prompt_tokens"])
    assert decode.computed == 0
    assert decode.pulled + decode.cached == answer["usage"]["prompt_tokens"]
    assert engines.at_rest()
    assert answer["choices"] == _post(engines.reference.url, kind, body)["choices"]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("chat", {"n": 2, "temperature": 0.8, "seed": 3}),
        ("completions", {"n": 2, "temperature": 0.8, "seed": 3}),
        ("completions", {"echo": True, "logprobs": 2}),
        ("completions", {"prompt": ["one river", "two stones, and a third one"]}),
        ("chat", {"max_tokens": 1}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_what_cannot_be_split_is_answered_by_one_engine(
    engines: Engines, gateway: Gateway, kind: Kind, fields: dict[str, Any]
) -> None:
    body = _body(kind, fields)
    before = engines.prefill.prompt_tokens()
    answer = _post(gateway.url, kind, body)
    assert answer["choices"] == _post(engines.reference.url, kind, body)["choices"]
    assert len(answer["choices"]) == (2 if "n" in fields or "prompt" in fields else 1)
    assert engines.at_rest()
    assert engines.prefill.prompt_tokens() == before


def _body(kind: Kind, fields: dict[str, Any]) -> dict[str, Any]:
    prompt = random_prompt(60, f"{kind}-{sorted(fields)}")
    asked = {"messages": [{"role": "user", "content": prompt}]} if kind == "chat" else {"prompt": prompt}
    return {"model": "tiny", "temperature": 0, "max_tokens": 24, **asked, **fields}


def _post(url: str, kind: Kind, body: dict[str, Any]) -> dict[str, Any]:
    answer = httpx.post(url + PATHS[kind], json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    parsed: dict[str, Any] = answer.json()
    return parsed
