import asyncio
import os
import socket
from collections.abc import Callable

import httpx
import pytest
import uvloop

from router.app import running
from router.edge.server import ListenError, listen, url_of
from router.settings.tree import Settings

NOWHERE = "http://127.0.0.1:9"


def settings(**sections: object) -> Settings:
    defaults: dict[str, object] = {
        "listen": {"host": "127.0.0.1", "port": 0},
        "ops": {"port": 0},
        "drain": {"drain_accept_s": 0, "drain_timeout_s": 1},
        "backends": [{"url": NOWHERE, "role": "decode"}],
    }
    return Settings.model_validate(defaults | sections)


async def test_a_gateway_without_usable_engines_is_alive_but_not_ready() -> None:
    async with running(settings()) as gateway, httpx.AsyncClient(base_url=gateway.ops_url) as client:
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/fleet")).json()["pools"]["decode"][0]["state"] == "down"


async def test_nothing_is_left_of_a_gateway_that_ended() -> None:
    before = asyncio.all_tasks()
    async with running(settings()) as gateway:
        pass
    assert asyncio.all_tasks() == before
    assert gateway.app.connections.open == 0
    with pytest.raises(httpx.ConnectError):
        await httpx.AsyncClient().get(gateway.data_url)


async def test_a_gateway_serves_on_a_socket_that_it_inherits() -> None:
    with listen("127.0.0.1", 0) as supervisors:
        async with running(settings(listen={"fd": os.dup(supervisors.fileno())})) as gateway:
            assert gateway.data_url == url_of(supervisors)
            async with httpx.AsyncClient(base_url=gateway.data_url) as client:
                assert (await client.get("/v1/models")).status_code == 200
        assert supervisors.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


async def test_every_answer_closes_its_connection_once_the_gateway_drains() -> None:
    async with running(settings()) as gateway, httpx.AsyncClient(base_url=gateway.data_url) as client:
        before = await client.get("/v1/models")
        gateway.app.readiness.draining = True
        after = await client.get("/v1/models")
    assert ("connection" in before.headers, after.headers["connection"]) == (False, "close")


@pytest.mark.parametrize("make_loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def test_nothing_listens_any_more_when_the_block_has_failed(make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def fail(urls: list[str]) -> None:
        async with running(settings()) as gateway:
            urls.extend((gateway.data_url, gateway.ops_url))
            await asyncio.sleep(0.05)
            raise ValueError

    async def answering() -> list[str]:
        urls: list[str] = []
        with pytest.raises(ExceptionGroup) as kept:
            await fail(urls)
        assert kept.value.exceptions, "its frames hold on to what was not closed"
        async with httpx.AsyncClient() as client:
            asked = [await asyncio.gather(client.get(url, timeout=1), return_exceptions=True) for url in urls]
        return [url for url, (answer,) in zip(urls, asked, strict=True) if not isinstance(answer, httpx.ConnectError)]

    loop = make_loop()
    left = loop.run_until_complete(answering())
    if not left:  # uvloop waits for what still listens
        loop.close()
    assert left == []


async def test_an_address_that_is_taken_leaves_the_other_free() -> None:
    async with running(settings()) as first:
        taken = int(first.ops_url.rsplit(":", 1)[1])
        with pytest.raises(ListenError):
            async with running(settings(ops={"port": taken})):
                pass
