"""What engines get to read before the body: a fixed set of headers, none of them a client's.

A client's own headers steer engines (data-parallel rank, session, priority) or identify it to them (authorization), so
none travels. Compressed answers are not asked for: nothing here would unpack them safely.
"""

from router.call import Trace
from router.fleet.backend import Backend

JSON = "content-type: application/json\r\n"
ACCEPT = "accept: */*\r\naccept-encoding: identity\r\n"
FIXED = JSON + ACCEPT


def question(backend: Backend, path: str, body_bytes: int) -> bytes:
    """The head of a short question: a GET without a body, a JSON request with one."""
    more = "" if backend.key is None else f"authorization: Bearer {backend.key}\r\n"
    if body_bytes:
        more += f"{JSON}content-length: {body_bytes}\r\n"
    method = "POST" if body_bytes else "GET"
    return f"{method} {path} HTTP/1.1\r\nhost: {backend.id}\r\n{ACCEPT}{more}\r\n".encode("latin-1")


def post(backend: Backend, path: str, body_bytes: int, trace: Trace) -> bytes:
    """The head of a JSON request of `body_bytes` to an engine."""
    more = ""
    if backend.holdings is not None:
        more += f"x-session-id: {trace.request_id}\r\n"  # comes back in its KV events
    if backend.key is not None:
        more += f"authorization: Bearer {backend.key}\r\n"
    if trace.traceparent is not None:
        more += f"traceparent: {trace.traceparent}\r\n"
    return (  # a path that is a member of an enumeration takes three times as long to format as to add
        "POST " + path + f" HTTP/1.1\r\nhost: {backend.id}\r\n{FIXED}"
        f"x-request-id: {trace.request_id}\r\ncontent-length: {body_bytes}\r\n{more}\r\n"
    ).encode("latin-1")
