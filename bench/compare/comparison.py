"""In which order are runs made, and what is made of them?"""

import itertools
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median

from bench.compare.loads import Load
from bench.compare.ratios import Estimate, differences, ratios
from bench.compare.rig import Rig, Run
from bench.compare.routers import Router

CPU = "cpu_us_per_request"


@dataclass(frozen=True, slots=True)
class Pace:
    """How long one run warms up and is measured."""

    warm_s: float
    measured_s: float


def interleaved(rig: Rig, routers: Sequence[Router], loads: Sequence[Load], rounds: int, pace: Pace) -> Iterator[Run]:
    """All routers in every round, in another order each; all loads in turn, so that drift hits them alike."""
    total = rounds * len(loads) * len(routers)
    done = itertools.count(1)
    begin = time.monotonic()
    for number, load in itertools.product(range(rounds), loads):
        first = number % len(routers)
        for router in (*routers[first:], *routers[:first]):
            run = rig.measure(router, load, number, pace.warm_s, pace.measured_s)
            n = next(done)
            left_s = (time.monotonic() - begin) / n * (total - n)
            _tell(f"[{n}/{total}, {left_s / 60:.0f} min left] {load.name} round {number + 1}", run)
            yield run


def ramp(rig: Rig, routers: Sequence[Router], load: Load, steps: Iterable[int], pace: Pace) -> Iterator[Run]:
    """More and more streams, for each router until it falls behind."""
    steps = tuple(steps)
    for router in routers:
        for streams in steps:
            run = rig.measure(router, replace(load, streams=streams), streams, pace.warm_s, pace.measured_s)
            _tell(f"{load.name} with {streams} streams", run)
            yield run
            if not holds(run):
                break


TTFT_LIMIT_MS = 200


def holds(run: Run) -> bool:
    """Whether a router keeps up: every answer right, and first tokens in time."""
    return not run.faults and run.figure("ttft.p99_ms") < TTFT_LIMIT_MS


def _tell(what: str, run: Run) -> None:
    print(
        f"{what:42} {run.router:12} {run.figure(CPU):6.0f} us/request {run.figure('tokens_per_s'):7.0f} tokens/s  "
        f"TTFT p50 {run.figure('ttft.p50_ms'):.1f} p99 {run.figure('ttft.p99_ms'):.1f} ms  "
        f"cores: router {run.figure('cpu_cores'):.2f} load+fleet "
        f"{run.fleet_cpu_cores + run.figure('load_cpu_cores'):.2f} "
        f"other {run.other_cpu_cores:.2f}  {'; '.join(run.faults)}",
        file=sys.stderr,
        flush=True,
    )


@dataclass(frozen=True, slots=True)
class Against:
    """One of our targets beside one peer under one load."""

    target: str
    peer: str
    load: str
    cpu_ratio: Estimate
    ttft_p50_ms: Estimate
    ttft_p99_ms: Estimate


def against(runs: Sequence[Run], targets: Sequence[str]) -> list[Against]:
    """Every target beside every other router, by load; rounds in which one of the two went wrong are left out."""
    names = dict.fromkeys(run.router for run in runs)
    loads = dict.fromkeys(run.load for run in runs)
    pairs = itertools.product(loads, targets, names)
    return [row for load, target, peer in pairs if peer != target and (row := _against(runs, load, target, peer))]


def _against(runs: Sequence[Run], load: str, target: str, peer: str) -> Against | None:
    ours, theirs = ({r.round: r for r in runs if (r.load, r.router) == (load, name)} for name in (target, peer))
    rounds = [n for n in ours if n in theirs and not ours[n].faults and not theirs[n].faults]
    if not rounds:
        return None

    def column(of: dict[int, Run], figure: str) -> list[float]:
        return [of[n].figure(figure) for n in rounds]

    first, last = (
        differences(column(ours, figure), column(theirs, figure)) for figure in ("ttft.p50_ms", "ttft.p99_ms")
    )
    return Against(target, peer, load, ratios(column(ours, CPU), column(theirs, CPU)), first, last)


def medians(runs: Sequence[Run], figures: Sequence[str]) -> dict[str, float]:
    """The median of each figure over runs."""
    return {figure: median(run.figure(figure) for run in runs) for figure in figures}


def as_json(runs: Sequence[Run], rows: Sequence[Against]) -> dict[str, object]:
    """Everything that was measured, for other programs."""
    return {"against": [asdict(row) for row in rows], "runs": [asdict(run) for run in runs]}
