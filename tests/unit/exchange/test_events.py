import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.engines.plain import Plain
from router.errors import BadAnswer, EngineError
from router.exchange.events import DONE, END, LAST, MAX_EVENT_BYTES, EventStream
from router.telemetry.events import Journey

TEXTS = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=30), min_size=1, max_size=8)


def a_stream(cached_tokens: int | None = None) -> tuple[EventStream, Journey]:
    times = iter(range(10_000))
    journey = Journey("r-1", "chat", 0.0, lambda: float(next(times)), ())
    return EventStream(Plain().is_error, journey, cached_tokens), journey


def event(text: str) -> bytes:
    return b"data: " + text.encode()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


@given(TEXTS, st.lists(st.integers(0, 10_000), max_size=12), st.sampled_from([b"\n\n", b"\r\n\r\n"]))
def test_cuts_change_nothing(texts: list[str], places: list[int], separator: bytes) -> None:
    events = [event(text) for text in texts if event(text) != DONE]
    stream, journey = a_stream()
    whole = separator.join([*events, DONE, b""])
    out = b"".join(stream.take(piece) for piece in cut(whole, places))
    stream.end()
    assert out == END.join([*events, b""]) if events else out == b""
    assert journey.events == len(events)


@pytest.mark.parametrize("place", range(len(b'data: {"error":{"message":"x"}}') + 2))
def test_an_error_event_is_seen_wherever_it_is_cut(place: int) -> None:
    stream, _ = a_stream()
    stream.take(b"data: {}\n\n")
    failing = b'data: {"error":{"message":"x"}}\n\n'
    with pytest.raises(EngineError):
        [stream.take(piece) for piece in (failing[:place], failing[place:]) if piece]


def test_an_error_that_comes_with_other_events_is_seen() -> None:
    stream, _ = a_stream()
    with pytest.raises(EngineError):
        stream.take(b'data: {}\n\ndata: {"error":{}}\n\ndata: [DONE]\n\n')


def test_text_that_speaks_of_errors_is_text() -> None:
    stream, _ = a_stream()
    data = b'data: {"choices":[{"delta":{"content":"{\\"error\\""},"x":{"error":1}}]}\n\n'
    assert stream.take(data) == data


def test_done_is_kept_until_the_body_has_ended() -> None:
    stream, _ = a_stream()
    assert stream.take(b"data: {}\n\n" + LAST) == b"data: {}\n\n"
    assert stream.done
    stream.end()


@pytest.mark.parametrize("more", [b"data: {}\n\n", b"data: [DONE]\n\n"])
def test_nothing_comes_after_done(more: bytes) -> None:
    stream, _ = a_stream()
    stream.take(LAST)
    with pytest.raises(BadAnswer) as caught:
        stream.take(more)
    assert "after" in str(caught.value.detail)


def test_nothing_comes_after_done_in_the_same_bytes_either() -> None:
    stream, _ = a_stream()
    with pytest.raises(BadAnswer) as caught:
        stream.take(LAST + b"data: {}\r\n\r\n")
    assert "after" in str(caught.value.detail)


@pytest.mark.parametrize("data", [b"", b"data: {}\n\n", b"data: {}\n\ndata: [DO", b"data: {}\n\ndata: [DONE]"])
def test_a_stream_that_just_ends_is_no_success(data: bytes) -> None:
    stream, _ = a_stream()
    stream.take(data)
    with pytest.raises(BadAnswer) as caught:
        stream.end()
    assert "without" in str(caught.value.detail)


@pytest.mark.parametrize("comment", [b": keep-alive\n\n", b":\n\n"])
def test_comments_are_dropped_and_not_counted(comment: bytes) -> None:
    stream, journey = a_stream()
    assert stream.take(comment) == b""
    assert stream.take(b"data: {}\n\n" + comment) == b"data: {}\n\n"
    assert journey.events == 1


def test_an_endless_event_is_refused() -> None:
    stream, _ = a_stream()
    with pytest.raises(BadAnswer) as caught:
        stream.take(b"data: " + b"x" * MAX_EVENT_BYTES)
    assert "larger" in str(caught.value.detail)


def test_the_usage_event_tells_what_prefill_had_cached() -> None:
    stream, _ = a_stream(cached_tokens=96)
    data = b'data: {"choices":[],"usage":{"prompt_tokens_details":{"cached_tokens":147}}}\n\n'
    assert b'"cached_tokens":96' in stream.take(data)


def test_events_of_one_read_come_at_once() -> None:
    stream, journey = a_stream()
    stream.take(b"data: 1\n\n")
    stream.take(b"data: 2\n\ndata: 3\n\n")
    assert journey.event_gaps_s == [1.0, 0.0]
    assert journey.events == 3
