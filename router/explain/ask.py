"""`pd-router explain BODY.json`: a body is read, a gateway's operations listener asked, and its answer told."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, get_args

import httpx

from router.call import Api
from router.explain.text import text
from router.settings.keys import fault_in
from router.settings.routing import Mode

CLEAN, FAILED, USAGE = 0, 1, 2

TIMEOUT_S = 10.0


class Unanswered(Exception):
    """There is no explanation; says why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `pd-router explain`."""
    add = parser.add_argument
    add("body", metavar="BODY.json", help="file with a request's body as clients send it; - is standard input")
    add("--ops", metavar="URL", default="http://127.0.0.1:8001", help="operations listener (default: %(default)s)")
    add(
        "--api",
        choices=[api.label for api in Api],
        help="which API it is for (default: as the body looks)",
    )
    add("--mode", choices=get_args(Mode), help="under this routing mode (default: the gateway's)")
    add("--session", metavar="ID", help="sent as x-session-id")
    add("--token-env", metavar="NAME", help="environment variable with the token of the operations listener")
    add("--json", action="store_true", help="print the whole answer as JSON")


def run(args: argparse.Namespace) -> int:
    """Ask, and print what the answer is."""
    try:
        body = sys.stdin.buffer.read() if args.body == "-" else Path(args.body).read_bytes()
    except OSError as error:
        sys.stderr.write(f"pd-router: {args.body}: cannot be read: {error.strerror}\n")
        return USAGE
    if args.token_env and (why := fault_in(args.token_env)):
        sys.stderr.write(f"pd-router: --token-env: {why}\n")
        return USAGE
    try:
        tree = ask(args, body)
    except Unanswered as error:
        sys.stderr.write(f"pd-router: {error}\n")
        return FAILED
    sys.stdout.write(json.dumps(tree, indent=1) + "\n" if args.json else text(tree))
    return CLEAN


def ask(args: argparse.Namespace, body: bytes, transport: httpx.BaseTransport | None = None) -> dict[str, Any]:
    """The gateway's explanation. Raises `Unanswered`."""
    headers = {"content-type": "application/json"}
    if args.session:
        headers["x-session-id"] = args.session
    if args.token_env:
        headers["authorization"] = f"Bearer {os.environ[args.token_env]}"
    query = {"api": args.api or api_of(body)} | ({"mode": args.mode} if args.mode else {})
    try:
        with httpx.Client(base_url=args.ops, timeout=TIMEOUT_S, trust_env=False, transport=transport) as client:
            answer = client.post("/explain", content=body, headers=headers, params=query)
            tree: dict[str, Any] = answer.json()
            if answer.is_success:
                return tree
            raise Unanswered(f"{answer.status_code}: {tree['error']['message']}")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unanswered(f"{args.ops} does not answer: {error or type(error).__name__}") from None
    except (ValueError, LookupError, TypeError):
        raise Unanswered(f"{args.ops} is no operations listener of pd-router") from None


def api_of(body: bytes) -> str:
    """Which API a body is for, as far as it shows; what is no JSON is for the gateway to refuse."""
    try:
        fields = json.loads(body)
    except ValueError:
        return Api.CHAT.label
    of_completions = isinstance(fields, dict) and "prompt" in fields and "messages" not in fields
    return Api.COMPLETIONS.label if of_completions else Api.CHAT.label
