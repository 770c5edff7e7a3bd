"""Right answers pass; every way to be wrong is told."""

from collections.abc import AsyncIterator, Sequence

import orjson
import pytest

from router.bench.answer import Answer, WrongAnswer


def chunk(text: str | None = None, finish: str | None = None) -> str:
    delta = {"role": "assistant", "content": ""} if text is None else {"content": text}
    return "data: " + orjson.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).decode()


def usage(tokens: int) -> str:
    return "data: " + orjson.dumps({"choices": [], "usage": {"completion_tokens": tokens}}).decode()


RIGHT = [chunk(), "", chunk(" a"), ": ping", chunk(" b"), chunk(" c", "length"), usage(3), "data: [DONE]", ""]


async def read(lines: Sequence[str], max_tokens: int = 3) -> Answer:
    async def body() -> AsyncIterator[str]:
        for line in lines:
            yield line

    times = iter(range(100))
    answer = Answer(max_tokens)
    await answer.read(body(), lambda: float(next(times)))
    return answer


async def test_a_right_answer() -> None:
    answer = await read(RIGHT)
    assert (answer.text, answer.at_s, answer.completion_tokens) == (" a b c", [0.0, 1.0, 2.0], 3)


async def test_an_engine_may_stop_early() -> None:
    assert (await read([chunk(" a", "stop"), usage(1), "data: [DONE]"])).text == " a"


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (RIGHT[:-2], "without [DONE]"),
        ([*RIGHT, chunk(" d")], "after [DONE]"),
        ([chunk(" a"), usage(3), "data: [DONE]"], "finish reason None"),
        ([chunk(None, "length"), usage(3), "data: [DONE]"], "no text"),
        ([chunk(" a", "length"), "data: [DONE]"], "no usage"),
        ([chunk(" a", "length"), usage(2), "data: [DONE]"], "2 tokens, 3 were asked for"),
        ([chunk(" a", "stop"), usage(4), "data: [DONE]"], "4 tokens, 3 were asked for"),
        ([chunk(" a", "length"), chunk(" b")], "text after the finish reason"),
        ([chunk(" a"), 'data: {"error": {"message": "lost"}}'], "error event after 1 events: lost"),
        (["<html>"], "not an event"),
        (["data: {"], "not a chunk"),
        (["data: {}"], "not a chunk"),
        (["data: []"], "not a chunk"),
        ([], "without [DONE]"),
    ],
)
async def test_every_fault_is_told(lines: list[str], fault: str) -> None:
    with pytest.raises(WrongAnswer, match=fault.replace("[", r"\[")):
        await read(lines)


async def test_texts_are_compared() -> None:
    answer = await read(RIGHT)
    answer.compare(" a b c")
    with pytest.raises(WrongAnswer, match="another text"):
        answer.compare(" a b")
