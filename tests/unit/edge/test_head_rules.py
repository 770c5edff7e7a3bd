import pytest

from router.edge.head_rules import RequestLine, fault_in, head_too_large, target_too_long, upgrade_refused
from router.settings.edge import Edge

HOST = (b"host", b"gateway:8000")
LIMITS = Edge()


def status_of(
    *headers: tuple[bytes, bytes], method: bytes = b"POST", target: bytes = b"/v1/x", version: str = "1.1"
) -> int | None:
    fault = fault_in(RequestLine(method, target, version), headers, LIMITS, received_bytes=1 << 20)
    return None if fault is None else fault.status


@pytest.mark.parametrize(
    "host",
    [b"a", b"a.b-c_d~e:80", b"127.0.0.1:8000", b"[::1]", b"[2001:db8::1]:443", b"A.example"],
)
def test_a_host_is_a_name_or_an_address(host: bytes) -> None:
    assert status_of((b"host", host)) is None


@pytest.mark.parametrize(
    "host", [b"", b"a b", b"a,b", b"a/b", b"u@a", b"a:", b"a:x", b"a:123456", b"::1", b"[::1", b"a\xff", b"a\n"]
)
def test_nothing_else_is(host: bytes) -> None:
    assert status_of((b"host", host)) == 400


def test_there_is_one_host() -> None:
    assert status_of() == 400
    assert status_of(HOST, HOST) == 400
    assert status_of(version="1.0") is None
    assert status_of(HOST, HOST, version="1.0") == 400


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"/", None),
        (b"/v1/models?a=b", None),
        (b"http://gateway:8000/v1/x", None),
        (b"HTTP://GATEWAY:8000/v1/x", None),
        (b"http://other/v1/x", 400),
        (b"http://gateway/v1/x", 400),
        (b"http://u@gateway:8000/v1/x", 400),
        (b"http://gateway:8000", 400),
        (b"ftp://gateway:8000/", 400),
        (b"*", 400),
        (b"/a#b", 400),
    ],
)
def test_a_target_is_a_path_on_the_same_host(target: bytes, status: int | None) -> None:
    assert status_of(HOST, target=target) == status


@pytest.mark.parametrize(
    ("value", "version", "status"),
    [
        (b"chunked", "1.1", None),
        (b"Chunked", "1.1", None),
        (b"gzip, chunked", "1.1", 400),
        (b"chunked ", "1.1", 400),
        (b"identity", "1.1", 400),
        (b"chunked", "1.0", 400),
    ],
)
def test_a_body_is_framed_in_one_way(value: bytes, version: str, status: int | None) -> None:
    assert status_of(HOST, (b"transfer-encoding", value), version=version) == status


@pytest.mark.parametrize(("method", "status"), [(b"GET", None), (b"TRACE", 405), (b"CONNECT", 405), (b"SOURCE", 405)])
def test_methods(method: bytes, status: int | None) -> None:
    assert status_of(HOST, method=method) == status


@pytest.mark.parametrize(("version", "status"), [("1.1", None), ("1.0", None), ("2.0", 505), ("0.9", 505)])
def test_versions(version: str, status: int | None) -> None:
    assert status_of(HOST, version=version) == status


def test_expectations() -> None:
    assert status_of(HOST, (b"expect", b"100-Continue")) is None
    assert status_of(HOST, (b"expect", b"200-ok")) == 417


def test_the_limits_are_what_may_just_be() -> None:
    line = len(b"POST  HTTP/1.1\r\n")
    longest = b"/" + b"a" * (LIMITS.max_request_line_bytes - line - 1)
    assert status_of(HOST, target=longest) is None
    assert status_of(HOST, target=longest + b"a") == 414
    value = b"v" * (LIMITS.max_header_line_bytes - len(b"x: \r\n"))
    assert status_of(HOST, (b"x", value)) is None
    assert status_of(HOST, (b"x", value + b"v")) == 431
    many = [(b"x", b"")] * (LIMITS.max_headers - 1)
    assert status_of(HOST, *many) is None
    assert status_of(HOST, *many, (b"x", b"")) == 431


def test_all_of_a_head_counts() -> None:
    large = (b"x", b"v" * 8000)
    head = len(b"POST /v1/x HTTP/1.1\r\nhost: gateway:8000\r\n" + 4 * (b"x: \r\n" + large[1]) + b"\r\n")
    rest = LIMITS.max_head_bytes - head - len(b"x: \r\n")
    assert status_of(HOST, *4 * [large], (b"x", b"v" * rest)) is None
    assert status_of(HOST, *4 * [large], (b"x", b"v" * (rest + 1))) == 431


def test_what_is_said_of_heads_that_never_end() -> None:
    assert (head_too_large(LIMITS).status, target_too_long(LIMITS).status) == (431, 414)
    assert (upgrade_refused().status, upgrade_refused().code) == (400, "upgrade_refused")


def test_a_short_read_is_measured_where_even_that_may_be_too_much() -> None:
    limits = Edge(max_request_line_bytes=1024)
    long = RequestLine(b"GET", b"/" + b"x" * 1024, "1.1")
    fault = fault_in(long, [HOST], limits, received_bytes=1100)
    assert fault is not None
    assert fault.status == 414
