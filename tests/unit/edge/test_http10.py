from typing import Any

from router.edge.http10 import close_delimited


class Cycle:
    """What uvicorn's cycle knows of the body's framing."""

    chunked_encoding: bool | None = None
    expected_content_length = 0

    def __init__(self) -> None:
        self.sent: list[tuple[Any, bool | None, int]] = []

    async def send(self, message: Any) -> None:
        self.sent.append((message, self.chunked_encoding, self.expected_content_length))
        if any(name == b"content-length" for name, _ in message.get("headers", ())):
            self.chunked_encoding, self.expected_content_length = False, 5
        self.expected_content_length -= len(message.get("body", b""))


def head(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": 200, "headers": headers}


def body(data: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def framings(*messages: dict[str, Any]) -> list[tuple[bool | None, int]]:
    """How the cycle framed each message: in chunks or not, and how long it took the body to be still."""
    cycle: Any = Cycle()

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    await close_delimited(app, cycle)({}, None, None)
    assert [sent[0] for sent in cycle.sent] == list(messages)
    return [(chunked, length) for _, chunked, length in cycle.sent]


async def test_a_body_of_unknown_length_is_not_chunked() -> None:
    assert await framings(head(), body(b"abc", more=True), body(b"de"), body(b"")) == [
        (False, 0),
        (False, 3),
        (False, 2),
        (False, 0),
    ]


async def test_a_told_length_stays() -> None:
    framed = await framings(head((b"content-length", b"5")), body(b"abc", more=True), body(b"de"), body(b"too much"))
    assert framed == [(None, 0), (False, 5), (False, 2), (False, 0)]
