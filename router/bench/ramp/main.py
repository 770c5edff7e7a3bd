"""`pd-router bench ramp`: what would the autoscaler want over a day, and would it flap?"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from router.arguments import positive
from router.bench.ramp.ramp import POOLS, Day, Record, percentile, run
from router.bench.replay.plot import Line, chart
from router.settings.engines import Role
from router.settings.scaling import Autoscale

CLEAN, FLAPPED = 0, 1
LOOKS_PER_POINT = 6
"""Of the load, of which every look would be a blur."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `pd-router bench ramp`."""
    day = Day()
    add = parser.add_argument
    add("--low", type=positive, default=day.low, metavar="N", help=f"requests a second at first and last ({day.low})")
    add("--high", type=positive, default=day.high, metavar="N", help=f"requests a second in between ({day.high})")
    add("--stretch-s", type=positive, default=day.stretch_s, metavar="S", help=f"of each stretch ({day.stretch_s:g})")
    add("--seed", type=int, default=day.seed, metavar="N", help=f"of arrivals and lengths ({day.seed})")
    add("--without-band", action="store_true", help="shrink as soon as a pool would not grow again, to see it flap")
    add("--plot", type=Path, metavar="FILE", help="draw engines and load over time there, as SVG")


def run_ramp(args: argparse.Namespace) -> int:
    """Let the day pass and print what came of it; 1 when a pool grew again after it had begun to shrink."""
    rules = Autoscale()
    if args.without_band:
        rules = rules.model_copy(update={"scale_in_below": rules.scale_out_above})
    record = run(Day(low=args.low, high=args.high, stretch_s=args.stretch_s, seed=args.seed), rules)
    sys.stdout.write("\n".join(text(record)) + "\n")
    if args.plot:
        args.plot.parent.mkdir(parents=True, exist_ok=True)
        args.plot.write_text(picture(record) + "\n", encoding="utf-8")
    return FLAPPED if any(record.turns(role) > 1 for role in POOLS) else CLEAN


def text(record: Record) -> Iterator[str]:
    """A line for each pool, and one for the first tokens."""
    for role in POOLS:
        changes = " ".join(f"{change:+d}" for change in record.changes(role))
        most = max(point.desired[role] for point in record.points)
        yield f"{role.value:8} at most {most}; changes: {changes or 'none'}; turned round {record.turns(role)} times"
    values = [ttft_s for _, ttft_s in record.ttft_s]
    figures = ", ".join(f"p{share * 100:g} {percentile(values, share):.2f} s" for share in (0.5, 0.9, 0.99))
    yield f"{len(values)} requests; first tokens: {figures}"


def picture(record: Record) -> str:
    """Engines wanted, and engines' worth of work, of both pools."""
    lines: dict[str, Line] = {}
    for role in POOLS:
        lines[f"{role.value}: wanted"] = list(_steps(record, role))
        lines[f"{role.value}: load"] = [(p.at_s / 60, p.load[role]) for p in record.points[::LOOKS_PER_POINT]]
    return chart("Engines over a day", "minutes", "engines", lines)


def _steps(record: Record, role: Role) -> Iterator[tuple[float, float]]:
    before = 0
    for point in record.points:
        if before:
            yield point.at_s / 60, before
        before = point.desired[role]
        yield point.at_s / 60, before
