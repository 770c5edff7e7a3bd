"""`POST /explain` of the operations listener: a client's request comes in, and is not sent.

It is read as those of the data listener are, so that what is refused there is refused here in the same words. Only
operators may ask: what engines hold tells something about the prompts of others.
"""

from typing import get_args
from urllib.parse import parse_qs

import orjson
from starlette.routing import Route

from router.call import Api
from router.edge.client import AsgiClient, Limits, Receive, Scope, Send
from router.edge.operators import Operators
from router.edge.request_ids import RequestIds
from router.errors import InvalidRequest, RequestError
from router.explain.explainer import Explainer
from router.gateway import Gateway
from router.settings.routing import Mode

APIS = {api.label: api for api in Api}


class Explain:
    """The ASGI application of that path. Its query may have `api`, by default `chat`, and `mode`."""

    def __init__(
        self, gateway: Gateway, explainer: Explainer, operators: Operators, limits: Limits, ids: RequestIds
    ) -> None:
        self._gateway = gateway
        self._explainer = explainer
        self._operators = operators
        self._limits = limits
        self._ids = ids

    @property
    def route(self) -> Route:
        """Where it is served."""
        return Route("/explain", self, methods=["POST"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Explain one request."""
        client = AsgiClient(scope, receive, send, self._ids.new(), self._limits)
        try:
            self._operators.admit({name.decode(): value.decode("latin-1") for name, value in scope["headers"]})
            query = {name: values[-1] for name, values in parse_qs(scope["query_string"].decode("latin-1")).items()}
            api, mode = _api(query.get("api", Api.CHAT.label)), _mode(query.get("mode"))
            call = await self._gateway.receive(api, client, client.trace)
            with client.present(stream=False):
                tree = self._explainer.explain(call, mode)
                call.drop_body()
                await client.answer(b"application/json", orjson.dumps(tree))
        except RequestError as error:
            await client.fail(error)


def _api(name: str) -> Api:
    if name not in APIS:
        raise InvalidRequest(f"api must be one of {', '.join(APIS)}", param="api")
    return APIS[name]


def _mode(name: str | None) -> Mode | None:
    for mode in get_args(Mode):
        if name == mode:
            return mode  # type: ignore[no-any-return]
    if name is not None:
        raise InvalidRequest(f"mode must be one of {', '.join(get_args(Mode))}", param="mode")
    return None
