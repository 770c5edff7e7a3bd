"""Requests for replays: chats that go on turn after turn, and prompts that share nothing."""

import random

from router.bench.replay.trace import BLOCK_TOKENS, Request


def a_request(blocks: str, at_s: float = 0.0, *, tokens: int | None = None, output_tokens: int = 50) -> Request:
    """A prompt with a block for each letter, each letter's id depending on all before it."""
    ids = tuple(hash(blocks[: end + 1]) & 0xFFFFFFFFFFFF for end in range(len(blocks)))
    return Request(at_s, tokens or len(blocks) * BLOCK_TOKENS, output_tokens, ids)


def chats(count: int, turns: int, seed: int = 1, turn_s: float = 60.0) -> list[Request]:
    """Chats that begin at any time of an hour, each turn a few blocks longer than the last."""
    rng = random.Random(seed)
    requests = []
    for chat in range(count):
        at_s, blocks = rng.uniform(0, 3600), [0]
        for turn in range(turns):
            blocks += [chat << 32 | turn << 16 | part + 1 for part in range(rng.randint(2, 8))]
            requests.append(Request(at_s, len(blocks) * BLOCK_TOKENS, rng.randint(50, 500), tuple(blocks)))
            at_s += rng.expovariate(1 / turn_s)
    return sorted(requests, key=lambda request: request.at_s)


def strangers(count: int, seed: int = 1) -> list[Request]:
    """Prompts of all lengths, no two of which begin alike."""
    rng = random.Random(seed)
    requests = []
    for number in range(count):
        blocks = tuple(number << 32 | part for part in range(rng.randint(1, 40)))
        requests.append(Request(rng.uniform(0, 600), len(blocks) * BLOCK_TOKENS, rng.randint(50, 500), blocks))
    return sorted(requests, key=lambda request: request.at_s)
