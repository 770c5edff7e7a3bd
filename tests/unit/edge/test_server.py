import asyncio
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from router.edge.client import Receive, Scope, Send
from router.edge.server import UNSENT_BYTES, Listener, ListenError, inherit, listen, listener, url_of
from tests.support.edge import guards
from tests.support.virtual_time import virtual_time


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


def test_a_taken_address_is_named() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize(
    ("family", "host", "shown"),
    [
        (socket.AF_INET, "127.0.0.1", "http://127.0.0.1:{}"),
        (socket.AF_INET, "0.0.0.0", "http://127.0.0.1:{}"),
        (socket.AF_INET6, "::1", "http://[::1]:{}"),
    ],
)
def test_a_url_can_be_pasted(family: socket.AddressFamily, host: str, shown: str) -> None:
    with socket.socket(family) as bound:
        bound.bind((host, 0))
        assert url_of(bound) == shown.format(bound.getsockname()[1])


async def served(server: Listener, listening: socket.socket) -> str:
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve_on(listening))
        async with httpx.AsyncClient() as client:
            answer = await client.get(url_of(listening), headers={"connection": "close"})
        server.stop()
        await serving
    return answer.text


@virtual_time
async def test_the_time_in_answers_moves_and_a_stop_is_heard_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr("uvicorn.server.time", SimpleNamespace(time=loop.time))
    with listen("127.0.0.1", 0) as listening:
        server = listener(hello, guards(), 1)
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve_on(listening))
            dates = set()
            for _ in range(4):
                await asyncio.sleep(1.0)
                dates.add(dict(server.server_state.default_headers)[b"date"])
            assert len(dates) == 4
            await asyncio.sleep(0.3)  # between two looks
            server.stop()
            stopped_at = loop.time()
    assert loop.time() - stopped_at < 0.5


async def test_two_listeners_share_a_process_and_leave_its_signals_alone() -> None:
    with listen("127.0.0.1", 0) as first, listen("127.0.0.1", 0) as second:
        texts = await asyncio.gather(
            served(listener(hello, guards(), 1), first), served(listener(hello, guards(), 1), second)
        )
    assert list(texts) == ["hi", "hi"]


async def test_a_socket_that_others_have_too_is_served_on_and_outlives_the_listener() -> None:
    with listen("127.0.0.1", 0) as supervisors:
        for _ in range(2):
            with inherit(os.dup(supervisors.fileno())) as inherited:
                assert url_of(inherited) == url_of(supervisors)
                assert await served(listener(hello, guards(), 1), inherited) == "hi"


def test_what_is_no_listening_socket_is_refused_and_left_open(tmp_path: Path) -> None:
    local = socket.socket(socket.AF_UNIX)
    with socket.socket() as silent, local, (tmp_path / "file").open("w") as file:
        local.bind(str(tmp_path / "socket"))
        local.listen()
        for fd, why in (
            (silent.fileno(), "it is not a listening TCP socket"),
            (local.fileno(), "it is not a listening TCP socket"),
            (file.fileno(), "Socket operation on non-socket"),
        ):
            with pytest.raises(ListenError, match=f"cannot listen on file descriptor {fd}: {why}"):
                inherit(fd)
            os.fstat(fd)
    with pytest.raises(ListenError, match="Bad file descriptor"):
        inherit(fd)


def test_little_is_buffered_for_a_client_that_does_not_read() -> None:
    with listen("127.0.0.1", 0) as own, inherit(os.dup(own.fileno())) as inherited, socket.socket() as client:
        inherited.setblocking(True)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(own.getsockname())
        with inherited.accept()[0] as accepted:
            accepted.setblocking(False)
            sent_bytes = accepted.send(bytes(8 << 20))
    assert UNSENT_BYTES <= sent_bytes < 4 * UNSENT_BYTES
