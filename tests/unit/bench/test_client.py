"""What a server says arrives byte by byte, and the client can leave in the midst of it."""

import asyncio
import gc

import pytest

from router.bench.client import ask, asker, request
from router.call import Api
from tests.support.scripted_engine import (
    Connection,
    Request,
    answer,
    chunk,
    says,
    says_and_closes,
    scripted_engine,
    stream,
    stream_head,
)

BODY = {"model": "m", "prompt": "é", "stream": True}


async def test_an_answer_is_read_to_its_end() -> None:
    async with scripted_engine(says(stream("a"))) as server:
        reply = await ask(server.url, BODY, Api.COMPLETIONS)
    assert (reply.status, reply.complete) == (200, True)
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.body.endswith(b"data: [DONE]\n\n")
    assert [(one.path, one.json) for one in server.requests] == [("/v1/completions", BODY)]


async def test_an_answer_that_is_cut_is_not_complete() -> None:
    async with scripted_engine(says_and_closes(stream_head(), chunk(b"data: 1\n\n"))) as server:
        reply = await ask(server.url, BODY)
    assert (reply.status, reply.complete, bytes(reply.body)) == (200, False, b"data: 1\n\n")


@pytest.mark.parametrize("reset", [True, False])
async def test_a_client_can_leave(reset: bool) -> None:
    left = asyncio.get_running_loop().create_future()

    async def script(connection: Connection, _: Request) -> None:
        await connection.send(stream_head(), chunk(b"data: 1\n\n"))
        try:
            left.set_result(await connection._reader.read())
        except ConnectionResetError:
            left.set_result("reset")

    async with scripted_engine(script) as server:
        async with asker(server.url) as one:
            one.send(request(Api.CHAT, BODY))
            while not one.reply.body:
                assert await one.read()
            if reset:
                one.reset()
        async with asyncio.timeout(5):
            assert await left == ("reset" if reset else b"")


async def test_a_request_may_come_in_pieces() -> None:
    data = request(Api.CHAT, BODY)
    async with scripted_engine(says(answer({}))) as server, asker(server.url, receive_buffer_bytes=4096) as one:
        for at in range(0, len(data), 40):
            one.send(data[at : at + 40])
        assert (await one.read_all()).status == 200
    assert server.bodies == [BODY]


async def test_a_connection_that_is_refused_leaves_nothing_open() -> None:
    with pytest.raises(ConnectionRefusedError):
        await ask("http://127.0.0.1:9", BODY)
    gc.collect()  # an open socket would complain
