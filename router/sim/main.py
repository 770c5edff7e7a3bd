"""How is one simulated engine run as a process of its own?"""

import argparse
import asyncio
import signal
import sys
from dataclasses import fields
from typing import Any, get_args

import orjson

from router.arguments import port
from router.sim.config import KvLoadFailurePolicy, Role, SimConfig
from router.sim.engine import SimEngine
from router.sim.faults import Fault
from router.sim.latency import PROFILES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `pd-router sim`."""
    default = SimConfig()
    add = parser.add_argument
    add("--role", choices=get_args(Role), default=default.role, help="what the engine is for (default %(default)s)")
    add("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    add("--port", type=port, default=0, help="port to listen on, 0 for a free one (default %(default)s)")
    add("--side-channel-port", type=port, default=0, help="port for KV pulls, 0 for a free one (default %(default)s)")
    add("--model", default=default.model, help="name of the model (default %(default)s)")
    add("--alias", dest="aliases", action="append", default=[], help="another name of the model; may be repeated")
    add(
        "--max-model-len", dest="max_model_len_tokens", type=int, default=default.max_model_len_tokens, metavar="TOKENS"
    )
    add(
        "--block-size",
        dest="block_size_tokens",
        type=int,
        default=default.block_size_tokens,
        metavar="TOKENS",
        help="tokens in a KV block (default %(default)s)",
    )
    add("--kv-blocks", type=int, default=default.kv_blocks, metavar="N", help="size of the KV cache in blocks")
    add("--max-num-seqs", type=int, default=default.max_num_seqs, metavar="N", help="sequences in one batch")
    add(
        "--max-num-batched-tokens",
        type=int,
        default=default.max_num_batched_tokens,
        metavar="N",
        help="tokens in one step (default %(default)s)",
    )
    add("--gpu", choices=sorted(PROFILES), default=default.gpu, help="whose speed to imitate (default %(default)s)")
    add("--decode-step-s", type=float, default=None, metavar="SECONDS", help="fixed duration of a decode step")
    add("--time-scale", type=float, default=default.time_scale, help="2 is half as fast, 0 without delays")
    add("--link-gb-per-s", type=float, default=default.link_gb_per_s, metavar="GB/S", help="speed of KV transfers")
    add("--lease-s", type=float, default=default.lease_s, metavar="SECONDS", help="how long KV is held for a pull")
    add(
        "--kv-load-failure-policy",
        choices=get_args(KvLoadFailurePolicy),
        default=default.kv_load_failure_policy,
        help="what a decode engine does when a pull fails (default %(default)s)",
    )
    add(
        "--enable-prompt-tokens-details",
        action="store_true",
        help="tell in an answer's usage how much of the prompt was cached",
    )
    add("--kv-events", metavar="ENDPOINT", help="publish KV events there, as vLLM does: tcp://*:5557, ipc:///run/d0.kv")
    add("--kv-events-replay", metavar="ENDPOINT", help="repeat there what a subscriber has missed")
    add("--kv-events-topic", default="", metavar="TOPIC", help="under which they are published")
    add("--engine-version", dest="version", default=default.version, help="engines of different ones refuse each other")
    add("--seed", type=int, default=default.seed, help="of faults with a share")
    add("--faults", type=_faults, default=[], metavar="JSON", help="list of faults, as for POST /sim/faults")


def run(args: argparse.Namespace) -> int:
    """Run one engine until SIGINT or SIGTERM; one line of JSON on stdout tells its URL once it listens."""
    names = {field.name for field in fields(SimConfig)}
    settings: dict[str, Any] = {name: value for name, value in vars(args).items() if name in names}
    settings["aliases"] = tuple(args.aliases)
    try:
        config = SimConfig(**settings)
    except ValueError as error:
        sys.stderr.write(f"pd-router sim: {error}\n")
        return 2
    try:
        asyncio.run(_serve(config, args.host, args.port, args.faults))
    except OSError as error:
        sys.stderr.write(f"pd-router sim: {error}\n")
        return 1
    return 0


async def _serve(config: SimConfig, host: str, port: int, faults: list[Fault]) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    engine = SimEngine(config)
    await engine.start(host, port)
    engine.faults.add(*faults)
    told = {"url": engine.url, "role": config.role, "model": config.model, "engine_id": engine.core.engine_id}
    sys.stdout.write(orjson.dumps(told).decode() + "\n")
    sys.stdout.flush()
    try:
        await ended.wait()
    finally:
        await engine.stop()


def _faults(text: str) -> list[Fault]:
    try:
        value = orjson.loads(text)
        return [Fault.from_json(item) for item in (value if isinstance(value, list) else [value])]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
