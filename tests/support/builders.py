"""Calls, engines and claims for tests: valid unless a test says otherwise, small, and without a clock of their own."""

import random
from collections.abc import Mapping
from typing import Any

import orjson

from router.call import Api, Call, Trace, parse
from router.engines.dialect import Source
from router.engines.handoff import Handoff, KvPeers
from router.errors import Leg
from router.exchange.budget import RetryBudget
from router.fleet.backend import Backend, ModelCard
from router.fleet.fleet import Fleet
from router.fleet.pairs import Pairs
from router.retries import Retries
from router.settings.engines import BackendSettings, Role
from router.settings.exchange import Retries as RetryRules
from router.settings.fleet import PairRules, Probes
from router.telemetry.events import Clock

MODEL = "sim-8b"


def a_body(**fields: Any) -> bytes:
    """A chat request; `fields` add to it and override."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Why two pools?"}], "max_tokens": 20}
    return orjson.dumps(body | fields)


def a_call(*, api: Api = Api.CHAT, request_id: str = "r-1", prompt_tokens: int | None = None, **fields: Any) -> Call:
    """A parsed chat request; with `prompt_tokens`, its text is that long (template tokens included)."""
    if prompt_tokens is not None:
        fields["messages"] = [{"role": "user", "content": "four" * (prompt_tokens - 4)}]
    return parse(api, a_body(**fields), Trace(request_id))


def a_completion(**fields: Any) -> Call:
    """A parsed completions request."""
    body = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 20}
    return parse(Api.COMPLETIONS, orjson.dumps(body | fields), Trace("r-1"))


def a_backend(
    role: Role | str = Role.DECODE,
    port: int = 8000,
    *,
    up: bool = True,
    requests: int = 0,
    tokens: int = 0,
    probes: Probes | None = None,
    key: str | None = None,
    max_age_s: float | None = None,
    **settings: Any,
) -> Backend:
    """An engine that serves `MODEL` and has been found well, with some load on it."""
    settings.setdefault("models", (MODEL,))
    configured = BackendSettings(url=f"http://127.0.0.1:{port}", role=Role(role), **settings)
    backend = Backend(configured, probes or Probes(), now=0.0, key=key, max_age_s=max_age_s)
    backend.models = {name: ModelCard(name) for name in settings["models"]}
    backend.load.requests, backend.load.tokens = requests, tokens
    if up:
        backend.standing.good_probe(0.0)
    return backend


def paced(
    backend: Backend, *, prefill_tokens_per_s: float | None = None, decode_tokens_per_s: float | None = None
) -> Backend:
    """The same engine, whose requests have shown it to be that fast."""
    for pace, speed in ((backend.paces.compute, prefill_tokens_per_s), (backend.paces.decode, decode_tokens_per_s)):
        for tokens in (256, 4096, 16_384) if speed else ():
            pace.note(tokens, tokens / speed)  # type: ignore[operator]
    return backend


def linked(prefill: Backend, decode: Backend, *, s_per_token: float, fixed_s: float = 0.01) -> None:
    """Hand-overs from one to the other have taken so long."""
    for tokens in (256, 4096, 16_384):
        decode.links.begin(prefill.id, tokens, 0.0).arrived(fixed_s + s_per_token * tokens)


def a_retries(fleet: Fleet, clock: Clock = lambda: 0.0, pairs: Pairs | None = None, **rules: Any) -> Retries:
    """Retries without pauses unless `rules` say otherwise; nobody hears of engines' states."""
    made = RetryRules(**({"min_pause_s": 0, "max_pause_s": 0} | rules))
    return Retries(
        fleet=fleet,
        pairs=pairs or Pairs(PairRules()),
        rules=made,
        fails_without_prefill=False,
        total_s=600,
        clock=clock,
        rng=random.Random(0),
        notice=lambda _: None,
        full=lambda _: None,
        budgets={leg: RetryBudget(made) for leg in Leg},
    )


def kv_params(**fields: Any) -> dict[str, Any]:
    """What a vLLM prefill engine returns for a prompt of two blocks."""
    return {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "remote_block_ids": [[1, 2]],
        "remote_engine_id": "engine-1",
        "remote_request_id": "chatcmpl-r-1-0a1b2c3d",
        "remote_host": "127.0.0.1",
        "remote_port": 5600,
        "tp_size": 1,
        "remote_num_tokens": 147,
        "remote_blocks_expiry_time": None,
    } | fields


def a_prefill_answer(parameters: object, **fields: Any) -> bytes:
    """The body of a prefill engine's 200 answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "T"}, "finish_reason": "length"}
    usage = {"prompt_tokens": 147, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 96}}
    return orjson.dumps({"choices": [choice], "usage": usage, "kv_transfer_params": parameters} | fields)


def a_source(peers: KvPeers | None = None, *, kv_hosts: tuple[str, ...] = (), unfinished_at: float = 0.0) -> Source:
    """A prefill engine whose hand-overs may be 10 s old."""
    return Source({} if peers is None else peers, kv_hosts, unfinished_at, max_age_s=10.0)


def a_handoff(
    call: Call | None = None, parameters: Mapping[str, Any] | None = None, *, unfinished_at: float = 0.0
) -> Handoff:
    """A fresh claim for `call`, good for 10 s after `unfinished_at`."""
    return Handoff(
        call or a_call(), kv_params() if parameters is None else parameters, unfinished_at=unfinished_at, max_age_s=10
    )
