"""Questions to engines by way of httpx, so that a test can answer them with respx."""

import asyncio

import httpx

from router.errors import ConnectFailed, ConnectionLost, EngineTimeout
from router.fleet.ask import Reply
from router.fleet.backend import Backend


async def ask(backend: Backend, path: str, timeout_s: float, content: bytes = b"") -> Reply:
    """As `Questions.ask`."""
    headers = {"authorization": f"Bearer {backend.key}"} if backend.key else {}
    method = "POST" if content else "GET"
    async with httpx.AsyncClient(timeout=timeout_s) as client:
        try:
            async with asyncio.timeout(timeout_s):
                answer = await client.request(method, f"{backend.url}{path}", content=content or None, headers=headers)
        except httpx.ConnectError:
            raise ConnectFailed(backend.id) from None
        except (httpx.TimeoutException, TimeoutError):
            raise EngineTimeout(backend.id) from None
        except httpx.HTTPError:
            raise ConnectionLost(backend.id) from None
    return Reply(answer.status_code, answer.content)
