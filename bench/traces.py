"""Traces to replay beside recorded ones: `python -m bench.traces chats|strangers|shuffled [TRACE] > FILE`.

A routing that was tuned to one trace shows on others. `chats`: turns that come back after minutes, with think times
drawn from an exponential distribution. `strangers`: a trace's prompts and times, with nothing in common. `shuffled`:
its prompts at each other's times, so that what belongs together is spread over the whole trace.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from router.bench.replay.trace import BLOCK_TOKENS

Row = dict[str, Any]

HOUR_MS = 3_600_000
SYSTEM_BLOCKS = 2
THINK_MS = 90_000


def main(argv: Sequence[str] | None = None) -> int:
    """Write one of them to standard output."""
    parser = argparse.ArgumentParser(prog="python -m bench.traces", description=__doc__, allow_abbrev=False)
    parser.add_argument("kind", choices=("chats", "strangers", "shuffled"))
    parser.add_argument("trace", type=Path, nargs="?", help="what strangers and shuffled are made of")
    parser.add_argument("--chats", type=int, default=2000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="(default: %(default)s)")
    args = parser.parse_args(argv)
    rng = random.Random(args.seed)
    if args.kind == "chats":
        rows = chats(args.chats, rng)
    elif args.trace is None:
        parser.error(f"{args.kind} is made of a trace: name one")
    else:
        read = [json.loads(line) for line in args.trace.read_text().splitlines() if line.strip()]
        rows = strangers(read) if args.kind == "strangers" else shuffled(read, rng)
    for row in sorted(rows, key=lambda row: float(row["timestamp"])):
        sys.stdout.write(json.dumps(row) + "\n")
    return 0


def chats(count: int, rng: random.Random) -> Iterator[Row]:
    """Chats of one to twenty turns that share a system prompt."""
    for chat in range(count):
        at_ms, blocks = rng.uniform(0, HOUR_MS), list(range(SYSTEM_BLOCKS))
        for turn in range(min(20, int(rng.expovariate(1 / 5)) + 1)):
            added = min(60, int(rng.paretovariate(1.3)))
            blocks += [(chat + 1) << 24 | turn << 12 | part for part in range(added)]
            yield {
                "timestamp": round(at_ms),
                "input_length": len(blocks) * BLOCK_TOKENS - rng.randrange(BLOCK_TOKENS),
                "output_length": rng.randint(20, 700),
                "hash_ids": list(blocks),
            }
            at_ms += rng.expovariate(1 / THINK_MS)


def strangers(rows: Sequence[Row]) -> Iterator[Row]:
    """The same, but for what prompts have in common."""
    for number, row in enumerate(rows, 1):
        yield row | {"hash_ids": [number << 24 | part for part in range(len(row["hash_ids"]))]}


def shuffled(rows: Sequence[Row], rng: random.Random) -> Iterator[Row]:
    """The same prompts in another order."""
    times = [row["timestamp"] for row in rows]
    rng.shuffle(times)
    for row, at_ms in zip(rows, times, strict=True):
        yield row | {"timestamp": at_ms}


if __name__ == "__main__":
    raise SystemExit(main())
