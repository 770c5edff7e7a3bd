"""A simulated prefill and decode engine, and the two requests of a hand-over."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from router.sim.config import SimConfig
from router.sim.engine import SimEngine
from router.sim.fleet import SimFleet
from router.sim.request import Api
from router.sim.sequence import Sequence
from router.sim.text import FinishReason, reference_text

PATHS: dict[Api, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
Body = dict[str, Any]


def chat(text: str = "The quick brown fox jumps over the lazy dog. ", times: int = 10, **fields: Any) -> Body:
    """A chat request."""
    return {"model": "sim-8b", "messages": [{"role": "user", "content": text * times}], "max_tokens": 20} | fields


def events(stream: str) -> list[Any]:
    """The events of a stream, decoded, without `[DONE]`."""
    lines = [line.removeprefix("data: ") for line in stream.split("\n\n") if line]
    return [orjson.loads(line) for line in lines if line != "[DONE]"]


def streamed_text(stream: str) -> str:
    """The text of choice 0 of a stream."""
    choices = [choice for event in events(stream) for choice in event["choices"] if choice["index"] == 0]
    return "".join(choice["delta"]["content"] if "delta" in choice else choice["text"] for choice in choices)


def text_of(answer: httpx.Response) -> str:
    """The text of choice 0 of an answer."""
    choice = answer.json()["choices"][0]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


@dataclass
class Pair:
    """Two engines and a client."""

    prefill: SimEngine
    decode: SimEngine
    client: httpx.AsyncClient

    async def ask(self, engine: SimEngine, body: Body, api: Api = "chat") -> httpx.Response:
        """Any generation."""
        return await self.client.post(engine.url + PATHS[api], json=body)

    async def prefill_leg(self, body: Body, api: Api = "chat") -> Any:
        """What the prefill engine hands over for `body`."""
        leg = body | {"max_tokens": 1, "stream": False, "kv_transfer_params": {"do_remote_decode": True}}
        answer = await self.ask(self.prefill, leg, api)
        assert answer.status_code == 200, answer.text
        return answer.json()["kv_transfer_params"]

    async def decode_leg(self, body: Body, params: object, api: Api = "chat") -> httpx.Response:
        """What the decode engine answers, given `params`."""
        return await self.ask(self.decode, body | {"kv_transfer_params": params}, api)

    async def quiet(self) -> None:
        """Let messages between the engines arrive."""
        for _ in range(10):
            await asyncio.sleep(0.001)


@asynccontextmanager
async def sim_pair(**settings: Any) -> AsyncIterator[Pair]:
    """A pair without latencies unless `settings` say otherwise."""
    base = SimConfig(**({"time_scale": 0.0} | settings))
    async with SimFleet(base=base) as fleet, httpx.AsyncClient(timeout=None) as client:
        yield Pair(fleet.prefill[0], fleet.decode[0], client)


@contextmanager
def closed_port() -> Iterator[int]:
    """A port of 127.0.0.1 that refuses connections, as it is taken and not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def right_text(body: Body, api: Api = "chat") -> str:
    """What a lone engine would say."""
    return reference_text("sim-8b", api, body).text


class Collector:
    """Listens to sequences, and keeps what they say."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.ends: list[str] = []
        self.times_s: list[float] = []

    @property
    def text(self) -> str:
        """All tokens so far."""
        return b"".join(self.pieces).decode()

    def token(self, _sequence: Sequence, piece: bytes, finish_reason: FinishReason | None) -> None:
        """Part of `Listener`."""
        self.pieces.append(piece)
        self.times_s.append(asyncio.get_running_loop().time())
        if finish_reason is not None:
            self.ends.append(finish_reason)

    def failed(self, _sequence: Sequence, message: str) -> None:
        """Part of `Listener`."""
        self.ends.append(message)
