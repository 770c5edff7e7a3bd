"""What must be there before anything is measured? The harness, and the peers at fixed versions; what is not, is made.

Everything goes below `${PD_ROUTER_BENCH_HOME:-~/.cache/pd-router/bench}`; only the packages of the distribution, the Go
toolchain and nginx, need root (or sudo without a password).
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

PACKAGES = {"vllm-router": "vllm-router==0.1.17", "smg": "smg==1.13.0"}
PEERS = ("nginx", *PACKAGES)
SOURCE = Path(__file__).resolve().parents[1] / "harness"


def home() -> Path:
    """The folder of everything that is installed here."""
    return Path(os.environ.get("PD_ROUTER_BENCH_HOME") or "~/.cache/pd-router/bench").expanduser()


def harness() -> Path:
    """The built harness."""
    program = home() / "harness"
    if not program.exists() or program.stat().st_mtime < max(file.stat().st_mtime for file in SOURCE.rglob("*.go")):
        go = _from_distribution("go", "golang-go")
        home().mkdir(parents=True, exist_ok=True)
        _run([go, "build", "-o", str(program), "."], cwd=SOURCE)
    return program


def peers(names: Iterable[str]) -> dict[str, Path]:
    """The programs of the peers, by name."""
    return {name: _peer(name) for name in names}


def _peer(name: str) -> Path:
    if name == "nginx":
        return Path(_from_distribution("nginx", "nginx-light"))
    venv = home() / "venvs" / PACKAGES[name]
    installed = venv / "installed"
    if not installed.exists():
        print(f"installing {PACKAGES[name]} into {venv}", file=sys.stderr)
        _run([sys.executable, "-m", "venv", "--clear", str(venv)])
        _run([str(venv / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", PACKAGES[name]])
        installed.touch()
    return venv / "bin" / name


def _from_distribution(program: str, package: str) -> str:
    path = f"{os.environ['PATH']}:/usr/sbin:/usr/local/go/bin"
    if not shutil.which(program, path=path):
        if not shutil.which("apt-get"):
            sys.exit(f"{program} is missing; please install {package}, or what your distribution calls it")
        print(f"installing {package}", file=sys.stderr)
        root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        _run([*root, "apt-get", "update", "-qq"])
        _run([*root, "apt-get", "install", "-y", "-qq", "--no-install-recommends", package])
    found = shutil.which(program, path=path)
    assert found, f"{package} has no {program}"
    return found


def _run(command: list[str], cwd: Path | None = None) -> None:
    """Output is shown when the command fails."""
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}")
