import json
import random
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from router.edge.controls import MAX_BODY_BYTES, controls
from router.edge.operations import operations_app
from router.edge.operators import Operators
from router.edge.readiness import Readiness
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.fleet.membership import Membership
from router.fleet.pairs import Pairs
from router.fleet.probes import Prober
from router.routing.choose import Chooser
from router.routing.modes import Modes
from router.settings.engines import Role
from router.settings.fleet import PairRules, Probes
from router.settings.routing import Routing
from tests.support.asking import ask
from tests.support.builders import a_backend


@pytest.fixture
def decode() -> Backend:
    return a_backend(Role.DECODE, 8201)


@pytest.fixture
def chooser() -> Chooser:
    return Chooser(Routing(), lambda pool, _: list(pool), random.Random(0))


def app(decode: Backend, chooser: Chooser, operators: Operators) -> FastAPI:
    fleet = Fleet([decode])
    prober = Prober(fleet, ask, Probes(), clock=lambda: 5.0, notice=lambda _: None, rng=random.Random())
    members = Membership(
        fleet, prober, Pairs(PairRules()), lambda settings: Backend(settings, Probes(), now=5.0), lambda _: None
    )
    made = operations_app(fleet, Pairs(PairRules()), Readiness(fleet), CollectorRegistry(), operators, lambda: 5.0)
    made.include_router(controls(members, fleet, chooser, operators, lambda: 5.0))
    return made


@pytest.fixture
async def client(decode: Backend, chooser: Chooser) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app(decode, chooser, Operators("127.0.0.1")))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8001") as opened:
        yield opened


async def test_the_mode_can_be_changed(client: httpx.AsyncClient, chooser: Chooser) -> None:
    assert (await client.get("/routing")).json() == {"mode": "auto", "share": 1, "otherwise": "local"}
    answer = await client.put("/routing", json={"mode": "local"})
    now = {"mode": "local", "share": 1, "otherwise": "local"}
    assert (answer.status_code, answer.json(), chooser.modes) == (200, now, Modes("local"))


async def test_for_a_share_of_requests_too(client: httpx.AsyncClient, chooser: Chooser) -> None:
    answer = await client.put("/routing", json={"mode": "auto", "share": 0.25, "otherwise": "disaggregated"})
    assert (answer.status_code, chooser.modes) == (200, Modes("auto", 0.25, "disaggregated"))
    assert (await client.get("/routing")).json() == answer.json()
    await client.put("/routing", json={"mode": "local"})
    assert chooser.modes == Modes("local"), "a share is not kept that is not asked for"


@pytest.mark.parametrize(
    "body",
    [
        {"mode": "fast"},
        {},
        {"mode": "auto", "policy": "x"},
        [],
        {"mode": "auto", "share": 1.5},
        {"mode": "auto", "share": -0.5},
        {"mode": "auto", "share": 0.5, "otherwise": "fast"},
    ],
)
async def test_what_is_no_mode_is_refused_by_name(client: httpx.AsyncClient, chooser: Chooser, body: object) -> None:
    answer = await client.put("/routing", json=body)
    assert (answer.status_code, chooser.modes) == (400, Modes("auto"))
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


async def test_an_engine_can_be_drained_and_enabled(client: httpx.AsyncClient, decode: Backend) -> None:
    answer = await client.post(f"/fleet/backends/{decode.id}/drain")
    assert (answer.status_code, answer.json()["drained"], decode.standing.usable) == (200, True, False)
    answer = await client.post(f"/fleet/backends/{decode.id}/enable")
    assert (answer.status_code, answer.json()["drained"], decode.standing.usable) == (200, False, True)


async def test_engines_come_and_go(client: httpx.AsyncClient) -> None:
    new = {"url": "http://10.0.0.9:8200", "role": "prefill"}
    answer = await client.post("/fleet/backends", json=new)
    assert (answer.status_code, answer.json()["id"], answer.json()["state"]) == (201, "10.0.0.9:8200", "unknown")
    again = await client.post("/fleet/backends", json=new)
    assert (again.status_code, again.json()["error"]["param"]) == (400, "url")
    pools = (await client.get("/fleet")).json()["pools"]
    assert [engine["id"] for engine in pools["prefill"]] == ["10.0.0.9:8200"]
    assert (await client.delete("/fleet/backends/10.0.0.9:8200")).status_code == 200
    assert (await client.delete("/fleet/backends/10.0.0.9:8200")).status_code == 404


@pytest.mark.parametrize(
    "odd", [{"models": ["\ud800"]}, {"group": "\ud800"}, {"url": "http://\ud800:1"}, {"url": "http://h:0"}]
)
async def test_what_could_not_be_shown_is_not_taken_in(client: httpx.AsyncClient, odd: dict[str, object]) -> None:
    body = json.dumps({"url": "http://10.0.0.9:8200", "role": "prefill"} | odd)
    answer = await client.post("/fleet/backends", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    fleet = await client.get("/fleet")
    assert (fleet.status_code, fleet.json()["pools"]["prefill"]) == (200, [])


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"role": "prefill"}, "url"),
        ({"url": "ftp://x", "role": "prefill"}, "url"),
        ({"url": "http://x:1", "role": "both"}, "role"),
        ({"url": "http://x:1", "role": "decode", "speed": 1}, "speed"),
        ({"url": "http://x:1", "role": "decode", "key_env": "HOME"}, "key_env"),
    ],
)
async def test_what_is_no_engine_is_refused_by_name(
    client: httpx.AsyncClient, body: dict[str, object], param: str
) -> None:
    answer = await client.post("/fleet/backends", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_an_engine_that_does_not_exist_is_not_found(client: httpx.AsyncClient) -> None:
    answer = await client.post("/fleet/backends/127.0.0.1:1/drain")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_who_may_not_changes_nothing(decode: Backend, chooser: Chooser) -> None:
    transport = httpx.ASGITransport(app(decode, chooser, Operators("0.0.0.0", "t")))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway:8001") as client:
        assert (await client.put("/routing", json={"mode": "local"})).status_code == 401
        assert (await client.post(f"/fleet/backends/{decode.id}/drain")).status_code == 401
        assert (await client.get("/routing")).status_code == 200
    assert (chooser.modes, decode.standing.usable) == (Modes("auto"), True)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/routing"),
        ("POST", "/fleet/backends"),
        ("POST", "/fleet/backends/x/drain"),
        ("DELETE", "/fleet/backends/x"),
    ],
)
async def test_nobody_can_fill_the_memory(decode: Backend, chooser: Chooser, method: str, path: str) -> None:
    sent_bytes = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent_bytes
        while sent_bytes < 100 * MAX_BODY_BYTES:
            sent_bytes += 1 << 14
            yield bytes(1 << 14)

    transport = httpx.ASGITransport(app(decode, chooser, Operators("0.0.0.0", "t")))
    async with httpx.AsyncClient(transport=transport, base_url="http://ops:8001") as client:
        answer = await client.request(method, path, content=endless(), headers={"content-type": "application/json"})
    assert answer.status_code in (401, 413)
    assert sent_bytes <= MAX_BODY_BYTES + (1 << 14)


@pytest.mark.parametrize(
    "body",
    [b'{"mode": "\xff"}', b"[" * 30_000, b'{"mode": ', b'{"mode": "auto", "share": ' + b"1" * 5000 + b"}"],
    ids=["no UTF-8", "too deep", "cut", "too long a number"],
)
async def test_a_body_that_cannot_be_read_is_told_in_the_shape_of_all_errors(
    client: httpx.AsyncClient, body: bytes
) -> None:
    answer = await client.put("/routing", content=body, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_request", None)
