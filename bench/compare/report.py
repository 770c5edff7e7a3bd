"""How do people read a comparison? Markdown tables of figures and of ratios."""

import itertools
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from bench.compare.comparison import CPU, Against, holds, medians
from bench.compare.loads import LOADS, PARTS
from bench.compare.ratios import CONFIDENCE, estimate
from bench.compare.rig import Run

FIGURES = ("cpu_us_per_token", "tokens_per_s", "cpu_cores", "ttft.p50_ms", "ttft.p99_ms", "rss_bytes")


def machine(runs: Sequence[Run]) -> str:
    """Processor, system, and how much others used it meanwhile."""
    other = [run.other_cpu_cores for run in runs] or [0.0]
    return f"{system()}; other work used {median(other):.2f} cores (median; at most {max(other):.2f})"


def system() -> str:
    """Processor, kernel and Python."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}"


def tables(runs: Sequence[Run], rows: Sequence[Against]) -> Iterator[str]:
    """The lines of a report of interleaved rounds."""
    loads = LOADS | PARTS
    for load, group in itertools.groupby(sorted(runs, key=lambda run: list(loads).index(run.load)), lambda r: r.load):
        yield from ("", f"### {load}: {loads[load]}", "")
        yield from _figures(list(group))
        yield from _ratios([row for row in rows if row.load == load])


def _figures(runs: Sequence[Run]) -> Iterator[str]:
    yield "| router | CPU us/request | us/token | tokens/s | cores | TTFT p50, p99 ms | RSS MB | faults |"
    yield "|---|---|---|---|---|---|---|---|"
    for router in dict.fromkeys(run.router for run in runs):
        own = [run for run in runs if run.router == router]
        per_token, speed, cores, p50, p99, rss = medians(own, FIGURES).values()
        cpu = estimate([run.figure(CPU) for run in own])
        faults = "; ".join(fault for run in own for fault in run.faults) or "none"
        yield (
            f"| {router} | {cpu.text(0)} | {per_token:.1f} | {speed:.0f} | {cores:.2f} | {p50:.1f}, {p99:.1f} "
            f"| {rss / 1e6:.0f} | {faults} |"
        )


def _ratios(rows: Sequence[Against]) -> Iterator[str]:
    if not rows:
        return
    sure = rows[0].cpu_ratio.confidence
    what = f"its {sure:.0%} interval" if sure >= CONFIDENCE else "lowest to highest; too few rounds for an interval"
    yield from ("", f"Paired by round: median and, in brackets, {what}.", "")
    yield "| | CPU per request, ratio | TTFT p50, ms more | TTFT p99, ms more |"
    yield "|---|---|---|---|"
    for row in rows:
        yield (
            f"| {row.target} to {row.peer} | {row.cpu_ratio.text(2)} | {row.ttft_p50_ms.text(1)} "
            f"| {row.ttft_p99_ms.text(1)} |"
        )


def parts_table(runs: Sequence[Run]) -> Iterator[str]:
    """What a token costs each router, and what a request does beside its tokens."""
    short, long = PARTS.values()
    yield from ("", "| router | CPU us/token | us/request beside its tokens |", "|---|---|---|")
    for router in dict.fromkeys(run.router for run in runs):
        cpu_us = {
            load: median(run.figure(CPU) for run in runs if (run.router, run.load) == (router, load)) for load in PARTS
        }
        token_us = (cpu_us[long.name] - cpu_us[short.name]) / (long.tokens - short.tokens)
        yield f"| {router} | {token_us:.1f} | {cpu_us[short.name] - short.tokens * token_us:.0f} |"


def ramp_table(runs: Sequence[Run]) -> Iterator[str]:
    """The highest step each router held."""
    yield from ("", "| router | streams | tokens/s | CPU us/token | cores | TTFT p99 ms |", "|---|---|---|---|---|---|")
    for router in dict.fromkeys(run.router for run in runs):
        held = [run for run in runs if run.router == router and holds(run)]
        if not held:
            yield f"| {router} | none held | | | | |"
            continue
        best = held[-1]
        at_least = "at least " if best.load_limited or best is [r for r in runs if r.router == router][-1] else ""
        yield (
            f"| {router} | {best.round} | {at_least}{best.figure('tokens_per_s'):.0f} "
            f"| {best.figure('cpu_us_per_token'):.1f} | {best.figure('cpu_cores'):.2f} "
            f"| {best.figure('ttft.p99_ms'):.0f} |"
        )
