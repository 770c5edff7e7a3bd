"""What may be changed at run time: the routing mode, and which engines get requests."""

from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict

from router.edge.operators import Operators
from router.errors import NotFound
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.routing.choose import Chooser
from router.settings import Mode
from router.telemetry.events import Clock


class RoutingNow(BaseModel):
    """What of the routing can be changed."""

    model_config = ConfigDict(extra="forbid")

    mode: Mode


def controls(fleet: Fleet, chooser: Chooser, operators: Operators, clock: Clock) -> APIRouter:
    """The routes that change something, and those that show it."""
    router = APIRouter()

    def admitted(request: Request) -> None:
        operators.admit(request.headers)

    def engine(backend_id: str) -> Backend:
        for backend in fleet.backends:
            if backend.id == backend_id:
                return backend
        raise NotFound(f"there is no engine {backend_id!r}; see /fleet")

    @router.get("/routing")
    async def routing() -> RoutingNow:
        """The mode: auto, local or disaggregated."""
        return RoutingNow(mode=chooser.mode)

    @router.put("/routing", dependencies=[Depends(admitted)])
    async def set_routing(wanted: RoutingNow) -> RoutingNow:
        """Change the mode, until the process ends."""
        chooser.mode = wanted.mode
        return await routing()

    @router.post("/fleet/backends/{backend_id}/drain", dependencies=[Depends(admitted)])
    async def drain(backend_id: str) -> dict[str, Any]:
        """Send an engine no more requests; those that it has go on."""
        backend = engine(backend_id)
        backend.standing.drained = True
        return backend.describe(clock())

    @router.post("/fleet/backends/{backend_id}/enable", dependencies=[Depends(admitted)])
    async def enable(backend_id: str) -> dict[str, Any]:
        """Send a drained engine requests again."""
        backend = engine(backend_id)
        backend.standing.drained = False
        return backend.describe(clock())

    return router
