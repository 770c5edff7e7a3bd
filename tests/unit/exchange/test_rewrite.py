from typing import Any

import orjson
import pytest

from router.errors import BadAnswer
from router.exchange import rewrite


def an_answer(cached_tokens: int | None = 100, **fields: Any) -> bytes:
    details = None if cached_tokens is None else {"cached_tokens": cached_tokens}
    usage = {"prompt_tokens": 147, "prompt_tokens_details": details}
    return orjson.dumps({"choices": [{"text": "hi"}], "usage": usage} | fields)


def test_what_is_between_the_engines_stays_there() -> None:
    told = orjson.loads(rewrite.answer(an_answer(kv_transfer_params=None, ec_transfer_params={}), None))
    assert told.keys() == {"choices", "usage"}


def test_cached_tokens_are_those_of_prefill() -> None:
    told = orjson.loads(rewrite.answer(an_answer(147), 96))
    assert told["usage"]["prompt_tokens_details"]["cached_tokens"] == 96


def test_without_a_prefill_leg_usage_is_as_the_engine_says() -> None:
    assert orjson.loads(rewrite.answer(an_answer(12), None)) == orjson.loads(an_answer(12))


def test_details_that_the_engine_does_not_give_are_not_made_up() -> None:
    assert orjson.loads(rewrite.answer(an_answer(None), 96)) == orjson.loads(an_answer(None))


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"choices":{}}', b'{"error":{"message":"no"}}'])
def test_what_has_no_choices_is_no_answer(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        rewrite.answer(body, None)


def test_the_event_with_the_usage_is_rewritten_too() -> None:
    event = b"data: " + an_answer(147, choices=[])
    told = orjson.loads(rewrite.event(event, 96)[len(b"data: ") :])
    assert told["usage"]["prompt_tokens_details"]["cached_tokens"] == 96


@pytest.mark.parametrize("cached_tokens", [None, 96])
def test_other_events_are_not_touched(cached_tokens: int | None) -> None:
    event = b'data: {"choices":[{"delta":{"content":"  spaced "}}],  "usage":null}'
    assert rewrite.event(event, cached_tokens) is event


def test_a_usage_event_that_is_not_json_is_a_bad_answer() -> None:
    with pytest.raises(BadAnswer):
        rewrite.event(b'data: {"usage":{', 96)
