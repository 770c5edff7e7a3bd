"""How do people read it? A Markdown table, a line for each router; figures are medians of its rounds."""

from collections.abc import Iterator, Sequence
from statistics import median

from bench.chats.conversations import Load
from bench.chats.trial import Result
from bench.faults.fates import Fate

HEAD = (
    *("router", "right", "reused", "computed, k tokens", "TTFT p50 ms", "p90", "later turns p50", "p90"),
    *("prefill max/mean", "decode max/mean"),
)


def table(results: Sequence[Result]) -> Iterator[str]:
    """All routers in the order of the results."""
    yield f"| {' | '.join(HEAD)} |"
    yield f"|---|{'---:|' * (len(HEAD) - 1)}"
    for router in dict.fromkeys(result.router for result in results):
        yield f"| {router} | {' | '.join(_cells([one for one in results if one.router == router]))} |"


def _cells(rounds: Sequence[Result]) -> Iterator[str]:
    tried = sum(count for one in rounds for count in one.fates.values())
    yield f"{sum(one.fates.get(Fate.RIGHT, 0) for one in rounds)} of {tried}"
    yield _range([one.reuse for one in rounds], "{:.3f}")
    yield f"{median(one.computed_tokens for one in rounds) / 1000:.0f}"
    for name in ("ttft_p50_s", "ttft_p90_s", "later_ttft_p50_s", "later_ttft_p90_s"):
        yield f"{median(getattr(one, name) for one in rounds) * 1000:.0f}"
    for name in ("prefill_max_over_mean", "decode_max_over_mean"):
        yield _range([getattr(one, name) for one in rounds], "{:.2f}")


def _range(values: Sequence[float], form: str) -> str:
    """The median, and the lowest and the highest where there are several."""
    middle = form.format(median(values))
    return middle if len(values) == 1 else f"{middle} ({form.format(min(values))}-{form.format(max(values))})"


def preface(results: Sequence[Result], load: Load, engines: int) -> Iterator[str]:
    """What was asked of whom, and on what kind of a day."""
    yield (
        f"{load.chats} chats of {load.turns} turns a round, {load.chats_per_s:g} begin in a second, "
        f"{engines} prefill + {engines} decode engines; rounds: {1 + max((one.round for one in results), default=0)}."
    )
    if results:
        share = median(one.repeated_tokens / one.prompt_tokens for one in results)
        cores = median(one.cpu_cores for one in results)
        yield (
            f"Of the prompts' tokens {share:.3f} were in the turn before; "
            f"the machine had {cores:.2f} cores busy (median)."
        )
