"""Which paths does an engine serve, and what does each do?"""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from router.sim import metrics, tokens
from router.sim.answers import Envelope, Reply, StreamedAnswer, WholeAnswer
from router.sim.config import SimConfig
from router.sim.core import CORE_DIED, EngineCore
from router.sim.faults import Fault, Faults
from router.sim.http_server import Exchange
from router.sim.ledger import Ledger
from router.sim.remote_kv import RemoteKv, remote_kv
from router.sim.request import Api as ApiName
from router.sim.request import GenerationRequest, RequestError, admissible, is_token_ids, parse, parse_body
from router.sim.sequence import Listener, Sequence
from router.sim.spoiled import SpoiledReply
from router.sim.text import answer_length

ID_PREFIXES: dict[ApiName, str] = {"chat": "chatcmpl", "completions": "cmpl"}


class Api:
    """Everything that one engine process answers over HTTP."""

    def __init__(self, config: SimConfig, core: EngineCore, ledger: Ledger, faults: Faults) -> None:
        self._config = config
        self._core = core
        self._ledger = ledger
        self._faults = faults
        self._created = int(time.time())
        self._fingerprint = f"vllm-{config.version}-{core.engine_id[:8]}"
        self._generation: dict[str, ApiName] = {"/v1/chat/completions": "chat", "/v1/completions": "completions"}
        self._routes: dict[tuple[str, str], Callable[[Exchange], None]] = {
            ("GET", "/health"): self._health,
            ("GET", "/ping"): self._health,
            ("POST", "/ping"): self._health,
            ("GET", "/version"): self._version,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/load"): self._load,
            ("GET", "/v1/models"): self._models,
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
            ("GET", "/kv_event_sources"): self._kv_event_sources,
            ("POST", "/reset_prefix_cache"): self._reset_prefix_cache,
            ("GET", "/sim/ledger"): self._read_ledger,
            ("GET", "/sim/faults"): self._read_faults,
            ("POST", "/sim/faults"): self._add_faults,
            ("DELETE", "/sim/faults"): self._clear_faults,
        }

    def serve(self, exchange: Exchange) -> None:
        """Answer, now or later, with whatever fault is due."""
        self._ledger.totals.arrived += exchange.path in self._generation
        fault = self._faults.pick(exchange.path)
        if fault is None:
            self._route(exchange, None)
            return
        self._ledger.totals.faults += 1
        match fault.kind:
            case "status":
                body = fault.body.encode() if fault.body is not None else None
                exchange.respond(fault.status, body or RequestError("Injected", status=fault.status).body())
            case "reset":
                exchange.reset()
            case "hang":
                pass
            case "empty_200":
                exchange.respond(200, b"")
            case "wrong_content_type":
                exchange.respond(200, b"<html><body>It works!</body></html>", "text/html")
            case "delay":
                asyncio.get_running_loop().call_later(fault.delay_s or 0.0, self._route, exchange, None)
            case _:
                self._route(exchange, fault)

    def _route(self, exchange: Exchange, fault: Fault | None) -> None:
        if not exchange.open:
            return
        try:
            if exchange.method == "POST" and exchange.path in self._generation:
                self._generate(exchange, self._generation[exchange.path], fault)
            elif (exchange.method, exchange.path) in self._routes:
                self._routes[exchange.method, exchange.path](exchange)
            else:
                self._not_found(exchange)
        except RequestError as error:
            exchange.respond(error.status, error.body())

    # Generation

    def _generate(self, exchange: Exchange, api: ApiName, fault: Fault | None) -> None:
        self._ledger.totals.requests += 1
        if self._core.dead:
            self._ledger.totals.failed += 1
            raise RequestError(CORE_DIED, status=500)
        try:
            request = parse(api, exchange.body)
            remote = remote_kv(request.kv_transfer_params) if self._config.has_connector else None
            self._admit(request, remote)
        except RequestError:
            self._ledger.totals.refused += 1
            raise
        generation = _Generation(self._core, self._ledger)
        exchange.on_gone = generation.abort
        reply: Reply = exchange
        if fault is not None:
            reply = SpoiledReply(exchange, fault, generation.abort)
        request_id = exchange.headers.get("x-request-id") or uuid.uuid4().hex
        envelope = Envelope(
            f"{ID_PREFIXES[api]}-{request_id}",
            int(time.time()),
            request.model or self._config.model,
            self._fingerprint,
            tells_cached=self._config.enable_prompt_tokens_details,
        )
        answer = (StreamedAnswer if request.stream else WholeAnswer)(request, envelope, reply, generation.ended)
        session = exchange.headers.get("x-session-id")
        sequences = [*self._sequences(request, remote, envelope, answer)]
        for sequence in sequences:
            sequence.session = session
        generation.start(sequences)

    def _admit(self, request: GenerationRequest, remote: RemoteKv | None) -> None:
        try:
            admissible(request, self._config.served_models, self._config.context_tokens)
        except RequestError:
            self._core.scheduler.refuse(remote)
            raise

    def _sequences(
        self, request: GenerationRequest, remote: RemoteKv | None, envelope: Envelope, listener: Listener
    ) -> Iterator[Sequence]:
        asked = request.kv_transfer_params or {}
        hold_kv = self._config.has_connector and asked.get("do_remote_decode") is True
        for number, prompt in enumerate(request.prompts):
            length, reason = answer_length(request, prompt, self._config.context_tokens)
            for choice in range(request.n):
                index = number * request.n + choice
                marks = f"{index}_" if request.n * len(request.prompts) > 1 else ""
                yield Sequence(
                    request_id=f"{marks}{envelope.answer_id}-{uuid.uuid4().hex[:8]}",
                    prompt=prompt,
                    max_tokens=length,
                    finish_reason=reason,
                    listener=listener,
                    index=index,
                    choice=choice,
                    cache_salt=request.cache_salt,
                    remote_kv=remote,
                    hold_kv=hold_kv,
                )

    # Everything else

    def _not_found(self, exchange: Exchange) -> None:
        known = {path for _, path in self._routes} | self._generation.keys()
        if exchange.path in known:
            raise RequestError("Method Not Allowed", status=405)
        raise RequestError("Not Found", status=404)

    def _health(self, exchange: Exchange) -> None:
        exchange.respond(503 if self._core.dead else 200, b"")

    def _version(self, exchange: Exchange) -> None:
        _json(exchange, {"version": self._config.version})

    def _metrics(self, exchange: Exchange) -> None:
        body = metrics.page(self._config, self._core.counters, self._ledger.gauges())
        exchange.respond(200, body, "text/plain; version=0.0.4; charset=utf-8")

    def _load(self, exchange: Exchange) -> None:
        _json(exchange, {"server_load": self._ledger.gauges().exchanges_open})

    def _models(self, exchange: Exchange) -> None:
        cards: list[dict[str, object]] = [
            {
                "id": name,
                "object": "model",
                "created": self._created,
                "owned_by": "vllm",
                "root": self._config.model,
                "parent": None,
                "max_model_len": self._config.context_tokens,
                "permission": [],
            }
            for name in self._config.served_models
        ]
        _json(exchange, {"object": "list", "data": cards})

    def _tokenize(self, exchange: Exchange) -> None:
        body = _read(exchange)
        (prompt, *_) = parse_body("chat" if "messages" in body else "completions", body).prompts
        ids = tokens.to_ids(prompt)
        answer = {"count": len(ids), "max_model_len": self._config.context_tokens, "tokens": ids, "token_strs": None}
        _json(exchange, answer)

    def _detokenize(self, exchange: Exchange) -> None:
        ids = _read(exchange).get("tokens")
        if not is_token_ids(ids):
            raise RequestError("tokens must be a list of token ids.", param="tokens")
        _json(exchange, {"prompt": tokens.decode(tokens.from_ids(ids))})

    def _kv_event_sources(self, exchange: Exchange) -> None:
        config = self._config
        source = {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": config.kv_events,
            "replay_endpoint": config.kv_events_replay,
            "topic": config.kv_events_topic,
        }
        _json(exchange, {"0": source} if config.kv_events else {})

    def _reset_prefix_cache(self, exchange: Exchange) -> None:
        exchange.respond(200 if self._core.cache.reset() else 503, b"")

    def _read_ledger(self, exchange: Exchange) -> None:
        _json(exchange, {"engine_id": self._core.engine_id} | self._ledger.snapshot())

    def _read_faults(self, exchange: Exchange) -> None:
        _json(exchange, {"pending": self._faults.snapshot(), "happened": self._faults.happened})

    def _add_faults(self, exchange: Exchange) -> None:
        try:
            value = orjson.loads(exchange.body)
            faults = [Fault.from_json(item) for item in (value if isinstance(value, list) else [value])]
        except ValueError as error:
            raise RequestError(str(error)) from error
        _json(exchange, {"added": len(faults)})
        self._faults.add(*faults)

    def _clear_faults(self, exchange: Exchange) -> None:
        self._faults.clear()
        self._core.thaw()
        self._read_faults(exchange)


class _Generation:
    """The sequences of one request; they end together when the client leaves."""

    def __init__(self, core: EngineCore, ledger: Ledger) -> None:
        self._core = core
        self._ledger = ledger
        self._sequences: list[Sequence] = []
        self._over = False

    def start(self, sequences: list[Sequence]) -> None:
        self._sequences = sequences
        for sequence in sequences:
            self._core.scheduler.add(sequence)

    def ended(self, complete: bool) -> None:
        if not self._over:
            self._over = True
            if complete:
                self._ledger.totals.completed += 1
            else:
                self._ledger.totals.failed += 1
                self._abort_sequences()

    def abort(self) -> None:
        if not self._over:
            self._over = True
            self._ledger.totals.aborted += 1
            self._abort_sequences()

    def _abort_sequences(self) -> None:
        for sequence in self._sequences:
            self._core.scheduler.abort(sequence)


def _read(exchange: Exchange) -> dict[str, Any]:
    try:
        body = orjson.loads(exchange.body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"JSON decode error: {error}") from error
    if not isinstance(body, dict):
        raise RequestError("The body must be an object.")
    return body


def _json(exchange: Exchange, value: object) -> None:
    exchange.respond(200, orjson.dumps(value))
