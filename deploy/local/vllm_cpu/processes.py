"""Which processes belong to an engine, and how are they started, signalled and ended?

An engine is an HTTP server and an engine process. It is started as the leader of its own session, so a living process
belongs to it when session and group carry the leader's id; the leader's start time and the boot tell a reused id apart.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Part = Literal["server", "core"]


@dataclass(frozen=True)
class Leader:
    """The first process of an engine, recognisable for as long as the machine runs."""

    pid: int
    start_ticks: int
    boot_id: str


@dataclass(frozen=True)
class _Stat:
    state: str
    group: int
    session: int
    start_ticks: int


def spawn(argv: Sequence[str], env: Mapping[str, str], log: Path) -> tuple[Leader, subprocess.Popen[bytes]]:
    """Starts a command in a session of its own, appending its output to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=env,
            cwd=log.parent,
            start_new_session=True,
        )
    stat = _stat(process.pid)
    return Leader(process.pid, stat.start_ticks if stat else 0, _boot_id()), process


def members(leader: Leader) -> list[int]:
    """The living processes of an engine; empty when it has ended or its id belongs to someone else now."""
    now = _stat(leader.pid)
    if leader.boot_id != _boot_id() or (now and now.start_ticks != leader.start_ticks):
        return []
    return [pid for pid, stat in _all_stats() if _belongs(stat, leader)]


def part(pid: int) -> Part:
    """Whether a member is the engine process (it calls itself EngineCore) or belongs to the HTTP server."""
    try:
        return "core" if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes() else "server"
    except OSError:
        return "server"


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Signals processes; those that are gone are passed over."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def stop(leaders: Sequence[Leader], grace_s: float = 15) -> list[Leader]:
    """Ends engines: politely, then by force. Returns those that are still alive, normally none."""
    for leader in leaders:
        pids = members(leader)
        send(pids, signal.SIGCONT)  # a frozen process cannot end
        send(pids, signal.SIGTERM)
    left = _wait_for_end(leaders, grace_s)
    for leader in left:
        send(members(leader), signal.SIGKILL)
    return _wait_for_end(left, 10)


def unpin(leader: Leader) -> None:
    """Gives all threads of an engine the cores of this process.

    The connector pins its thread to the last core of the machine, which would put every engine on the same one.
    """
    cores = os.sched_getaffinity(0)
    for pid in members(leader):
        for task in Path(f"/proc/{pid}/task").glob("*"):
            try:
                os.sched_setaffinity(int(task.name), cores)
            except ProcessLookupError:
                continue


def memory_mib(pids: Iterable[int]) -> int:
    """The processes' memory, pages shared with others counted in proportion (PSS)."""
    return sum(_pss_kib(pid) for pid in pids) // 1024


def _wait_for_end(leaders: Sequence[Leader], timeout_s: float) -> list[Leader]:
    deadline = time.monotonic() + timeout_s
    while (left := [leader for leader in leaders if members(leader)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _belongs(stat: _Stat, leader: Leader) -> bool:
    same_session = stat.session == leader.pid and stat.group == leader.pid
    return same_session and stat.state != "Z" and stat.start_ticks >= leader.start_ticks


def _all_stats() -> list[tuple[int, _Stat]]:
    pids = sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [(pid, stat) for pid in pids if (stat := _stat(pid))]


def _stat(pid: int) -> _Stat | None:
    """Fields 3, 5, 6 and 22 of /proc/PID/stat; they are counted from behind the name, which may contain anything."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return _Stat(fields[0], int(fields[2]), int(fields[3]), int(fields[19]))


def _pss_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
