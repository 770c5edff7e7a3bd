"""`python -m bench.faults`: break the same engines behind the gateway and its peers, and tell who loses what."""

import argparse
import asyncio
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import httpx

from bench.compare import install, routers
from bench.compare.processes import exit_on_sigterm, raise_file_limit
from bench.compare.report import system
from bench.compare.routers import Place, Router
from bench.faults.report import command_lines, table
from bench.faults.scenarios import SCENARIOS, Scenario
from bench.faults.stand import NotReady, Stand
from bench.faults.trial import Result, trial

ENGINES_PER_ROLE = 3

EPILOG = """\
examples:
  python -m bench.faults --json build/faults.json
  python -m bench.faults --only F01,F08 --peers vllm-router --rounds 3
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the scenarios and print the table; 1 when a trial could not be made."""
    args = _parser().parse_args(argv)
    exit_on_sigterm()
    raise_file_limit()
    folder = Path(tempfile.mkdtemp(prefix="pd-router-faults-"))
    place = Place(folder, args.base_port, ENGINES_PER_ROLE)
    everyone = [routers.gateway(place), *routers.peers(place, install.peers(args.peers))]
    stand = Stand(place, args.router_core, args.engine_core)
    results: list[Result] = []
    try:
        results.extend(_trials(stand, everyone, [SCENARIOS[id_] for id_ in args.only], args.rounds))
    except (NotReady, OSError, httpx.HTTPError) as error:
        print(f"{error}\nlogs: {folder}", file=sys.stderr)
        return 1
    else:
        shutil.rmtree(folder)
    finally:  # what was done before a failure is told too
        _write(args.json, results, everyone, folder)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.faults",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--only", type=_among(SCENARIOS), default=tuple(SCENARIOS), metavar="ID,ID", help="these (default: all)")
    peers = tuple(install.PACKAGES)
    add("--peers", type=_among(peers), default=peers, help=f"of {','.join(peers)}; '' is none (default: all)")
    add("--rounds", type=int, default=1, help="how often each is done; counts are summed (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write every trial")
    add("--base-port", type=int, default=18500, help="first of 50 ports on loopback (default: %(default)s)")
    add("--router-core", type=int, metavar="N", help="pin the router to a core (default: any)")
    add("--engine-core", type=int, metavar="N", help="pin the engines to a core (default: any)")
    return parser


def _among(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """Reads names that are separated by commas, all of which must be known."""

    def names(text: str) -> tuple[str, ...]:
        given = tuple(filter(None, text.split(",")))
        if unknown := set(given) - set(known):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
        return given

    return names


def _trials(stand: Stand, everyone: Sequence[Router], scenarios: Sequence[Scenario], rounds: int) -> Iterator[Result]:
    """Every router in turn, so that drift of the machine hits them alike."""
    total = rounds * len(scenarios) * len(everyone)
    trials = itertools.product(range(rounds), scenarios, everyone)
    for done, (number, scenario, router) in enumerate(trials, 1):
        result = asyncio.run(trial(stand, router, scenario, number))
        fates = " ".join(f"{fate} {count}" for fate, count in result.fates.items())
        print(f"[{done}/{total}] {scenario.id:5} {router.name:12} {fates}", file=sys.stderr, flush=True)
        yield result


def _versions() -> str:
    return f"{system()}; {', '.join(install.PACKAGES.values())}"


def _write(path: Path | None, results: Sequence[Result], everyone: Sequence[Router], folder: Path) -> None:
    print("\n".join((_versions(), "", *table(results), "", *command_lines(everyone, folder))))
    if path is not None:
        tree = {"versions": _versions(), "trials": [asdict(result) for result in results]}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(tree, indent=1), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
