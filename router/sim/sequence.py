"""What is one prompt on its way through an engine?

A request is as many sequences as it has prompts times choices.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from router.sim import tokens
from router.sim.remote_kv import RemoteKv
from router.sim.text import FinishReason


class Phase(Enum):
    """Where a sequence stands."""

    WAITING = "waiting"
    PULLING = "pulling"
    RUNNING = "running"
    DONE = "done"


class Listener(Protocol):
    """Who gets what a sequence generates. At most one of the last calls: a finish reason, or `failed`."""

    def token(self, sequence: "Sequence", piece: bytes, finish_reason: FinishReason | None) -> None:
        """The next token of the text; `finish_reason` with the last one."""

    def failed(self, sequence: "Sequence", message: str) -> None:
        """The engine gives the sequence up."""


@dataclass(eq=False, slots=True)
class Sequence:
    """One prompt and one choice; the second half is the engine's to change."""

    request_id: str
    prompt: bytes
    max_tokens: int
    finish_reason: FinishReason
    listener: Listener
    index: int = 0
    """Where its text belongs among the choices of the answer."""
    choice: int = 0
    """Which of the n answers to its prompt this is."""
    cache_salt: str = ""
    session: str | None = None
    """What KV events call the one who asked."""
    remote_kv: RemoteKv | None = None
    """Where the KV of the prompt is to be pulled from."""
    hold_kv: bool = False
    """Whether the blocks stay after the end, for a decode engine to pull."""

    phase: Phase = Phase.WAITING
    aborted: bool = False
    arrived_s: float = 0.0
    tokens: bytearray = field(init=False)
    """The tokens that must be in the KV cache before the next one can be sampled."""
    blocks: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    cached_tokens: int = 0
    computed_tokens: int = 0
    generated_tokens: int = 0
    last_token: bytes = b""
    state: bytes = b""
    kv_transfer_params: dict[str, Any] | None = None
    """What a decode engine needs to pull the blocks of an ended sequence."""

    def __post_init__(self) -> None:
        """The prompt comes first."""
        self.tokens = bytearray(self.prompt)

    @property
    def length_tokens(self) -> int:
        """Tokens in `tokens`."""
        return len(self.tokens) // tokens.TOKEN_BYTES

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return tokens.count(self.prompt)

    @property
    def missing_tokens(self) -> int:
        """Tokens whose KV is still to be computed."""
        return self.length_tokens - self.computed_tokens
