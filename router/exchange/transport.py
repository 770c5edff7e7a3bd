"""httpx on the same connections: for probes, scrapes and tools, with httpx's interface and respx in their tests."""

import math
from collections.abc import AsyncIterator
from contextlib import ExitStack

import httpx

from router.errors import ConnectFailed, EngineFault, EngineTimeout
from router.exchange.answer import Answer
from router.exchange.pool import Connections


class EngineTransport(httpx.AsyncBaseTransport):
    """Sends httpx requests over the pools of `connections`, which it does not own. Plain HTTP only."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One exchange, under the request's read timeout. Faults become httpx's own exceptions."""
        body = await request.aread()
        read_s = request.extensions.get("timeout", {}).get("read")
        with ExitStack() as held:
            try:
                checkout = held.enter_context(self._connections.to(_origin(request.url)).checkout())
                answer = await checkout.exchange(_head(request), body)
                if read_s is not None:
                    answer.limit(read_s, math.inf)
                status = await answer.head()
            except EngineFault as fault:
                raise _mapped(fault) from None
            stream = _Body(answer, held.pop_all())
        return httpx.Response(status, headers=list(answer.headers.items()), stream=stream)


class _Body(httpx.AsyncByteStream):
    """The rest of an answer, which gives its connection back when it is closed."""

    def __init__(self, answer: Answer, held: ExitStack) -> None:
        self._answer = answer
        self._held = held

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while data := await self._answer.read():
                yield data
        except EngineFault as fault:
            raise _mapped(fault) from None

    async def aclose(self) -> None:
        self._held.close()


def _origin(url: httpx.URL) -> str:
    """As the pools know it: with the port, which httpx leaves out where it is 80."""
    return f"http://{url.netloc.decode()}" if url.port else f"http://{url.netloc.decode()}:80"


def _head(request: httpx.Request) -> bytes:
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    lines += [b"%b: %b" % pair for pair in request.headers.raw]
    return b"\r\n".join([*lines, b"", b""])


def _mapped(fault: EngineFault) -> httpx.TransportError:
    if isinstance(fault, ConnectFailed):
        return httpx.ConnectError(fault.detail or "")
    if isinstance(fault, EngineTimeout):
        return httpx.ReadTimeout(fault.detail or "")
    return httpx.RemoteProtocolError(fault.detail or "")
