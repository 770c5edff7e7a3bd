"""Requests that a careful server refuses: each is one trick by which two servers could come to see two requests.

The names say what is wrong. `{host}` stands for the one header that is right in most of them.
"""

HOST = b"Host: gateway\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\n" + HOST
JSON = b"Content-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
NO_BODY = b"0\r\n\r\n"


def _get(*lines: bytes, target: bytes = b"/health", version: bytes = b"HTTP/1.1") -> bytes:
    return b"GET " + target + b" " + version + b"\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def _post(*lines: bytes, body: bytes = b"") -> bytes:
    return POST + JSON + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def _chunks(raw: bytes) -> bytes:
    return POST + JSON + CHUNKED + b"\r\n" + raw


FRAMING = {
    "length and chunks": _post(b"Content-Length: 3", b"Transfer-Encoding: chunked", body=NO_BODY),
    "chunks and length": _post(b"Transfer-Encoding: chunked", b"Content-Length: 3", body=NO_BODY),
    "two equal lengths": _post(b"Content-Length: 3", b"Content-Length: 3", body=b"abc"),
    "two lengths": _post(b"Content-Length: 3", b"Content-Length: 4", body=b"abc"),
    "a list of lengths": _post(b"Content-Length: 3, 3", body=b"abc"),
    "a positive length": _post(b"Content-Length: +3", body=b"abc"),
    "a negative length": _post(b"Content-Length: -3", body=b"abc"),
    "a hexadecimal length": _post(b"Content-Length: 0x3", body=b"abc"),
    "a decimal length": _post(b"Content-Length: 3.0", body=b"abc"),
    "two numbers as length": _post(b"Content-Length: 1 2", body=b"abc"),
    "a length beyond 64 bits": _post(b"Content-Length: 99999999999999999999", body=b"abc"),
    "an empty length": _post(b"Content-Length:", body=b"abc"),
    "a length of letters": _post(b"Content-Length: abc", body=b"abc"),
    "a length of other digits": _post(b"Content-Length: \xd9\xa3", body=b"abc"),
    "gzip before chunked": _post(b"Transfer-Encoding: gzip, chunked", body=NO_BODY),
    "chunked before gzip": _post(b"Transfer-Encoding: chunked, gzip", body=NO_BODY),
    "chunked twice": _post(b"Transfer-Encoding: chunked, chunked", body=NO_BODY),
    "two transfer encodings": _post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=NO_BODY),
    "identity": _post(b"Transfer-Encoding: identity", body=NO_BODY),
    "an unknown transfer encoding": _post(b"Transfer-Encoding: xchunked", body=NO_BODY),
    "a chunked with parameters": _post(b"Transfer-Encoding: chunked;q=1", body=NO_BODY),
    "a quoted chunked": _post(b'Transfer-Encoding: "chunked"', body=NO_BODY),
    "a vertical tab before chunked": _post(b"Transfer-Encoding: \x0bchunked", body=NO_BODY),
    "a trailing comma": _post(b"Transfer-Encoding: chunked,", body=NO_BODY),
    "a space before the colon of an encoding": _post(b"Transfer-Encoding : chunked", body=NO_BODY),
    "a space before the colon of a length": _post(b"Content-Length : 3", body=b"abc"),
    "a tab before the colon": _post(b"Content-Length\t: 3", body=b"abc"),
    "an encoding folded": _post(b"Transfer-Encoding:\r\n chunked", body=NO_BODY),
    "chunks in HTTP/1.0": b"POST /v1/completions HTTP/1.0\r\n" + CHUNKED + b"\r\n" + NO_BODY,
}

LINES = {
    "a folded header": _get(b"Host: gateway", b"X: a\r\n b"),
    "a header folded by a tab": _get(b"Host: gateway", b"X: a\r\n\tb"),
    "only line feeds": b"GET /health HTTP/1.1\nHost: gateway\n\n",
    "a line feed after the request line": b"GET /health HTTP/1.1\nHost: gateway\r\n\r\n",
    "a line feed after a header": b"GET /health HTTP/1.1\r\nHost: gateway\nX: a\r\n\r\n",
    "a line feed at the end of the head": b"GET /health HTTP/1.1\r\nHost: gateway\r\n\n",
    "a carriage return inside a value": _get(b"Host: gateway", b"X: a\rb"),
    "a NUL inside a value": _get(b"Host: gateway", b"X: a\0b"),
    "a NUL inside a name": _get(b"Host: gateway", b"X\0: a"),
    "a NUL inside the target": _get(b"Host: gateway", target=b"/\0"),
    "a control character inside a value": _get(b"Host: gateway", b"X: \x01"),
    "a header without a colon": _get(b"Host: gateway", b"X"),
    "a header without a name": _get(b"Host: gateway", b": a"),
    "a space before the first header": _get(b" Host: gateway"),
    "a space inside a name": _get(b"Host: gateway", b"X Y: a"),
    "a bracket inside a name": _get(b"Host: gateway", b"X(: a"),
    "a letter beyond ASCII inside a name": _get(b"Host: gateway", b"X\xe4: a"),
    "a tab for a space in the request line": b"GET\t/health\tHTTP/1.1\r\nHost: gateway\r\n\r\n",
    "a method in small letters": b"get /health HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "a method nobody knows": b"FETCH /health HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "no target": b"GET HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "a version nobody knows": _get(b"Host: gateway", version=b"HTTP/1.2"),
    "a version without a point": _get(b"Host: gateway", version=b"HTTP/11"),
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a TLS greeting": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "noise": bytes(range(128, 256)),
}

TARGETS = {
    "no host": _get(),
    "two hosts": _get(b"Host: gateway", b"Host: gateway"),
    "two other hosts": _get(b"Host: gateway", b"Host: other"),
    "an empty host": _get(b"Host:"),
    "a host with a path": _get(b"Host: gateway/x"),
    "a host with a user": _get(b"Host: user@gateway"),
    "a list of hosts": _get(b"Host: gateway, other"),
    "a host with a bad port": _get(b"Host: gateway:http"),
    "a host with a space": _get(b"Host: gate way"),
    "another host in the target": _get(b"Host: gateway", target=b"http://other/health"),
    "a user in the target": _get(b"Host: gateway", target=b"http://user@gateway/health"),
    "a target without a path": _get(b"Host: gateway", target=b"http://gateway"),
    "another scheme": _get(b"Host: gateway", target=b"ftp://gateway/health"),
    "a target without a slash": _get(b"Host: gateway", target=b"health"),
    "a target with a fragment": _get(b"Host: gateway", target=b"/health#x"),
    "a target beyond ASCII": _get(b"Host: gateway", target=b"/\xff"),
    "a star": b"OPTIONS * HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "an upgrade to a web socket": _get(b"Host: gateway", b"Connection: Upgrade", b"Upgrade: websocket"),
    "an upgrade to HTTP/2": _get(b"Host: gateway", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"),
}

CHUNKS = {
    "a size with a prefix": _chunks(b"0x3\r\nabc\r\n" + NO_BODY),
    "a negative size": _chunks(b"-3\r\nabc\r\n" + NO_BODY),
    "a size beyond 64 bits": _chunks(b"fffffffffffffffff\r\nabc\r\n" + NO_BODY),
    "no size": _chunks(b"\r\nabc\r\n" + NO_BODY),
    "a size of letters": _chunks(b"xyz\r\nabc\r\n" + NO_BODY),
    "a space after the size": _chunks(b"3 \r\nabc\r\n" + NO_BODY),
    "a space before the size": _chunks(b" 3\r\nabc\r\n" + NO_BODY),
    "a line feed after the size": _chunks(b"3\nabc\r\n" + NO_BODY),
    "a line feed after the chunk": _chunks(b"3\r\nabc\n" + NO_BODY),
    "a chunk longer than its size": _chunks(b"3\r\nabcd\r\n" + NO_BODY),
    "a line feed inside an extension": _chunks(b"3;a\nb\r\nabc\r\n" + NO_BODY),
    "a length in the trailers": _chunks(b"3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n"),
    "a folded trailer": _chunks(b"3\r\nabc\r\n0\r\nX: a\r\n b\r\n\r\n"),
    "a NUL in a trailer": _chunks(b"3\r\nabc\r\n0\r\nX: a\0\r\n\r\n"),
}

OTHER_STATUS = {
    "HTTP/2 without its preface": (505, _get(b"Host: gateway", version=b"HTTP/2.0")),
    "HTTP/0.9": (505, b"GET /health\r\n\r\n"),
    "CONNECT": (405, b"CONNECT other:443 HTTP/1.1\r\nHost: other:443\r\n\r\n"),
    "TRACE": (405, b"TRACE /health HTTP/1.1\r\nHost: gateway\r\n\r\n"),
    "a method of WebDAV": (405, b"PROPFIND /health HTTP/1.1\r\nHost: gateway\r\n\r\n"),
    "an unknown expectation": (417, _get(b"Host: gateway", b"Expect: wonders")),
    "a long request line": (414, _get(b"Host: gateway", target=b"/" + b"a" * 8192)),
    "an endless request line": (414, b"GET /" + b"a" * 40_000),
    "a long header line": (431, _get(b"Host: gateway", b"X: " + b"a" * 8192)),
    "one header too many": (431, _get(b"Host: gateway", *([b"X: a"] * 100))),
    "a large head": (431, _get(b"Host: gateway", *([b"X: " + b"a" * 8000] * 5))),
    "an endless header": (431, b"GET /health HTTP/1.1\r\nHost: gateway\r\nX: " + b"a" * 40_000),
    "endless headers": (431, b"GET /health HTTP/1.1\r\n" + b"X: a\r\n" * 10_000),
    "an endless name of a header": (431, b"GET /health HTTP/1.1\r\nHost: gateway\r\n" + b"a" * 40_000),
}

CASES = {
    **{name: (400, raw) for part in (FRAMING, LINES, TARGETS, CHUNKS) for name, raw in part.items()},
    **OTHER_STATUS,
}
"""Name, the status that is right, and the bytes."""
