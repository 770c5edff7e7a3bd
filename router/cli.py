"""What can be asked of pd-router on the command line, and with which exit code does it answer?

0: a clean stop. 2: bad usage or settings, one line per fault on standard error. 1: anything else.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel

from router import __version__
from router.arguments import count, count_or_0
from router.bench import main as bench
from router.explain import ask as explain
from router.settings.edge import Listen, Ops
from router.settings.engines import BackendSettings, Role
from router.settings.faults import SettingsError
from router.settings.loading import load
from router.settings.telemetry import Log
from router.settings.tree import Settings, effective
from router.sim import main as sim
from router.sim.latency import PROFILES

CLEAN, FAILED, USAGE = 0, 1, 2

PROGRESS_S = 2.0
"""Between two lines of a command that takes long."""

NO_BACKENDS = (
    "backends: no engine is known; name them by flags (--prefill URL --decode URL, or --aggregated URL), "
    "under `backends:` or `discovery:` in the file of --config, "
    'or in PD_ROUTER_BACKENDS=\'[{"url": "http://host:port", "role": "decode"}]\''
)

EPILOG = """\
commands at a glance:
  pd-router run                                   try it: a simulated fleet and the gateway in one process
  pd-router serve --prefill URL --decode URL      in front of your engines
  pd-router check --config pd-router.yaml         are these settings valid, and what do they come to?
  pd-router doctor --config pd-router.yaml        can every pair of engines hand over? if not, what to do
  pd-router explain body.json                     which way would this request take now, and why?
  pd-router sim --role decode --port 8201         one simulated engine
  pd-router bench load http://127.0.0.1:8000      load a running gateway, check every answer
  pd-router bench replay --trace FILE             what the routing would make of these requests
  pd-router bench ramp                            what autoscaling would make of a rise and a fall of load

`pd-router COMMAND --help` explains one. Settings: flags, then PD_ROUTER_* variables, then the file, then defaults.
exit codes: 0 clean stop, 2 bad usage or settings, 1 anything else
"""

SERVE_EPILOG = """\
examples:
  pd-router serve --prefill http://10.0.0.11:8200 --decode http://10.0.0.21:8201
  pd-router serve --config pd-router.yaml --port 9000
  PD_ROUTER_ROUTING__MODE=local pd-router serve --config pd-router.yaml
  pd-router serve --config pd-router.yaml --fd 3      with the socket of a systemd unit

SIGTERM and SIGINT drain: new requests go on being taken for drain.drain_accept_s seconds while /readyz says 503, open
streams get drain.drain_timeout_s seconds to end. Metrics, health and the fleet view are on the operations listener.
"""

CHECK_EPILOG = """\
examples:
  pd-router check --config pd-router.yaml
  PD_ROUTER_LISTEN__PORT=9000 pd-router check --json

The YAML that is printed can be used as a file again; API keys are not in it, only the names of their variables.
"""

DOCTOR_EPILOG = """\
examples:
  pd-router doctor --config pd-router.yaml
  pd-router doctor --prefill http://10.0.0.11:8200 --decode http://10.0.0.21:8201
  pd-router doctor --config pd-router.yaml --json

Every prefill engine hands a prompt of a few tokens to every decode engine that it may pair with, also while they serve.
The decode engine's counters tell whether it pulled the prompt or computed it. The status is 1 when something is to be
done: an engine that cannot be used, one without a partner, a pair that does not hand over, a list of engines that
cannot be read or is empty, an engine of it that is left out, or nobody up who can answer.
"""

EXPLAIN_EPILOG = """\
examples:
  pd-router explain body.json
  pd-router explain body.json --ops http://127.0.0.1:8001 --mode local --json
  echo '{"model": "m", "prompt": "Once"}' | pd-router explain -

Asks a gateway that serves where it would send the request at this moment. Nothing is sent to an engine, nothing is
counted, and the next request goes where it would have gone without this one.
"""

RUN_EPILOG = """\
examples:
  pd-router run                                        2 prefill and 2 decode engines; Ctrl-C ends it
  pd-router run --port 9000 --gpu h100                 with the speed of an H100
  pd-router run --ask "Why two pools?"                 ask one question, print the answer and the hand-over, end

Both thresholds of the disaggregation rule, routing.min_novel_tokens and routing.min_concurrency, are 0 here and they
alone decide (routing.rule: thresholds) unless that is set, so that a lone short question is handed over too; `serve`
keeps it on decode.
"""

SIM_EPILOG = """\
examples:
  pd-router sim --role prefill --port 8200
  pd-router sim --role decode --port 8201 --gpu h200 --kv-load-failure-policy recompute

It speaks as vLLM with NIXL does: the OpenAI API, /metrics, and the hand-over of KV between its own kind. What it holds
is at GET /sim/ledger; faults can be set while it runs by POST /sim/faults.
"""

BENCH_EPILOG = """\
examples:
  pd-router bench load http://127.0.0.1:8000 --streams 32 --requests 500
  pd-router bench load http://127.0.0.1:8000 --rate 20 --json
  pd-router bench replay --trace trace.jsonl --prefill 4 --decode 4
  pd-router bench ramp --high 12 --plot ramp.svg

load checks every answer: events, finish reason, [DONE], and the engine's own count of tokens. replay needs no gateway:
it takes a trace through the same routing over simulated engines, in virtual time. Nor does ramp: it lets load rise and
fall over a fleet that is scaled as /autoscale wants. For a comparison with other routers: make bench.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = parser().parse_args(argv)
    try:
        return int(args.command(args))
    except SettingsError as error:
        for fault in error.faults:
            print(f"pd-router: {fault}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return FAILED


def parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    root = argparse.ArgumentParser(
        prog="pd-router",
        description="A gateway in front of disaggregated (prefill/decode) LLM fleets. It speaks the OpenAI API.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    root.add_argument("--version", action="version", version=f"pd-router {__version__}")
    commands = root.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_serve(_add_command(commands, "serve", _serve, "run the gateway in front of engines", SERVE_EPILOG))
    _add_run(_add_command(commands, "run", _run, "run the gateway and a simulated fleet, to try it", RUN_EPILOG))
    _add_check(_add_command(commands, "check", _check, "validate settings, print what they come to", CHECK_EPILOG))
    _add_doctor(_add_command(commands, "doctor", _doctor, "try every pair of engines of a live fleet", DOCTOR_EPILOG))
    explain.add_arguments(
        _add_command(commands, "explain", explain.run, "explain where a request goes", EXPLAIN_EPILOG)
    )
    bench.add_arguments(
        _add_command(commands, "bench", bench.run, "load a gateway, replay a trace, or scale a fleet", BENCH_EPILOG)
    )
    sim.add_arguments(_add_command(commands, "sim", sim.run, "run one simulated engine", SIM_EPILOG))
    return root


def _add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    function: Callable[[argparse.Namespace], int],
    purpose: str,
    epilog: str,
) -> argparse.ArgumentParser:
    """A subcommand whose epilog keeps its lines; abbreviated flags are refused, as new flags would change them."""
    command = commands.add_parser(
        name,
        help=purpose,
        description=f"{purpose.capitalize()}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(command=function)
    return command


def _add_serve(serve: argparse.ArgumentParser) -> None:
    _add_engines(serve)
    _add_config(serve)
    _add_listeners(serve)
    log = serve.add_argument_group("log, on standard error")
    _add_setting(log, "--log-format", Log, "format")
    _add_setting(log, "--log-level", Log, "level")


def _add_doctor(doctor: argparse.ArgumentParser) -> None:
    _add_engines(doctor)
    doctor.add_argument("--json", action="store_true", help="print JSON: good, engines, pairs and problems")
    _add_config(doctor)


def _add_engines(command: argparse.ArgumentParser) -> None:
    engines = command.add_argument_group("engines, beside those of the file; each flag may be repeated")
    for role, phase in zip(Role, ("prefill", "decode", "both phases, without hand-over"), strict=True):
        engines.add_argument(f"--{role}", metavar="URL", action="append", default=[], help=f"engine for {phase}")
    _add_setting(engines, "--engine", BackendSettings, "engine")


def _add_run(run: argparse.ArgumentParser) -> None:
    fleet = run.add_argument_group("simulated fleet")
    fleet.add_argument("--prefill", type=count_or_0, default=2, metavar="N", help="prefill engines (default: 2)")
    fleet.add_argument("--decode", type=count, default=2, metavar="N", help="decode engines (default: 2)")
    fleet.add_argument("--gpu", choices=sorted(PROFILES), default="h100", help="whose speed it has (default: h100)")
    run.add_argument("--ask", metavar="QUESTION", help="ask this, print the answer and the hand-over counters, end")
    _add_config(run)
    _add_listeners(run)


def _add_check(check: argparse.ArgumentParser) -> None:
    check.add_argument("--json", action="store_true", help="print JSON: valid, and settings or faults")
    _add_config(check)


def _add_config(command: argparse.ArgumentParser) -> None:
    default = os.environ.get("PD_ROUTER_CONFIG")
    command.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=default and Path(default),
        help="settings as YAML (default: the file that PD_ROUTER_CONFIG names, if any)",
    )


def _add_listeners(command: argparse.ArgumentParser) -> None:
    listeners = command.add_argument_group("listeners")
    for name in ("host", "port", "fd"):
        _add_setting(listeners, f"--{name}", Listen, name)
    for name in ("host", "port"):
        _add_setting(listeners, f"--ops-{name}", Ops, name)


def _add_setting(group: "argparse._ArgumentGroup", flag: str, section: type[BaseModel], name: str) -> None:
    """A flag for one setting, with the setting's own help. Absent, it leaves the setting to the other sources."""
    field = section.model_fields[name]
    purpose = f"{field.description} (default: {field.default})"
    if get_origin(field.annotation) is Literal:
        group.add_argument(flag, choices=get_args(field.annotation), help=purpose)
    else:
        group.add_argument(flag, metavar=name.upper(), type=int if field.annotation is int else str, help=purpose)


def _serve(args: argparse.Namespace) -> int:
    log = _given(format=args.log_format, level=args.log_level)
    settings = _with_engines(args, _listener_flags(args) | {"log": log})
    from router.app import serve

    return _until_stopped(serve(settings), settings, _loop_factory(settings.process.loop))


def _with_engines(args: argparse.Namespace, flags: dict[str, object]) -> Settings:
    """Settings that name engines, also by flags."""
    backends = [{"url": url, "role": role} | _given(engine=args.engine) for role in Role for url in getattr(args, role)]
    settings = load(args.config, flags | {"backends": backends})
    if not (settings.backends or settings.discovery.on):
        raise SettingsError([NO_BACKENDS])
    return settings


def _doctor(args: argparse.Namespace) -> int:
    settings = _with_engines(args, {"log": {"level": "error"}, "listen": {"require_key": False}})
    from router.doctor import examine, report
    from router.telemetry.logs import configure

    configure(settings.log)
    findings = asyncio.run(examine.examine(settings, _now_and_then()))
    print(json.dumps(report.tree(findings)) if args.json else report.text(findings))
    return CLEAN if findings.good else FAILED


def _now_and_then() -> Callable[[int, int, str], None]:
    """Tells on standard error how far something has come that takes long."""
    told_at = time.monotonic()

    def tell(done: int, of: int, what: str) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= PROGRESS_S:
            told_at = time.monotonic()
            print(f"pd-router: {done} of {of}: {what}", file=sys.stderr)

    return tell


def _run(args: argparse.Namespace) -> int:
    from router import demo

    settings = load(args.config, _listener_flags(args), defaults=demo.DEFAULTS)
    shape = demo.Shape(prefill=args.prefill, decode=args.decode, gpu=args.gpu)
    # On the standard loop: simulated engines work on its transports, where faults such as a reset are made.
    return _until_stopped(demo.run(settings, shape, args.ask), settings)


def _check(args: argparse.Namespace) -> int:
    try:
        settings = load(args.config)
    except SettingsError as error:
        if not args.json:
            raise
        print(json.dumps({"valid": False, "faults": error.faults}))
        return USAGE
    tree = effective(settings)
    print(json.dumps({"valid": True, "settings": yaml.safe_load(tree)}) if args.json else tree.rstrip())
    if not (settings.backends or settings.discovery.on):
        print("pd-router: note: no backends here; `serve` needs them by flags or PD_ROUTER_BACKENDS", file=sys.stderr)
    return CLEAN


def _listener_flags(args: argparse.Namespace) -> dict[str, object]:
    return {
        "listen": _given(host=args.host, port=args.port, fd=args.fd),
        "ops": _given(host=args.ops_host, port=args.ops_port),
    }


def _given(**flags: object) -> dict[str, object]:
    return {name: value for name, value in flags.items() if value is not None}


def _loop_factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop]:
    import uvloop

    return uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop


def _until_stopped(
    work: Coroutine[Any, Any, int], settings: Settings, make_loop: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> int:
    """Run an event loop until the gateway has stopped; a listener's address that cannot be had ends it."""
    from router.edge.server import ListenError

    try:
        with asyncio.Runner(loop_factory=make_loop) as runner:
            return runner.run(work)
    except ListenError as error:
        listen = "--port" if settings.listen.fd is None else "--fd"
        flag = "--ops-port" if f":{settings.ops.port}:" in str(error) else listen
        print(f"pd-router: {error}; choose another with {flag}", file=sys.stderr)
        return FAILED
