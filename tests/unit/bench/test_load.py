"""Both loops against a gateway of ten lines, on a clock that jumps."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import orjson
import pytest

from router.bench.load import Plan, run
from tests.support.virtual_time import virtual_time
from tests.unit.bench.test_answer import chunk, usage

TOKEN_S = 0.5


class Gateway:
    """Answers after `first_s`, then a token every half second; one request at a time when it is `serial`."""

    def __init__(self, first_s: float = 0, serial: bool = False, texts: str = "abc") -> None:
        self.first_s, self.texts = first_s, texts
        self.room = asyncio.Semaphore(1 if serial else 1000)
        self.bodies: list[dict[str, object]] = []
        self.most = 0
        self.now = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(orjson.loads(request.content))
        return httpx.Response(200, content=self._stream(len(self.bodies)))

    async def _stream(self, number: int) -> AsyncIterator[bytes]:
        self.now += 1
        self.most = max(self.most, self.now)
        async with self.room:
            await asyncio.sleep(self.first_s)
            for i in range(3):
                await asyncio.sleep(TOKEN_S)
                yield f"{chunk(self.texts[number % len(self.texts)], 'length' if i == 2 else None)}\n\n".encode()
            self.now -= 1
            yield f"{usage(3)}\n\ndata: [DONE]\n\n".encode()


def client(handler: Gateway | httpx.Response) -> httpx.AsyncClient:
    answer = handler if isinstance(handler, Gateway) else lambda _: handler
    return httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://gateway")


@virtual_time
async def test_the_closed_loop_keeps_its_streams_busy() -> None:
    gateway = Gateway(first_s=1)
    record = await run(client(gateway), Plan("m", streams=2, requests=6, tokens=3))
    assert not record.faults
    assert gateway.most == 2
    assert record.tokens == 18
    assert record.elapsed_s == pytest.approx(3 * 2.5, rel=0.01)
    assert record.ttft_s == pytest.approx([1.5] * 6, rel=0.01)
    assert record.inter_event_s == pytest.approx([TOKEN_S] * 12, rel=0.01)
    assert record.total_s == pytest.approx([2.5] * 6, rel=0.01)


@virtual_time
async def test_the_open_loop_does_not_wait_for_answers_and_counts_from_when_a_request_was_due() -> None:
    gateway = Gateway(serial=True)
    record = await run(client(gateway), Plan("m", rate=1, requests=4, tokens=3))
    assert gateway.most == 2
    assert record.total_s == pytest.approx([1.5, 2.0, 2.5, 3.0], rel=0.01)


@virtual_time
async def test_a_request_asks_for_what_the_plan_says() -> None:
    gateway = Gateway()
    plan = Plan(
        "m", streams=1, requests=3, prompts=2, tokens=3, prompt_bytes=50, extra_body={"seed": 7, "stream": True}
    )
    await run(client(gateway), plan)
    prompts = [body["messages"][0]["content"] for body in gateway.bodies]  # type: ignore[index]
    assert [len(prompt) for prompt in prompts] == [50, 50, 50]
    assert prompts[0] == prompts[2] != prompts[1]
    assert {"model": "m", "max_tokens": 3, "seed": 7, "stream_options": {"include_usage": True}}.items() <= (
        gateway.bodies[0].items()
    )


@virtual_time
async def test_texts_of_one_prompt_are_compared_when_asked_for() -> None:
    plan = Plan("m", streams=1, requests=6, prompts=1, tokens=3, same_text=True)
    assert (await run(client(Gateway(texts="ab")), plan)).faults.total() == 3
    assert not (await run(client(Gateway(texts="a")), plan)).faults


@virtual_time
async def test_wrong_answers_are_counted_by_fault_and_not_as_answers() -> None:
    refused = httpx.Response(503, content=b"full")
    record = await run(client(refused), Plan("m", streams=2, requests=4))
    assert record.faults == {"status 503: full": 4}
    assert record.total_s == []


@virtual_time
async def test_a_lost_connection_is_a_fault() -> None:
    def lose(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    async with httpx.AsyncClient(transport=httpx.MockTransport(lose), base_url="http://gateway") as nobody:
        record = await run(nobody, Plan("m", rate=10, requests=2))
    assert record.faults == {"ConnectError: refused": 2}
