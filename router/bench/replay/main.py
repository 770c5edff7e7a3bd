"""`pd-router bench replay --trace FILE`: over which fleet, with which policies, and how is it told?"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.progress import Progress as Bars

from router.arguments import count, positive
from router.bench.replay import plot
from router.bench.replay.replay import Progress, Record, Replay, Shape
from router.bench.replay.report import bound, row, text, tree
from router.bench.replay.trace import Request, TraceError, read
from router.settings.routing import Mode, PolicyName
from router.sim.latency import PROFILES

CLEAN, FAILED = 0, 1
POLICIES: tuple[PolicyName, ...] = ("round_robin", "power_of_two", "least_loaded", "prefix_aware")
"""Those compared by default; `session` needs hints that traces do not have."""

SWEEP = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Sizes of caches that are plotted, times the one asked for."""

STEP = 200
"""Requests between two looks at the progress bar, which would take longer than the replay."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `pd-router bench replay`."""
    shape = Shape()
    add = parser.add_argument
    add("--trace", type=Path, metavar="FILE", required=True, help="requests in Mooncake's format, one a line")
    add(
        "--policy",
        action="append",
        choices=get_args(PolicyName),
        help="policy of both pools; may be repeated (default: all but session)",
    )
    fleet = parser.add_argument_group("simulated fleet")
    for role in ("prefill", "decode"):
        ours = getattr(shape, role), getattr(shape, f"{role}_gpu"), getattr(shape, f"{role}_cache_tokens")
        fleet.add_argument(f"--{role}", type=count, default=ours[0], metavar="N", help=f"{role} engines ({ours[0]})")
        fleet.add_argument(
            f"--{role}-gpu", choices=sorted(PROFILES), default=ours[1], help=f"whose speed each has ({ours[1]})"
        )
        fleet.add_argument(
            f"--{role}-cache-tokens",
            type=count,
            default=ours[2],
            metavar="N",
            help=f"KV cache of each ({ours[2]:,}: an 8B model in bf16)",
        )
    add("--mode", choices=get_args(Mode), default=shape.mode, help=f"routing.mode ({shape.mode})")
    add("--speed", type=positive, default=1.0, metavar="X", help="requests come X times as fast as in the trace (1)")
    add("--seed", type=int, default=1, metavar="N", help="of ties that are broken at random (1)")
    add("--json", type=Path, metavar="FILE", help="write all figures there as JSON, too")
    add("--plot", type=Path, metavar="DIR", help="draw reuse over cache size, TTFT and load there, as SVG")


def run(args: argparse.Namespace) -> int:
    """Replay the trace with each policy and print the figures."""
    try:
        requests = read(args.trace, args.speed)
    except TraceError as error:
        sys.stderr.write(f"pd-router bench: {error}\n")
        return FAILED
    shape = Shape(
        prefill=args.prefill,
        decode=args.decode,
        prefill_gpu=args.prefill_gpu,
        decode_gpu=args.decode_gpu,
        prefill_cache_tokens=args.prefill_cache_tokens,
        decode_cache_tokens=args.decode_cache_tokens,
        mode=args.mode,
    )
    policies = tuple(dict.fromkeys(args.policy or POLICIES))
    records = {policy: _replay(requests, shape, policy, args.seed) for policy in policies}
    bounds = bound(requests, shape)
    rows = [row(policy, record, bounds.oracle, shape) for policy, record in records.items()]
    figures = tree(requests, shape, bounds, rows)
    sys.stdout.write(text(figures))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if args.plot:
        _draw(args.plot, records, _reuse_by_size(requests, shape, records, args.seed))
    return CLEAN


def _replay(requests: Sequence[Request], shape: Shape, policy: PolicyName, seed: int) -> Record:
    with _bar(policy, len(requests)) as progress:
        return Replay(shape, policy, seed).run(requests, progress)


@contextmanager
def _bar(title: str, total: int) -> Iterator[Progress]:
    """A progress bar on standard error."""
    with Bars(console=Console(stderr=True)) as bars:
        task = bars.add_task(f"{title:>26}", total=total)

        def progress(done: int) -> None:
            if done % STEP == 0 or done == total:
                bars.update(task, completed=done)

        yield progress


def _reuse_by_size(
    requests: Sequence[Request], shape: Shape, records: dict[PolicyName, Record], seed: int
) -> dict[str, plot.Line]:
    """What each policy reuses with smaller and larger caches, and what pooled ones would."""
    lines: dict[str, list[tuple[float, float]]] = {name: [] for name in (*records, "pooled LRU")}
    for factor in SWEEP:
        sized = replace(
            shape,
            prefill_cache_tokens=int(shape.prefill_cache_tokens * factor),
            decode_cache_tokens=int(shape.decode_cache_tokens * factor),
        )
        tokens = sized.prefill * sized.prefill_cache_tokens
        for policy, record in records.items():
            there = record if factor == 1 else _replay(requests, sized, policy, seed)
            lines[policy].append((tokens, there.reused_tokens))
        lines["pooled LRU"].append((tokens, bound(requests, sized).oracle.reused_tokens))
    return dict(lines)


def _draw(folder: Path, records: dict[Any, Record], by_size: dict[str, plot.Line]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {"reuse.svg": plot.reuse(by_size), "ttft.svg": plot.ttft(records), "load.svg": plot.load(records)}
    for name, picture in pictures.items():
        (folder / name).write_text(picture + "\n", encoding="utf-8")
