import asyncio

import pytest

from router.errors import BadAnswer, ConnectFailed, ConnectionLost, EngineFault, EngineTimeout, OversizedAnswer
from router.exchange import questions
from router.exchange.pool import Connections
from router.exchange.questions import Questions
from router.fleet.backend import Backend
from router.settings.engines import Role
from tests.support.builders import a_backend
from tests.support.scripted_engine import (
    Connection,
    Request,
    Script,
    ScriptedEngine,
    answer,
    head,
    says,
    says_and_closes,
    says_and_waits,
    scripted_engine,
)
from tests.support.sim_pair import closed_port
from tests.support.virtual_time import virtual_time


def backend_of(engine: ScriptedEngine, key: str | None = None) -> Backend:
    return a_backend(Role.DECODE, int(engine.url.rsplit(":", 1)[1]), key=key)


@virtual_time
async def test_questions_share_a_connection() -> None:
    async with scripted_engine(says(answer({"a": 1}, "201 Created"))) as engine:
        connections = Connections(connect_s=1)
        asking, backend = Questions(connections), backend_of(engine)
        models = await asking.ask(backend, "/v1/models", 1)
        made = await asking.ask(backend, "/x", 1, b"{}")
        assert (models.ok, b'"data"' in models.body) == (True, True)
        assert (made.status, made.body, made.ok) == (201, b'{"a":1}', False)
        assert (connections.open, connections.idle, engine.accepted) == (1, 1, 1)
        connections.close()


@virtual_time
async def test_content_is_posted_with_the_key() -> None:
    async with scripted_engine(says(answer({}))) as engine:
        connections = Connections(connect_s=1)
        assert (await Questions(connections).ask(backend_of(engine, key="k"), "/x", 1, b'{"b": 2}')).ok
        (request,) = engine.requests
        assert (request.method, request.json, request.headers["authorization"]) == ("POST", {"b": 2}, "Bearer k")
        assert request.headers["content-type"] == "application/json"
        connections.close()


async def _closes(connection: Connection, _: Request) -> None:
    connection.fin()


async def _drips(connection: Connection, _: Request) -> None:
    await connection.send(head(content_length="5"))
    for _byte in range(5):
        await asyncio.sleep(0.9)
        await connection.send(b"a")


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        (_closes, ConnectionLost),
        (says_and_closes(head(content_length="5") + b"a"), ConnectionLost),
        (says_and_closes(b"not http\r\n"), BadAnswer),
        (says_and_waits(), EngineTimeout),
        (says_and_waits(head(content_length="5") + b"a"), EngineTimeout),
        (_drips, EngineTimeout),
    ],
    ids=["closed", "cut", "not http", "silent", "silent in the body", "always a little more"],
)
def test_what_is_no_reply_is_a_fault_and_leaves_nothing_open(script: Script, fault: type[EngineFault]) -> None:
    @virtual_time
    async def run() -> None:
        connections = Connections(connect_s=1)
        async with scripted_engine(script) as engine:
            with pytest.raises(fault):
                await Questions(connections).ask(backend_of(engine), "/x", 2, b"{}")
            await asyncio.sleep(10)
            assert (connections.open, engine.open) == (0, 0)

    run()


@pytest.mark.parametrize(("limit", "whole"), [(7, True), (6, False)])
def test_a_reply_has_a_bound(monkeypatch: pytest.MonkeyPatch, limit: int, whole: bool) -> None:
    @virtual_time
    async def run() -> None:
        connections = Connections(connect_s=1)
        async with scripted_engine(says(answer({"a": 1}))) as engine:
            asked = Questions(connections).ask(backend_of(engine), "/x", 1, b"{}")
            if whole:
                assert (await asked).body == b'{"a":1}'
            else:
                with pytest.raises(OversizedAnswer):
                    await asked
            connections.close()

    monkeypatch.setattr(questions, "MAX_REPLY_BYTES", limit)
    run()


@virtual_time
async def test_an_engine_that_is_not_there_is_a_fault() -> None:
    with closed_port() as port, pytest.raises(ConnectFailed):
        await Questions(Connections(connect_s=1)).ask(a_backend(Role.DECODE, port), "/x", 1)
