"""`python -m bench.compare`: measure the gateway beside its peers and report."""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.compare import install, routers
from bench.compare.comparison import Pace, against, as_json, interleaved, ramp
from bench.compare.loads import LOADS, PARTS
from bench.compare.plot import plot
from bench.compare.processes import exit_on_sigterm, raise_file_limit
from bench.compare.report import machine, parts_table, ramp_table, tables
from bench.compare.rig import Rig, RigError, Run
from bench.compare.routers import GATEWAY, Place, Router

EPILOG = """\
examples:
  python -m bench.compare --rounds 10 --json build/bench.json --svg build/bench.svg
  python -m bench.compare --load streams --peers vllm-router --checkout before=../before
  python -m bench.compare --parts --peers vllm-router,nginx --rounds 5
  python -m bench.compare --ramp 200,400,600,800 --load dense
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; 1 when a run had faults."""
    args = _parser().parse_args(argv)
    exit_on_sigterm()
    raise_file_limit()
    folder = Path(tempfile.mkdtemp(prefix="pd-router-bench-"))
    place = Place(folder, args.base_port)
    rig = Rig(install.harness(), place, args.gateway_core, args.load_core)
    targets = [routers.gateway(place), *(routers.gateway(place, name, path) for name, path in args.checkout)]
    everyone = [*targets, *routers.peers(place, install.peers(args.peers))]
    try:
        runs = _runs(args, rig, everyone)
    except (RigError, OSError) as error:
        print(f"{error}\nlogs: {folder}", file=sys.stderr)
        return 1
    _write(args, runs, [target.name for target in targets])
    if faulty := any(run.faults for run in runs):
        print(f"some runs had faults; logs: {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder)
    return int(faulty and not args.ramp)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--load", action="append", choices=LOADS, help="only this load; may be repeated (default: all)")
    add("--peers", type=_names, default=install.PEERS, help=f"of {','.join(install.PEERS)} (default: all)")
    add(
        "--checkout",
        type=_named_path,
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="another gateway to measure",
    )
    add("--parts", action="store_true", help="instead of loads: what a token costs, and a request beside its tokens")
    add("--rounds", type=int, default=3, help="interleaved rounds (default: %(default)s)")
    add("--warm-s", type=float, default=2.5, help="warm-up of a run (default: %(default)s)")
    add("--seconds", type=float, default=4, help="measured time of a run (default: %(default)s)")
    add("--ramp", type=_numbers, metavar="N,N,...", help="instead of rounds: raise the streams until TTFT p99 > 200 ms")
    add("--json", type=Path, metavar="FILE", help="write every run")
    add("--svg", type=Path, metavar="FILE", help="write a plot of the ratios")
    add("--base-port", type=int, default=18300, help="first of 50 ports on loopback (default: %(default)s)")
    add("--gateway-core", type=int, default=0, help="core of the router (default: %(default)s)")
    add("--load-core", type=int, default=1, help="core of load and fleet (default: %(default)s)")
    return parser


def _names(text: str) -> tuple[str, ...]:
    names = tuple(filter(None, text.split(",")))
    if unknown := set(names) - set(install.PEERS):
        raise argparse.ArgumentTypeError(f"no such peer: {', '.join(sorted(unknown))}")
    return names


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _named_path(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not (Path(path) / "router").is_dir() or name in ("", GATEWAY, *install.PEERS):
        raise argparse.ArgumentTypeError("must be NAME=DIR, DIR a checkout of the gateway")
    return name, Path(path).resolve()


def _runs(args: argparse.Namespace, rig: Rig, everyone: Sequence[Router]) -> list[Run]:
    loads = list(PARTS.values()) if args.parts else [LOADS[name] for name in args.load or LOADS]
    pace = Pace(args.warm_s, args.seconds)
    if args.ramp:
        return [run for load in loads for run in ramp(rig, everyone, load, args.ramp, pace)]
    return list(interleaved(rig, everyone, loads, args.rounds, pace))


def _write(args: argparse.Namespace, runs: list[Run], targets: Sequence[str]) -> None:
    rows = [] if args.ramp else against(runs, targets)
    print(machine(runs))
    print("\n".join(ramp_table(runs) if args.ramp else tables(runs, rows)))
    if args.parts:
        print("\n".join(parts_table(runs)))
    for path, text in ((args.json, json.dumps(as_json(runs, rows), indent=1)), (args.svg, plot(rows))):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
