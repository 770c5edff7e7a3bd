"""Long prompts among short ones: do the short ones wait for them?

The same short requests alone, and with long ones among them, once with the rule and once with every prompt computed
where it is answered.
"""

import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

from bench.rule.rig import Ask, Run, percentile, run

ENGINES = [("prefill", 12.0), ("decode", 12.0)]
SHORT, LONG = "short", "long"

WAYS: dict[str, dict[str, Any]] = {
    "rule off (always local)": {"mode": "local"},
    "thresholds": {"rule": "thresholds"},
    "learnt": {"rule": "learnt"},
}


def asks(seconds: float, long_rate: float, seed: int = 1) -> list[Ask]:
    """Six short requests a second, and long ones of 16,000 tokens among them."""
    rng = random.Random(seed)
    made = [Ask(at_s, rng.randrange(80, 300), 40, SHORT) for at_s in _times(rng, 6.0, seconds)]
    made += [Ask(at_s, 16_000, 24, LONG) for at_s in _times(rng, long_rate, seconds)]
    return sorted(made, key=lambda ask: ask.at_s)


def _times(rng: random.Random, rate: float, seconds: float) -> Iterator[float]:
    at_s = rng.expovariate(rate) if rate else seconds
    while at_s < seconds:
        yield at_s
        at_s += rng.expovariate(rate)


async def table(seconds: float) -> AsyncIterator[str]:
    """A row for each way, and one for short requests alone."""
    yield "| requests | way | short: TTFT p50 s | p90 | p99 | gap p99 s | long: TTFT p50 s | p99 | decisions |"
    yield "|---|---|---|---|---|---|---|---|---|"
    alone = await run(ENGINES, WAYS["learnt"], asks(seconds, 0.0))
    yield f"| short alone | learnt | {_figures(alone)} |"
    for way, routing in WAYS.items():
        yield f"| short and long | {way} | {_figures(await run(ENGINES, routing, asks(seconds, 1.0)))} |"


def _figures(done: Run) -> str:
    short = [told for told in done.told if told.ask.kind == SHORT]
    long_s = [told.ttft_s for told in done.told if told.ask.kind == LONG]
    figures = [percentile((told.ttft_s for told in short), share) for share in (0.5, 0.9, 0.99)]
    figures.append(percentile((gap for told in short for gap in told.gaps_s), 0.99))
    figures += [percentile(long_s, share) for share in (0.5, 0.99)]
    reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(done.reasons.items()))
    return " | ".join([*(f"{figure:.3f}" for figure in figures), reasons])
