from collections.abc import AsyncIterator

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from router.edge.operations import operations_app
from router.edge.operators import Operators
from router.edge.readiness import Readiness
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.fleet.pairs import Pairs
from router.settings.engines import Role
from router.settings.fleet import PairRules
from tests.support.builders import MODEL, a_backend


@pytest.fixture
def decode() -> Backend:
    return a_backend(Role.DECODE, 8201, requests=2, tokens=30)


@pytest.fixture
def readiness(decode: Backend) -> Readiness:
    return Readiness(Fleet([decode]))


@pytest.fixture
async def client(decode: Backend, readiness: Readiness) -> AsyncIterator[httpx.AsyncClient]:
    registry = CollectorRegistry()
    Counter("seen", "Seen.", registry=registry).inc()
    fleet, operators = Fleet([decode]), Operators("127.0.0.1")
    app = operations_app(fleet, Pairs(PairRules()), readiness, registry, operators, lambda: 5.0)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost:8001") as opened:
        yield opened


async def test_alive_while_the_process_runs(client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).status_code == 200


async def test_ready_says_no_with_the_reasons(client: httpx.AsyncClient, readiness: Readiness) -> None:
    assert (await client.get("/readyz")).json() == {"ready": True, "reasons": [], "notes": []}
    readiness.draining = True
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"ready": False, "reasons": ["draining"], "notes": []})


async def test_the_fleet_tells_state_load_and_why(client: httpx.AsyncClient) -> None:
    fleet = (await client.get("/fleet")).json()
    (engine,) = fleet["pools"]["decode"]
    assert (fleet["ready"], fleet["inflight_requests"]) == (True, 2)
    expected = {"id": "127.0.0.1:8201", "state": "up", "why": "probes answered", "since_s": 5.0, "inflight_tokens": 30}
    assert {name: engine[name] for name in expected} == expected
    assert engine["models"] == {MODEL: None}
    assert fleet["warm_ups"] == {"warm": 0, "cold": 0, "failed": []}


@pytest.mark.parametrize(
    ("accept", "content_type", "last"),
    [("", "text/plain", ""), ("application/openmetrics-text", "application/openmetrics-text", "# EOF")],
)
async def test_metrics_come_in_the_format_asked_for(
    client: httpx.AsyncClient, accept: str, content_type: str, last: str
) -> None:
    answer = await client.get("/metrics", headers={"accept": accept})
    assert answer.headers["content-type"].startswith(content_type)
    assert "seen_total 1.0" in answer.text
    assert answer.text.rstrip("\n").endswith(last)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/nope", 404, "not_found"), ("POST", "/fleet", 405, "method_not_allowed")],
)
async def test_what_is_not_served_is_told_in_the_shape_of_all_errors(
    client: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert path in answer.json()["error"]["message"]


async def test_a_fault_of_its_own_is_told_in_it_too(decode: Backend, readiness: Readiness) -> None:
    def fails() -> float:
        raise ZeroDivisionError

    app = operations_app(
        Fleet([decode]), Pairs(PairRules()), readiness, CollectorRegistry(), Operators("127.0.0.1"), fails
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8001") as client:
        answer = await client.get("/fleet")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
