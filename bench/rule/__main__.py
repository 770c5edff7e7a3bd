"""`python -m bench.rule [links|mixed]`: measure and print Markdown tables; without a name, both, in eight minutes."""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Sequence

from bench.rule import links, mixed


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.rule", description=__doc__, allow_abbrev=False)
    parser.add_argument("what", choices=("links", "mixed"), nargs="?", help="(default: both)")
    parser.add_argument("--requests", type=int, default=150, metavar="N", help="of each run of links (%(default)s)")
    parser.add_argument("--rate", type=float, default=6.0, metavar="R", help="of them, a second (%(default)s)")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="of each run of mixed (%(default)s)")
    parser.add_argument("--virtual", action="store_true", help="links in virtual time: no sockets, in seconds")
    args = parser.parse_args(argv)
    if args.virtual and args.what == "mixed":
        parser.error("--virtual is for links; mixed has no time but the real one")
    if args.what != "mixed":
        asyncio.run(_print(links.table(args.requests, args.rate, in_virtual_time=args.virtual)))
    if args.what is None:
        print()
    if args.what != "links":
        asyncio.run(_print(mixed.table(args.seconds)))
    return 0


async def _print(rows: AsyncIterator[str]) -> None:
    async for row in rows:
        print(row, flush=True)


if __name__ == "__main__":
    sys.exit(main())
