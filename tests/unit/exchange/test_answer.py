import asyncio
import tracemalloc

import pytest

from router.errors import BadAnswer, ConnectionLost, EngineError, EngineTimeout, OutOfTime
from router.exchange.answer import CHUNKS_APART, HIGH_WATER_BYTES, Answer
from router.exchange.connection import EngineConnection
from router.fleet.progress import Progress
from tests.support.scripted_engine import LAST_CHUNK, chunk, head
from tests.support.virtual_time import virtual_time
from tests.support.wire import FakeTransport, connected

CHUNKED = head(transfer_encoding="chunked")


def asked() -> tuple[Answer, EngineConnection, FakeTransport]:
    """An answer that is on its way."""
    connection, transport = connected()
    answer = Answer(connection)
    connection.send(b"head", b"", answer)
    return answer, connection, transport


def later(delay_s: float, connection: EngineConnection, data: bytes) -> None:
    """Bytes that come at a time."""
    asyncio.get_running_loop().call_later(delay_s, connection.data_received, data)


async def read_to_the_end(answer: Answer) -> None:
    """Take a body as it comes."""
    while await answer.read():
        pass


@virtual_time
async def test_head_and_body_are_waited_for() -> None:
    answer, connection, _ = asked()
    later(1, connection, head("201 Created", x="y", content_length="4"))
    later(2, connection, b"ab")
    later(3, connection, b"cd")
    assert (await answer.head(), answer.headers[b"x"]) == (201, b"y")
    assert [await answer.read() for _ in range(3)] == [b"ab", b"cd", b""]


@virtual_time
async def test_a_read_takes_all_that_is_there() -> None:
    answer, connection, _ = asked()
    connection.data_received(CHUNKED + chunk(b"a") + chunk(b"b") + chunk(b"c"))
    assert await answer.read() == b"abc"
    assert repr(answer) == "<Answer 200 held=0 open>"


@virtual_time
async def test_a_fault_comes_after_what_arrived() -> None:
    answer, connection, _ = asked()
    connection.data_received(CHUNKED + chunk(b"a"))
    connection.connection_lost(None)
    assert (await answer.head(), await answer.read()) == (200, b"a")
    with pytest.raises(ConnectionLost):
        await answer.read()
    with pytest.raises(ConnectionLost):
        await answer.read()


@virtual_time
async def test_a_slow_reader_makes_the_engine_wait() -> None:
    answer, connection, transport = asked()
    connection.data_received(CHUNKED + chunk(b"a" * HIGH_WATER_BYTES))
    assert transport.is_reading()
    connection.data_received(chunk(b"b"))
    assert not transport.is_reading()
    assert len(await answer.read()) == HIGH_WATER_BYTES + 1
    assert transport.is_reading()


@virtual_time
async def test_a_whole_body_may_be_larger_than_what_a_slow_reader_holds() -> None:
    answer, connection, transport = asked()
    size = 2 * HIGH_WATER_BYTES
    connection.data_received(head(content_length=str(size)) + b"a" * (size - 1))
    reading = asyncio.ensure_future(answer.read_all(size))  # noqa: TID251 - awaited below
    await asyncio.sleep(0)
    assert transport.is_reading()
    connection.data_received(b"a")
    assert len(await reading) == size


@pytest.mark.parametrize("pieces", [1, 2, 5])
@pytest.mark.parametrize("complete", [True, False])
def test_a_body_over_the_limit_is_refused_however_it_arrives(pieces: int, complete: bool) -> None:
    @virtual_time
    async def run() -> None:
        answer, connection, _ = asked()
        connection.data_received(head(content_length=str(10 * pieces + (not complete))))
        for _ in range(pieces):
            connection.data_received(b"a" * 10)
        with pytest.raises(BadAnswer, match="the engine failed to answer"):
            await answer.read_all(10 * pieces - 1)

    run()


@virtual_time
async def test_a_body_of_just_the_limit_is_read() -> None:
    answer, connection, _ = asked()
    connection.data_received(head(content_length="10") + b"a" * 10)
    assert await answer.read_all(10) == b"a" * 10


@virtual_time
async def test_a_body_in_small_chunks_takes_hardly_more_than_its_size() -> None:
    answer, connection, _ = asked()
    connection.data_received(CHUNKED)
    size = 100 * CHUNKS_APART
    reading = asyncio.ensure_future(answer.read_all(3 * size))  # noqa: TID251 - awaited below
    await asyncio.sleep(0)
    tracemalloc.start()
    for number in range(100):
        connection.data_received(chunk(b"%02d" % number) * CHUNKS_APART)
    held_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    connection.data_received(chunk(b"the end") + LAST_CHUNK)
    assert held_bytes < 3 * size
    assert await reading == b"".join(b"%02d" % number * CHUNKS_APART for number in range(100)) + b"the end"


@virtual_time
async def test_chunks_that_were_joined_are_read_once() -> None:
    answer, connection, _ = asked()
    connection.data_received(CHUNKED)
    for text in (b"a", b"b"):
        connection.data_received(chunk(text) * (2 * CHUNKS_APART + 1))
        assert await answer.read() == text * (2 * CHUNKS_APART + 1)


@virtual_time
async def test_after_a_cancelled_wait_somebody_else_can_wait_on() -> None:
    answer, connection, _ = asked()
    connection.data_received(head(content_length="4") + b"ab")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await answer.read_all(100)
    later(1, connection, b"cd")
    assert await answer.read_all(100) == b"abcd"


@virtual_time
async def test_silence_is_a_timeout() -> None:
    answer, connection, transport = asked()
    connection.data_received(CHUNKED)
    answer.limit(5, asyncio.get_running_loop().time() + 100)
    for second in (4, 8, 12):
        later(second, connection, chunk(b"a"))
    began = asyncio.get_running_loop().time()
    with pytest.raises(EngineTimeout) as caught:
        await read_to_the_end(answer)
    assert asyncio.get_running_loop().time() - began == pytest.approx(17)
    assert "no byte for 5 s" in str(caught.value.detail)
    assert transport.aborted


@virtual_time
async def test_an_answer_that_never_ends_is_a_timeout() -> None:
    answer, connection, transport = asked()
    connection.data_received(CHUNKED)
    began = asyncio.get_running_loop().time()
    answer.limit(5, began + 10)
    for second in range(1, 20):
        later(second, connection, chunk(b"a"))
    with pytest.raises(EngineTimeout, match="in time"):
        await read_to_the_end(answer)
    assert asyncio.get_running_loop().time() - began == pytest.approx(10)
    assert transport.aborted


@virtual_time
async def test_bytes_that_nobody_fetched_are_not_the_engines_silence() -> None:
    answer, connection, _ = asked()
    connection.data_received(CHUNKED + chunk(b"a"))
    answer.limit(5, asyncio.get_running_loop().time() + 1000)
    await asyncio.sleep(100)
    assert await answer.read() == b"a"
    later(1, connection, chunk(b"b"))
    assert await answer.read() == b"b"


@virtual_time
async def test_an_engine_that_was_told_to_wait_is_not_silent() -> None:
    answer, connection, transport = asked()
    connection.data_received(CHUNKED)
    answer.limit(5, asyncio.get_running_loop().time() + 1000)
    answer.pause()
    assert not transport.is_reading()
    await asyncio.sleep(100)
    answer.resume()
    assert answer.was_paused
    assert transport.is_reading()
    later(4, connection, chunk(b"a"))
    assert await answer.read() == b"a"


@pytest.mark.parametrize(("works_until", "ends"), [(-1.0, 5.0), (0.0, 5.0), (3.0, 8.0), (12.0, 17.0), (99.0, 20.0)])
def test_an_engine_that_works_is_not_silent_but_its_time_ends(works_until: float, ends: float) -> None:
    @virtual_time
    async def run() -> None:
        loop = asyncio.get_running_loop()
        answer, _, transport = asked()
        began = loop.time()
        worked_at = lambda: min(loop.time(), began + works_until)  # noqa: E731
        answer.expect("prefill answer", began + 20, silent_s=5, worked_at=worked_at)
        with pytest.raises(EngineTimeout) as caught:
            await answer.head()
        assert loop.time() - began == pytest.approx(ends)
        assert caught.value.waited_since == began
        assert transport.aborted

    run()


@pytest.mark.parametrize(
    ("by", "ends_at", "fault", "after_s"), [(5, 9, EngineTimeout, 5), (9, 5, OutOfTime, 5), (5, 5, OutOfTime, 5)]
)
def test_the_end_of_the_requests_own_time_is_told_from_an_engine_that_is_late(
    by: float, ends_at: float, fault: type[EngineTimeout], after_s: float
) -> None:
    @virtual_time
    async def run() -> None:
        answer, _, transport = asked()
        began = asyncio.get_running_loop().time()
        answer.expect("prefill answer", began + by, ends_at=began + ends_at)
        with pytest.raises(EngineTimeout) as caught:
            await answer.head()
        assert asyncio.get_running_loop().time() - began == pytest.approx(after_s)
        assert type(caught.value) is fault
        assert "no prefill answer in time" in str(caught.value.detail)
        assert transport.aborted

    run()


@virtual_time
async def test_of_an_engine_that_shows_no_work_nobody_can_say_that_it_stopped() -> None:
    loop = asyncio.get_running_loop()
    answer, _, _ = asked()
    began = loop.time()
    answer.expect("prefill answer", began + 20, silent_s=5, worked_at=Progress().worked_at)
    with pytest.raises(EngineTimeout):
        await answer.head()
    assert loop.time() - began == pytest.approx(20)


@virtual_time
async def test_a_complete_answer_has_no_timer() -> None:
    answer, connection, _ = asked()
    connection.data_received(head(content_length="0"))
    answer.limit(5, asyncio.get_running_loop().time() + 5)
    await asyncio.sleep(20)
    assert await answer.read() == b""


@virtual_time
async def test_pushed_bytes_arrive_without_a_task() -> None:
    answer, connection, _ = asked()
    connection.data_received(CHUNKED + chunk(b"a"))
    got: list[bytes] = []
    pushing = asyncio.ensure_future(answer.push_to(got.append))  # noqa: TID251 - awaited below
    await asyncio.sleep(0)
    assert got == [b"a"]
    connection.data_received(chunk(b"b"))
    assert got == [b"a", b"b"]
    connection.data_received(chunk(b"c") + LAST_CHUNK)
    await pushing
    assert got == [b"a", b"b", b"c"]


@pytest.mark.parametrize("held_bytes", [1, HIGH_WATER_BYTES + 1])
@virtual_time
async def test_pushing_to_a_client_that_is_already_slow_keeps_the_engine_waiting(held_bytes: int) -> None:
    answer, connection, transport = asked()
    connection.data_received(CHUNKED + chunk(b"a" * held_bytes))
    answer.pause()
    pushing = asyncio.ensure_future(answer.push_to(lambda _: None))  # noqa: TID251 - awaited below
    await asyncio.sleep(0)
    assert not transport.is_reading()
    answer.resume()
    assert transport.is_reading()
    connection.data_received(LAST_CHUNK)
    await pushing


@pytest.mark.parametrize("waiting", [True, False], ids=["in a read", "among what had arrived"])
def test_what_the_receiver_finds_wrong_is_the_answers_fault(waiting: bool) -> None:
    @virtual_time
    async def run() -> None:
        def receive(_: bytes) -> None:
            raise EngineError("an error event")

        answer, connection, transport = asked()
        connection.data_received(CHUNKED)
        if waiting:
            later(1, connection, chunk(b"a") + chunk(b"b") + LAST_CHUNK)
        else:
            connection.data_received(chunk(b"a"))
        with pytest.raises(EngineError):
            await answer.push_to(receive)
        assert transport.aborted or not waiting

    run()


@virtual_time
async def test_pushing_ends_with_the_connections_fault() -> None:
    answer, connection, _ = asked()
    connection.data_received(CHUNKED)
    asyncio.get_running_loop().call_later(1, connection.connection_lost, None)
    with pytest.raises(ConnectionLost):
        await answer.push_to(lambda _: None)


@virtual_time
async def test_an_answer_tells_whether_its_engine_ever_had_to_wait() -> None:
    answer, connection, _ = asked()
    connection.data_received(CHUNKED + chunk(bytes(HIGH_WATER_BYTES)))
    assert not answer.was_paused
    connection.data_received(chunk(b"a"))
    await answer.read()
    assert answer.was_paused


@virtual_time
async def test_a_connection_keeps_nothing_of_an_answer_that_was_complete_before_it_was_pushed_on() -> None:
    answer, connection, _ = asked()
    connection.data_received(CHUNKED + chunk(b"a") + LAST_CHUNK)
    got: list[bytes] = []
    await answer.push_to(got.append)
    assert got == [b"a"]
    assert connection._take_body != got.append
