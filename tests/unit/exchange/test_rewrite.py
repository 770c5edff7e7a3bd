import orjson
import pytest

from router.errors import BadAnswer
from router.exchange import rewrite
from tests.support.scripted_engine import completion, event


def usage(cached_tokens: int) -> dict[str, object]:
    """A usage, as engines tell it."""
    return {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": cached_tokens}}


def test_what_is_between_engines_stays_there() -> None:
    body = orjson.dumps(completion(kv_transfer_params={"a": 1}, ec_transfer_params=None, other=1))
    assert orjson.loads(rewrite.answer(body, None)) == completion(other=1)


def test_cached_tokens_are_those_of_the_prefill_engine() -> None:
    body = orjson.dumps(completion(usage=usage(9)))
    assert orjson.loads(rewrite.answer(body, 3))["usage"] == usage(3)
    assert orjson.loads(rewrite.answer(body, None))["usage"] == usage(9)


@pytest.mark.parametrize(
    "given", [None, {}, {"prompt_tokens": 1}, {"prompt_tokens_details": None}, {"prompt_tokens_details": {}}]
)
def test_cached_tokens_are_told_only_where_the_engine_tells_them(given: object) -> None:
    assert orjson.loads(rewrite.answer(orjson.dumps(completion(usage=given)), 3))["usage"] == given


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"{}", b'{"choices":null}', b'{"error":{}}', b"\xff"])
def test_what_is_no_completion_is_a_bad_answer(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        rewrite.answer(body, None)


def test_only_the_event_with_the_usage_is_opened() -> None:
    data = b"data: " + orjson.dumps({"choices": [], "usage": usage(9)})
    assert orjson.loads(rewrite.event(data, 3)[6:])["usage"] == usage(3)
    assert rewrite.event(data, None) is data
    for other in (event('"usage":{'), b"event: usage", b'data: {"usage":null}'):
        assert rewrite.event(other[:-2], 3) == other[:-2]


def test_a_usage_that_is_not_json_is_a_bad_answer() -> None:
    with pytest.raises(BadAnswer):
        rewrite.event(b'data: {"usage":{', 3)
