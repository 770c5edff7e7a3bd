"""The images, built from this checkout, and programs that run from them as they would in a container."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.tree import ROOT

RUN = ROOT / "docker/run.sh"
PREFIX = os.environ.get("PREFIX", "localhost/")


@dataclass(frozen=True)
class Image:
    """An image that is mounted at `root`."""

    name: str
    root: Path
    facts: Mapping[str, Any]

    @property
    def config(self) -> Mapping[str, Any]:
        """User, environment, entrypoint and the like."""
        config: Mapping[str, Any] = self.facts["Docker"]["config"]
        return config

    def command(self, *arguments: str, **environ: str) -> list[str]:
        """What runs its entrypoint with these arguments."""
        return self.program(*self.config["Entrypoint"], *arguments, **environ)

    def program(self, *words: str, **environ: str) -> list[str]:
        """What runs a program in it."""
        return [str(RUN), str(self.root), *self.config["Env"], *(f"{k}={v}" for k, v in environ.items()), *words]

    @contextmanager
    def running(self, *arguments: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
        """Its entrypoint, for as long as the block lasts."""
        process = subprocess.Popen(self.command(*arguments, **environ))
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(20)


def buildah(*words: str) -> str:
    """What buildah says."""
    return subprocess.run(["buildah", *words], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@pytest.fixture(scope="session")
def images() -> Iterator[dict[str, Image]]:
    """Both, by name without prefix."""
    subprocess.run([ROOT / "docker/build.sh"], check=True)
    made, containers = {}, []
    try:
        for name in ("pd-router", "pd-router-sim"):
            containers.append(buildah("from", f"{PREFIX}{name}"))
            facts = json.loads(buildah("inspect", "--type", "image", f"{PREFIX}{name}"))
            made[name] = Image(name, Path(buildah("mount", containers[-1])), facts)
        yield made
    finally:
        for container in containers:
            buildah("rm", container)
