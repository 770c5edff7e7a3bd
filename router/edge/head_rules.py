"""Is this head one that a careful server answers? A pure judgement over request line and headers.

The parser refuses what cannot be read (RFC 9112: framing, folded lines, bare CR and LF). Here is what can be read and
still must not be trusted: sizes, whose host it is, and every way in which another server could see another request.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from router.errors import Malformed, MethodNotAllowed, RequestError
from router.settings.edge import Edge

METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})

VERSIONS = frozenset({"1.0", "1.1"})

HOST = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")

REMEMBERED_HOSTS = 64
"""A gateway has few names."""

ABSOLUTE_FORM = re.compile(rb"https?://([^/?#]*)(/.*)", re.IGNORECASE | re.DOTALL)

JUDGED = frozenset({b"host", b"transfer-encoding", b"expect"})
"""Headers with rules of their own."""

LINE_END_BYTES = 2
SEPARATOR_BYTES = 2
VERSION_BYTES = 8


class RequestLine(NamedTuple):
    """Method, target as sent, and HTTP version, such as `1.1`."""

    method: bytes
    target: bytes
    version: str


def fault_in(
    line: RequestLine, headers: Sequence[tuple[bytes, bytes]], limits: Edge, received_bytes: int
) -> RequestError | None:
    """Why a head is refused, or None. Names of `headers` are in lower case, in the order sent.

    The head has at most `received_bytes`; when those are few, its parts need not be measured.
    """
    if received_bytes > min(limits.max_request_line_bytes, limits.max_header_line_bytes, limits.max_head_bytes):
        fault = _size_fault(line, headers, limits)
        if fault is not None:
            return fault
    if len(headers) > limits.max_headers:
        return _head_too_large(f"there must not be more than {limits.max_headers} headers")
    return _line_fault(line) or _meaning_fault(line, headers)


def _line_fault(line: RequestLine) -> RequestError | None:
    if line.version not in VERSIONS:
        return Malformed("HTTP/1.1 and HTTP/1.0 are spoken here", status=505, code="http_version_not_supported")
    if line.method not in METHODS:
        return MethodNotAllowed(f"{line.method.decode()} is not served here")
    if b"#" in line.target:
        return Malformed("the request target must not have a fragment")
    return None


def _size_fault(line: RequestLine, headers: Sequence[tuple[bytes, bytes]], limits: Edge) -> RequestError | None:
    line_bytes = len(line.method) + 1 + len(line.target) + 1 + VERSION_BYTES + LINE_END_BYTES
    if line_bytes > limits.max_request_line_bytes:
        return target_too_long(limits)
    sizes_bytes = [len(name) + SEPARATOR_BYTES + len(value) + LINE_END_BYTES for name, value in headers]
    if max(sizes_bytes, default=0) > limits.max_header_line_bytes:
        return _head_too_large(f"a header line must not be larger than {limits.max_header_line_bytes} bytes")
    head_bytes = line_bytes + sum(sizes_bytes) + LINE_END_BYTES
    return head_too_large(limits) if head_bytes > limits.max_head_bytes else None


def _meaning_fault(line: RequestLine, headers: Sequence[tuple[bytes, bytes]]) -> RequestError | None:
    hosts = []
    for name, value in headers:
        if name not in JUDGED:
            continue
        if name == b"host":
            hosts.append(value)
        elif name == b"expect" and value.lower() != b"100-continue":
            return Malformed("of expectations only 100-continue is met", status=417, code="expectation_failed")
        elif name == b"transfer-encoding" and (value.lower() != b"chunked" or line.version == "1.0"):
            return Malformed("transfer-encoding must be chunked alone, and HTTP/1.0 has none")
    return _host_fault(line, hosts)


def _host_fault(line: RequestLine, hosts: Sequence[bytes]) -> RequestError | None:
    if len(hosts) != 1 and not (line.version == "1.0" and not hosts):
        return Malformed("there must be one host header")
    if hosts and not _is_host(hosts[0]):
        return Malformed("the host header is not a host")
    if line.target.startswith(b"/"):
        return None
    absolute = ABSOLUTE_FORM.fullmatch(line.target)
    if absolute is None:
        return Malformed("the request target must be a path")
    if hosts and absolute[1].lower() != hosts[0].lower():
        return Malformed("the request target names another host than the host header")
    return None


@lru_cache(REMEMBERED_HOSTS)
def _is_host(value: bytes) -> bool:
    return HOST.fullmatch(value) is not None


def upgrade_refused() -> Malformed:
    """What is said to those who ask for another protocol."""
    return Malformed("upgrades are not served; send plain HTTP/1.1 without an upgrade header", code="upgrade_refused")


def target_too_long(limits: Edge) -> Malformed:
    """What is said of a request line over its limit."""
    text = f"the request line must not be larger than {limits.max_request_line_bytes} bytes"
    return Malformed(text, status=414, code="uri_too_long")


def head_too_large(limits: Edge) -> Malformed:
    """What is said of a head over its limit, also of one whose end has not been seen."""
    return _head_too_large(f"the head must not be larger than {limits.max_head_bytes} bytes")


def _head_too_large(text: str) -> Malformed:
    return Malformed(text, status=431, code="head_too_large")
