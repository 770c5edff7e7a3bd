"""What may be changed at run time: the routing mode, and which engines get requests."""

from typing import Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from router.edge.operators import Operators
from router.errors import InvalidRequest
from router.fleet.fleet import Fleet
from router.fleet.membership import Membership
from router.routing.choose import Chooser
from router.routing.modes import Modes
from router.settings.engines import BackendSettings
from router.settings.routing import Mode
from router.telemetry.events import Clock

MAX_BODY_BYTES = 64 << 10
"""More than any change says. A body is read before anybody is asked for the token."""


class RoutingNow(BaseModel):
    """What of the routing can be changed: the mode, or for all but a `share` of requests `otherwise`."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)

    mode: Mode
    share: float = Field(1.0, ge=0, le=1)
    otherwise: Mode = "local"


def controls(membership: Membership, fleet: Fleet, chooser: Chooser, operators: Operators, clock: Clock) -> APIRouter:
    """The routes that change something, and those that show it."""
    router = APIRouter(max_body_size=MAX_BODY_BYTES)

    def admitted(request: Request) -> None:
        operators.admit(request.headers)

    @router.get("/routing")
    async def routing() -> RoutingNow:
        """The modes: auto, local or disaggregated."""
        return RoutingNow.model_validate(chooser.modes)

    @router.put("/routing", dependencies=[Depends(admitted)])
    async def set_routing(wanted: RoutingNow) -> RoutingNow:
        """Change the mode, of all or of a share of requests, until the process ends."""
        chooser.modes = Modes(**wanted.model_dump())
        return await routing()

    @router.post("/fleet/backends", dependencies=[Depends(admitted)], status_code=201)
    async def add(settings: BackendSettings) -> dict[str, Any]:
        """Take an engine into the fleet, until the process ends.

        Its key can only be one that the fleet uses already: else any variable could be sent to any address.
        """
        if settings.key_env and settings.key_env not in {backend.settings.key_env for backend in fleet.backends}:
            raise InvalidRequest("key_env must name a variable that an engine of the fleet uses", param="key_env")
        return membership.add(settings).describe(clock())

    @router.delete("/fleet/backends/{backend_id}", dependencies=[Depends(admitted)])
    async def remove(backend_id: str) -> dict[str, Any]:
        """Take an engine out of the fleet; requests that it has go on."""
        return membership.remove(backend_id).describe(clock())

    @router.post("/fleet/backends/{backend_id}/{action}", dependencies=[Depends(admitted)])
    async def drain(backend_id: str, action: Literal["drain", "enable"]) -> dict[str, Any]:
        """Send an engine no more requests, while those that it has go on; or send it requests again."""
        return membership.drain(backend_id, drained=action == "drain").describe(clock())

    return router
