import itertools

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import BadAnswer, ConnectionLost
from router.exchange.connection import MAX_HEAD_BYTES, WRITELINES_FROM_BYTES, EngineConnection, State
from tests.support.scripted_engine import LAST_CHUNK, chunk, head
from tests.support.wire import FakeTransport, Heard, connected

OK = head(content_length="2") + b"{}"

COMPLETE = {
    "content-length": (OK, b"{}"),
    "chunked": (head(transfer_encoding="chunked") + chunk(b"ab") + chunk(b"c") + LAST_CHUNK, b"abc"),
    "trailers": (head(transfer_encoding="chunked") + chunk(b"a") + b"0\r\nx-late: 1\r\n\r\n", b"a"),
    "chunk extension": (head(transfer_encoding="chunked") + b"1;x=y\r\na\r\n" + LAST_CHUNK, b"a"),
    "empty": (head(content_length="0"), b""),
    "no content": (head("204 No Content"), b""),
    "informational first": (head("100 Continue") + head("103 Early Hints", link="x") + OK, b"{}"),
}


def asked(sink: Heard | None = None) -> tuple[EngineConnection, FakeTransport, Heard]:
    """A connection that waits for an answer."""
    connection, transport = connected()
    sink = sink or Heard()
    connection.send(b"head", b"body", sink)
    return connection, transport, sink


@pytest.mark.parametrize("size", [4, WRITELINES_FROM_BYTES])
def test_a_request_is_head_and_body(size: int) -> None:
    connection, transport = connected()
    connection.send(b"head|", b"b" * size, Heard())
    assert transport.written == b"head|" + b"b" * size
    assert connection.state is State.BUSY


@pytest.mark.parametrize(("data", "body"), COMPLETE.values(), ids=COMPLETE)
@given(cuts=st.lists(st.integers(0, 200), max_size=12))
def test_an_answer_is_the_same_wherever_the_network_cuts_it(data: bytes, body: bytes, cuts: list[int]) -> None:
    connection, transport, sink = asked()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        if start < end:
            connection.data_received(data[start:end])
    assert (sink.body, sink.complete, sink.ends) == (body, True, 1)
    assert sink.status in (200, 204)
    assert b"x-late" not in sink.headers
    assert b"link" not in sink.headers
    assert connection.state is State.IDLE
    assert not transport.aborted


def test_an_answer_to_one_who_has_left_is_the_last_on_its_connection() -> None:
    connection, transport, sink = asked()
    connection.leave()
    connection.leave()
    assert (transport.ended, connection.state) == (1, State.BUSY)
    connection.data_received(OK)
    assert (sink.complete, connection.state) == (True, State.CLOSED)
    connection.leave()
    assert transport.ended == 1


def test_a_connection_carries_one_exchange_after_the_other() -> None:
    connection, _, first = asked()
    connection.data_received(OK)
    second = Heard()
    connection.send(b"head", b"body", second)
    connection.data_received(head("404 Not Found", X_Name="Value", content_length="1") + b"x")
    assert (first.body, second.body, second.status) == (b"{}", b"x", 404)
    assert second.headers[b"x-name"] == b"Value"
    assert connection.exchanges == 2
    assert repr(connection) == "<EngineConnection engine:1 idle 2 exchanges>"


@pytest.mark.parametrize("data", [head(content_type="a"), head(content_type="a") + b"abc"])
def test_a_body_without_a_length_ends_with_its_connection(data: bytes) -> None:
    connection, _, sink = asked()
    connection.data_received(data)
    assert not sink.complete
    connection.eof_received()
    connection.connection_lost(None)
    assert (sink.complete, sink.ends, connection.state) == (True, 1, State.CLOSED)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        head("100 Continue"),
        head(content_length="3") + b"ab",
        head(transfer_encoding="chunked") + chunk(b"abc"),
        head(transfer_encoding="gzip") + b"abc",
    ],
)
def test_an_end_before_the_end_is_a_lost_connection(data: bytes) -> None:
    connection, _, sink = asked()
    if data:
        connection.data_received(data)
    connection.eof_received()
    connection.connection_lost(None)
    assert isinstance(sink.fault, ConnectionLost)
    assert sink.ends == 1


def test_a_lost_connection_says_why() -> None:
    connection, _, sink = asked()
    connection.connection_lost(ConnectionResetError("reset by peer"))
    assert sink.fault is not None
    assert sink.fault.detail == "engine:1: connection lost: reset by peer"


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02",
        head("101 Switching Protocols", upgrade="h2c", connection="upgrade") + b"PRI",
        head(content_length="2", transfer_encoding="chunked") + b"{}",
        head(content_length="2") + b"{}" + head(content_length="x"),
        head(content_length="-1"),
        head(transfer_encoding="chunked") + b"zz\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    ],
)
def test_what_is_not_http_closes_the_connection(data: bytes) -> None:
    connection, transport, sink = asked()
    connection.data_received(data)
    assert isinstance(sink.fault, BadAnswer) or sink.complete
    assert sink.ends == 1
    assert (connection.state, transport.aborted) == (State.CLOSED, True)


@pytest.mark.parametrize("piece_bytes", [1000, MAX_HEAD_BYTES])
@pytest.mark.parametrize(
    "data",
    [
        head(x=("y" * 2 * MAX_HEAD_BYTES), content_length="0"),
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * (MAX_HEAD_BYTES // 3) + b"\r\n",
        head("100 Continue", x="y" * 100) * (MAX_HEAD_BYTES // 50),
    ],
    ids=["one header", "many headers", "many heads"],
)
def test_a_head_has_a_bounded_size(data: bytes, piece_bytes: int) -> None:
    connection, transport, sink = asked()
    for start in range(0, len(data), piece_bytes):
        if connection.state is State.BUSY:
            connection.data_received(data[start : start + piece_bytes])
    assert isinstance(sink.fault, BadAnswer)
    assert "head larger than" in str(sink.fault.detail)
    assert transport.aborted


def test_a_large_body_after_a_small_head_is_no_large_head() -> None:
    connection, _, sink = asked()
    connection.data_received(head(content_length="100000") + b"x" * 100_000)
    assert sink.complete


def test_trailers_change_nothing_and_take_no_memory() -> None:
    connection, _, sink = asked()
    connection.data_received(head(content_type="a", transfer_encoding="chunked") + b"0\r\n")
    for number in range(1000):
        connection.data_received(b"content-type: b\r\nx-%d: c\r\n" % number)
    assert sink.headers == {b"content-type": b"a", b"transfer-encoding": b"chunked"}


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("framing", [b"0\r\nx: " + b"y" * 1000, b"0\r\n" + b"x: y\r\n" * 200, b"1;x=" + b"y" * 1000])
def test_what_comes_instead_of_a_body_has_a_bounded_size(framing: bytes, together: bool) -> None:
    connection, transport, sink = asked()
    connection.data_received(head(transfer_encoding="chunked") + chunk(b"a"))
    connection.data_received(framing)
    more = framing[-6 * (len(framing) // 12) :]
    reads = MAX_HEAD_BYTES // len(more) + 1
    for data in [more * reads] if together else [more] * reads:
        if connection.state is State.BUSY:
            connection.data_received(data)
    assert isinstance(sink.fault, BadAnswer)
    assert sink.fault.detail == f"engine:1: more than {MAX_HEAD_BYTES} bytes and nothing of the body"
    assert (sink.body, sink.ends, transport.aborted) == (b"a", 1, True)


def test_a_long_body_may_come_apart_from_its_framing() -> None:
    connection, _, sink = asked()
    connection.data_received(head(transfer_encoding="chunked"))
    for _ in range(MAX_HEAD_BYTES // 3):
        for data in (b"1\r\n", b"a", b"\r\n"):
            connection.data_received(data)
    connection.data_received(LAST_CHUNK)
    assert sink.complete
    assert len(sink.body) == MAX_HEAD_BYTES // 3


def test_trailers_that_end_in_their_read_leave_the_connection_to_the_next() -> None:
    connection, transport, sink = asked()
    connection.data_received(head(transfer_encoding="chunked") + chunk(b"a"))
    connection.data_received(b"0\r\nx: " + b"y" * MAX_HEAD_BYTES + b"\r\n\r\n")
    assert (sink.complete, connection.state, transport.aborted) == (True, State.IDLE, False)


@pytest.mark.parametrize("extra", [OK, b"garbage", head("100 Continue"), b"\0"])
@pytest.mark.parametrize("together", [True, False])
def test_bytes_after_the_end_are_never_the_next_answer(extra: bytes, together: bool) -> None:
    connection, transport, sink = asked()
    for piece in [OK + extra] if together else [OK, extra]:
        connection.data_received(piece)
    assert (sink.body, sink.ends, sink.complete) == (b"{}", 1, True)
    assert (connection.state, transport.aborted) == (State.CLOSED, True)


@pytest.mark.parametrize(
    "data",
    [
        head(connection="close", content_length="2") + b"{}",
        OK.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
def test_an_answer_may_be_the_last_on_its_connection(data: bytes) -> None:
    connection, transport, sink = asked()
    connection.data_received(data)
    assert (sink.complete, connection.state, transport.aborted) == (True, State.CLOSED, True)


def test_aborting_is_silent() -> None:
    connection, transport, sink = asked()
    connection.abort()
    connection.connection_lost(None)
    assert (sink.ends, transport.aborted) == (0, True)


def test_an_end_in_the_read_that_paused_leaves_the_connection_reading() -> None:
    class Slow(Heard):
        def on_body(self, data: bytes) -> None:
            connection.pause()

    connection, transport, sink = asked(Slow())
    connection.data_received(OK)
    assert (sink.complete, connection.state, transport.is_reading()) == (True, State.IDLE, True)


def test_pausing_and_resuming_are_told_once_and_only_in_an_exchange() -> None:
    connection, transport, _ = asked()
    connection.pause()
    connection.pause()
    assert not transport.is_reading()
    connection.resume()
    assert transport.is_reading()
    connection.data_received(OK)
    connection.pause()
    assert transport.is_reading()


def test_a_sink_that_breaks_is_a_defect_that_ends_its_exchange() -> None:
    class Broken(Heard):
        def on_body(self, data: bytes) -> None:
            raise KeyError("a defect")

    connection, _, sink = asked(Broken())
    with pytest.raises(httptools.HttpParserCallbackError):
        connection.data_received(OK)
    connection.connection_lost(None)
    assert isinstance(sink.fault, ConnectionLost)
