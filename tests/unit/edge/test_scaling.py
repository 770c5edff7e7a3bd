import httpx
from fastapi import FastAPI

from router.edge.scaling import scaling
from router.fleet.fleet import Fleet
from router.scaling.autoscaler import Autoscaler, Capacity
from router.scaling.work import PrefillWork
from router.settings.engines import Role
from router.settings.scaling import Autoscale
from tests.support.builders import MODEL, a_backend


async def test_what_is_wanted_is_told_with_its_reason() -> None:
    fleet = Fleet([a_backend(Role.PREFILL, 1), a_backend(Role.DECODE, 2)])
    autoscaler = Autoscaler(fleet, lambda _role, _model: 0, PrefillWork(), Autoscale(), Capacity(1000, 10), lambda: 0.0)
    app = FastAPI()
    app.include_router(scaling(autoscaler))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ops") as client:
        assert (await client.get("/autoscale")).json() == {"models": {}}
        autoscaler.look()
        pools = (await client.get("/autoscale")).json()["models"][MODEL]
    assert {name: (pool["desired"], pool["reason"]) for name, pool in pools.items()} == {
        "decode": (1, "at_min_replicas"),
        "prefill": (1, "at_min_replicas"),
    }
