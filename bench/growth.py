"""Does anything grow for ever? `python -m bench.growth --trace FILE`: what routing keeps while a trace is replayed.

The trace is played hour after hour, each time with prompts that are new, over the routing of the gateway and simulated
engines in virtual time. Counted is what is allocated in the rooms that serve requests and still there, not what the
replay itself keeps. Prompts are cut into blocks of 64 tokens, as the gateway does it; the trace's are of 512.
"""

import argparse
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from router.bench.replay.plot import Line, chart
from router.bench.replay.replay import Replay, Shape
from router.bench.replay.trace import BLOCK_TOKENS, Request, as_call, read
from router.call import Blocks, Call
from router.routing.prefix.blocks import BLOCK_TOKENS as OWN_BLOCK_TOKENS

EVERY_S = 300
PARTS = BLOCK_TOKENS // OWN_BLOCK_TOKENS
SPREAD = 0x9E3779B97F4A7C15
"""Makes numbers of blocks as long as hashes are."""

ROOMS = ("router/routing", "router/admission", "router/fleet", "router/call.py", "bench/growth.py")


@dataclass(frozen=True, slots=True)
class Sample:
    """What was kept at a moment of virtual time."""

    at_s: float
    requests: int
    blocks: int
    """On all engines, as the index has it; the same block on two engines counts twice."""
    size_bytes: int


def main(argv: Sequence[str] | None = None) -> int:
    """Replay, print a Markdown table, and draw it if asked to."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__, allow_abbrev=False)
    parser.add_argument("--trace", type=Path, required=True, metavar="FILE", help="in Mooncake's format")
    parser.add_argument("--hours", type=int, default=3, help="how often it is played (default: %(default)s)")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw what was kept over time")
    args = parser.parse_args(argv)
    requests = list(again_and_again(read(args.trace), args.hours))
    lines: dict[str, Line] = {}
    for cache_tokens in (400_000, 1_200_000):
        shape = replace(Shape(), prefill_cache_tokens=cache_tokens, decode_cache_tokens=2 * cache_tokens)
        samples = list(grown(requests, shape))
        name = f"{cache_tokens // 1000}k-token caches"
        lines[name] = [(sample.at_s / 3600, sample.size_bytes / 1e6) for sample in samples]
        print("\n".join([f"{name}, {shape.prefill} + {shape.decode} engines", "", *table(samples), ""]))
    if args.svg:
        args.svg.write_text(chart("What routing keeps", "hour of the replay", "MB", lines) + "\n", encoding="utf-8")
    return 0


def again_and_again(requests: Sequence[Request], hours: int) -> Iterator[Request]:
    """The requests hour after hour, those of each with blocks of their own."""
    long_s = requests[-1].at_s + 1
    for hour in range(hours):
        for request in requests:
            blocks = tuple(hour << 40 | block for block in request.blocks)
            yield replace(request, at_s=hour * long_s + request.at_s, blocks=blocks)


def fine(request: Request) -> Call:
    """A request as the gateway would see it: with blocks of its own size."""
    call = as_call(request)
    parts = [block * PARTS + part for block in request.blocks for part in range(PARTS)]
    hashes = [part * SPREAD % 2**64 for part in parts[: request.input_tokens // OWN_BLOCK_TOKENS]]
    call.blocks = Blocks(hashes, OWN_BLOCK_TOKENS)
    return call


def grown(requests: Sequence[Request], shape: Shape) -> Iterator[Sample]:
    """What is kept, every few minutes of virtual time."""
    samples: list[Sample] = []
    tracemalloc.start()
    replay = Replay(shape, "prefix_aware", call_of=fine)

    def look(done: int) -> None:
        at_s = requests[done - 1].at_s
        if at_s >= EVERY_S * len(samples) or done == len(requests):
            samples.append(Sample(at_s, done, _blocks(replay), _size_bytes()))

    replay.run(requests, look)
    tracemalloc.stop()
    yield from samples


def _blocks(replay: Replay) -> int:
    prefixes = replay.chooser.prefixes
    assert prefixes is not None
    return sum(prefixes.index.blocks_of(engine) for engine in (*replay.prefill, *replay.decode))


def _size_bytes() -> int:
    kept = [tracemalloc.Filter(True, f"*/{room}{'' if room.endswith('.py') else '/*'}") for room in ROOMS]
    statistics = tracemalloc.take_snapshot().filter_traces(kept).statistics("filename")
    return sum(statistic.size for statistic in statistics)


def table(samples: Sequence[Sample]) -> Iterator[str]:
    """Every second sample, and the last."""
    yield "| hour | requests | blocks | kept, MB | bytes a block |"
    yield "|---:|---:|---:|---:|---:|"
    for sample in (*samples[:-1:2], samples[-1]):
        each = f"{sample.size_bytes / sample.blocks:.0f}" if sample.blocks else ""
        figures = f"{sample.requests:,} | {sample.blocks:,} | {sample.size_bytes / 1e6:.1f} | {each}"
        yield f"| {sample.at_s / 3600:.2f} | {figures} |"


if __name__ == "__main__":
    raise SystemExit(main())
