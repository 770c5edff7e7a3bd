"""How a gateway stops: a real process, real signals, and a stream that is open when they come."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.support.gateway import COMPLETIONS, body
from tests.support.scripted_engine import (
    DONE,
    LAST_CHUNK,
    Connection,
    Request,
    ScriptedEngine,
    chunk,
    event,
    scripted_engine,
    stream_head,
)

WAIT_S = 20


class Held:
    """A stream that ends when the test says so."""

    def __init__(self) -> None:
        self.released = asyncio.Event()

    async def __call__(self, connection: Connection, _: Request) -> None:
        await connection.send(stream_head() + chunk(event("a")))
        await self.released.wait()
        await connection.send(chunk(event("b") + DONE) + LAST_CHUNK)


@asynccontextmanager
async def serving(engine: ScriptedEngine, **drain: float) -> AsyncIterator[tuple[Process, dict[str, Any]]]:
    """`serve` as a process, and where it listens."""
    flags = ["--host", "127.0.0.1", "--port", "0", "--ops-port", "0", "--log-format", "json"]
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PD_ROUTER_")}
    environ |= {f"PD_ROUTER_DRAIN__{name.upper()}": str(value) for name, value in drain.items()}
    argv = [sys.executable, "-m", "router", "serve", "--aggregated", engine.url, *flags]
    process = await asyncio.create_subprocess_exec(*argv, stderr=PIPE, env=environ, cwd=Path(__file__).parents[2])
    try:
        assert process.stderr is not None
        async for line in process.stderr:
            if b'"serving"' in line:
                break
        yield process, orjson.loads(line)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[tuple[httpx.AsyncClient, AsyncIterator[bytes]]]:
    """A client that has read the first event of a stream."""
    async with (
        httpx.AsyncClient(timeout=WAIT_S) as client,
        client.stream("POST", url + COMPLETIONS, json=body(stream=True)) as got,
    ):
        parts = got.aiter_raw()
        assert await anext(parts) == event("a")
        yield client, parts


async def rest(parts: AsyncIterator[bytes]) -> bytes:
    """What is still to come."""
    return b"".join([part async for part in parts])


async def reasons_against(client: httpx.AsyncClient, at: dict[str, Any]) -> list[str]:
    """Why the gateway is not ready, once it says that it is not."""
    for _ in range(500):
        if (got := await client.get(at["operations"] + "/readyz")).status_code == 503:
            return list(got.json()["reasons"])
        await asyncio.sleep(0.01)
    pytest.fail("it stayed ready")


async def test_a_stream_that_is_open_ends_as_it_would_have() -> None:
    held = Held()
    async with scripted_engine(held) as engine, serving(engine, drain_accept_s=0) as (process, at):
        async with reading(at["data"]) as (client, parts):
            process.send_signal(signal.SIGTERM)
            assert await reasons_against(client, at) == ["draining"]
            held.released.set()
            assert await rest(parts) == event("b") + DONE
        assert await asyncio.wait_for(process.wait(), WAIT_S) == 0


async def test_new_requests_are_served_until_the_balancers_have_noticed() -> None:
    held = Held()
    held.released.set()
    async with scripted_engine(held) as engine, serving(engine, drain_accept_s=1) as (process, at):
        process.send_signal(signal.SIGTERM)
        async with httpx.AsyncClient(timeout=WAIT_S) as client:
            assert await reasons_against(client, at) == ["draining"]
            got = await client.post(at["data"] + COMPLETIONS, json=body(stream=True))
        assert got.content == event("a") + event("b") + DONE
        assert await asyncio.wait_for(process.wait(), WAIT_S) == 0


@pytest.mark.parametrize(("drain_timeout_s", "signals"), [(1, 1), (60, 2)], ids=["its time is over", "a second signal"])
async def test_a_stream_that_cannot_be_waited_for_ends_in_an_error(drain_timeout_s: float, signals: int) -> None:
    async with (
        scripted_engine(Held()) as engine,
        serving(engine, drain_accept_s=0, drain_timeout_s=drain_timeout_s) as (process, at),
    ):
        async with reading(at["data"]) as (_, parts):
            for _ in range(signals):
                process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.3)
            error, done, end = (await asyncio.wait_for(rest(parts), 5)).split(b"\n\n")
            assert orjson.loads(error.removeprefix(b"data: "))["error"]["code"] == "stopping"
            assert (done + b"\n\n", end) == (DONE, b"")
        assert await asyncio.wait_for(process.wait(), 5) == 0
