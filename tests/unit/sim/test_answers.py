"""The JSON of answers, key by key, against what a real engine sends."""

from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest

from router.sim.answers import Envelope, StreamedAnswer, WholeAnswer
from router.sim.request import parse_body
from router.sim.sequence import Sequence
from tests.support.sim_pair import Collector, events

ENVELOPE = Envelope("chatcmpl-5acf", 1795432448, "tiny 100%", "vllm-0.32.0-f8856cc0")
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


@dataclass
class Kept:
    """A reply that keeps what is written."""

    status: int = 0
    body: bytes = b""
    started: bool = False
    sent: list[bytes] = field(default_factory=list)
    ended: bool = False
    outcome: list[bool] = field(default_factory=list)

    def respond(self, status: int, body: bytes) -> None:
        """Part of `Reply`."""
        self.status, self.body = status, body

    def start(self) -> None:
        """Part of `Reply`."""
        self.started = True

    def send(self, data: bytes) -> None:
        """Part of `Reply`."""
        self.sent.append(data)

    def end(self) -> None:
        """Part of `Reply`."""
        self.ended = True

    @property
    def stream(self) -> str:
        """All that was sent."""
        return b"".join(self.sent).decode()


def sequence(index: int = 0) -> Sequence:
    """A sequence of one token of prompt."""
    return Sequence("id", b"hi\0\0", 2, "length", Collector(), index=index)


def streamed(api: Any, body: dict[str, Any], *, choices: int = 1) -> Kept:
    """The stream of two tokens per choice."""
    reply = Kept()
    answer = StreamedAnswer(parse_body(api, body | {"stream": True}), ENVELOPE, reply, reply.outcome.append)
    for index in range(choices):
        answer.token(sequence(index), b" one", None)
    for index in range(choices):
        answer.token(sequence(index), b" two", "length")
    return reply


def test_a_chat_stream() -> None:
    reply = streamed("chat", CHAT | {"stream_options": {"include_usage": True}})
    base = {"id": "chatcmpl-5acf", "object": "chat.completion.chunk", "created": 1795432448, "model": "tiny 100%"}
    first = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    one = {"index": 0, "delta": {"content": " one"}, "logprobs": None, "finish_reason": None, "token_ids": None}
    two = one | {"delta": {"content": " two"}, "finish_reason": "length", "stop_reason": None}
    prompt_tokens = len(parse_body("chat", CHAT).prompts[0]) // 4
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens + 2, "completion_tokens": 2}
    assert events(reply.stream) == [
        base | {"choices": [first], "prompt_token_ids": None, "prompt_text": None},
        base | {"choices": [one]},
        base | {"choices": [two]},
        base | {"choices": [], "usage": usage, "system_fingerprint": "vllm-0.32.0-f8856cc0"},
    ]
    assert (reply.started, reply.ended, reply.outcome) == (True, True, [True])
    assert reply.sent[-1] == b"data: [DONE]\n\n"
    assert all(event.count(b"\n\n") == 1 for event in reply.sent)


def test_without_being_asked_a_stream_tells_no_usage() -> None:
    assert [event["choices"] != [] for event in events(streamed("chat", CHAT).stream)] == [True] * 3


def test_a_completion_stream() -> None:
    sent = events(streamed("completions", {"prompt": "hi"}).stream)
    assert [event["object"] for event in sent] == ["text_completion"] * 2
    assert [event["choices"][0]["text"] for event in sent] == [" one", " two"]
    assert [event["choices"][0]["finish_reason"] for event in sent] == [None, "length"]


def test_an_echoed_prompt_comes_first() -> None:
    sent = events(streamed("completions", {"prompt": "hi", "echo": True}).stream)
    assert [event["choices"][0]["text"] for event in sent] == ["hi", " one", " two"]


def test_choices_are_told_apart_and_end_together() -> None:
    reply = streamed("chat", CHAT | {"n": 2}, choices=2)
    sent = events(reply.stream)
    assert [event["choices"][0]["index"] for event in sent] == [0, 0, 1, 1, 0, 1]
    assert reply.stream.count("[DONE]") == 1


def test_a_failed_stream_is_an_error_event_and_an_end() -> None:
    reply = Kept()
    answer = StreamedAnswer(parse_body("chat", CHAT | {"stream": True}), ENVELOPE, reply, reply.outcome.append)
    answer.failed(sequence(), "Internal server error")
    answer.failed(sequence(), "once more")
    error = {"message": "Internal server error", "type": "InternalServerError", "param": None, "code": 500}
    assert events(reply.stream) == [{"error": error}]
    assert (reply.ended, reply.outcome) == (True, [False])


def whole(api: Any, body: dict[str, Any], *, choices: int = 1, params: object = None) -> Any:
    """The answer of two tokens per choice."""
    reply = Kept()
    answer = WholeAnswer(parse_body(api, body), ENVELOPE, reply, reply.outcome.append)
    for index in reversed(range(choices)):
        ended = sequence(index)
        ended.kv_transfer_params = {"of": index} if params else None
        answer.token(ended, b" one", None)
        answer.token(ended, b" two", "length")
    assert (reply.status, reply.outcome) == (200, [True])
    return orjson.loads(reply.body)


def test_a_chat_answer() -> None:
    answer = whole("chat", CHAT)
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["content"] == " one two"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 2
    assert answer["kv_transfer_params"] is None


def test_a_completion_answer() -> None:
    answer = whole("completions", {"prompt": "hi", "echo": True})
    assert (answer["object"], answer["choices"][0]["text"]) == ("text_completion", "hi one two")


def test_of_several_prompts_only_the_first_ones_parameters_are_told() -> None:
    answer = whole("completions", {"prompt": ["hi", "ho"]}, choices=2, params=True)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["kv_transfer_params"] == {"of": 0}
    assert answer["usage"] == {
        "prompt_tokens": 2,
        "total_tokens": 6,
        "completion_tokens": 4,
        "prompt_tokens_details": None,
    }


@pytest.mark.parametrize("answer", [StreamedAnswer, WholeAnswer])
def test_what_was_cached_is_told_when_asked_to_and_counted_once_per_prompt(
    answer: type[StreamedAnswer | WholeAnswer],
) -> None:
    reply = Kept()
    body = {"prompt": ["hi", "ho"], "n": 2, "stream": answer is StreamedAnswer}
    body |= {"stream_options": {"include_usage": True}} if body["stream"] else {}
    made = answer(parse_body("completions", body), replace(ENVELOPE, tells_cached=True), reply, reply.outcome.append)
    for index in range(4):
        one = sequence(index)
        one.choice, one.cached_tokens = index % 2, 16
        made.token(one, b" one", None)
        made.token(one, b" two", "length")
    told = events(reply.stream)[-1] if body["stream"] else orjson.loads(reply.body)
    assert told["usage"]["prompt_tokens_details"] == {"cached_tokens": 32}


def test_a_failed_answer_is_a_500() -> None:
    reply = Kept()
    answer = WholeAnswer(parse_body("chat", CHAT), ENVELOPE, reply, reply.outcome.append)
    answer.failed(sequence(), "Internal server error")
    answer.failed(sequence(), "once more")
    assert (reply.status, orjson.loads(reply.body)["error"]["code"], reply.outcome) == (500, 500, [False])
