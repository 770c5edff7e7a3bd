"""How does an HTTP/1.0 client see the end of an answer whose length nobody knows? By the end of the connection.

uvicorn frames every such answer in chunks, which HTTP/1.0 does not have.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

Application = Callable[..., Awaitable[None]]


def close_delimited(app: Application, cycle: RequestResponseCycle) -> Application:
    """`app`, answering without chunks; the server closes after the answer to HTTP/1.0 anyway."""

    async def serve(scope: Any, receive: Any, _send: Any) -> None:  # noqa: ANN401 - ASGI's own types are uvicorn's
        await app(scope, receive, send)

    until_close = False

    async def send(message: Any) -> None:  # noqa: ANN401
        nonlocal until_close
        if message["type"] == "http.response.start":
            until_close = all(name.lower() != b"content-length" for name, _ in message["headers"])
            if until_close:
                cycle.chunked_encoding = False
        elif until_close:
            cycle.expected_content_length = len(message.get("body", b""))
        await cycle.send(message)

    return serve
