import asyncio
from typing import Never

import httpx
import pytest

from router.exchange.pool import Connections
from router.exchange.transport import EngineTransport
from tests.support.scripted_engine import (
    Connection,
    Request,
    Script,
    answer,
    chunk,
    head,
    says,
    says_and_closes,
    says_and_waits,
    scripted_engine,
    stream,
    stream_head,
)
from tests.support.sim_pair import closed_port
from tests.support.virtual_time import virtual_time


@virtual_time
async def test_requests_and_answers_are_httpx_own() -> None:
    async with scripted_engine(says(answer({"a": 1}, "201 Created", x_name="value"))) as engine:
        connections = Connections(connect_s=1)
        async with httpx.AsyncClient(transport=EngineTransport(connections)) as client:
            got = await client.post(f"{engine.url}/path?q=1", json={"b": 2}, headers={"x-mine": "3"})
        assert (got.status_code, got.json(), got.headers["x-name"]) == (201, {"a": 1}, "value")
        assert (engine.requests[0].path, engine.requests[0].json) == ("/path?q=1", {"b": 2})
        assert engine.requests[0].headers["x-mine"] == "3"
        assert (connections.open, connections.to(engine.url).idle) == (1, 1)
        connections.close()


@virtual_time
async def test_a_stream_is_read_as_it_comes_and_may_be_left() -> None:
    async with (
        scripted_engine(says(stream("a"))) as whole,
        scripted_engine(says_and_waits(stream_head(), chunk(b"a"))) as cut,
    ):
        connections = Connections(connect_s=1)
        async with httpx.AsyncClient(transport=EngineTransport(connections)) as client:
            async with client.stream("POST", whole.url) as got:
                assert (await got.aread()).endswith(b"[DONE]\n\n")
            async with client.stream("POST", cut.url) as got:
                assert await anext(got.aiter_raw()) == b"a"
            await asyncio.sleep(0.01)
        assert (whole.open, cut.open, connections.open) == (1, 0, 1)
        connections.close()


async def _closes(connection: Connection, _: Request) -> None:
    connection.fin()


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        (_closes, httpx.RemoteProtocolError),
        (says_and_closes(head(content_length="5") + b"a"), httpx.RemoteProtocolError),
        (says_and_closes(b"not http\r\n"), httpx.RemoteProtocolError),
        (says_and_waits(), httpx.ReadTimeout),
        (says_and_waits(head(content_length="5") + b"a"), httpx.ReadTimeout),
    ],
    ids=["closed", "cut", "not http", "silent", "silent in the body"],
)
def test_faults_are_httpx_own(script: Script, fault: type[Exception]) -> None:
    @virtual_time
    async def run() -> None:
        connections = Connections(connect_s=1)
        async with scripted_engine(script) as engine:
            async with httpx.AsyncClient(transport=EngineTransport(connections), timeout=2) as client:
                with pytest.raises(fault):
                    await client.post(engine.url)
            await asyncio.sleep(0.01)
            assert (connections.open, engine.open) == (0, 0)

    run()


@virtual_time
async def test_a_refused_connect_is_httpx_own() -> None:
    with closed_port() as port:
        async with httpx.AsyncClient(transport=EngineTransport(Connections(connect_s=1))) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"http://127.0.0.1:{port}/")


@virtual_time
async def test_no_timeout_is_none() -> None:
    async def slow(connection: Connection, _: Request) -> None:
        await asyncio.sleep(1000)
        await connection.send(answer({}))

    async with scripted_engine(slow) as engine:
        connections = Connections(connect_s=1)
        async with httpx.AsyncClient(transport=EngineTransport(connections), timeout=None) as client:
            assert (await client.post(engine.url)).status_code == 200
        connections.close()


async def test_the_default_port_is_80() -> None:
    class Seen(Connections):
        def to(self, origin: str) -> Never:
            origins.append(origin)
            raise LookupError

    origins: list[str] = []
    async with httpx.AsyncClient(transport=EngineTransport(Seen(connect_s=1))) as client:
        for url in ("http://engine:80/health", "http://engine/health", "http://[::1]:80/", "http://[::1]:8000/"):
            with pytest.raises(LookupError):
                await client.get(url)
    assert origins == ["http://engine:80", "http://engine:80", "http://[::1]:80", "http://[::1]:8000"]
