"""The operations listener: metrics, health, the fleet as it stands, and what may be changed of it."""

from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException

from router import __version__
from router.edge import replies
from router.edge.operators import Operators
from router.edge.readiness import Readiness
from router.errors import InternalFault, InvalidRequest, MethodNotAllowed, NotFound, RequestError, TooLarge
from router.fleet.fleet import Fleet
from router.fleet.pairs import Pairs
from router.telemetry.events import Clock
from router.telemetry.page import page

OPEN = frozenset({"/healthz", "/readyz", "/metrics"})
"""What balancers and scrapers ask for, under whatever name: it names engines and models, and only counts requests."""


def operations_app(
    fleet: Fleet,
    pairs: Pairs,
    readiness: Readiness,
    registry: CollectorRegistry,
    operators: Operators,
    clock: Clock,
) -> FastAPI:
    """The application of the operations listener; what is included in it is read under the same names."""

    async def admitted(request: Request) -> None:
        if request.url.path not in OPEN:
            operators.admit_name(request.headers)

    named = [Depends(admitted)]
    app = FastAPI(title="pd-router operations", version=__version__, docs_url=None, redoc_url=None, dependencies=named)

    @app.get("/healthz")
    async def alive() -> dict[str, str]:
        """The process runs."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def ready() -> JSONResponse:
        """Requests can be served: 200, or 503 with the reasons why not."""
        reasons = readiness.reasons_against()
        told = {"ready": not reasons, "reasons": reasons, "notes": readiness.notes()}
        return JSONResponse(told, 503 if reasons else 200)

    @app.get("/fleet")
    async def fleet_now() -> dict[str, Any]:
        """Pools, engines, their state and why; pairs that cannot hand over, or take too long."""
        now = clock()
        told = {"quarantined_pairs": list(pairs.quarantined(now)), "slow_pairs": list(fleet.slow_pairs())}
        return fleet.describe(now) | told | {"warm_ups": pairs.warm_ups(now)}

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Prometheus text, or OpenMetrics when asked for."""
        text, content_type = await page(registry, request.headers.get("accept", ""))
        return Response(text, media_type=content_type)

    _tell_errors(app)
    return app


def _tell_errors(app: FastAPI) -> None:
    """In the shape that errors have on the other listener."""

    @app.exception_handler(RequestError)
    async def failed(_: Request, error: RequestError) -> Response:
        return Response(replies.error_body(error), error.status, media_type="application/json")

    @app.exception_handler(RequestValidationError)
    async def refused(_: Request, error: RequestValidationError) -> Response:
        fault = error.errors()[0]
        if fault["type"] == "json_invalid":  # whose place is an offset
            return await failed(_, InvalidRequest("the body is not valid JSON"))
        where = ".".join(str(part) for part in fault["loc"][1:])
        return await failed(_, InvalidRequest(f"{where}: {fault['msg']}", param=where or None))

    @app.exception_handler(HTTPException)
    async def not_served(request: Request, error: HTTPException) -> Response:
        return await failed(request, _fault_of(error, f"{request.method} {request.url.path}"))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return await failed(request, InternalFault(type(error).__name__))


def _fault_of(error: HTTPException, asked: str) -> RequestError:
    """What the framework found wrong, as it is told here."""
    match error.status_code:
        case NotFound.status:
            return NotFound(f"{asked} is not served here")
        case MethodNotAllowed.status:
            return MethodNotAllowed(f"{asked} is not served here")
        case TooLarge.status:
            return TooLarge("the body is larger than any change that can be made here")
        case _:
            return InvalidRequest(f"the body cannot be read: {error.detail}")
