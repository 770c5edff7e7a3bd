"""How an engine is spoken to, as data in and data out: a dialect makes bodies of calls, and facts of answers.

No dialect touches a socket. What an engine cannot do is a capability here, never an `if` in the request path.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from router.call import Call
from router.engines.handoff import Handoff, KvPeers


@dataclass(slots=True)
class Source:
    """Which prefill engine an answer came from, as far as its hand-over needs to know.

    `unfinished_at` in monotonic seconds, see `Handoff`; `peers` belongs to that engine and is updated by a good
    hand-over.
    """

    peers: KvPeers
    kv_hosts: Collection[str]
    unfinished_at: float
    max_age_s: float


class Dialect(Protocol):
    """One way to speak to an engine that works alone. Bodies are JSON."""

    name: str

    error_starts: tuple[bytes, ...]
    """How a stream's event begins that reports a failure instead of the engine's work."""

    def plain_body(self, call: Call) -> bytes:
        """The client's body for an engine that computes prompt and answer itself."""


class PairedDialect(Dialect, Protocol):
    """One way to speak to prefill and decode engines."""

    decodes_alone: bool
    """A decode engine can compute a prompt itself."""

    release_status: int
    """What a decode engine answers to `release_body` when it has given the claim back."""

    def prefill_body(self, call: Call) -> bytes:
        """The body that makes a prefill engine compute the prompt's KV and keep it."""

    def handoff(self, call: Call, answer: bytes, source: Source) -> Handoff | None:
        """The claim in a prefill engine's 200 answer.

        None when the engine rightly gives none (its single token ended the text). Raises `BadHandoff`.
        """

    def decode_body(self, call: Call, handoff: Handoff, now: float) -> bytes:
        """The client's body with the claim, which is spent by this. Raises `BadHandoff`."""

    def release_body(self, handoff: Handoff) -> bytes:
        """A chat body that makes a decode engine give the claim back without work; surrenders the claim."""
