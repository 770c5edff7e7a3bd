"""How does generated text become an answer?

The JSON of vLLM 0.32, key by key. A request may have several choices (prompts times n), whose tokens arrive one by one
from the scheduler; `StreamedAnswer` sends each as an event, `WholeAnswer` collects them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from router.sim import tokens
from router.sim.request import GenerationRequest, RequestError
from router.sim.sequence import Sequence
from router.sim.text import FinishReason, echoed

DONE = b"data: [DONE]\n\n"


class Reply(Protocol):
    """Where an answer goes."""

    def respond(self, status: int, body: bytes) -> None:
        """The whole answer at once."""

    def start(self) -> None:
        """Begin a streamed answer."""

    def send(self, data: bytes) -> None:
        """One event of a streamed answer."""

    def end(self) -> None:
        """The end of a streamed answer."""


@dataclass(frozen=True)
class Envelope:
    """What all objects of one answer have in common."""

    answer_id: str
    created: int
    model: str
    fingerprint: str
    tells_cached: bool = False


def event(value: object) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def error_event(message: str) -> bytes:
    """The event by which an engine reports, inside of a stream, that it failed."""
    return b"data: " + RequestError(message, status=500).body() + b"\n\n"


class StreamedAnswer:
    """Sends every token as soon as it is there."""

    def __init__(
        self, request: GenerationRequest, envelope: Envelope, reply: Reply, ended: Callable[[bool], None]
    ) -> None:
        self._request = request
        self._envelope = envelope
        self._reply = reply
        self._ended = ended
        self._open_choices = len(request.prompts) * request.n
        self._generated_tokens = 0
        self._cached_tokens = 0
        self._begun: set[int] = set()
        self._prefix, self._suffix = _token_event(request, envelope)
        reply.start()

    def token(self, sequence: Sequence, piece: bytes, finish_reason: FinishReason | None) -> None:
        """Part of `Listener`."""
        if sequence.index not in self._begun:
            self._begin(sequence)
        self._generated_tokens += 1
        finish = b'"%b","stop_reason":null' % finish_reason.encode() if finish_reason else b"null"
        self._reply.send(b"".join((self._prefix % sequence.index, piece, self._suffix % finish)))
        if finish_reason is not None:
            self._open_choices -= 1
            if not self._open_choices:
                self._end()

    def failed(self, _sequence: Sequence, message: str) -> None:
        """Part of `Listener`."""
        if self._open_choices:
            self._open_choices = 0
            self._reply.send(error_event(message))
            self._reply.send(DONE)
            self._reply.end()
            self._ended(False)

    def _begin(self, sequence: Sequence) -> None:
        self._begun.add(sequence.index)
        self._cached_tokens += _newly_cached(sequence)
        chunk = _base(self._request, self._envelope, chunk=True)
        if self._request.api == "chat":
            delta = {"role": "assistant", "content": ""}
            chunk["choices"] = [{"index": sequence.index, "delta": delta, "logprobs": None, "finish_reason": None}]
            self._reply.send(event(chunk | {"prompt_token_ids": None, "prompt_text": None}))
        elif self._request.echo:
            text = echoed(self._request, sequence.prompt)
            chunk["choices"] = [{"index": sequence.index, "text": text, "logprobs": None, "finish_reason": None}]
            self._reply.send(event(chunk))

    def _end(self) -> None:
        if self._request.include_usage:
            chunk = _base(self._request, self._envelope, chunk=True)
            chunk |= {"choices": [], "usage": _usage(self._request, self._generated_tokens) | self._details()}
            self._reply.send(event(chunk | {"system_fingerprint": self._envelope.fingerprint}))
        self._reply.send(DONE)
        self._reply.end()
        self._ended(True)

    def _details(self) -> dict[str, Any]:
        return {"prompt_tokens_details": _cached(self._cached_tokens)} if self._envelope.tells_cached else {}


class WholeAnswer:
    """Answers once everything is there."""

    def __init__(
        self, request: GenerationRequest, envelope: Envelope, reply: Reply, ended: Callable[[bool], None]
    ) -> None:
        self._request = request
        self._envelope = envelope
        self._reply = reply
        self._ended = ended
        self._pieces: dict[int, list[bytes]] = {}
        self._cached_tokens = 0
        self._choices: dict[int, dict[str, Any]] = {}
        self._open_choices = len(request.prompts) * request.n
        self._kv_transfer_params: dict[int, dict[str, Any] | None] = {}

    def token(self, sequence: Sequence, piece: bytes, finish_reason: FinishReason | None) -> None:
        """Part of `Listener`."""
        if sequence.index not in self._pieces:
            self._cached_tokens += _newly_cached(sequence)
        pieces = self._pieces.setdefault(sequence.index, [])
        pieces.append(piece)
        if finish_reason is None:
            return
        text = echoed(self._request, sequence.prompt) + b"".join(pieces).decode()
        self._choices[sequence.index] = _choice(self._request, sequence.index, text, finish_reason)
        self._kv_transfer_params[sequence.index] = sequence.kv_transfer_params
        self._open_choices -= 1
        if not self._open_choices:
            self._end()

    def failed(self, _sequence: Sequence, message: str) -> None:
        """Part of `Listener`."""
        if self._open_choices:
            self._open_choices = 0
            self._reply.respond(500, RequestError(message, status=500).body())
            self._ended(False)

    def _end(self) -> None:
        generated = sum(len(pieces) for pieces in self._pieces.values())
        details = _cached(self._cached_tokens) if self._envelope.tells_cached else None
        answer = _base(self._request, self._envelope, chunk=False)
        answer |= {
            "choices": [choice for _, choice in sorted(self._choices.items())],
            "system_fingerprint": self._envelope.fingerprint,
            "usage": _usage(self._request, generated) | {"prompt_tokens_details": details},
            "kv_transfer_params": self._kv_transfer_params[0],
        }
        self._reply.respond(200, orjson.dumps(answer))
        self._ended(True)


def _base(request: GenerationRequest, envelope: Envelope, *, chunk: bool) -> dict[str, Any]:
    names = {
        ("chat", False): "chat.completion",
        ("chat", True): "chat.completion.chunk",
        ("completions", False): "text_completion",
        ("completions", True): "text_completion",
    }
    return {
        "id": envelope.answer_id,
        "object": names[request.api, chunk],
        "created": envelope.created,
        "model": envelope.model,
    }


def _choice(request: GenerationRequest, index: int, text: str, finish_reason: FinishReason) -> dict[str, Any]:
    ending = {"logprobs": None, "finish_reason": finish_reason, "stop_reason": None, "token_ids": None}
    if request.api == "completions":
        return {"index": index, "text": text} | ending | {"prompt_logprobs": None, "prompt_token_ids": None}
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "tool_calls": [],
        "reasoning": None,
    }
    return {"index": index, "message": message} | ending


def _usage(request: GenerationRequest, generated_tokens: int) -> dict[str, Any]:
    prompt_tokens = sum(tokens.count(prompt) for prompt in request.prompts)
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + generated_tokens,
        "completion_tokens": generated_tokens,
    }


def _newly_cached(sequence: Sequence) -> int:
    """Prompt tokens found in the cache; the n answers to a prompt count it once."""
    return 0 if sequence.choice else sequence.cached_tokens


def _cached(cached_tokens: int) -> dict[str, int]:
    return {"cached_tokens": cached_tokens}


def _token_event(request: GenerationRequest, envelope: Envelope) -> tuple[bytes, bytes]:
    """A token's event as two templates around the token: for the choice's index, and for how it ends.

    Tokens need no escapes in JSON, so this is all the encoding that a token costs.
    """
    start = orjson.dumps(_base(request, envelope, chunk=True))[:-1].replace(b"%", b"%%")
    if request.api == "chat":
        prefix = b'data: %b,"choices":[{"index":%%d,"delta":{"content":"' % start
        return prefix, b'"},"logprobs":null,"finish_reason":%b,"token_ids":null}]}\n\n'
    prefix = b'data: %b,"choices":[{"index":%%d,"text":"' % start
    return prefix, b'","logprobs":null,"finish_reason":%b,"token_ids":null}]}\n\n'
