"""Both gates of a request."""

from typing import Any

import orjson
import pytest

from router.sim import tokens
from router.sim.request import GenerationRequest, RequestError, admissible, parse, parse_body

CHAT: dict[str, Any] = {"model": "sim-8b", "messages": [{"role": "user", "content": "hi"}]}
PROMPT: dict[str, Any] = {"model": "sim-8b", "prompt": "hi"}


def test_chat() -> None:
    request = parse("chat", orjson.dumps(CHAT | {"stream": True, "stream_options": {"include_usage": True}, "n": 3}))
    assert request.prompts == (tokens.from_messages(CHAT["messages"]),)
    assert (request.stream, request.include_usage, request.n, request.max_tokens) == (True, True, 3, None)


@pytest.mark.parametrize(
    ("limits", "max_tokens"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7),
        ({"max_tokens": None}, None),
    ],
)
def test_the_token_limit_of_chat(limits: dict[str, Any], max_tokens: int | None) -> None:
    assert parse_body("chat", CHAT | limits).max_tokens == max_tokens


def test_completions_end_after_16_tokens_and_know_no_other_name_for_it() -> None:
    assert parse_body("completions", PROMPT).max_tokens == 16
    assert parse_body("completions", PROMPT | {"max_completion_tokens": 5}).max_tokens == 16
    assert parse_body("completions", PROMPT | {"max_tokens": 5}).max_tokens == 5


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("hello", (b"hello\0\0\0",)),
        (["a", "b"], (b"a\0\0\0", b"b\0\0\0")),
        ([1, 2], (b"\0\0\0\1\0\0\0\2",)),
        ([[1], [2]], (b"\0\0\0\1", b"\0\0\0\2")),
    ],
)
def test_every_form_of_prompt(prompt: object, prompts: tuple[bytes, ...]) -> None:
    assert parse_body("completions", {"prompt": prompt}).prompts == prompts


@pytest.mark.parametrize("prompt", [None, "", [], [""], [[]], [1, "a"], [-1], [2**32], 5, {}])
def test_an_empty_or_senseless_prompt_is_refused(prompt: object) -> None:
    with pytest.raises(RequestError) as refusal:
        parse_body("completions", {"prompt": prompt})
    assert (refusal.value.status, refusal.value.param) == (400, "prompt")


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"kv_transfer_params": "x"}, "dict_type", "kv_transfer_params"),
        ({"max_tokens": "x"}, "int_type", "max_tokens"),
        ({"n": True}, "int_type", "n"),
        ({"stream": "yes"}, "bool_type", "stream"),
        ({"temperature": "x"}, "float_type", "temperature"),
        ({"model": 3}, "string_type", "model"),
        ({"messages": {}}, "list_type", "messages"),
        ({"messages": ["x"]}, "dict_type", "0"),
        ({"messages": [{"content": "x"}]}, "string_type", "role"),
        ({"messages": [{"role": "user", "content": 3}]}, "string_type", "content"),
    ],
)
def test_wrong_types(change: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(RequestError, match=code) as refusal:
        parse_body("chat", CHAT | change)
    assert (refusal.value.status, refusal.value.param) == (400, param)


def test_stream_options_need_a_stream_and_a_salt_must_say_something() -> None:
    with pytest.raises(RequestError, match="Stream options"):
        parse_body("chat", CHAT | {"stream_options": {}})
    with pytest.raises(RequestError, match="cache_salt"):
        parse_body("chat", CHAT | {"cache_salt": ""})


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'"x"'])
def test_what_is_no_json_object(data: bytes) -> None:
    with pytest.raises(RequestError) as refusal:
        parse("chat", data)
    assert refusal.value.status == 400


def test_only_two_apis_are_known() -> None:
    with pytest.raises(ValueError, match="responses"):
        parse_body("responses", {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"model": "nope"}, 404, "The model `nope` does not exist. Valid aliases: sim-8b, sim."),
        ({"max_tokens": -3}, 400, "max_tokens must be at least 1, got -3. (parameter=max_tokens, value=-3)"),
        ({"max_tokens": 0}, 400, "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)"),
        ({"n": 0}, 400, "n must be between 1 and 16384, got 0. (parameter=n, value=0)"),
        ({"n": 20_000}, 400, "n must be between 1 and 16384, got 20000. (parameter=n, value=20000)"),
        (
            {"max_tokens": 2, "min_tokens": 3},
            400,
            "min_tokens must be at most max_tokens=2, got 3. (parameter=min_tokens, value=3)",
        ),
        (
            {"max_tokens": 100},
            400,
            "This model's maximum context length is 100 tokens, you requested 1 in the prompt, 100 in the answer.",
        ),
    ],
)
def test_limits(change: dict[str, Any], status: int, message: str) -> None:
    request = parse_body("completions", PROMPT | change)
    with pytest.raises(RequestError) as refusal:
        admissible(request, ("sim-8b", "sim"), 100)
    assert (refusal.value.status, refusal.value.message) == (status, message)


def test_what_just_fits_is_served() -> None:
    admissible(GenerationRequest("chat", "", (b"a" * 4 * 90,), max_tokens=10), ("sim-8b",), 100)
    admissible(GenerationRequest("chat", "sim-8b", (b"a" * 4 * 99,)), ("sim-8b",), 100)


def test_a_prompt_without_room_for_an_answer_is_refused() -> None:
    with pytest.raises(RequestError, match="maximum context length"):
        admissible(GenerationRequest("chat", "", (b"a" * 400,)), ("sim-8b",), 100)


def test_the_shape_of_errors() -> None:
    error = RequestError("No.", status=404, param="model")
    expected = {"error": {"message": "No.", "type": "NotFoundError", "param": "model", "code": 404}}
    assert orjson.loads(error.body()) == expected
    assert orjson.loads(RequestError("No.").body())["error"]["type"] == "BadRequestError"
    assert orjson.loads(RequestError("No.", status=500).body())["error"]["type"] == "InternalServerError"
