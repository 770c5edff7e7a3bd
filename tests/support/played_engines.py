"""Engines that a test plays, move by move: which connection is taken, which request is answered next, and how.

They keep books of the KV that was handed out, and refuse to go on where a gateway does with it what none may.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, cast

import orjson

from tests.support.builders import kv_params
from tests.support.scripted_engine import DONE, LAST_CHUNK, answer, chunk, completion, error, event, handover, stream

RELEASE = "pd-router/release"


class Kind(Enum):
    """What a request to an engine is for."""

    PREFILL = "prefill"
    PULL = "pull"
    PLAIN = "plain"
    RELEASE = "release"


@dataclass
class Books:
    """KV by name: handed out to somebody who could hear of it, asked for by decode, pulled, to be freed, freed."""

    named: set[str] = field(default_factory=set)
    sent: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    pulled: set[str] = field(default_factory=set)
    freeing: set[str] = field(default_factory=set)
    freed: set[str] = field(default_factory=set)


class Wire(asyncio.Transport):
    """The gateway's end of a connection."""

    def __init__(self, network: "PlayedEngines", port: int) -> None:
        super().__init__()
        self._network = network
        self._port = port
        self._protocol: asyncio.Protocol | None = None
        self._written = b""
        self._to_read: list[bytes] | None = None
        self.closed = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Part of a transport."""
        self._protocol = cast("asyncio.Protocol", protocol)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Whole requests are noted."""
        if self.closed:
            return
        self._written += bytes(data)
        head, found, rest = self._written.partition(b"\r\n\r\n")
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0]) if found else 0
        if found and len(rest) >= length:
            self._written = rest[length:]
            self._network.ask(self, self._port, orjson.loads(rest[:length]))

    def writelines(self, list_of_data: Any) -> None:
        """Part of a transport."""
        self.write(b"".join(list_of_data))

    def deliver(self, data: bytes) -> None:
        """Bytes from the engine."""
        if self._to_read is not None:
            self._to_read.append(data)
        elif not self.closed and self._protocol is not None:
            self._protocol.data_received(data)

    def pause_reading(self) -> None:
        """Part of a transport."""
        self._to_read = self._to_read or []

    def resume_reading(self) -> None:
        """Part of a transport."""
        held, self._to_read = self._to_read or [], None
        for data in held:
            self.deliver(data)

    def abort(self) -> None:
        """Either side closes."""
        if not self.closed:
            self.closed = True
            if self._protocol is not None:
                self._network.loop.call_soon(self._protocol.connection_lost, None)

    def close(self) -> None:
        """The same."""
        self.abort()


@dataclass(eq=False)
class Asked:
    """A request that an engine has; `kv` names the KV that it is about."""

    wire: Wire
    port: int
    kind: Kind
    stream: bool
    kv: str | None


class PlayedEngines:
    """All engines, by their ports; part of the loop is to call `dial`."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop
        self.books = Books()
        self.dialled: list[tuple[int, asyncio.Future[None]]] = []
        self.asked: list[Asked] = []
        self.begun: list[Asked] = []
        self.wires: list[Wire] = []
        self._issued = 0

    async def dial(self, port: int) -> asyncio.Transport:
        """A connection, once the test accepts it."""
        accepted: asyncio.Future[None] = self.loop.create_future()
        self.dialled.append((port, accepted))
        await accepted
        wire = Wire(self, port)
        self.wires.append(wire)
        return wire

    def ask(self, wire: Wire, port: int, fields: dict[str, Any]) -> None:
        """A request has come."""
        parameters = fields.get("kv_transfer_params") or {}
        kv: str | None = parameters.get("remote_request_id")
        if parameters.get("do_remote_decode"):
            kind = Kind.PREFILL
        elif fields["model"] == RELEASE:
            kind = Kind.RELEASE
            self._may_be_freed(kv or "")
        elif kv is not None:
            kind = Kind.PULL
            assert kv not in self.books.sent, f"{kv} is sent twice"
            assert kv not in self.books.freeing, f"{kv} is sent after it was given back"
            self.books.sent.add(kv)
        else:
            kind = Kind.PLAIN
        self.asked.append(Asked(wire, port, kind, bool(fields.get("stream")), kv))

    def _may_be_freed(self, kv: str) -> None:
        """Given back is what no decode engine has, or one that has said that it failed."""
        assert kv not in self.books.sent - self.books.failed, f"{kv} is given back while it may be pulled"
        self.books.freeing.add(kv)

    # Moves

    def accept(self, which: int, *, refused: bool = False) -> bool:
        """Let a connection be made, or not."""
        self.dialled = [(port, future) for port, future in self.dialled if not future.done()]
        if not self.dialled:
            return False
        _, future = self.dialled.pop(which % len(self.dialled))
        if refused:
            future.set_exception(ConnectionRefusedError("refused"))
        else:
            future.set_result(None)
        return True

    def play(self, which: int, move: "Move") -> bool:
        """Answer one of the requests that there are."""
        open_now = [asked for asked in self.asked if not asked.wire.closed]
        if not open_now:
            return False
        asked = open_now[which % len(open_now)]
        self.asked = [one for one in open_now if one is not asked]
        move(self, asked)
        return True

    def go_on(self, which: int, *, well: bool = True) -> bool:
        """End one of the streams that have begun, or break it off."""
        self.begun = [asked for asked in self.begun if not asked.wire.closed]
        if not self.begun:
            return False
        asked = self.begun.pop(which % len(self.begun))
        if well:
            asked.wire.deliver(chunk(event("b") + DONE) + LAST_CHUNK)
        else:
            asked.wire.abort()
        return True

    def hang_up(self, which: int) -> bool:
        """Close a connection, whatever is on it."""
        self.wires = [wire for wire in self.wires if not wire.closed]
        if not self.wires:
            return False
        self.wires[which % len(self.wires)].abort()
        return True

    def new_kv(self, wire: Wire) -> dict[str, Any]:
        """Parameters of KV that nobody has yet."""
        self._issued += 1
        name = f"kv-{self._issued}"
        if not wire.closed:
            self.books.named.add(name)
        return kv_params(remote_request_id=name)


Move = Callable[[PlayedEngines, Asked], None]


def well(engines: PlayedEngines, asked: Asked) -> None:
    """The engine does what it was asked for."""
    match asked.kind:
        case Kind.PREFILL:
            asked.wire.deliver(answer(handover(**engines.new_kv(asked.wire))))
        case Kind.RELEASE:
            engines.books.freed.add(asked.kv or "")
            asked.wire.deliver(answer(error(404), "404 Not Found"))
        case _:
            _pull(engines, asked)
            asked.wire.deliver(stream("a", "b") if asked.stream else answer(completion()))


def begins(engines: PlayedEngines, asked: Asked) -> None:
    """The first of a stream comes; the rest when the test says so."""
    if asked.kind in (Kind.PULL, Kind.PLAIN) and asked.stream:
        _pull(engines, asked)
        asked.wire.deliver(stream("a").removesuffix(chunk(DONE) + LAST_CHUNK))
        engines.begun.append(asked)
    else:
        well(engines, asked)


def _pull(engines: PlayedEngines, asked: Asked) -> None:
    if asked.kv is not None:
        assert asked.kv not in engines.books.freed, f"{asked.kv} is pulled after it was freed"
        engines.books.pulled.add(asked.kv)


def answers(status: int) -> Move:
    """The engine refuses or fails."""

    def move(engines: PlayedEngines, asked: Asked) -> None:
        _failed(engines, asked)
        asked.wire.deliver(answer(error(status), f"{status} No"))

    return move


def tells_of_a_failure(engines: PlayedEngines, asked: Asked) -> None:
    """The first event of a stream is an error; what is no stream answers 500."""
    if not asked.stream:
        answers(500)(engines, asked)
        return
    _failed(engines, asked)
    said = chunk(b'data: {"error":{"message":"no"}}\n\n' + DONE) + LAST_CHUNK
    asked.wire.deliver(stream().split(b"\r\n\r\n")[0] + b"\r\n\r\n" + said)


def _failed(engines: PlayedEngines, asked: Asked) -> None:
    if asked.kind is Kind.PULL:
        engines.books.failed.add(asked.kv or "")


def is_lost(_: PlayedEngines, asked: Asked) -> None:
    """The connection ends without a word."""
    asked.wire.abort()


def talks_nonsense(engines: PlayedEngines, asked: Asked) -> None:
    """A whole 200 that is none of what was asked for: the engine is done with the request."""
    engines.books.failed.add(asked.kv or "")
    asked.wire.deliver(answer({"object": "nothing"}))
