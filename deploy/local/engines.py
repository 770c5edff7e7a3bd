#!/usr/bin/env python3
"""Real vLLM prefill and decode engines on this machine's CPU: `engines.py --help`. Standard library only."""

import argparse
import json
import signal
import sys
from pathlib import Path

from vllm_cpu import check
from vllm_cpu.console import Failure, end_on_signal, say
from vllm_cpu.install import ensure, home
from vllm_cpu.models import MODELS
from vllm_cpu.plan import Options
from vllm_cpu.run import Run

SIGNALS = ("KILL", "STOP", "CONT", "TERM")
UNWELL = 3  # exit status of `status` when not every engine is healthy


def install(_: argparse.Namespace) -> int:
    """Installs the engines and prints their interpreter."""
    print(ensure())
    return 0


def up(arguments: argparse.Namespace) -> int:
    """Starts engines and prints their URLs as JSON."""
    names = Options.__dataclass_fields__.keys() - {"vllm_arguments"}
    asked = {name: getattr(arguments, name) for name in names}
    run = Run.load(arguments.run_dir)
    run.up(Options(**asked, vllm_arguments=tuple(arguments.vllm_arguments)), arguments.timeout_s)
    print(json.dumps(run.describe(), indent=1))
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Prints URLs, health, process ids and memory as JSON."""
    run = Run.load(arguments.run_dir)
    described = run.describe(look=True)
    print(json.dumps(described, indent=1))
    return 0 if run.engines and all(row["healthy"] for row in described["engines"]) else UNWELL


def check_pair(arguments: argparse.Namespace) -> int:
    """Proves the hand-over of the first pair."""
    run = Run.load(arguments.run_dir)
    if not run.urls("prefill") or not run.urls("decode"):
        raise Failure(f"a prefill and a decode engine are needed in {run.folder}: engines.py up")
    prefill, decode = run.urls("prefill")[0], run.urls("decode")[0]
    good = check.run(prefill, decode, [*run.urls("colocated"), prefill][0])
    say("every prompt was handed over and every text is equal" if good else "the hand-over does NOT work, see above")
    return 0 if good else 1


def kill(arguments: argparse.Namespace) -> int:
    """Signals one engine."""
    number = signal.Signals[f"SIG{arguments.signal}"]
    Run.load(arguments.run_dir).kill(arguments.name, number, arguments.part)
    return 0


def start(arguments: argparse.Namespace) -> int:
    """Starts an engine that was killed."""
    Run.load(arguments.run_dir).start(arguments.name, arguments.timeout_s)
    return 0


def down(arguments: argparse.Namespace) -> int:
    """Ends the engines of a run."""
    Run.load(arguments.run_dir).down()
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="engines.py", description=__doc__)
    commands = root.add_subparsers(required=True, metavar="COMMAND")
    handlers = {"install": install, "up": up, "status": status, "check": check_pair}
    handlers |= {"kill": kill, "start": start, "down": down}
    made = {}
    for name, handler in handlers.items():
        made[name] = commands.add_parser(name, help=handler.__doc__, description=handler.__doc__)
        made[name].set_defaults(handler=handler)
        made[name].add_argument("--run-dir", type=Path, default=home() / "run", help="logs and state (%(default)s)")
    for name in ("kill", "start"):
        made[name].add_argument("name", help="such as decode-0")
    for name in ("up", "start"):
        made[name].add_argument("--timeout-s", type=float, default=300, help="for all to be healthy (%(default)s)")
    made["kill"].add_argument("signal", nargs="?", choices=SIGNALS, default="KILL")
    made["kill"].add_argument("--part", choices=("server", "core"), help="only its HTTP server or engine process")
    add_options(made["up"])
    return root


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `up`, one for each field of `Options`."""
    default = Options()
    command.add_argument("--model", choices=MODELS, default=default.model)
    for role in ("prefill", "decode", "colocated"):
        command.add_argument(f"--{role}", type=int, default=getattr(default, role), metavar="N")
    command.add_argument("--base-port", type=int, default=default.base_port, help="first HTTP port; 0: free ports")
    command.add_argument("--lease-s", type=int, help="how long prefill holds KV that nobody pulls (vLLM: 30)")
    command.add_argument("--kv-load-failure-policy", choices=("fail", "recompute"), default="fail")
    command.add_argument("--kv-events", action="store_true", help="publish KV cache events over ZMQ")
    command.add_argument("--max-model-len-tokens", type=int, metavar="N")
    command.add_argument("--max-num-seqs", type=int, default=default.max_num_seqs, metavar="N")
    command.add_argument("--kv-cache-mib", type=int, metavar="N", help="KV pool of each engine")
    command.add_argument("--dtype", choices=("float32", "bfloat16"), default=default.dtype)
    command.add_argument("--threads", type=int, default=default.threads, metavar="N", help="OpenMP threads of each")
    command.add_argument("vllm_arguments", nargs="*", help="after --: more arguments for every `vllm serve`")


def main() -> int:
    """Runs a command; status 0 when it worked, 1 with a message when it did not."""
    end_on_signal()
    arguments = parser().parse_args()
    try:
        status_code: int = arguments.handler(arguments)
    except Failure as failure:
        say(str(failure))
        return 1
    return status_code


if __name__ == "__main__":
    sys.exit(main())
