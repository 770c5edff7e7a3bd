import itertools
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.engines.plain import Plain
from router.errors import BadAnswer, EngineError, EngineFault, ErrorEvent
from router.exchange.events import MAX_EVENT_BYTES, EventStream
from router.telemetry.events import Journey, Observers
from router.usage import Usage
from tests.support.scripted_engine import DONE, event

USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":9}}}\n\n'
GARBAGE = (b"data: {not json\n\n", b'data: {"choices":[\n\n', b"data: \n\n", b"event: x\ndata: y\n\n")
ERROR = b'data: {"error":{"message":"no","code":500}}\n\n'
SAID_OTHERWISE = (
    b": ping\n" + ERROR,
    b"event: error\n" + ERROR,
    b"event:error\ndata: no\n\n",
    b'data: {"choices":[]}\nevent: error\ndata: {}\n\n',
    ERROR.replace(b"{", b"{ ", 1),
    b'data: {"id":"c","error":{"message":"no"}}\n\n',
    b'data: {"object":"error","message":"no"}\n\n',
)


def journey(clock: Callable[[], float] = lambda: 0.0) -> Journey:
    """The journey of a stream."""
    return Journey("1", "chat", 0.0, clock, Observers())


def reader(cached_tokens: int | None = None) -> EventStream:
    """A stream that is about to begin, of a client that asked for the usage."""
    of = journey()
    of.prefill_usage = Usage(9, 1, cached_tokens)
    return EventStream(Plain(), of, shows_usage=True)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` in pieces."""
    edges = [0, *sorted(min(at, len(data)) for at in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges) if start < end]


def read(pieces: list[bytes], cached_tokens: int | None = None) -> tuple[list[bytes], bool]:
    """The events that come out of a stream, and whether it was a good one."""
    stream, out = reader(cached_tokens), b""
    try:
        for piece in pieces:
            out += stream.take(piece)
        stream.end()
    except EngineFault:
        return out.split(b"\n\n")[:-1], False
    return out.split(b"\n\n")[:-1], True


parts = st.lists(
    st.sampled_from(
        [event("a"), event("error"), event("b\n\r: data: [DONE]"), b": ping\n\n", USAGE, b"event: x\ndata: 1\n\n"]
    ),
    max_size=6,
)
cuts = st.lists(st.integers(0, 700), max_size=10)


@given(parts=parts, cuts=cuts, crlf=st.booleans(), cached=st.sampled_from([None, 3]))
def test_a_stream_has_the_same_events_wherever_the_network_cuts_it(
    parts: list[bytes], cuts: list[int], crlf: bool, cached: int | None
) -> None:
    wanted = [part[:-2] for part in parts if not part.startswith(b":")]
    if cached is not None:
        wanted = [part.replace(b'"cached_tokens":9', b'"cached_tokens":3') for part in wanted]
    data = b"".join([*parts, DONE])
    assert read(cut(data.replace(b"\n", b"\r\n") if crlf else data, cuts), cached) == (wanted, True)


@given(
    before=parts,
    bad=st.sampled_from([ERROR, *SAID_OTHERWISE, DONE + event("late"), DONE + DONE, DONE + ERROR, *GARBAGE]),
    after=parts,
    cuts=cuts,
)
def test_a_bad_stream_is_bad_wherever_the_network_cuts_it(
    before: list[bytes], bad: bytes, after: list[bytes], cuts: list[int]
) -> None:
    events, good = read(cut(b"".join([*before, bad, *after, DONE]), cuts))
    wanted = [part[:-2] for part in before if not part.startswith(b":")]
    assert not good
    assert events == wanted[: len(events)]


@pytest.mark.parametrize("data", [b"", event("a"), event("a") + DONE[:-2], event("a") + b"data: 1", b": ping\n\n"])
def test_a_stream_that_just_ends_is_no_complete_one(data: bytes) -> None:
    stream = reader()
    if data:
        stream.take(data)
    with pytest.raises(BadAnswer, match="failed") as caught:
        stream.end()
    assert caught.value.detail == "the stream ended without [DONE]"


ALIKE = event("a").partition(b'"choices"')[0]


@pytest.mark.parametrize(
    ("data", "passed_on"),
    [
        (ALIKE + b'"choices":[1]}\n\n', ALIKE + b'"choices":[1]}\n\n'),
        (ALIKE + b'"usage":{"prompt_tokens":9},"choices":[]}\n\n', b""),
        (ALIKE + b'"choices":[],"usage":{"prompt_tokens":9}}\n\n', b""),
        (ALIKE + b'"choices":[1]}\n\n: ping\n\n', ALIKE + b'"choices":[1]}\n\n'),
        (ALIKE + b'"choices":[1]}\n\n' + USAGE, ALIKE + b'"choices":[1]}\n\n'),
        (ALIKE + b'"choices":[1]}\r\n\r\n', ALIKE + b'"choices":[1]}\n\n'),
        (ALIKE + b'"cho', b""),
    ],
)
def test_what_begins_like_the_event_before_is_looked_at_from_there(data: bytes, passed_on: bytes) -> None:
    stream = EventStream(Plain(), journey(), shows_usage=False)
    assert stream.take(event("a")) == event("a")
    assert stream.take(data) == passed_on


def test_what_comes_for_an_event_that_was_cut_belongs_to_it() -> None:
    stream, of = reader(), ALIKE + b'"choices":["'
    assert stream.take(event("a")) == event("a")
    assert stream.take(of) == b""
    assert stream.take(event("b")[:-3] + b'"]}\n\n') == of + event("b")[:-3] + b'"]}\n\n'


def test_an_error_is_told_from_events_that_begin_alike() -> None:
    stream = reader()
    short = b'data: {"choices":[1]}\n\n'
    assert stream.take(short) == short
    with pytest.raises(EngineError):
        stream.take(ERROR)


def test_what_follows_done_in_its_read_is_found() -> None:
    with pytest.raises(BadAnswer):
        reader().take(event("a") + DONE + event("b"))
    with pytest.raises(BadAnswer):
        reader().take(event("a") + DONE + DONE)


def test_done_is_kept_back() -> None:
    stream = reader()
    assert stream.take(event("a") + DONE) == event("a")
    assert stream.done
    stream.end()


def test_an_error_event_is_a_failure_of_the_engine() -> None:
    with pytest.raises(EngineError):
        reader().take(ERROR)
    with pytest.raises(EngineError):
        reader().take(event("a") + ERROR)


@pytest.mark.parametrize("before", [b"", event("a"), event("a") + event("b")])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("error", SAID_OTHERWISE)
def test_an_error_is_one_however_it_is_said(error: bytes, before: bytes, together: bool) -> None:
    stream = reader()
    if not together:
        stream.take(before)
    with pytest.raises(ErrorEvent):
        stream.take(before + error if together else error)


@pytest.mark.parametrize("text", ["error", '{"error":1}', '"error"'])
def test_an_answer_may_speak_of_errors(text: str) -> None:
    stream = reader()
    for data in (event(text), event(text) + event(text), event(text)[:40], event(text)[40:], event("a"), event(text)):
        stream.take(data)
    assert stream.take(DONE) == b""
    assert stream.done


def test_an_error_may_begin_like_the_events_before() -> None:
    stream = reader()
    stream.take(event("a"))
    with pytest.raises(ErrorEvent):
        stream.take(ALIKE + b'"error":{"message":"no"}}\n\n')


def test_an_event_in_many_pieces_is_not_copied_for_each() -> None:
    stream = reader()
    stream.take(b"data: " + b"x" * (MAX_EVENT_BYTES // 2))
    stream.take(b"x")
    tracemalloc.start()
    for _ in range(10):
        stream.take(b"x")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 10_000


def test_an_event_has_a_bounded_size() -> None:
    whole = b"data: " + b"x" * MAX_EVENT_BYTES
    with pytest.raises(BadAnswer):
        reader().take(whole)
    with pytest.raises(BadAnswer):
        reader().take(b":\n\n" + whole + b"\n\n")
    stream = reader()
    for _ in range(MAX_EVENT_BYTES >> 16):
        assert stream.take(b"x" * (1 << 16)) == b""
    with pytest.raises(BadAnswer):
        stream.take(b"x")


def test_comments_do_not_travel() -> None:
    assert reader().take(b": ping\n\n" + event("a")) == event("a")
    assert reader().take(event("a") + b": ping\n\n") == event("a")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("before", [b"", event("a")])
@pytest.mark.parametrize(
    "block", [b": ping\n" + event("b"), event("b")[:-1] + b": ping\n\n", b": 1\n: 2\n" + event("b")[:-1] + b":\n\n"]
)
def test_a_comment_leaves_the_event_that_it_comes_with(block: bytes, before: bytes, end: bytes) -> None:
    stream = reader()
    assert stream.take((before + block).replace(b"\n", end)) == before + event("b")
    assert stream.take(block.replace(b"\n", end)) == event("b")
    assert stream.take(b": the end\n" + DONE) == b""
    assert stream.done


def test_events_and_their_gaps_are_noted() -> None:
    times = itertools.count(10.0, 0.5)
    seen = journey(lambda: next(times))
    stream = EventStream(Plain(), seen, shows_usage=False)
    for data in (event("a"), event("b") + event("c"), b": ping\n\n", event("d") + DONE):
        stream.take(data)
    assert seen.events == 4
    assert seen.event_gaps_s == [0.5, 0.0, 0.5]
