from router.call import Trace
from router.exchange.head import post
from router.settings import Role
from tests.support.builders import a_backend

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def lines(head: bytes) -> list[bytes]:
    assert head.endswith(b"\r\n\r\n")
    return head.split(b"\r\n")[:-2]


def test_an_engine_gets_these_headers_and_no_other() -> None:
    head = post(a_backend(Role.DECODE, 8201), "/v1/completions", 12, Trace("id-1"))
    assert lines(head) == [
        b"POST /v1/completions HTTP/1.1",
        b"host: 127.0.0.1:8201",
        b"content-type: application/json",
        b"accept: */*",
        b"accept-encoding: identity",
        b"x-request-id: id-1",
        b"content-length: 12",
    ]


def test_the_engines_own_key_and_the_trace_go_along_where_there_are_any() -> None:
    head = post(a_backend(Role.DECODE, 8201, key="s3cret"), "/v1/completions", 0, Trace("id-1", TRACEPARENT))
    assert lines(head)[-2:] == [b"authorization: Bearer s3cret", b"traceparent: " + TRACEPARENT.encode()]
