"""How are processes started on a core, ended, and measured? Nothing outlives the `with` it was started in."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

STOP_TIMEOUT_S = 8


@contextlib.contextmanager
def running(
    command: Sequence[str], core: int | None, log: Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process pinned to a core (None: to none), in a group of its own; its output is appended to `log`."""
    pinned = [] if core is None else ["taskset", "--cpu-list", str(core)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*pinned, *command],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # children that ignored the first signal


def exit_on_sigterm() -> None:
    """Make SIGTERM end this process as Ctrl-C does, by an exception, so that it ends what it has started."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


def raise_file_limit(wanted: int | None = None) -> int:
    """Open files for this process and those it starts: as many as are allowed, or as wanted when that may be raised."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, PermissionError):
        if wanted and wanted > hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def await_free_port(port: int, timeout_s: float = 10) -> None:
    """Return once a port of the loopback address can be listened on. Raises `TimeoutError`."""
    end = time.monotonic() + timeout_s
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return
        if time.monotonic() > end:
            raise TimeoutError(f"port {port} is in use; choose another --base-port")
        time.sleep(0.1)


def cpu_s(pid: int) -> float:
    """User and system time of a process with its threads."""
    columns = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(columns[11]) + int(columns[12])) / os.sysconf("SC_CLK_TCK")


def machine_cpu_s() -> float:
    """Time in which the machine's cores were busy since it started."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int) -> int:
    """Resident memory of one process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
