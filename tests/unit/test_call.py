import json
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.call import ENGINE_FIELDS, Api, Call, Trace, parse, understand
from router.errors import InvalidRequest, TooLarge
from router.json_bounds import JsonBounds
from tests.support.builders import a_body, a_call, a_completion

TRACE = Trace("r-1")

INTEGERS = st.integers(-(2**63) + 1, 2**63 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.floats(-1e18, 1e18) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.text() | st.sampled_from([*ENGINE_FIELDS, "bootstrap_room", "n", "messages", "prompt", "stop", "max_tokens"])
BODIES = st.dictionaries(NAMES, JSON, max_size=8)


def is_engine_field(name: str) -> bool:
    return name in ENGINE_FIELDS or name.startswith("bootstrap_")


def refusal(raw: bytes, api: Api = Api.CHAT) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(api, raw, TRACE)
    return caught.value


# What travels


@given(BODIES, st.sampled_from(Api))
def test_stripped_of_engine_fields_everything_else_travels_unchanged(body: dict[str, Any], api: Api) -> None:
    body |= {"model": "m", "stream": False}
    call = parse(api, orjson.dumps(body), TRACE, strip_engine_fields=True)
    assert call.body == orjson.dumps({k: v for k, v in body.items() if not is_engine_field(k)})
    assert call.fields == orjson.loads(call.body)


@given(BODIES, st.sampled_from(Api))
def test_any_object_is_a_call_or_an_invalid_request(body: dict[str, Any], api: Api) -> None:
    try:
        call = parse(api, orjson.dumps(body), TRACE)
    except InvalidRequest:
        return
    assert not any(map(is_engine_field, call.fields))
    assert call.prompt_tokens >= 0


@given(st.binary(max_size=64))
def test_any_bytes_are_a_call_or_an_invalid_request(raw: bytes) -> None:
    with suppress(InvalidRequest):
        parse(Api.CHAT, raw, TRACE)


def test_a_repeated_key_leaves_one_view_of_the_request() -> None:
    call = parse(Api.CHAT, b'{"model":"a","stream":false,"model":"b"}', TRACE)
    assert (call.model, call.body) == ("b", b'{"model":"b","stream":false}')


# What is refused


@pytest.mark.parametrize("name", [*sorted(ENGINE_FIELDS), "bootstrap_host", "bootstrap_room"])
def test_an_engine_field_is_refused_by_name(name: str) -> None:
    error = refusal(a_body(**{name: None}))
    assert (error.param, name in error.message) == (name, True)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"\xff", b"{'model': 'm'}", b'{"model":"m","x":NaN}', b'\xef\xbb\xbf{"a":1}']
)
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    assert "not valid JSON" in refusal(raw).message


@pytest.mark.parametrize("raw", [b"null", b"[]", b'"model"', b"1"])
def test_what_is_not_an_object_is_refused(raw: bytes) -> None:
    assert "must be a JSON object" in refusal(raw).message


@pytest.mark.parametrize("model", [None, "", 1, ["m"], {}])
def test_a_model_is_a_non_empty_string(model: object) -> None:
    assert refusal(a_body(model=model)).param == "model"


def test_a_model_must_be_there() -> None:
    assert refusal(b"{}").param == "model"


@pytest.mark.parametrize("stream", ["true", 1, 0, []])
def test_stream_is_true_or_false(stream: object) -> None:
    assert refusal(a_body(stream=stream)).param == "stream"


@pytest.mark.parametrize(
    "nested",
    [
        b'{"model":"m","prompt":"x","metadata":%b1%b}' % (b"[" * 300, b"]" * 300),
        b'{"model":"m","prompt":%b"x"%b}' % (b"[" * 1000, b"]" * 1000),
        b'{"model":"m","messages":[{"content":%b1%b}]}' % (b'[{"text":' * 500, b"}]" * 500),
    ],
    ids=["field", "prompt", "message"],
)
@pytest.mark.parametrize("api", Api)
def test_nesting_deeper_than_can_be_sent_on_is_refused(nested: bytes, api: Api) -> None:
    assert "nested too deeply" in refusal(nested, api).message


def test_nesting_within_the_bound_travels() -> None:
    raw = b'{"model":"m","prompt":%b"abcdefgh"%b}' % (b"[" * 63, b"]" * 63)
    assert parse(Api.COMPLETIONS, raw, TRACE).body == raw


def test_bounds_are_those_given() -> None:
    with pytest.raises(TooLarge, match="more than 3 JSON values"):
        parse(Api.CHAT, b'{"model":"m","messages":[],"stop":[1]}', TRACE, bounds=JsonBounds(max_values=3))


@pytest.mark.parametrize(
    "number", ["9223372036854775808", "-9223372036854775809", "18446744073709551616", "1e300", "1" + "0" * 300]
)
@pytest.mark.parametrize("name", ["max_tokens", "seed", "a_field_of_tomorrow"])
def test_a_number_that_would_change_on_its_way_is_refused_by_name(name: str, number: str) -> None:
    assert refusal(b'{"model":"m","%b":%b}' % (name.encode(), number.encode())).param == name


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63) + 1, 1e18])
def test_the_largest_numbers_travel(number: float) -> None:
    assert orjson.loads(a_call(seed=number).body)["seed"] == number


# One view: engines read with the standard library or with orjson, and see what the gateway saw

ESCAPED = st.text().map(lambda text: "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else c for c in text))
STRINGS = st.text().map(lambda text: json.dumps(text)) | ESCAPED.map(lambda text: f'"{text}"')
SCALARS = STRINGS | JSON.filter(lambda value: not isinstance(value, dict | list)).map(json.dumps)


def _object(members: list[tuple[str, str]]) -> str:
    return "{" + " ,".join(f"{name} : {value}" for name, value in members) + "}"


TEXTS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: "[ " + ",".join(items) + "]")
        | st.lists(st.tuples(STRINGS | st.just('"role"'), inner), max_size=4).map(_object)
    ),
    max_leaves=12,
)
"""JSON as a client may write it: repeated keys, escapes, spaces."""

MEMBERS = st.lists(
    st.tuples(st.sampled_from(['"messages"', '"prompt"', '"tools"', '"m\\u006fdel"', '"n"', '"stop"']), TEXTS),
    max_size=6,
)


@given(MEMBERS, st.sampled_from(Api))
def test_engines_see_what_the_gateway_saw(members: list[tuple[str, str]], api: Api) -> None:
    raw = _object([('"stream"', "true"), *members, ('"model"', '"m"'), ('"stream"', "false")]).encode()
    call = parse(api, raw, TRACE)
    assert orjson.loads(call.body) == json.loads(call.body) == json.loads(raw) == call.fields
    assert call.body == orjson.dumps(orjson.loads(raw))


# The facts


def test_a_plain_chat_request_is_read() -> None:
    call = a_call(stream=True, stream_options={"include_usage": True})
    assert (call.model, call.stream, call.include_usage, call.max_tokens) == ("sim-8b", True, True, 20)
    assert (call.api, call.trace.request_id, call.undisaggregatable) == (Api.CHAT, "r-1", None)


def test_an_absent_or_null_stream_is_none() -> None:
    assert [a_call().stream, a_call(stream=None).stream, a_call(stream=False).stream] == [False] * 3


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": 1}, [], "include_usage"])
def test_usage_is_included_only_where_asked_for(options: object) -> None:
    assert a_call(stream=True, stream_options=options).include_usage is False


def test_the_smallest_token_limit_counts() -> None:
    assert a_call(max_tokens=20, max_completion_tokens=7).max_tokens == 7


@pytest.mark.parametrize("limit", [None, "20", 2.5, True, -1])
def test_a_limit_that_is_no_count_is_none(limit: object) -> None:
    assert a_call(max_tokens=limit).max_tokens is None


def test_paths_and_labels_of_the_apis() -> None:
    assert [(api.value, api.label) for api in Api] == [
        ("/v1/chat/completions", "chat"),
        ("/v1/completions", "completions"),
    ]


def test_prompt_and_body_are_not_shown() -> None:
    assert "two pools" not in repr(a_call())


# Prompt tokens


def chat_tokens(content: object, **fields: Any) -> int:
    return a_call(messages=[{"role": "user", "content": content}], **fields).prompt_tokens


def test_four_bytes_of_text_are_a_token_and_each_message_costs_four() -> None:
    assert chat_tokens("a" * 400) == 104
    assert a_call(messages=[{"content": "a" * 40}, {"content": "a" * 40}]).prompt_tokens == 28


def test_text_is_counted_as_utf_8() -> None:
    assert chat_tokens("\u6f22" * 400) == 304


def test_text_parts_count_and_images_do_not() -> None:
    parts = [{"type": "text", "text": "a" * 80}, {"type": "image_url", "image_url": {"url": "data:" + "A" * 9000}}]
    assert chat_tokens(parts) == 24


def test_tools_are_part_of_the_prompt() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "a" * 400}}]
    assert chat_tokens("a" * 40, tools=tools) == 14 + len(orjson.dumps(tools)) // 4


def test_token_ids_are_counted_exactly() -> None:
    assert a_completion(prompt=[5, 6, 7]).prompt_tokens == 3
    assert a_completion(prompt=[[5, 6], [7]]).prompt_tokens == 3


def test_several_prompts_add_up() -> None:
    assert a_completion(prompt=["a" * 40, "a" * 80]).prompt_tokens == 30


@pytest.mark.parametrize("content", [None, 5, {}, [], [None], ["text"], [{"text": 5}]])
def test_content_without_text_counts_as_none(content: object) -> None:
    assert chat_tokens(content) == 4


# What forbids two engines


def obstacle(call: Call) -> str | None:
    return call.undisaggregatable


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"prompt": ["a", "b"]}, "several_prompts"),
        ({"prompt": ["a"]}, "several_prompts"),
        ({"prompt": [[1, 2]]}, "several_prompts"),
        ({"prompt": [1, -2]}, "several_prompts"),
        ({"prompt": [1, True]}, "several_prompts"),
        ({"prompt": [1, 2.0]}, "several_prompts"),
        ({"prompt": [1, [2]]}, "several_prompts"),
        ({"prompt": ["1"]}, "several_prompts"),
        ({"prompt": []}, "several_prompts"),
        ({"prompt": ""}, "no_prompt"),
        ({"prompt": None}, "no_prompt"),
        ({"echo": True, "logprobs": 0}, "prompt_logprobs"),
        ({"best_of": 2}, "several_sequences"),
    ],
)
def test_completions_that_one_engine_must_see_whole(fields: dict[str, Any], reason: str) -> None:
    assert obstacle(a_completion(**fields)) == reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"messages": []}, "no_messages"),
        ({"messages": "hello"}, "no_messages"),
        ({"n": 2}, "several_sequences"),
        ({"n": 0}, "several_sequences"),
        ({"n": "2"}, "several_sequences"),
        ({"use_beam_search": True}, "several_sequences"),
        ({"prompt_logprobs": 0}, "prompt_logprobs"),
        ({"max_tokens": 0}, "token_limit"),
        ({"max_tokens": -3}, "token_limit"),
        ({"max_completion_tokens": "5"}, "token_limit"),
        ({"max_tokens": True}, "token_limit"),
        ({"min_tokens": 21}, "min_tokens"),
        ({"min_tokens": "2"}, "min_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": [1]}, "stream_options"),
    ],
)
def test_chats_that_one_engine_must_see_whole(fields: dict[str, Any], reason: str) -> None:
    assert obstacle(a_call(**fields)) == reason


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1},
        {"n": None, "prompt_logprobs": None, "stream_options": None, "max_tokens": None},
        {"min_tokens": 20},
        {"logprobs": True, "top_logprobs": 5},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"a_field_of_tomorrow": {"x": [1]}},
    ],
)
def test_chats_that_may_be_split(fields: dict[str, Any]) -> None:
    assert obstacle(a_call(**fields)) is None


@pytest.mark.parametrize("fields", [{}, {"prompt": [1, 2, 3]}, {"echo": True}, {"logprobs": 3}])
def test_completions_that_may_be_split(fields: dict[str, Any]) -> None:
    assert obstacle(a_completion(**fields)) is None


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, None),
        ({"stream": False, "stream_options": {"a": 1}}, {"a": 1}),
        ({"stream": True}, {"include_usage": True, "continuous_usage_stats": False}),
        ({"stream": True, "stream_options": None}, {"include_usage": True, "continuous_usage_stats": False}),
        (
            {"stream": True, "stream_options": {"continuous_usage_stats": True, "a": 1}},
            {"continuous_usage_stats": False, "a": 1, "include_usage": True},
        ),
        (
            {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
            {"include_usage": True, "continuous_usage_stats": True},
        ),
        ({"stream": True, "stream_options": "x"}, "x"),
        ({"stream": True, "stream_options": {"include_usage": "maybe"}}, {"include_usage": "maybe"}),
    ],
)
def test_streams_are_asked_for_their_usage(fields: dict[str, Any], options: object) -> None:
    call = a_call(**fields)
    assert orjson.loads(call.body).get("stream_options") == options


@pytest.mark.parametrize(
    ("fields", "session"),
    [
        ({}, None),
        ({"user": "ann"}, "ann"),
        ({"user": "ann", "prompt_cache_key": "k"}, "k"),
        ({"user": "ann", "prompt_cache_key": "k", "metadata": {"session_id": "s"}}, "s"),
        ({"user": 7, "prompt_cache_key": "", "metadata": ["s"]}, None),
        ({"user": "a" * 257}, None),
    ],
)
def test_what_the_body_calls_its_conversation(fields: dict[str, Any], session: str | None) -> None:
    assert a_call(**fields).session == session


@pytest.mark.parametrize(("of_head", "session"), [("h", "h"), (None, "s"), ("", "s"), ("x" * 257, "s")])
def test_what_the_head_calls_it_goes_before_if_it_can_be_used(of_head: str | None, session: str) -> None:
    fields = orjson.loads(a_body(metadata={"session_id": "s"}))
    assert understand(Api.CHAT, fields, Trace("r-1"), session=of_head).session == session


def test_the_bytes_of_one_text_are_counted_with_its_template() -> None:
    assert a_call(messages=[{"role": "user", "content": "abcd"}]).prompt_bytes == 4 + 16
    assert a_completion(prompt="hé").prompt_bytes == 3
    assert a_call(messages=[{"role": "assistant", "content": "a", "reasoning_content": "hé"}]).prompt_bytes == 4 + 16
    assert a_call(messages=[{"role": "assistant", "content": "abcd", "tool_calls": None}]).prompt_bytes == 4 + 16
    called = [{"type": "function", "function": {"name": "f", "arguments": "x" * 100}}]
    assert a_call(messages=[{"role": "assistant", "tool_calls": called}]).prompt_bytes == len(orjson.dumps(called)) + 16
    assert a_completion(prompt=[1, 2]).prompt_bytes == a_completion(prompt=["a", "b"]).prompt_bytes == 0
