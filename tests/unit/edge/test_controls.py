import random
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from router.edge.controls import controls
from router.edge.operations import operations_app
from router.edge.operators import Operators
from router.edge.readiness import Readiness
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.fleet.pairs import Pairs
from router.routing.choose import Chooser
from router.settings import PairRules, Role, Routing
from tests.support.builders import a_backend


@pytest.fixture
def decode() -> Backend:
    return a_backend(Role.DECODE, 8201)


@pytest.fixture
def chooser() -> Chooser:
    return Chooser(Routing(), lambda _: True, random.Random(0))


def app(decode: Backend, chooser: Chooser, operators: Operators) -> FastAPI:
    fleet = Fleet([decode])
    routes = controls(fleet, chooser, operators, lambda: 5.0)
    return operations_app(fleet, Pairs(PairRules()), Readiness(fleet), CollectorRegistry(), routes, lambda: 5.0)


@pytest.fixture
async def client(decode: Backend, chooser: Chooser) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app(decode, chooser, Operators("127.0.0.1")))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8001") as opened:
        yield opened


async def test_the_mode_can_be_changed(client: httpx.AsyncClient, chooser: Chooser) -> None:
    assert (await client.get("/routing")).json() == {"mode": "auto"}
    answer = await client.put("/routing", json={"mode": "local"})
    assert (answer.status_code, answer.json(), chooser.mode) == (200, {"mode": "local"}, "local")


@pytest.mark.parametrize("body", [{"mode": "fast"}, {}, {"mode": "auto", "policy": "x"}, []])
async def test_what_is_no_mode_is_refused_by_name(client: httpx.AsyncClient, chooser: Chooser, body: object) -> None:
    answer = await client.put("/routing", json=body)
    assert (answer.status_code, chooser.mode) == (400, "auto")
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


async def test_an_engine_can_be_drained_and_enabled(client: httpx.AsyncClient, decode: Backend) -> None:
    answer = await client.post(f"/fleet/backends/{decode.id}/drain")
    assert (answer.status_code, answer.json()["drained"], decode.standing.usable) == (200, True, False)
    answer = await client.post(f"/fleet/backends/{decode.id}/enable")
    assert (answer.status_code, answer.json()["drained"], decode.standing.usable) == (200, False, True)


async def test_an_engine_that_does_not_exist_is_not_found(client: httpx.AsyncClient) -> None:
    answer = await client.post("/fleet/backends/127.0.0.1:1/drain")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_who_may_not_changes_nothing(decode: Backend, chooser: Chooser) -> None:
    transport = httpx.ASGITransport(app(decode, chooser, Operators("0.0.0.0", "t")))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway:8001") as client:
        assert (await client.put("/routing", json={"mode": "local"})).status_code == 401
        assert (await client.post(f"/fleet/backends/{decode.id}/drain")).status_code == 401
        assert (await client.get("/routing")).status_code == 200
    assert (chooser.mode, decode.standing.usable) == ("auto", True)
