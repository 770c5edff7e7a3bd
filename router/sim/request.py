"""What does a client ask for, and may it?

A body passes two gates, as in vLLM. `parse` is request validation (types, shapes): nothing has seen the request yet.
`admissible` comes after it (unknown model, limits): the KV connector already knows the request and must be told when it
is refused there.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard, get_args

import orjson

from router.sim import tokens

Api = Literal["chat", "completions"]
MAX_CHOICES = 16_384
DEFAULT_COMPLETION_TOKENS = 16


class RequestError(Exception):
    """A request that the engine refuses, in the one shape all its errors have."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param

    def body(self) -> bytes:
        """The error as JSON."""
        kind = {400: "BadRequestError", 404: "NotFoundError"}.get(self.status, "InternalServerError")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.status}
        return orjson.dumps({"error": error})


@dataclass(frozen=True)
class GenerationRequest:
    """A validated body; `prompts` are token bytes."""

    api: Api
    model: str
    prompts: tuple[bytes, ...]
    max_tokens: int | None = None
    min_tokens: int = 0
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    echo: bool = False
    cache_salt: str = ""
    kv_transfer_params: dict[str, Any] | None = field(default=None, repr=False)


# What pydantic calls each mistake, and what it says about it.
_TYPES: dict[type, tuple[str, str]] = {
    str: ("string_type", "string"),
    int: ("int_type", "integer"),
    float: ("float_type", "number"),
    bool: ("bool_type", "boolean"),
    dict: ("dict_type", "dictionary"),
    list: ("list_type", "list"),
}
_FIELDS: dict[str, type] = {
    "model": str,
    "max_tokens": int,
    "max_completion_tokens": int,
    "min_tokens": int,
    "n": int,
    "priority": int,
    "seed": int,
    "temperature": float,
    "top_p": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "stream": bool,
    "echo": bool,
    "stream_options": dict,
    "kv_transfer_params": dict,
    "tools": list,
    "cache_salt": str,
}


def parse(api: Api, data: bytes) -> GenerationRequest:
    """Validate a body as received."""
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"JSON decode error: {error}") from error
    if not isinstance(body, dict):
        raise _wrong(("body",), dict, body)
    return parse_body(api, body)


def parse_body(api: Api, body: dict[str, Any]) -> GenerationRequest:
    """Validate a decoded body."""
    if api not in get_args(Api):
        raise ValueError(f"api must be chat or completions, got {api!r}")
    for name, kind in _FIELDS.items():
        if body.get(name) is not None and not _is(body[name], kind):
            raise _wrong(("body", name), kind, body[name])
    stream = bool(body.get("stream"))
    options = body.get("stream_options")
    if options is not None and not stream:
        raise RequestError("Stream options can only be defined when `stream=True`.", param="stream_options")
    if body.get("cache_salt") == "":
        raise RequestError("Parameter 'cache_salt' must be a non-empty string if provided.", param="cache_salt")
    chat = api == "chat"
    limit = body.get("max_completion_tokens") if chat else None
    limit = body.get("max_tokens") if limit is None else limit
    return GenerationRequest(
        api=api,
        model=body.get("model") or "",
        prompts=(_conversation(body),) if chat else _prompts(body),
        max_tokens=DEFAULT_COMPLETION_TOKENS if limit is None and not chat else limit,
        min_tokens=body.get("min_tokens") or 0,
        n=1 if body.get("n") is None else body["n"],
        stream=stream,
        include_usage=bool((options or {}).get("include_usage")),
        echo=bool(body.get("echo")) and not chat,
        cache_salt=body.get("cache_salt") or "",
        kv_transfer_params=body.get("kv_transfer_params"),
    )


def admissible(request: GenerationRequest, served_models: tuple[str, ...], max_model_len_tokens: int) -> None:
    """Raise `RequestError` for a valid request that this engine does not serve."""
    if request.model and request.model not in served_models:
        valid = ", ".join(served_models)
        message = f"The model `{request.model}` does not exist. Valid aliases: {valid}."
        raise RequestError(message, status=404, param="model")
    if not 1 <= request.n <= MAX_CHOICES:
        raise _limit("n", request.n, f"n must be between 1 and {MAX_CHOICES}")
    if request.max_tokens is not None and request.max_tokens < 1:
        raise _limit("max_tokens", request.max_tokens, "max_tokens must be at least 1")
    if request.max_tokens is not None and request.min_tokens > request.max_tokens:
        raise _limit("min_tokens", request.min_tokens, f"min_tokens must be at most max_tokens={request.max_tokens}")
    longest = max(tokens.count(prompt) for prompt in request.prompts)
    if longest + (request.max_tokens or 1) > max_model_len_tokens:
        asked = f"{longest} in the prompt, {request.max_tokens or 1} in the answer"
        message = f"This model's maximum context length is {max_model_len_tokens} tokens, you requested {asked}."
        raise RequestError(message, param="input_tokens" if longest >= max_model_len_tokens else "max_tokens")


def _conversation(body: dict[str, Any]) -> bytes:
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise _wrong(("body", "messages"), list, messages)
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise _wrong(("body", "messages", index), dict, message)
        if not isinstance(message.get("role"), str):
            raise _wrong(("body", "messages", index, "role"), str, message.get("role"))
        if not isinstance(message.get("content"), str | list | None):
            raise _wrong(("body", "messages", index, "content"), str, message.get("content"))
    return tokens.from_messages(messages, body.get("tools"))


def _prompts(body: dict[str, Any]) -> tuple[bytes, ...]:
    prompt = body.get("prompt")
    if is_token_ids(prompt):
        return (tokens.from_ids(prompt),)
    if isinstance(prompt, str) and prompt:
        return (tokens.encode(prompt),)
    if isinstance(prompt, list) and prompt and all(isinstance(item, str) and item for item in prompt):
        return tuple(tokens.encode(item) for item in prompt)
    if isinstance(prompt, list) and prompt and all(is_token_ids(item) for item in prompt):
        return tuple(tokens.from_ids(item) for item in prompt)
    raise RequestError("Either prompt or prompt_embeds must be provided and non-empty.", param="prompt")


def is_token_ids(value: object) -> TypeGuard[list[int]]:
    """Whether these are the numbers of at least one token."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(item) is int and 0 <= item < tokens.TOKEN_LIMIT for item in value)
    )


def _is(value: object, kind: type) -> bool:
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind


def _wrong(location: tuple[str | int, ...], kind: type, value: object) -> RequestError:
    code, name = _TYPES[kind]
    fault = {"type": code, "loc": location, "msg": f"Input should be a valid {name}", "input": value}
    return RequestError(f"[{fault}]", param=str(location[-1]) if len(location) > 1 else None)


def _limit(name: str, value: int, rule: str) -> RequestError:
    return RequestError(f"{rule}, got {value}. (parameter={name}, value={value})", param=name)
