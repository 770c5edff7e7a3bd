import re
from collections.abc import AsyncIterator
from importlib.resources import files

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import Response

from router.admission.line import Line
from router.admission.permits import Permits
from router.console.recent import Recent
from router.console.state import Console
from router.edge.console import console
from router.edge.operators import Operators
from router.edge.readiness import Readiness
from router.errors import RequestError
from router.fleet.fleet import Fleet
from router.fleet.pairs import Pairs
from router.routing.modes import Modes
from router.scaling.autoscaler import Autoscaler, Capacity
from router.scaling.work import PrefillWork
from router.settings.admission import Admission
from router.settings.engines import Role
from router.settings.fleet import PairRules
from router.settings.scaling import Autoscale
from tests.support.builders import a_backend


def now() -> float:
    return 5.0


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    fleet, line = Fleet([a_backend(Role.DECODE, 8201)]), Line(Admission(), now)
    autoscaler = Autoscaler(fleet, line.depth, PrefillWork(), Autoscale(), Capacity(1000, 10), now)
    pairs, permits = Pairs(PairRules()), Permits(Admission())
    view = Console(fleet, pairs, permits, line, Recent(now), autoscaler, lambda: Modes("auto"), now)
    app = FastAPI()
    app.include_router(console(view, Readiness(fleet), Operators("0.0.0.0", "t")))

    @app.exception_handler(RequestError)
    async def failed(_: object, error: RequestError) -> Response:
        return Response(error.message, error.status)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ops") as opened:
        yield opened


async def test_the_page_may_load_its_own_files_and_nothing_else(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    assert (page.headers["x-content-type-options"], page.headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert re.findall(r"<style|<script(?! type=\"module\" src=)| style=| on\w+=", page.text) == []


async def test_every_part_that_is_named_is_there(client: httpx.AsyncClient) -> None:
    page = (await client.get("/")).text
    wanted = {"/console/index.html", *re.findall(r'(?:href|src)="(/console/[^"]+)"', page)}
    for path in [one for one in wanted if one.endswith(".js")]:
        wanted |= await imported(client, path)
    assert {path.removeprefix("/console/") for path in wanted} == {
        entry.name for entry in (files("router.console") / "static").iterdir()
    }
    for path in wanted:
        assert (await client.get(path)).status_code == 200, path


async def imported(client: httpx.AsyncClient, path: str) -> set[str]:
    """What a script needs, and what that needs."""
    found: set[str] = set()
    coming = {path}
    while coming:
        script = (await client.get(coming.pop())).text
        names = {f"/console/{name}" for name in re.findall(r'from "\./([^"]+)"', script)}
        coming |= names - found
        found |= names
    return found


async def test_a_part_that_is_known_is_not_sent_again(client: httpx.AsyncClient) -> None:
    script = await client.get("/console/main.js")
    assert script.headers["content-type"].startswith("text/javascript")
    again = await client.get("/console/main.js", headers={"if-none-match": script.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fstate.py", "state.py", "__init__.py"])
async def test_there_is_nothing_else(client: httpx.AsyncClient, name: str) -> None:
    assert (await client.get(f"/console/{name}")).status_code == 404


async def test_the_state_says_what_changes_need(client: httpx.AsyncClient) -> None:
    answer = await client.get("/console/state")
    assert answer.headers["cache-control"] == "no-store"
    state = answer.json()
    assert (state["changes"], state["ready"], state["notes"]) == ("token", True, [])
    assert state["pools"]["decode"]["engines"][0]["id"] == "127.0.0.1:8201"


async def test_only_the_token_unlocks(client: httpx.AsyncClient) -> None:
    with_token = {"authorization": "Bearer t"}
    assert (await client.post("/console/unlock")).status_code == 401
    assert (await client.post("/console/unlock", headers={"authorization": "Bearer u"})).status_code == 401
    foreign = await client.post("/console/unlock", headers=with_token | {"origin": "http://elsewhere"})
    assert foreign.status_code == 403
    assert (await client.post("/console/unlock", headers=with_token)).json() == {"unlocked": True}
