"""What do people say? Chats of several turns that each go on from the answer before; the same for every router."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

MODEL = "sim-8b"
WORD_BYTES = 4
"""One token of the simulated engines."""

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Load:
    """How many chats, how long, how fast. Times in seconds, lengths in tokens; those of first messages vary."""

    chats: int = 200
    turns: int = 6
    chats_per_s: float = 6.0
    think_s: float = 1.5
    system_tokens: int = 400
    kinds: int = 5
    """Of assistants: so many system prompts, each shared by its chats."""
    first_tokens: tuple[int, int] = (500, 5000)
    turn_tokens: tuple[int, int] = (30, 200)
    answer_tokens: int = 30


@dataclass(frozen=True, slots=True)
class Chat:
    """One conversation: when it begins, what its user says turn by turn, and how long each thinks before."""

    begin_s: float
    system: str
    says: Sequence[str]
    think_s: Sequence[float]


def chats(load: Load, seed: int = 0) -> Iterator[Chat]:
    """The chats of a load, in the order in which they begin; they come at random."""
    rng = random.Random(seed)
    systems = [text(rng, load.system_tokens) for _ in range(load.kinds)]
    begin_s = 0.0
    for _ in range(load.chats):
        begin_s += rng.expovariate(load.chats_per_s)
        lengths = [rng.randint(*load.first_tokens), *(rng.randint(*load.turn_tokens) for _ in range(load.turns - 1))]
        yield Chat(
            begin_s,
            rng.choice(systems),
            [text(rng, tokens) for tokens in lengths],
            [0.0, *(rng.expovariate(1 / load.think_s) for _ in range(load.turns - 1))],
        )


def text(rng: random.Random, tokens: int) -> str:
    """So many tokens that no other text has."""
    return "".join(f"{rng.randrange(1000):03} " for _ in range(tokens))


def body(messages: Sequence[Message], answer_tokens: int) -> dict[str, Any]:
    """The request of a turn."""
    return {"model": MODEL, "messages": list(messages), "stream": True, "max_tokens": answer_tokens}
