"""How many engines should there be, and why? What autoscalers read, and the people who wonder about them."""

from typing import Any

from fastapi import APIRouter

from router.scaling.autoscaler import Autoscaler


def scaling(autoscaler: Autoscaler) -> APIRouter:
    """The route that tells."""
    router = APIRouter()

    @router.get("/autoscale")
    async def autoscale() -> dict[str, Any]:
        """By model and pool: engines that should be there, the reason, what it was worked out from, who may go."""
        return autoscaler.describe()

    return router
