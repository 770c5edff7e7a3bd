"""`pd-router bench load URL`: what is asked, of whom, and how is it told? And the other tools of `bench`."""

import argparse
import asyncio
import json
import os
import sys
from typing import Any

import httpx
import orjson
from rich.console import Console

from router.arguments import count, positive
from router.bench.load import Plan, Record
from router.bench.load import run as run_load
from router.bench.ramp import main as ramp
from router.bench.replay import main as replay
from router.bench.report import table, tree

CLEAN, FAILED = 0, 1


class NoModel(Exception):
    """The gateway cannot be asked which model it serves."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the tools of `pd-router bench` and their arguments."""
    tools = parser.add_subparsers(title="tools", metavar="TOOL", required=True, help="what to run")
    for name, add, function, purpose in (
        ("load", _add_load, _run_load, "ask a gateway for streams and check every answer"),
        ("replay", replay.add_arguments, replay.run, "replay a trace against a simulated fleet, policy by policy"),
        ("ramp", ramp.add_arguments, ramp.run_ramp, "let load rise and fall over a fleet that is scaled by it"),
    ):
        tool = tools.add_parser(name, help=purpose, description=f"{purpose.capitalize()}.", allow_abbrev=False)
        tool.set_defaults(tool=function)
        add(tool)


def run(args: argparse.Namespace) -> int:
    """Run one of the tools."""
    return int(args.tool(args))


def _add_load(parser: argparse.ArgumentParser) -> None:
    plan = Plan("")
    add = parser.add_argument
    add("url", metavar="URL", help="the gateway, or an engine: http://host:port")
    loop = parser.add_argument_group("how much at once").add_mutually_exclusive_group()
    loop.add_argument(
        "--streams", type=count, default=plan.streams, metavar="N", help="closed loop: clients (default %(default)s)"
    )
    loop.add_argument("--rate", type=positive, metavar="N", help="open loop: requests that arrive in a second")
    add("--requests", type=count, default=plan.requests, metavar="N", help="how many in all (default %(default)s)")
    add("--model", help="which model (default: the first that URL lists)")
    add("--tokens", type=count, default=plan.tokens, metavar="N", help="max_tokens of a request (default %(default)s)")
    add("--prompt-bytes", type=count, default=plan.prompt_bytes, metavar="N", help="size (default %(default)s)")
    add("--prompts", type=count, default=plan.prompts, metavar="N", help="distinct prompts (default %(default)s)")
    add("--same-text", action="store_true", help="the answers to a prompt must be one text, as temperature is 0")
    add(
        "--extra-body",
        type=_json_object,
        default={"ignore_eos": True},
        metavar="JSON",
        help='further fields of the body (default: {"ignore_eos": true}, so that answers have all their tokens)',
    )
    add(
        "--timeout-s",
        type=positive,
        default=60,
        metavar="S",
        help="longest silence of the gateway (default %(default)s)",
    )
    add("--json", action="store_true", help="print JSON instead of a table")


def _run_load(args: argparse.Namespace) -> int:
    """Run the load and print its figures; 1 when an answer was wrong, or nothing was asked."""
    try:
        plan, record = asyncio.run(_load(args))
    except (httpx.HTTPError, httpx.InvalidURL, NoModel) as error:
        sys.stderr.write(f"pd-router bench: {args.url}: {error or type(error).__name__}\n")
        return FAILED
    if not (record.total_s or record.faults):
        sys.stderr.write(f"pd-router bench: {args.url}: nothing was asked\n")
        return FAILED
    figures = tree(plan, record)
    if args.json:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        Console(highlight=False).print(table(figures))
    return FAILED if record.faults else CLEAN


async def _load(args: argparse.Namespace) -> tuple[Plan, Record]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    key = os.environ.get("PD_ROUTER_API_KEY")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(
        base_url=args.url, timeout=args.timeout_s, limits=limits, headers=headers, trust_env=False
    ) as client:
        plan = Plan(
            model=args.model or await _first_model(client),
            streams=args.streams,
            rate=args.rate,
            requests=args.requests,
            tokens=args.tokens,
            prompt_bytes=args.prompt_bytes,
            prompts=args.prompts,
            same_text=args.same_text,
            extra_body=args.extra_body,
        )
        return plan, await run_load(client, plan)


async def _first_model(client: httpx.AsyncClient) -> str:
    answer = await client.get("/v1/models")
    try:
        return str(answer.raise_for_status().json()["data"][0]["id"])
    except (ValueError, LookupError, TypeError):
        raise NoModel("/v1/models names no model; name one with --model") from None


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("must be a JSON object")
    return value
