"""How does an answer go wrong on its way out?

`SpoiledReply` stands between an engine that works and the client, and does one thing wrong.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson

from router.sim.answers import DONE, error_event
from router.sim.faults import Fault
from router.sim.http_server import Exchange
from router.sim.request import RequestError

Params = dict[str, Any]

VARIANTS: dict[str, Callable[[Params], object]] = {
    "null_blocks": lambda params: params | {"remote_block_ids": None},
    "empty_blocks": lambda params: params | {"remote_block_ids": []},
    "nested_empty_blocks": lambda params: params | {"remote_block_ids": [[]]},
    "fewer_blocks": lambda params: params | {"remote_block_ids": [params["remote_block_ids"][0][:-1]]},
    "text_blocks": lambda params: params | {"remote_block_ids": [["one", "two"]]},
    "negative_blocks": lambda params: params | {"remote_block_ids": [[-1]]},
    "no_host": lambda params: _without(params, "remote_host"),
    "null_host": lambda params: params | {"remote_host": None},
    "foreign_host": lambda params: params | {"remote_host": "203.0.113.7"},
    "foreign_port": lambda params: params | {"remote_port": 9},
    "text_port": lambda params: params | {"remote_port": "here"},
    "no_port": lambda params: _without(params, "remote_port"),
    "no_engine_id": lambda params: _without(params, "remote_engine_id"),
    "stale_engine_id": lambda params: params | {"remote_engine_id": "00000000-0000-0000-0000-000000000000"},
    "no_request_id": lambda params: _without(params, "remote_request_id"),
    "huge": lambda params: params | {"padding": "x" * 300_000},
    "empty": lambda _params: {},
    "text": lambda _params: "params",
    "list": lambda params: [params],
}


class SpoiledReply:
    """A reply with a fault in it; `on_cut` is called when it ends before the engine's answer does."""

    def __init__(self, exchange: Exchange, fault: Fault, on_cut: Callable[[], None]) -> None:
        self._exchange = exchange
        self._fault = fault
        self._on_cut = on_cut
        self._events = 0
        self._cut = False
        self._held: list[Callable[[], None]] | None = None
        if fault.kind == "late_answer":
            self._held = []

    def respond(self, status: int, body: bytes) -> None:
        """Part of `Reply`."""
        match self._fault.kind:
            case "late_answer":
                self._later(lambda: self._exchange.respond(status, body))
            case "missing_params" | "malformed_params":
                self._exchange.respond(status, self._spoil_params(body))
            case "first_event_error" | "mid_stream_error":
                self._exchange.respond(500, RequestError("Internal server error", status=500).body())
            case "die_after_tokens":
                self._disconnect()
            case "truncate":
                self._exchange.write_raw(_head(len(body)) + body[: len(body) // 2])
                self._exchange.close()
            case "garbage":
                self._exchange.respond(status, b"\x00{not json")
            case _:
                self._exchange.respond(status, body)

    def start(self) -> None:
        """Part of `Reply`."""
        self._later(self._exchange.start)

    def send(self, data: bytes) -> None:
        """Part of `Reply`."""
        if self._cut:
            return
        first, self._events = not self._events, self._events + _tokens(data)
        match self._fault.kind:
            case "first_event_error":
                self._fail()
            case "big_event" if first:
                self._events = max(self._events, 1)
                padding = b" " * self._fault.size_bytes
                self._exchange.send(data.replace(b'"index":', padding + b'"index":', 1))
            case "mid_stream_error" if self._past():
                self._fail()
            case "die_after_tokens" if self._past():
                self._disconnect()
            case "truncate" if self._past():
                self._exchange.end()
                self._stop()
            case "garbage" if self._past():
                self._events = -1_000_000_000
                self._exchange.send(b"data: {not json\n\n")
            case _:
                self._later(lambda: self._exchange.send(data))

    def end(self) -> None:
        """Part of `Reply`."""
        if not self._cut:
            self._later(self._exchange.end)

    def _past(self) -> bool:
        return self._events > self._fault.tokens

    def _later(self, write: Callable[[], None]) -> None:
        """Write now, or in order once a late answer is due."""
        if self._held is None:
            write()
            return
        if not self._held:
            assert self._fault.delay_s is not None
            asyncio.get_running_loop().call_later(self._fault.delay_s, self._flush)
        self._held.append(write)

    def _flush(self) -> None:
        held, self._held = self._held or [], None
        for write in held:
            write()

    def _spoil_params(self, body: bytes) -> bytes:
        answer = orjson.loads(body)
        params = answer.get("kv_transfer_params")
        if self._fault.kind == "missing_params":
            answer["kv_transfer_params"] = None
        elif params:
            answer["kv_transfer_params"] = VARIANTS[self._fault.variant](params)
        return orjson.dumps(answer)

    def _fail(self) -> None:
        self._exchange.send(error_event("Internal server error"))
        self._exchange.send(DONE)
        self._exchange.end()
        self._stop()

    def _disconnect(self) -> None:
        self._cut = True
        if self._fault.how == "rst":
            self._exchange.reset()
        else:
            self._exchange.close()

    def _stop(self) -> None:
        self._cut = True
        self._on_cut()


def _tokens(data: bytes) -> int:
    """1 for an event that carries a token, 0 for the others."""
    return int(b'"role":"assistant"' not in data and b'"usage":' not in data)


def _without(params: Params, name: str) -> Params:
    return {key: value for key, value in params.items() if key != name}


def _head(length: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % length
