"""A gateway that runs in the test's loop, and raw clients for it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import httpx
import orjson
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from router.app import Running
from router.edge.protocol import GatewayProtocol
from router.settings.tree import Settings
from tests.support.books import gateway
from tests.support.scripted_engine import MODEL

COMPLETIONS = "/v1/completions"

both_ways = pytest.mark.parametrize(
    "protocol", [pytest.param(GatewayProtocol, id="spliced"), pytest.param(HttpToolsProtocol, id="forwarded")]
)
"""Tokens go from socket to socket, or through ASGI where the server lends no socket: clients see no difference."""


def settings(*, aggregated: str = "", prefill: str = "", decode: str = "", **sections: Any) -> Settings:
    """Settings for engines at these URLs, on free ports, without probes that a test would have to think of."""
    engines = {"aggregated": aggregated, "prefill": prefill, "decode": decode}
    defaults: dict[str, Any] = {
        "listen": {"host": "127.0.0.1", "port": 0},
        "ops": {"port": 0},
        "backends": [{"url": url, "role": role} for role, url in engines.items() if url],
        "routing": {"mode": "disaggregated" if prefill else "auto"},
        "probes": {"interval_s": 3600, "down_interval_s": 3600},
        "scrapes": {"interval_s": 3600},
        "drain": {"drain_accept_s": 0, "drain_timeout_s": 1},
        "pairs": {"warm_up": False},
    }
    return Settings.model_validate(defaults | sections)


@dataclass
class Site:
    """A running gateway and an HTTP client for it."""

    gateway: Running
    client: httpx.AsyncClient

    async def ask(self, **fields: Any) -> httpx.Response:
        """A completion; `fields` are added to its body."""
        return await self.client.post(COMPLETIONS, json=body(**fields))

    async def open(self, request: bytes = b"", *, receive_buffer_bytes: int = 0) -> "RawClient":
        """A raw connection, with a request sent on it; a small receive buffer makes a slow client felt."""
        host, port = self.gateway.data_url.removeprefix("http://").split(":")
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        reader, writer = await asyncio.open_connection(sock=sock, limit=receive_buffer_bytes or 1 << 20)
        writer.write(request)
        return RawClient(reader, writer)

    def count(self, metric: str, **labels: str) -> float:
        """A counter's value, summed over the labels that are not given."""
        families = self.gateway.app.registry.collect()
        samples = [s for f in families for s in f.samples if s.name == f"pd_router_{metric}_total"]
        return sum(s.value for s in samples if labels.items() <= s.labels.items())

    def outcomes(self) -> dict[str, float]:
        """How requests ended, counted."""
        samples = [s for f in self.gateway.app.registry.collect() for s in f.samples]
        return {s.labels["outcome"]: s.value for s in samples if s.name == "pd_router_requests_total"}

    async def assert_at_rest(self) -> None:
        """Nothing is held for anybody: no load, no permit, no release, no busy socket."""
        app = self.gateway.app
        await eventually(lambda: all(b.load.requests == b.load.tokens == 0 for b in app.fleet.backends), within_s=10)
        await eventually(lambda: app.releases.open == 0, within_s=10)
        pools = app.connections._pools.values()
        await eventually(lambda: sum(pool.open - pool.idle for pool in pools) == 0, within_s=10)
        assert all(app.permits.of_pool([b])[1] == 0 for b in app.fleet.backends)


@dataclass
class RawClient:
    """A client that sees and decides every byte."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next answer."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        return int(lines[0].split()[1]), dict(line.split(": ", 1) for line in lines[1:] if line)

    async def chunk(self) -> bytes:
        """One chunk of a chunked body; empty at its end."""
        size = int(await self.reader.readline(), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def stream(self) -> bytes:
        """A whole chunked body."""
        data = b""
        while part := await self.chunk():
            data += part
        return data

    async def answer(self) -> tuple[int, Any]:
        """Status and decoded content of the next answer."""
        status, headers = await self.head()
        return status, orjson.loads(await self.reader.readexactly(int(headers["content-length"])))


def body(**fields: Any) -> dict[str, Any]:
    """The body of a completion."""
    return {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 20} | fields


def post(path: str = COMPLETIONS, *, more: str = "", **fields: Any) -> bytes:
    """A raw request; `more` are header lines."""
    content = orjson.dumps(body(**fields))
    lines = f"POST {path} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n{more}"
    return f"{lines}content-length: {len(content)}\r\n\r\n".encode() + content


@asynccontextmanager
async def site(
    configured: Settings, protocol: type[asyncio.Protocol] = GatewayProtocol, *, at_rest: bool = True
) -> AsyncIterator[Site]:
    """A gateway that serves while the block lasts; by its end it must hold nothing for anybody."""
    with patch("router.edge.server.GatewayProtocol", protocol):
        async with gateway(configured) as started, httpx.AsyncClient(base_url=started.data_url, timeout=10) as client:
            made = Site(started, client)
            yield made
            if at_rest:
                await made.assert_at_rest()
            started.stop_now()


async def eventually(condition: Callable[[], bool], within_s: float = 2.0) -> None:
    """Wait until something holds; for what other sockets' ends take a moment to show."""
    deadline = asyncio.get_running_loop().time() + within_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "it did not come to hold in time"
        await asyncio.sleep(0.005)
