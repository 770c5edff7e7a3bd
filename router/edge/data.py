"""The data listener: generating routes go straight to the gateway, everything else to FastAPI.

The hot routes are plain ASGI because FastAPI's stack costs 20 us a request and would read the body a second time.
"""

from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from router.call import Api
from router.edge import replies
from router.edge.api_key import ApiKey
from router.edge.client import AsgiClient, Limits, Receive, Scope, Send
from router.edge.request_ids import RequestIds
from router.errors import MethodNotAllowed, NotFound, RequestError, UnknownModel
from router.fleet.backend import ModelCard
from router.fleet.fleet import Fleet
from router.gateway import Gateway

HOT_ROUTES = {api.value: api for api in Api}


class DataApp:
    """The ASGI application that clients talk to."""

    def __init__(self, gateway: Gateway, fleet: Fleet, limits: Limits, ids: RequestIds) -> None:
        self._gateway = gateway
        self._limits = limits
        self._ids = ids
        self._rest = _rest(fleet, ids, limits.key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        api = HOT_ROUTES.get(scope["path"])
        if api is None:
            await self._rest(scope, receive, send)  # type: ignore[arg-type]
            return
        client = AsgiClient(scope, receive, send, self._ids.new(), self._limits)
        if scope["method"] == "POST":
            await self._gateway.handle(api, client)
        else:
            await client.fail(MethodNotAllowed(f"{scope['path']} takes POST only"))


def _rest(fleet: Fleet, ids: RequestIds, key: ApiKey | None) -> FastAPI:
    """Everything that does not generate. `/health` is for balancers, which have no key."""

    def admitted(request: Request) -> None:
        if key is not None:
            key.admit(request.headers.raw)

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)

    @app.get("/health")
    async def health() -> Response:
        return Response(headers={"x-request-id": ids.new()})

    @app.get("/v1/models", dependencies=[Depends(admitted)])
    async def models() -> JSONResponse:
        listing = {"object": "list", "data": [_card(card) for card in fleet.models()]}
        return JSONResponse(listing, headers={"x-request-id": ids.new()})

    @app.get("/v1/models/{name:path}", dependencies=[Depends(admitted)])
    async def model(name: str) -> JSONResponse:
        for card in fleet.models():
            if card.id == name:
                return JSONResponse(_card(card), headers={"x-request-id": ids.new()})
        raise UnknownModel(f"the model {name!r} does not exist here; see /v1/models", param="model")

    @app.exception_handler(RequestError)
    async def failed(_: Request, error: RequestError) -> Response:
        headers = {"x-request-id": ids.new()} | {n.decode(): v.decode() for n, v in replies.error_headers(error)}
        return Response(replies.error_body(error), error.status, headers, media_type="application/json")

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        known = MethodNotAllowed if error.status_code == MethodNotAllowed.status else NotFound
        return await failed(request, known(f"{request.method} {request.url.path} is not served here"))

    return app


def _card(card: ModelCard) -> dict[str, Any]:
    return {
        "id": card.id,
        "object": "model",
        "created": card.created,
        "owned_by": card.owned_by,
        "max_model_len": card.max_model_len,
    }
