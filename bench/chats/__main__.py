"""`python -m bench.chats`: the same chats over the same engines, behind the gateway and its peers: what is reused?"""

import argparse
import asyncio
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import httpx

from bench.chats.conversations import Load
from bench.chats.report import preface, table
from bench.chats.trial import Result, trial
from bench.compare import install, routers
from bench.compare.processes import exit_on_sigterm, raise_file_limit
from bench.compare.report import system
from bench.compare.routers import GATEWAY, Place, Router
from bench.faults.report import command_lines
from bench.faults.stand import NotReady, Stand

ENGINES_PER_ROLE = 3
POLICY = "cache_aware"
"""That of both peers for prefixes, with their own defaults."""

EPILOG = """\
examples:
  python -m bench.chats --json build/chats.json
  python -m bench.chats --peers vllm-router --rounds 3 --chats 50
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Have the chats with every router and print the table; 1 when a trial could not be made."""
    args = _parser().parse_args(argv)
    exit_on_sigterm()
    raise_file_limit()
    folder = Path(tempfile.mkdtemp(prefix="pd-router-chats-"))
    place = Place(folder, args.base_port, ENGINES_PER_ROLE)
    routed, load = everyone(place, args.peers), Load(chats=args.chats)
    stand = Stand(place, args.router_core, args.engine_core)
    results: list[Result] = []
    try:
        results.extend(_trials(stand, routed, load, args.rounds))
    except (NotReady, OSError, httpx.HTTPError) as error:
        print(f"{error}\nlogs: {folder}", file=sys.stderr)
        return 1
    else:
        shutil.rmtree(folder)
    finally:  # what was done before a failure is told too
        _write(args.json, results, load, [system(), *command_lines(routed, folder)])
    return 0


def everyone(place: Place, peers: Sequence[str]) -> list[Router]:
    """The gateway with its rule and handing over every prompt, as the peers do, and the peers."""
    ours = [
        routers.gateway(place, GATEWAY, routing={}),
        routers.gateway(place, f"{GATEWAY} all handed over", routing={"mode": "disaggregated"}),
    ]
    theirs = routers.peers(place, install.peers(peers), POLICY)
    return [*ours, *(Router(f"{one.name} {POLICY}", one.command, one.hands_over, one.cwd) for one in theirs)]


def _trials(stand: Stand, routed: Sequence[Router], load: Load, rounds: int) -> Iterator[Result]:
    """Every router in turn, so that drift of the machine hits them alike."""
    total = rounds * len(routed)
    for done, (number, router) in enumerate(itertools.product(range(rounds), routed), 1):
        result = asyncio.run(trial(stand, router, load, number))
        told = f"reuse {result.reuse:.3f}, TTFT p90 {result.ttft_p90_s * 1000:.0f} ms, {result.seconds:.0f} s"
        print(f"[{done}/{total}] {router.name:28} {told}", file=sys.stderr, flush=True)
        yield result


def _write(path: Path | None, results: Sequence[Result], load: Load, how: Sequence[str]) -> None:
    lines = [*preface(results, load, ENGINES_PER_ROLE), "", *table(results), "", *how]
    print("\n".join(lines))
    if path is not None:
        tree = {"how": how, "load": asdict(load), "trials": [asdict(one) | {"reuse": one.reuse} for one in results]}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.chats",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--peers", type=_peers, default=tuple(install.PACKAGES), help="separated by commas; '' is none (default: all)")
    add("--rounds", type=int, default=1, help="how often, each with chats of its own (default: %(default)s)")
    add("--chats", type=int, default=Load().chats, help="of a round (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write every trial")
    add("--base-port", type=int, default=18600, help="first of 50 ports on loopback (default: %(default)s)")
    add("--router-core", type=int, metavar="N", help="pin the router to a core (default: any)")
    add("--engine-core", type=int, metavar="N", help="pin the engines to a core (default: any)")
    return parser


def _peers(text: str) -> tuple[str, ...]:
    names = tuple(filter(None, text.split(",")))
    if unknown := set(names) - set(install.PACKAGES):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(install.PACKAGES)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
