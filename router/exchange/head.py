"""What engines get to read before the body: a fixed set of headers, none of them a client's.

A client's own headers steer engines (data-parallel rank, session, priority) or identify it to them (authorization), so
none travels. Compressed answers are not asked for: nothing here would unpack them safely.
"""

from router.call import Trace
from router.fleet.backend import Backend


def post(backend: Backend, path: str, body_bytes: int, trace: Trace) -> bytes:
    """The head of a JSON request of `body_bytes` to an engine."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"host: {backend.id}",
        "content-type: application/json",
        "accept: */*",
        "accept-encoding: identity",
        f"x-request-id: {trace.request_id}",
        f"content-length: {body_bytes}",
    ]
    if backend.holdings is not None:
        lines.append(f"x-session-id: {trace.request_id}")  # comes back in its KV events
    if backend.key is not None:
        lines.append(f"authorization: Bearer {backend.key}")
    if trace.traceparent is not None:
        lines.append(f"traceparent: {trace.traceparent}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
