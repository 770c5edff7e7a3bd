"""What must be known of a request: a `Call` is the validated body and the few facts that routing needs.

The body stays a plain mapping: engines add fields faster than a schema could follow, so unknown ones travel untouched.
What is validated is what is sent: the body is parsed once, and engines get a serialisation of that parse, so that a
client's framing tricks and duplicate keys cannot give gateway and engine two views of one request, nor two engines two
prompts. Sending the client's bytes would save less than it costs to look for what makes them unsafe; but what is long,
the prompt, is serialised once for all legs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

from router.errors import InvalidRequest, Leg
from router.json_bounds import JsonBounds, loads

BYTES_PER_TOKEN = 4
"""English text in the vocabularies of current models has 3.5 to 4.5 bytes a token; code and CJK have fewer."""

TOKENS_PER_MESSAGE = 4
"""Role markers and separators that chat templates put around each message."""

TOKEN_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")

ENGINE_FIELDS = frozenset(
    {
        "kv_transfer_params",
        "ec_transfer_params",
        "data_parallel_rank",
        "prompt_embeds",
        "cache_salt",
        "priority",
        "request_id",
        "vllm_xargs",
    }
)
"""Body fields by which a client could steer, crash or read another tenant's cache on an engine."""

ENGINE_FIELD_PREFIX = "bootstrap_"

OBSTACLES = frozenset({"n", "best_of", "use_beam_search", "prompt_logprobs", "echo", "min_tokens", "stream_options"})
"""Fields that may forbid splitting a request over two engines, beside the prompt and the limits."""

LONG_FIELDS = ("messages", "prompt", "tools")
"""What makes bodies long, and is the same on all legs."""

MAX_NUMBER = 2**63
"""The parser turns larger integers into the nearest double: what an engine got would not be what the client sent.

Looked for among the body's own fields: inside tools and messages no engine computes with them."""


NUMBERS = frozenset((int, float))
"""What the parser makes of numbers; its `bool` is none."""

MAX_SESSION_CHARS = 256

ROLE_AND_CONTENT = frozenset({"role", "content"})
"""What nearly all messages have, and nothing else."""

DEFAULT_BOUNDS = JsonBounds()


class Api(StrEnum):
    """The generating APIs; the value is the path on the gateway and on the engines."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"

    @property
    def label(self) -> str:
        """The short name that metrics and logs use."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Trace:
    """What names a request to engines and logs: the gateway's id, the same on both legs, and a W3C trace context.

    By itself it passes the client's context on. One that is recorded knows its `trace_id` and has a context of its own
    for each leg, see `telemetry.tracing`.
    """

    request_id: str
    traceparent: str | None = None

    @property
    def trace_id(self) -> str | None:
        """Under which the request is recorded; None when it is not."""
        return None

    def of_leg(self, _leg: Leg) -> "Trace":
        """What an engine gets, for a leg that begins now."""
        return self


@dataclass(frozen=True, slots=True)
class Blocks:
    """A prompt as a chain of hashes, each of a block and of all that precedes it; `tokens_each` is estimated, and more
    than 0.

    Two prompts that begin alike have the same hashes up to the block in which they part.
    """

    hashes: Sequence[int] = field(repr=False)
    tokens_each: float


@dataclass(slots=True, eq=False)
class Call:
    """One request of a client, validated.

    `prompt_tokens` is an estimate from the text's bytes, which `prompt_bytes` counts with what a template adds, or
    exact (of token ids; `prompt_bytes` is 0). `undisaggregatable` names what in the body forbids splitting it over two
    engines, or is None. `fields` is the body, parsed; `wire` is the same with the long fields serialised already, for
    `orjson.dumps`, and a stream's asks for its usage. `session` is what the client calls its conversation, a hint.
    `blocks` are filled in by routing when it first needs them.
    """

    trace: Trace
    api: Api
    model: str
    stream: bool
    include_usage: bool
    max_tokens: int | None
    prompt_tokens: int
    undisaggregatable: str | None
    fields: Mapping[str, Any] = field(repr=False)
    wire: Mapping[str, Any] = field(repr=False)
    prompt_bytes: int = 0
    session: str | None = None
    blocks: Blocks | None = field(default=None, repr=False)

    @property
    def body(self) -> bytes:
        """The body for an engine that gets it as it is."""
        return orjson.dumps(self.wire)

    def drop_body(self) -> None:
        """Let go of the body: an engine has it, and its answer may stream for minutes."""
        self.fields = self.wire = {}


def parse(
    api: Api, raw: bytes, trace: Trace, *, strip_engine_fields: bool = False, bounds: JsonBounds = DEFAULT_BOUNDS
) -> Call:
    """Read a body as a call of `api`. Raises as `json_bounds.loads` and `understand` do."""
    return understand(api, loads(raw, bounds), trace, strip_engine_fields=strip_engine_fields)


def understand(
    api: Api, fields: object, trace: Trace, *, strip_engine_fields: bool = False, session: str | None = None
) -> Call:
    """Make a call of `api` of a parsed body.

    Engine-internal fields are refused, or removed when `strip_engine_fields` is set. `session` is what the head of the
    request calls its conversation, which goes before what the body does. Raises `InvalidRequest` naming the field and
    what is allowed.
    """
    if not isinstance(fields, dict):
        raise InvalidRequest("the body must be a JSON object")
    _check(fields, strip_engine_fields)
    options = fields.get("stream_options")
    long = {name: orjson.dumps(fields[name]) for name in LONG_FIELDS if name in fields}
    prompt_bytes = _prompt_bytes(api, fields, long)
    limits = [limit for name in TOKEN_LIMITS if (limit := fields.get(name)) is not None]
    return Call(
        trace=trace,
        api=api,
        model=fields["model"],
        stream=bool(fields.get("stream")),
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        max_tokens=min(filter(_is_count, limits), default=None),
        prompt_tokens=_prompt_tokens(api, fields, prompt_bytes),
        undisaggregatable=_obstacle(api, fields, long, limits),
        fields=fields,
        wire=_wire(fields, long),
        prompt_bytes=prompt_bytes,
        session=_session(session, fields),
    )


def _wire(fields: Mapping[str, Any], long: Mapping[str, bytes]) -> dict[str, Any]:
    """The body, its long fields serialised.

    A stream is asked for its usage: what was computed is known from nothing else.
    """
    wire = dict(fields)
    for name, content in long.items():
        wire[name] = orjson.Fragment(content)
    options = fields.get("stream_options")
    if not fields.get("stream") or not isinstance(options, dict | None):
        return wire
    if options and options.get("include_usage") not in (None, False):  # asked for, or for the engine to refuse
        return wire
    wire["stream_options"] = {**(options or {}), "include_usage": True, "continuous_usage_stats": False}
    return wire


def _check(fields: dict[str, Any], strip_engine_fields: bool) -> None:
    """What the gateway itself must be able to rely on; the rest is the engines' to judge. Their own fields go first."""
    engine_fields = []
    for name, value in fields.items():
        if name in ENGINE_FIELDS or name.startswith(ENGINE_FIELD_PREFIX):
            engine_fields.append(name)
        elif type(value) in NUMBERS and abs(value) >= MAX_NUMBER:
            raise InvalidRequest(f"{name} must be a number of at most 64 bits", param=name)
    for name in engine_fields:
        if not strip_engine_fields:
            raise InvalidRequest(f"{name} is set by the gateway and must not be sent", param=name)
        del fields[name]
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("model must be a non-empty string", param="model")
    stream = fields.get("stream")
    if not (stream is None or stream is True or stream is False):
        raise InvalidRequest("stream must be true or false", param="stream")


def _obstacle(api: Api, fields: Mapping[str, Any], long: Mapping[str, bytes], limits: Sequence[Any]) -> str | None:
    """What in the body must see one engine only.

    Several prompts or sequences in one request: the hand-over covers the first prompt, once. Prompt log-probabilities:
    the decode engine has no logits of a prompt that it pulled. Fields that the prefill leg overwrites must be well
    formed, so that an engine refuses them before KV is computed for nothing.
    """
    if obstacle := _no_single_prompt(api, fields, long):
        return obstacle
    for limit in limits:
        if not _is_count(limit) or limit == 0:
            return "token_limit"
    if OBSTACLES.isdisjoint(fields):
        return None
    given = fields.get
    if given("n") not in (None, 1) or given("best_of") not in (None, 1) or given("use_beam_search"):
        return "several_sequences"
    if given("prompt_logprobs") is not None or (given("echo") and given("logprobs") is not None):
        return "prompt_logprobs"
    minimum = given("min_tokens")
    if minimum is not None and not (_is_count(minimum) and minimum <= min(limits, default=minimum)):
        return "min_tokens"
    options = given("stream_options")
    if options is not None and not (given("stream") and isinstance(options, dict)):
        return "stream_options"
    return None


def _no_single_prompt(api: Api, fields: Mapping[str, Any], long: Mapping[str, bytes]) -> str | None:
    if api is Api.CHAT:
        messages = fields.get("messages")
        return None if messages and isinstance(messages, list) else "no_messages"
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and not _is_token_ids(long["prompt"]):
        return "several_prompts"
    return None if prompt else "no_prompt"


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_token_ids(prompt: bytes) -> bool:
    """Whether a serialised prompt is a list of counts: ten times as fast as to look at 100,000 of them one by one."""
    return prompt != b"[]" and prompt.translate(None, b"0123456789,") == b"[]"


def _session(of_head: str | None, fields: Mapping[str, Any]) -> str | None:
    """What a client calls its conversation, from the most to the least specific of the usual ways to say it."""
    metadata = fields.get("metadata")
    named = metadata.get("session_id") if isinstance(metadata, dict) else None
    hints = (of_head, named, fields.get("prompt_cache_key"), fields.get("user"))
    for hint in hints:
        if isinstance(hint, str) and 0 < len(hint) <= MAX_SESSION_CHARS:
            return hint
    return None


def _prompt_tokens(api: Api, fields: Mapping[str, Any], prompt_bytes: int) -> int:
    if api is Api.COMPLETIONS:
        return _tokens_of_prompt(fields.get("prompt"))
    return prompt_bytes // BYTES_PER_TOKEN


def _prompt_bytes(api: Api, fields: Mapping[str, Any], long: Mapping[str, bytes]) -> int:
    """Size of a prompt that is one text, with what a template adds to each message; 0 of any other."""
    if api is Api.COMPLETIONS:
        prompt = fields.get("prompt")
        return _text_bytes(prompt) if isinstance(prompt, str) else 0
    messages = fields.get("messages")
    if not isinstance(messages, list):
        return 0
    size_bytes = BYTES_PER_TOKEN * TOKENS_PER_MESSAGE * len(messages)
    for message in messages:
        if isinstance(message, dict):
            size_bytes += _text_bytes(message.get("content"))
            if not message.keys() <= ROLE_AND_CONTENT:
                size_bytes += sum(_field_bytes(message[name]) for name in message.keys() - ROLE_AND_CONTENT)
    if fields.get("tools"):
        size_bytes += len(long["tools"])
    return size_bytes


def _field_bytes(value: object) -> int:
    """UTF-8 size of what else a message has and templates show: tool calls with their arguments, reasoning."""
    if isinstance(value, str):
        return _text_bytes(value)
    return len(orjson.dumps(value)) if value else 0


def _tokens_of_prompt(prompt: object) -> int:
    """Of a text, token ids, or several of either; nothing else is a prompt."""
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        return sum(map(_tokens_of_part, prompt))
    return _tokens_of_part(prompt)


def _tokens_of_part(prompt: object) -> int:
    if isinstance(prompt, str):
        return max(1, _text_bytes(prompt) // BYTES_PER_TOKEN)
    return len(prompt) if isinstance(prompt, list) else 0


def _text_bytes(content: object) -> int:
    """UTF-8 size of a message's text; parts that are not text (images, audio) are not counted."""
    if isinstance(content, str):
        return len(content) if content.isascii() else len(content.encode())
    if isinstance(content, list):
        return sum(_text_bytes(part.get("text")) for part in content if isinstance(part, dict))
    return 0
