"""Links of 12 GB/s, of 0.45, and one of each: which way do prompts go, and how long do they wait?

Each world sees the same requests with everything handed over, nothing, and as the rule says. Right is the better of the
first two, whichever it is.
"""

import random
from collections.abc import AsyncIterator
from typing import Any

from bench.rule import virtual
from bench.rule.rig import Ask, Run, percentile, run

FAST, SLOW = 12.0, 0.45

WORLDS: dict[str, list[tuple[str, float]]] = {
    "12 GB/s": [("prefill", FAST), ("prefill", FAST), ("decode", FAST)],
    "0.45 GB/s": [("prefill", SLOW), ("prefill", SLOW), ("decode", FAST)],
    "one of each": [("prefill", SLOW), ("prefill", FAST), ("decode", FAST)],
}

WAYS: dict[str, dict[str, Any]] = {
    "always handed over": {"mode": "disaggregated", "rule": "thresholds"},
    "always local": {"mode": "local"},
    "thresholds": {"rule": "thresholds"},
    "learnt": {"rule": "learnt"},
}

BEGINNING = 20
"""Requests after which a slow link must be known."""


def asks(count: int, rate: float, seed: int = 1) -> list[Ask]:
    """Prompts of 600 to 12,000 tokens, in Poisson's order."""
    rng, at_s, made = random.Random(seed), 0.0, []
    for _ in range(count):
        at_s += rng.expovariate(rate)
        made.append(Ask(at_s, int(600 * 20 ** rng.random()), 48))
    return made


async def table(count: int, rate: float, *, in_virtual_time: bool = False) -> AsyncIterator[str]:
    """The worlds and the ways through them, a row each."""
    yield "| link | way | TTFT p50 s | p90 | p99 | decisions |"
    yield "|---|---|---|---|---|---|"
    for world, engines in WORLDS.items():
        for way, routing in WAYS.items():
            wanted = asks(count, rate)
            done = virtual.run(engines, routing, wanted) if in_virtual_time else await run(engines, routing, wanted)
            yield f"| {world} | {way} | {_figures(done)} |"


def _figures(done: Run) -> str:
    later = [told.ttft_s for told in done.told[BEGINNING:]]
    shares = " | ".join(f"{percentile(later, share):.3f}" for share in (0.5, 0.9, 0.99))
    return f"{shares} | {', '.join(f'{n} {reason}' for reason, n in sorted(done.reasons.items()))}"
