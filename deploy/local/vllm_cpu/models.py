"""Which models can the engines serve without a model hub, and where are they?"""

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vllm_cpu.console import Failure, say
from vllm_cpu.install import exclusive, home

LAST_FILE = "generation_config.json"  # what the builders write last


@dataclass(frozen=True)
class Model:
    """A model the kit can build, and the engine sizes that fit it."""

    builder: str
    kv_cache_mib: int
    max_model_len_tokens: int


MODELS = {
    "tiny": Model("build_tiny.py", kv_cache_mib=128, max_model_len_tokens=4096),
    "smollm2": Model("build_smollm2.py", kv_cache_mib=512, max_model_len_tokens=8192),
}


def ensure(name: str, python: Path) -> Path:
    """The folder of model `name`, built first when it is missing; `python` is the engines' interpreter.

    Raises `Failure` with the builder's own explanation when it cannot be built.
    """
    folder = home() / "models" / name
    with exclusive("models"):
        if not (folder / LAST_FILE).exists():
            _build(name, python, folder)
    return folder


def _build(name: str, python: Path, folder: Path) -> None:
    """Builds beside the final place and renames, so that a folder is either complete or absent."""
    say(f"building the model {name} in {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    builder = Path(__file__).with_name(MODELS[name].builder)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as work:
        built = Path(work) / "model"
        built.mkdir()
        run = subprocess.run([python, builder, built], capture_output=True, text=True, check=False)
        if run.returncode:
            raise Failure(f"cannot build the model {name}:\n{run.stderr[-1500:]}")
        shutil.rmtree(folder, ignore_errors=True)
        built.rename(folder)
