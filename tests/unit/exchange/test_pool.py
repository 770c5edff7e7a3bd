import asyncio
import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import pytest

from router.errors import ConnectFailed, ConnectionLost, OutOfFiles
from router.exchange.connection import EngineConnection
from router.exchange.pool import IDLE_EXPIRY_S, ConnectionPool, Connections
from tests.support.scripted_engine import (
    Connection,
    Request,
    ScriptedEngine,
    answer,
    chunk,
    says,
    says_and_waits,
    scripted_engine,
    stream_head,
)
from tests.support.sim_pair import closed_port
from tests.support.virtual_time import virtual_time
from tests.support.wire import FakeTransport

POST = b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n"
OK = answer({})


def pool_to(engine: ScriptedEngine) -> ConnectionPool:
    """A pool of connections to an engine."""
    return ConnectionPool(engine.url, connect_s=1)


async def ask(pool: ConnectionPool) -> bytes:
    """One exchange."""
    with pool.checkout() as held:
        return await (await held.exchange(POST, b"")).read_all(1000)


async def settle() -> None:
    """Let the other ends of sockets hear of what happened."""
    for _ in range(5):
        await asyncio.sleep(0.001)


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port of 127.0.0.1 whose queue is full, so that a connect gets no answer."""
    with ExitStack() as held:
        listening = held.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(3):
            filler = held.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


@virtual_time
async def test_a_finished_exchange_leaves_its_connection_for_the_next() -> None:
    async with scripted_engine(says(OK)) as engine:
        pool = pool_to(engine)
        assert [await ask(pool) for _ in range(3)] == [b"{}"] * 3
        assert (engine.accepted, pool.open, pool.idle) == (1, 1, 1)
        assert repr(pool) == f"<ConnectionPool {engine.url[7:]} 1 open, 1 idle>"
        pool.close()


async def test_engines_do_not_get_an_acknowledgement_for_each_token() -> None:
    async with scripted_engine(says_and_waits(stream_head(), chunk(b"a"))) as engine:
        pool = pool_to(engine)
        with pool.checkout() as held:
            answer = await held.exchange(POST, b"")
            assert held.connection is not None
            assert held.connection._transport is not None
            kernels = held.connection._transport.get_extra_info("socket")
            kernels.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # as it is again after a pause
            assert await answer.read() == b"a"
            assert kernels.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) == 1
            relaying = asyncio.get_running_loop().create_task(answer.push_to(lambda _: None))
            await asyncio.sleep(0)
            assert kernels.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) == 0
            relaying.cancel()
        pool.close()


@virtual_time
async def test_the_connection_used_last_is_used_next() -> None:
    async with scripted_engine(says(OK)) as engine:
        pool = pool_to(engine)
        with pool.checkout() as first, pool.checkout() as second:
            for held in (first, second):
                await (await held.exchange(POST, b"")).read_all(1000)
            last = first.connection
        with pool.checkout() as held:
            assert held.connection is last
        pool.close()


@virtual_time
async def test_idle_connections_are_closed_before_the_engine_does_it() -> None:
    async with scripted_engine(says(OK)) as engine:
        pool = pool_to(engine)
        with pool.checkout() as first, pool.checkout() as second:
            for held in (first, second):
                await held.connect()
        await asyncio.sleep(2)
        await ask(pool)
        await asyncio.sleep(1.9)
        assert engine.open == 2
        await asyncio.sleep(0.2)  # 4.1 s, where engines close after 5
        assert (engine.open, pool.open, pool.idle) == (1, 1, 1)
        await asyncio.sleep(2)
        assert (engine.open, pool.open, pool.idle) == (0, 0, 0)


@virtual_time
async def test_a_connection_that_is_too_old_is_not_used_even_if_nobody_swept() -> None:
    async with scripted_engine(says(OK)) as engine:
        pool = pool_to(engine)
        await ask(pool)
        pool._idle[0].idle_since -= IDLE_EXPIRY_S
        assert await ask(pool) == b"{}"
        assert engine.accepted == 2
        pool.close()


async def test_connections_that_were_idle_for_long_are_none_in_use_the_moment_they_are_closed() -> None:
    async with scripted_engine(says(OK)) as engine:
        pool = pool_to(engine)
        await ask(pool)
        pool._idle[0].idle_since -= IDLE_EXPIRY_S
        pool._close_expired()
        assert (pool.open, pool.idle) == (0, 0)
        pool.close()


@pytest.mark.parametrize("end", ["rst", "fin"])
def test_a_connection_that_the_engine_closed_is_not_used(end: str) -> None:
    async def script(connection: Connection, _: Request) -> None:
        await connection.send(OK)
        asyncio.get_running_loop().call_later(1, connection.rst if end == "rst" else connection.fin)

    @virtual_time
    async def run() -> None:
        async with scripted_engine(script) as engine:
            pool = pool_to(engine)
            await ask(pool)
            await asyncio.sleep(2)
            assert (pool.open, pool.idle) == (0, 0)
            assert await ask(pool) == b"{}"
            pool.close()

    run()


@virtual_time
async def test_a_connection_that_ends_while_it_is_held_is_replaced() -> None:
    async with scripted_engine(says(OK)) as engine:
        pool = pool_to(engine)
        await ask(pool)
        with pool.checkout() as held:
            first = held.connection
            first._transport.abort()  # type: ignore[union-attr]
            await settle()
            assert not held.live
            await held.connect()
            assert held.connection is not first
            assert await (await held.exchange(POST, b"")).read_all(1000) == b"{}"
        assert (pool.open, pool.idle, engine.open) == (1, 1, 1)
        pool.close()


@virtual_time
async def test_a_connection_that_gets_too_old_while_it_is_held_is_replaced() -> None:
    async with scripted_engine(says(OK)) as engine:
        pool = pool_to(engine)
        await ask(pool)
        await asyncio.sleep(IDLE_EXPIRY_S - 1)
        with pool.checkout() as held:
            live = []
            for wait_s in (0.9, 0.2):
                await asyncio.sleep(wait_s)
                live.append(held.live)
            assert live == [True, False]
            assert await (await held.exchange(POST, b"")).read_all(1000) == b"{}"
            await settle()
            assert (engine.accepted, engine.open, pool.open) == (2, 1, 1)
        pool.close()


@virtual_time
async def test_a_connection_that_got_too_old_is_gone_also_when_no_other_can_be_made() -> None:
    async with scripted_engine(says(OK)) as engine:
        pool = pool_to(engine)
        await ask(pool)
        with pool.checkout() as held:
            await asyncio.sleep(IDLE_EXPIRY_S)
            pool._port = 1
            with pytest.raises(ConnectFailed):
                await held.connect()
        await settle()
        assert (engine.open, pool.open, pool.idle) == (0, 0, 0)


@virtual_time
async def test_no_engine_counts_before_the_first_request() -> None:
    async with scripted_engine(says(OK)) as engine:
        pool = pool_to(engine)
        with pool.checkout() as held:
            await held.connect()
            await asyncio.sleep(10 * IDLE_EXPIRY_S)
            assert held.live
            assert await (await held.exchange(POST, b"")).read_all(1000) == b"{}"
        assert (engine.accepted, pool.idle) == (1, 1)
        pool.close()


@pytest.mark.parametrize("reader", ["asked nothing", "was slow"])
def test_a_connection_does_not_get_younger_by_being_held(reader: str) -> None:
    @virtual_time
    async def run() -> None:
        async with scripted_engine(says(OK)) as engine:
            pool = pool_to(engine)
            if reader == "asked nothing":
                await ask(pool)
            with pool.checkout() as held:
                if reader == "was slow":
                    await (await held.exchange(POST, b"")).read_all(1000)
                await asyncio.sleep(IDLE_EXPIRY_S - 0.1)
            assert pool.idle == 1
            await asyncio.sleep(0.2)
            await settle()
            assert (engine.open, pool.open, pool.idle) == (0, 0, 0)

    run()


@virtual_time
async def test_an_engine_that_ends_a_connection_without_an_answer_is_told_apart() -> None:
    async def script(connection: Connection, _: Request) -> None:
        connection.rst()

    async with scripted_engine(script) as engine:
        pool = pool_to(engine)
        with pytest.raises(ConnectionLost):
            await ask(pool)
        assert (pool.open, pool.idle) == (0, 0)


@virtual_time
async def test_an_exchange_that_is_not_over_closes_its_connection() -> None:
    async with scripted_engine(says_and_waits(OK[:-1])) as engine:
        pool = pool_to(engine)
        with pool.checkout() as held:
            await (await held.exchange(POST, b"")).head()
        await settle()
        assert (engine.open, pool.open, pool.idle) == (0, 0, 0)


@virtual_time
async def test_a_cancelled_exchange_closes_its_connection() -> None:
    async with scripted_engine(says_and_waits()) as engine:
        pool = pool_to(engine)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await ask(pool)
        await settle()
        assert (engine.open, pool.open, pool.idle) == (0, 0, 0)


@virtual_time
async def test_a_checkout_that_is_handed_over_lives_on() -> None:
    async with scripted_engine(says(OK)) as engine:
        pool = pool_to(engine)
        with pool.checkout() as held:
            answering = await held.exchange(POST, b"")
            kept = held.hand_over()
        assert await answering.read_all(1000) == b"{}"
        kept.close()
        assert (pool.open, pool.idle) == (1, 1)
        pool.close()


@virtual_time
async def test_a_refused_connect() -> None:
    with closed_port() as port:
        pool = ConnectionPool(f"http://127.0.0.1:{port}", connect_s=1)
        with pytest.raises(ConnectFailed) as caught:
            await ask(pool)
        assert str(caught.value.detail).startswith(f"127.0.0.1:{port}: ")
        assert pool.open == 0


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
async def test_where_no_more_files_may_be_open_the_engine_is_not_at_fault(number: int) -> None:
    async with scripted_engine(says(OK)) as engine:
        pool = pool_to(engine)
        with patch("socket.socket", side_effect=OSError(number, "no files")), pytest.raises(OutOfFiles):
            await ask(pool)
        assert (pool.open, await ask(pool)) == (0, b"{}")
        pool.close()


@virtual_time
async def test_an_engine_that_speaks_before_it_is_asked_is_one_that_cannot_be_connected_to() -> None:
    """As a server does that has no room and says so; uvloop delivers that before whoever connects goes on."""

    async def eager(made: Callable[[], EngineConnection], *_: object) -> None:
        connection = made()
        connection.connection_made(FakeTransport())
        connection.data_received(b"HTTP/1.1 503 busy\r\n\r\n")

    pool = ConnectionPool("http://127.0.0.1:9", connect_s=1)
    with patch.object(pool._loop, "create_connection", eager), pytest.raises(ConnectFailed) as caught:
        await pool.connect()
    assert "spoke or closed" in str(caught.value.detail)
    assert (pool.open, pool.idle) == (0, 0)


@virtual_time
async def test_a_connect_without_an_answer_is_given_up() -> None:
    with deaf_port() as port:
        pool = ConnectionPool(f"http://127.0.0.1:{port}", connect_s=1)
        began = asyncio.get_running_loop().time()
        with pytest.raises(ConnectFailed, match="failed") as caught:
            await ask(pool)
        assert asyncio.get_running_loop().time() - began == pytest.approx(1)
        assert caught.value.detail == f"127.0.0.1:{port}: no connection in 1 s"
        assert pool.open == 0


@virtual_time
async def test_a_cancelled_connect_leaves_nothing() -> None:
    with deaf_port() as port:
        pool = ConnectionPool(f"http://127.0.0.1:{port}", connect_s=10)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await ask(pool)
        assert pool.open == 0


@pytest.mark.parametrize("rounds", range(6))
async def test_a_connect_cancelled_at_any_moment_leaves_nothing(rounds: int) -> None:
    async with scripted_engine(says(OK)) as engine:
        pool = pool_to(engine)
        asking = asyncio.get_running_loop().create_task(ask(pool))
        for _ in range(rounds):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await settle()
        assert (pool.open - pool.idle, engine.open) == (0, pool.idle)
        pool.close()


@virtual_time
async def test_closing_ends_every_connection() -> None:
    async with scripted_engine(says_and_waits()) as engine:
        connections = Connections(connect_s=1)
        pool = connections.to(engine.url)
        assert connections.to(engine.url) is pool
        with pool.checkout() as other, pool.checkout() as held:
            await other.connect()
            await held.exchange(POST, b"")
            await settle()
            assert (engine.open, connections.open) == (2, 2)
            connections.close()
            await settle()
            assert (engine.open, connections.open) == (0, 0)
        assert repr(connections) == f"<Connections [<ConnectionPool {engine.url[7:]} 0 open, 0 idle>]>"


@pytest.mark.parametrize(("full", "kind"), [(True, OutOfFiles), (False, ConnectFailed)])
@virtual_time
async def test_a_name_that_cannot_be_looked_up_for_want_of_files(full: bool, kind: type[ConnectFailed]) -> None:
    pool = ConnectionPool("http://engine.example:8000", connect_s=1)

    def no_more() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    with patch.object(asyncio.get_running_loop(), "create_connection", side_effect=unknown), ExitStack() as held:
        if full:
            held.enter_context(patch("router.exchange.pool.socket.socket", no_more))
        with pytest.raises(ConnectFailed) as raised:
            await pool.connect()
    assert type(raised.value) is kind
