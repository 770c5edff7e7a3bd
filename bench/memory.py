"""How much memory does a connection or a stream cost the gateway, and what do silent connections cost the others?

`python -m bench.memory`: resident bytes of the gateway's process per idle connection and per open stream (a token in
10 s), over what it had after a short warm-up; then good traffic with and without thousands of silent connections.
"""

import argparse
import contextlib
import json
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.compare import install, routers
from bench.compare.loads import LOADS
from bench.compare.processes import exit_on_sigterm, raise_file_limit, rss_bytes, running
from bench.compare.rig import Rig
from bench.compare.routers import Place, url

TOKEN_INTERVAL_S = 10
SOURCES = 100
"""Client addresses, so that a limit of connections per address is not what is measured."""

FILES_PER_STREAM = 2
SPARE_FILES = 200
SETTLE_S = 2
"""After the last stream was begun: it has had its first event."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What `count` connections or streams cost together. `bytes_each` is of resident memory."""

    kind: str
    count: int
    seconds: float
    bytes_each: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """Good traffic beside silent connections; those the gateway closed by the end are `closed`."""

    silent: int
    closed: int
    errors: int
    tokens_per_s: float
    ttft_p50_ms: float
    ttft_p99_ms: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print Markdown, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__, allow_abbrev=False)
    parser.add_argument("--counts", type=_numbers, default=(1000, 10000), metavar="N,N", help="(default: 1000,10000)")
    parser.add_argument("--silent", type=int, default=5000, help="silent connections (default: %(default)s)")
    parser.add_argument("--base-port", type=int, default=18400, help="first of 50 ports (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    args = parser.parse_args(argv)
    exit_on_sigterm()
    files = raise_file_limit(FILES_PER_STREAM * max(args.counts) + SPARE_FILES)
    counts = [min(count, (files - SPARE_FILES) // FILES_PER_STREAM) for count in args.counts]
    with tempfile.TemporaryDirectory(prefix="pd-router-bench-") as folder:
        rig = Rig(install.harness(), Place(Path(folder), args.base_port))
        costs = [measure(rig, count) for count in counts for measure in (idle_connections, open_streams)]
        traffic = [beside_silent(rig, count) for count in (0, args.silent)]
    print("\n".join(_report(costs, traffic)))
    if args.json:
        figures = {"costs": [asdict(cost) for cost in costs], "traffic": [asdict(row) for row in traffic]}
        args.json.write_text(json.dumps(figures, indent=1))
    return 0


def idle_connections(rig: Rig, count: int) -> Cost:
    """Connections that were accepted and have sent nothing."""
    with rig.fleet(TOKEN_INTERVAL_S * 1000, free=True), _gateway(rig, count) as pid:
        before, files, begin = rss_bytes(pid), _open_files(pid), time.monotonic()
        with connections(rig.place.port, count):
            _await(lambda: _open_files(pid) >= files + count, f"{count} connections were not accepted")
            return _cost("idle connection", count, begin, rss_bytes(pid) - before)


def open_streams(rig: Rig, count: int) -> Cost:
    """Streams whose first event has passed, each with its connection to a decode engine."""
    with rig.fleet(TOKEN_INTERVAL_S * 1000, free=True), _gateway(rig, count) as pid:
        before, begin = rss_bytes(pid), time.monotonic()
        with _streams(rig, count):
            _await(lambda: rig.stats()["running"] >= count, f"{count} streams were not open", timeout_s=120)
            time.sleep(SETTLE_S)
            open_now = rig.stats()["running"]
            return _cost("open stream", open_now, begin, rss_bytes(pid) - before)


def beside_silent(rig: Rig, count: int) -> Traffic:
    """The load `streams`, while so many connections are open that say nothing."""
    load = LOADS["streams"]
    with rig.fleet(load.token_interval_ms), _gateway(rig), connections(rig.place.port, count) as silent:
        result = rig.load("-streams", str(load.streams), "-seconds", "6", "-warm-seconds", "2")
        closed = sum(_is_closed(connection) for connection in silent)
    ttft = result["ttft"]
    return Traffic(count, closed, result["errors"], result["tokens_per_s"], ttft["p50_ms"], ttft["p99_ms"])


@contextlib.contextmanager
def _gateway(rig: Rig, count: int | None = None) -> Iterator[int]:
    """A gateway that has warmed up: code is loaded, its pools have been used. Yields its process.

    With a count it lets so many connections in, however few files that leaves to spare, and gives them time to speak.
    """
    edge = {"max_connections": count + SPARE_FILES // 2, "head_timeout_s": 300} if count else None
    with rig.router(routers.gateway(rig.place, edge=edge)) as pid:
        yield pid


@contextlib.contextmanager
def connections(port: int, count: int) -> Iterator[list[socket.socket]]:
    """So many connections to a port of the loopback address, from many addresses."""
    with contextlib.ExitStack() as held:
        yield [held.enter_context(_connect(port, i)) for i in range(count)]


def _connect(port: int, number: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 10, source_address=(f"127.0.1.{1 + number % SOURCES}", 0))


@contextlib.contextmanager
def _streams(rig: Rig, count: int) -> Iterator[None]:
    """A load that keeps so many streams open, begun over a few seconds."""
    begin_s = 3 + count / 400
    flags = ("-streams", str(count), "-warm-seconds", str(begin_s), "-seconds", "600", "-timeout", "20m")
    command = (str(rig.harness), "load", "-url", url(rig.place.port), *flags, "-sources", str(SOURCES))
    with running(command, rig.load_core, rig.place.folder / "load.log"):
        yield


def _open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed it, with or without a word."""
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


def _await(ready: Callable[[], bool], fault: str, timeout_s: float = 30) -> None:
    end = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(fault)
        time.sleep(0.1)


def _cost(kind: str, count: int, begin: float, more_bytes: int) -> Cost:
    cost = Cost(kind, count, time.monotonic() - begin, more_bytes / count)
    print(f"{count} x {kind}: {cost.bytes_each / 1024:.1f} KiB each", file=sys.stderr, flush=True)
    return cost


def _report(costs: Sequence[Cost], traffic: Sequence[Traffic]) -> Iterator[str]:
    yield from ("| | how many | KiB of the process each |", "|---|---|---|")
    for cost in costs:
        yield f"| {cost.kind} | {cost.count} | {cost.bytes_each / 1024:.1f} |"
    yield from (
        "",
        "| silent connections | closed meanwhile | errors | tokens/s | TTFT p50 | p99 ms |",
        "|" + "---|" * 6,
    )
    for row in traffic:
        yield (
            f"| {row.silent} | {row.closed} | {row.errors} | {row.tokens_per_s:.0f} | {row.ttft_p50_ms:.1f} "
            f"| {row.ttft_p99_ms:.1f} |"
        )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


if __name__ == "__main__":
    sys.exit(main())
