"""Is vLLM for CPU with NIXL installed here, and how does it get there?

Everything comes from pip's own configuration: the exact pins of `requirements.lock`, and torch, whose CPU build is not
on the default index (see `_install_torch`). A marker written last makes an interrupted installation start over.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vllm_cpu.console import Failure, say, tail

LOCK = Path(__file__).with_name("requirements.lock")
TORCH = "torch==2.13.0"
VLLM_VERSION = "0.32.0+cpu"
REVISION = 2  # raise it when a step below changes: installed sets are then made anew


def home() -> Path:
    """The folder of everything that the kit installs, builds and logs."""
    return Path(os.environ.get("PD_ROUTER_ENGINE_HOME") or Path.home() / ".cache" / "pd-router" / "engines").resolve()


def ensure() -> Path:
    """The interpreter of a complete engine installation, made first when it is missing (about 100 s, 2.4 GB).

    Raises `Failure` when no Python 3.11 is found or pip cannot install.
    """
    venv = home() / "venv"
    with exclusive("install"):
        if not _is_complete(venv):
            _install(venv)
    return venv / "bin" / "python"


@contextmanager
def exclusive(name: str) -> Iterator[None]:
    """Lets one process at a time do `name` under `home()`; others wait."""
    home().mkdir(parents=True, exist_ok=True)
    with (home() / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_complete(venv: Path) -> bool:
    try:
        return (venv / ".complete").read_text() == _fingerprint() and (venv / "bin" / "python").exists()
    except FileNotFoundError:
        return False


def _fingerprint() -> str:
    return f"{REVISION} {hashlib.sha256(LOCK.read_bytes()).hexdigest()}"


def _install(venv: Path) -> None:
    interpreter, start = _interpreter(), time.monotonic()
    say(f"installing vLLM {VLLM_VERSION} with NIXL into {venv} (once; 2 to 4 minutes, 2.4 GB)")
    shutil.rmtree(venv, ignore_errors=True)
    (home() / "install.log").unlink(missing_ok=True)
    say("1/4 virtual environment")
    if not _logged([interpreter, "-m", "venv", str(venv)]):
        raise Failure(f"{interpreter} cannot make a virtual environment (Debian: apt install python3-venv){_log_end()}")
    say("2/4 torch for CPU (190 MB)")
    _install_torch(venv)
    say("3/4 vLLM, NIXL and what they need (140 packages)")
    # Without dependencies: the lock is complete, and leaves out the CUDA parts that a resolver would pull in.
    if not _pip(venv, "--no-deps", "-r", str(LOCK)):
        raise Failure(f"pip cannot install {LOCK}{_log_end()}")
    say("4/4 adjustments for CPU")
    _adjust(venv)
    (venv / ".complete").write_text(_fingerprint())
    say(f"installed in {time.monotonic() - start:.0f} s")


def _interpreter() -> str:
    """A Python 3.11: the pins have wheels for it."""
    found = sys.executable if sys.version_info[:2] == (3, 11) else shutil.which("python3.11")
    if not found:
        raise Failure("the engines need Python 3.11: run this with one, or put python3.11 on the PATH")
    return found


def _install_torch(venv: Path) -> None:
    """The CPU build where pip's configuration leads to one, else the build of the default index.

    That one is made for CUDA and does not even import without the CUDA libraries, so they come with it.
    """
    if _pip(venv, f"{TORCH}+cpu"):
        return
    say(f"no {TORCH}+cpu in reach of pip: taking the CUDA build instead, which runs on a CPU too (4 GB more)")
    say("give pip an index or a folder with the CPU build to avoid that (PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS)")
    if not _pip(venv, TORCH):
        raise Failure(f"pip cannot install {TORCH}{_log_end()}")


def _adjust(venv: Path) -> None:
    site = next((venv / "lib").glob("python3*")) / "site-packages"
    # NIXL sets the delay of UCX's progress thread to 0, which keeps one core per engine busy; no setting reaches it.
    _replace(site / "nixl_cu12" / "_api.py", "agent_config.pthrDelay = 0\n", "agent_config.pthrDelay = 1000\n")
    # It chooses its build by torch's CUDA version, even where there is no GPU: let it take the one that is installed.
    _replace(site / "nixl" / "__init__.py", "cuda_major = detect_cuda_major()\n", "cuda_major = None\n")
    shutil.rmtree(site / "nixl_ep_cu12", ignore_errors=True)  # 104 MB of CUDA libraries that nothing imports
    # vLLM asks for the version of a distribution called "vllm", and "cpu" in it selects the platform.
    stub = site / f"vllm-{VLLM_VERSION}.dist-info"
    stub.mkdir(exist_ok=True)
    (stub / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM_VERSION}\n")


def _replace(file: Path, old: str, new: str) -> None:
    source = file.read_text(encoding="utf-8")
    if old not in source:
        raise Failure(f"{file} has changed: {old.strip()!r} is not in it")
    file.write_text(source.replace(old, new), encoding="utf-8")


def _pip(venv: Path, *arguments: str) -> bool:
    python = str(venv / "bin" / "python")
    return _logged([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments])


def _logged(argv: list[str]) -> bool:
    """Whether the command succeeded; its output goes to install.log."""
    with (home() / "install.log").open("ab") as log:
        return subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False).returncode == 0


def _log_end() -> str:
    log = home() / "install.log"
    return f"; the end of {log}:\n{tail(log, 6)}"
