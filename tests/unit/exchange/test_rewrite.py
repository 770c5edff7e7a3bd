import orjson
import pytest

from router.errors import BadAnswer
from router.exchange import rewrite
from router.telemetry.events import Journey, Observers
from router.usage import Usage
from tests.support.scripted_engine import completion, event


def a_journey(prefill_cached_tokens: int | None = None) -> Journey:
    """That of a request whose prompt was computed elsewhere, if a prefill engine told what it had cached."""
    journey = Journey("1", "chat", 0.0, lambda: 0.0, Observers())
    if prefill_cached_tokens is not None:
        journey.prefill_usage = Usage(9, 1, prefill_cached_tokens)
    return journey


def usage(cached_tokens: int) -> dict[str, object]:
    """A usage, as engines tell it."""
    return {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": cached_tokens}}


def test_what_is_between_engines_stays_there() -> None:
    body = orjson.dumps(completion(kv_transfer_params={"a": 1}, ec_transfer_params=None, other=1))
    assert orjson.loads(rewrite.answer(body, a_journey())) == completion(other=1)


def test_cached_tokens_are_those_of_the_prefill_engine() -> None:
    body = orjson.dumps(completion(usage=usage(9)))
    assert orjson.loads(rewrite.answer(body, a_journey(3)))["usage"] == usage(3)
    assert orjson.loads(rewrite.answer(body, a_journey()))["usage"] == usage(9)


@pytest.mark.parametrize(
    "given", [None, {}, {"prompt_tokens": 1}, {"prompt_tokens_details": None}, {"prompt_tokens_details": {}}]
)
def test_cached_tokens_are_told_only_where_the_engine_tells_them(given: object) -> None:
    assert orjson.loads(rewrite.answer(orjson.dumps(completion(usage=given)), a_journey(3)))["usage"] == given


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"{}", b'{"choices":null}', b'{"error":{}}', b"\xff"])
def test_what_is_no_completion_is_a_bad_answer(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        rewrite.answer(body, a_journey())


def test_only_the_event_with_the_usage_is_opened() -> None:
    data = b"data: " + orjson.dumps({"choices": [], "usage": usage(9)})
    assert orjson.loads(rewrite.event(data, a_journey(3), shows_usage=True)[6:])["usage"] == usage(3)
    assert orjson.loads(rewrite.event(data, a_journey(), shows_usage=True)[6:])["usage"] == usage(9)
    for other in (event('"usage":{'), b"event: usage", b'data: {"usage":null}'):
        assert rewrite.event(other[:-2], a_journey(3), shows_usage=True) == other[:-2]


def test_a_usage_that_is_not_json_is_a_bad_answer() -> None:
    with pytest.raises(BadAnswer):
        rewrite.event(b'data: {"usage":{', a_journey(3), shows_usage=True)


def test_what_is_nested_too_deeply_to_be_written_is_a_bad_answer() -> None:
    deep = b'{"choices":[1],"x":%b%b,"usage":{"prompt_tokens":9}}' % (b"[" * 300, b"]" * 300)
    with pytest.raises(BadAnswer):
        rewrite.answer(deep, a_journey())
    with pytest.raises(BadAnswer):
        rewrite.event(b"data: " + deep, a_journey(), shows_usage=True)


@pytest.mark.parametrize(("choices", "shown"), [([], False), ([{"delta": {}}], True)])
def test_a_usage_that_nobody_asked_for_is_noted_and_not_shown(choices: list[object], shown: bool) -> None:
    journey = a_journey()
    data = b"data: " + orjson.dumps({"choices": choices, "usage": usage(4) | {"completion_tokens": 7}})
    assert bool(rewrite.event(data, journey, shows_usage=False)) is shown
    assert journey.usage == Usage(9, 7, 4)
