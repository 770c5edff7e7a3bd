"""Which text does an engine generate?

Sampling is greedy and the "model" a hash chain over what it sees in the KV blocks (`blocks.attend`): the right KV gives
the one right text, anything else some other text of the same look. Every token is one word piece of four bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

from router.sim import blocks, tokens
from router.sim.request import Api, GenerationRequest, parse_body

FinishReason = Literal["stop", "length"]

PIECES = tuple(
    f" {first}{vowel}{last}".encode()
    for first in "bcdfghjklmnprstvwz"
    for vowel in "aeiou"
    for last in "bdfgklmnprstvxz"
)

# Without max_tokens an answer ends by itself after so many tokens.
SHORTEST_ANSWER_TOKENS, LONGEST_ANSWER_TOKENS = 16, 64


@dataclass(frozen=True)
class Choice:
    """One generated text and why it ended."""

    text: str
    finish_reason: FinishReason


@dataclass(frozen=True)
class Reference:
    """The answer of a lone engine: choices in the order of their index, and what the usage says."""

    choices: tuple[Choice, ...]
    prompt_tokens: int
    completion_tokens: int

    @property
    def text(self) -> str:
        """The text of the first choice."""
        return self.choices[0].text

    @property
    def finish_reason(self) -> FinishReason:
        """Why the first choice ended."""
        return self.choices[0].finish_reason


def advance(state: bytes) -> tuple[bytes, bytes]:
    """The next state of the model, and the token it gives."""
    state = blake2b(state, digest_size=blocks.DIGEST_BYTES).digest()
    return state, PIECES[int.from_bytes(state[:4], "big") % len(PIECES)]


def first_state(seen: bytes, choice: int) -> bytes:
    """Where a choice starts, given what the model sees of the prompt. Choices of one request differ."""
    return blake2b(seen + choice.to_bytes(4, "big"), digest_size=blocks.DIGEST_BYTES).digest()


def answer_length(request: GenerationRequest, prompt: bytes, max_model_len_tokens: int) -> tuple[int, FinishReason]:
    """How many tokens the answer to `prompt` has, and why it ends there.

    The length depends on the prompt only, never on the KV, so that a wrong text does not show in token counts.
    """
    if request.max_tokens is not None:
        return request.max_tokens, "length"
    span = LONGEST_ANSWER_TOKENS - SHORTEST_ANSWER_TOKENS + 1
    natural = SHORTEST_ANSWER_TOKENS + blake2b(prompt, digest_size=1).digest()[0] % span
    natural = max(natural, request.min_tokens)
    room = max_model_len_tokens - tokens.count(prompt)
    return (natural, "stop") if natural <= room else (room, "length")


def reference_text(model: str, api: Api, body: dict[str, Any], *, max_model_len_tokens: int = 131_072) -> Reference:
    """The answer that a lone engine serving `model` gives to a valid `body`."""
    request = parse_body(api, body)
    choices = []
    completion_tokens = 0
    for prompt in request.prompts:
        length, reason = answer_length(request, prompt, max_model_len_tokens)
        seen = blocks.understood(blocks.root(model), prompt)
        for index in range(request.n):
            text = b"".join(_pieces(first_state(seen, index), length)).decode()
            choices.append(Choice(echoed(request, prompt) + text, reason))
            completion_tokens += length
    prompt_tokens = sum(tokens.count(prompt) for prompt in request.prompts)
    return Reference(tuple(choices), prompt_tokens, completion_tokens)


def echoed(request: GenerationRequest, prompt: bytes) -> str:
    """What precedes the generated text in a choice."""
    return tokens.decode(prompt) if request.echo else ""


def _pieces(state: bytes, length: int) -> Iterator[bytes]:
    for _ in range(length):
        state, piece = advance(state)
        yield piece
