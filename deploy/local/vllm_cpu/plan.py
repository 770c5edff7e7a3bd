"""Which engines shall run, on which ports, with which command line and environment?"""

import json
import os
import random
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_cpu.console import Failure
from vllm_cpu.install import home
from vllm_cpu.models import MODELS

KV_ROLES = {"prefill": "kv_producer", "decode": "kv_consumer", "colocated": None}
PORT_OFFSETS = (0, 500, 700)
FREE_PORTS = range(20000, 32000)  # below those of outgoing connections, which could take one before the engine does
SHORTEST_LEASE_S = 6  # decode renews every sixth of the lease, in whole seconds
LONGEST_SOCKET_PATH = 100
UNWANTED_VARIABLES = frozenset({"PYTHONPATH", "PYTHONHOME", "VLLM_CPU_KVCACHE_SPACE"})


@dataclass(frozen=True)
class Options:
    """What was asked of `up`."""

    model: str = "tiny"
    prefill: int = 1
    decode: int = 1
    colocated: int = 0
    base_port: int = 8100
    lease_s: int | None = None
    kv_load_failure_policy: str = "fail"
    kv_events: bool = False
    max_model_len_tokens: int | None = None
    max_num_seqs: int = 8
    kv_cache_mib: int | None = None
    dtype: str = "float32"  # greedy texts can be compared; bfloat16 decodes faster
    threads: int = 1
    vllm_arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Slot:
    """The place of one engine in a run: its name and its ports on 127.0.0.1."""

    name: str
    role: str
    port: int
    side_channel_port: int
    replay_port: int


@dataclass(frozen=True)
class Engine:
    """One engine to start. `env` is what it has beyond the environment of every engine."""

    name: str
    role: str
    port: int
    argv: tuple[str, ...]
    env: dict[str, str]
    log: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def slots(options: Options) -> list[Slot]:
    """The places in the order prefill, decode, colocated.

    HTTP ports count from `base_port`, NIXL side channels 500 higher, replay of KV events 700 higher; 0: free ones.
    Raises `Failure` when a port is taken or an option cannot work.
    """
    if options.lease_s is not None and options.lease_s < SHORTEST_LEASE_S:
        raise Failure(f"--lease-s must be at least {SHORTEST_LEASE_S}")
    names = [(f"{role}-{i}", role) for role in KV_ROLES for i in range(getattr(options, role))]
    if not names:
        raise Failure("nothing to start: give at least one of --prefill, --decode, --colocated")
    with ExitStack() as held:  # all ports at once, so that none is given twice
        return [
            Slot(name, role, *(_bound(options.base_port, offset + i, held) for offset in PORT_OFFSETS))
            for i, (name, role) in enumerate(names)
        ]


def engine(slot: Slot, options: Options, python: Path, model: Path, folder: Path) -> Engine:
    """The engine for a place, logging in `folder`. Raises `Failure` when a path is too long for a socket."""
    argv = [str(python.with_name("vllm")), "serve", str(model), "--port", str(slot.port), *_sizes(options)]
    env = {"OMP_NUM_THREADS": str(options.threads)}
    if KV_ROLES[slot.role]:
        argv += ["--kv-transfer-config", json.dumps(_kv_transfer(options, slot.role))]
        env["VLLM_NIXL_SIDE_CHANNEL_PORT"] = str(slot.side_channel_port)
    if options.kv_events:
        argv += ["--kv-events-config", json.dumps(_kv_events(slot, folder))]
    argv += options.vllm_arguments
    return Engine(slot.name, slot.role, slot.port, tuple(argv), env, str(folder / f"{slot.name}.log"))


def environment(engine: Engine) -> dict[str, str]:
    """The whole environment of an engine process."""
    inherited = {name: value for name, value in os.environ.items() if name not in UNWANTED_VARIABLES}
    return inherited | {
        # Otherwise the CPU platform takes the multi-process executor, which stalls decode for seconds on few cores.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": str(home() / "cache"),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(home() / "cache" / "hf"),
        **engine.env,
    }


def _bound(base_port: int, offset: int, held: ExitStack) -> int:
    """A port that is free; it stays bound until `held` closes."""
    candidates = [base_port + offset] if base_port else random.sample(FREE_PORTS, 100)
    for port in candidates:
        probe = held.enter_context(socket.socket())
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return port
    raise Failure(f"port {candidates[0]} is taken: choose another --base-port, or 0 for free ports")


def _sizes(options: Options) -> list[str]:
    model = MODELS[options.model]
    flags = {
        "--host": "127.0.0.1",
        "--served-model-name": options.model,
        "--dtype": options.dtype,
        "--max-model-len": options.max_model_len_tokens or model.max_model_len_tokens,
        "--max-num-seqs": options.max_num_seqs,
        # Without it each engine reserves nearly all memory and the second one refuses to start.
        "--kv-cache-memory-bytes": (options.kv_cache_mib or model.kv_cache_mib) << 20,
    }
    return ["--enforce-eager", *(str(word) for flag in flags.items() for word in flag)]


def _kv_transfer(options: Options, role: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "kv_connector": "NixlConnector",
        "kv_role": KV_ROLES[role],
        "kv_buffer_device": "cpu",
        "kv_load_failure_policy": options.kv_load_failure_policy,
    }
    if options.lease_s:
        config["kv_connector_extra_config"] = {"kv_lease_duration": options.lease_s}
    return config


def _kv_events(slot: Slot, folder: Path) -> dict[str, Any]:
    path = folder / f"{slot.name}.kv"
    if len(str(path)) > LONGEST_SOCKET_PATH:
        raise Failure(f"--run-dir is too long for a unix socket: {path}")
    return {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"ipc://{path}",
        "replay_endpoint": f"tcp://127.0.0.1:{slot.replay_port}",
        "topic": f"kv@{slot.name}",
    }
