"""What is told of a load: percentiles, as a table for people and as a tree for programs."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from router.bench.load import Plan, Record

SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def percentiles_ms(values_s: Sequence[float]) -> dict[str, float]:
    """Percentiles in milliseconds by the nearest rank; nothing of nothing."""
    ordered = sorted(values_s)
    ranks = {name: max(1, math.ceil(share * len(ordered))) for name, share in SHARES.items()}
    return {name: round(ordered[rank - 1] * 1000, 3) for name, rank in ranks.items()} if ordered else {}


def tree(plan: Plan, record: Record) -> dict[str, Any]:
    """The figures; times in milliseconds."""
    elapsed_s = record.elapsed_s or math.inf
    return {
        "model": plan.model,
        "loop": "closed" if plan.rate is None else "open",
        "requests": plan.requests,
        "right": len(record.total_s),
        "faults": dict(record.faults),
        "seconds": round(record.elapsed_s, 3),
        "requests_per_s": round(len(record.total_s) / elapsed_s, 2),
        "tokens_per_s": round(record.tokens / elapsed_s, 1),
        "ttft_ms": percentiles_ms(record.ttft_s),
        "inter_event_ms": percentiles_ms(record.inter_event_s),
        "total_ms": percentiles_ms(record.total_s),
    }


def table(figures: dict[str, Any]) -> RenderableType:
    """The same for a terminal."""
    rows = Table("milliseconds", *SHARES, box=None, header_style="bold", padding=(0, 3, 0, 0))
    for label, name in (("first token", "ttft_ms"), ("between events", "inter_event_ms"), ("whole answer", "total_ms")):
        rows.add_row(label, *(f"{figures[name][share]:.1f}" if figures[name] else "-" for share in SHARES))
    return Group(rows, *_lines(figures))


def _lines(figures: dict[str, Any]) -> Iterator[Text]:
    yield Text(
        f"{figures['right']} of {figures['requests']} answers right, in {figures['seconds']:.1f} s: "
        f"{figures['requests_per_s']} requests/s, {figures['tokens_per_s']} tokens/s"
    )
    for fault, times in figures["faults"].items():
        yield Text(f"{times} x {fault}", style="red")
