"""The console: one page for people, made of a few files, and the tree that it shows.

The page holds no rights of its own: what it changes goes through the same routes as everybody's changes, with the same
token and the same looks at host and origin.
"""

import hashlib
from importlib.resources import files
from typing import Any

import orjson
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from router.console.state import Console
from router.edge.operators import Operators
from router.edge.readiness import Readiness
from router.errors import NotFound

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

PAGE = "index.html"

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}
"""Nothing but its own files, no frame around it, and no text that becomes markup."""


def console(view: Console, readiness: Readiness, operators: Operators) -> APIRouter:
    """The routes of the page."""
    router = APIRouter(include_in_schema=False)
    parts = {name: _Part(name, content) for name, content in _contents().items()}

    def admitted(request: Request) -> None:
        operators.admit(request.headers)

    @router.get("/")
    async def page(request: Request) -> Response:
        return parts[PAGE].answer(request)

    @router.get("/console/state")
    async def state() -> Response:
        """What the page shows."""
        told = view.state() | {
            "changes": operators.terms,
            "ready": not readiness.reasons_against(),
            "notes": readiness.reasons_against() + readiness.notes(),
        }
        return Response(orjson.dumps(told), media_type="application/json", headers={"cache-control": "no-store"})

    @router.post("/console/unlock", dependencies=[Depends(admitted)])
    async def unlock() -> dict[str, Any]:
        """Whether changes may be made with the token that comes along."""
        return {"unlocked": True}

    @router.get("/console/{name}")
    async def part(name: str, request: Request) -> Response:
        if name not in parts:
            raise NotFound(f"the console has no part {name!r}")
        return parts[name].answer(request)

    return router


class _Part:
    """One file, in memory."""

    def __init__(self, name: str, content: bytes) -> None:
        self._content = content
        tag = hashlib.sha256(content).hexdigest()[:16]
        self._headers = HEADERS | {"etag": f'"{tag}"'}
        self._kind = KINDS[name[name.rindex(".") :]]

    def answer(self, request: Request) -> Response:
        if request.headers.get("if-none-match") == self._headers["etag"]:
            return Response(status_code=304, headers=self._headers)
        return Response(self._content, media_type=self._kind, headers=self._headers)


def _contents() -> dict[str, bytes]:
    folder = files("router.console") / "static"
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}
