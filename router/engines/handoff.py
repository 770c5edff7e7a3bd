"""What passes from prefill to decode: an opaque, single-use, perishable claim on KV blocks of one engine.

A decode engine that pulls with an old claim, whose blocks were given to somebody else, answers 200 with text computed
from another request's KV. Hence: made from one prefill answer, bound to that call, never sent when over age, sent at
most once, validated before (a malformed one kills or hangs a decode engine), never logged.
"""

from collections.abc import Collection, Mapping, MutableMapping
from enum import Enum
from typing import Any

import orjson

from router.call import Call
from router.errors import BadHandoff
from router.usage import Usage

MAX_HANDOFF_BYTES = 256 << 10
"""A 128k-token prompt in blocks of 16 tokens lists 8,192 block ids, about 50 KB."""

MAX_PEERS = 64
"""Engine ids remembered per backend: one per data-parallel rank and restart."""

KvPeers = MutableMapping[str, tuple[str, int]]
"""KV side channel (host, port) by engine id, as learnt from good hand-overs of one backend."""


class HandoffState(Enum):
    """FRESH may be sent to a decode engine; SENT was; SURRENDERED is only good for giving the blocks back."""

    FRESH = "fresh"
    SENT = "sent"
    SURRENDERED = "surrendered"


class Handoff:
    """A claim on the KV of one prompt, held by one prefill engine.

    `unfinished_at` is the latest moment (monotonic seconds) at which the prompt was certainly not finished: the claim's
    age counts from there, not from receipt, because an engine that froze, or whose answers come late, delivers an
    expired claim as if it were new. `max_age_s` is a fraction of the engine's lease. `usage` is what prefill computed.
    """

    __slots__ = ("_parameters", "call", "max_age_s", "state", "unfinished_at", "usage")

    def __init__(
        self,
        call: Call,
        parameters: Mapping[str, Any],
        *,
        unfinished_at: float,
        max_age_s: float,
        usage: Usage | None = None,
    ) -> None:
        self.call = call
        self._parameters = parameters
        self.unfinished_at = unfinished_at
        self.max_age_s = max_age_s
        self.usage = usage
        self.state = HandoffState.FRESH

    def spend(self, call: Call, now: float) -> Mapping[str, Any]:
        """The parameters, for the one decode leg of `call`.

        Raises `BadHandoff` when it was spent before, belongs to another call, or is over age.
        """
        if self.state is not HandoffState.FRESH:
            raise BadHandoff(f"hand-over used twice: it was {self.state.value}")
        if call is not self.call:
            raise BadHandoff("hand-over of another request")
        if now - self.unfinished_at > self.max_age_s:
            raise BadHandoff(f"hand-over is {now - self.unfinished_at:.1f} s old, allowed are {self.max_age_s:.1f} s")
        self.state = HandoffState.SENT
        return self._parameters

    def surrender(self) -> Mapping[str, Any]:
        """The parameters, for giving the blocks back; it cannot be spent after that.

        Only right while no decode engine can still be pulling: unsent, or refused by the engine that it was sent to.
        """
        if self.state is HandoffState.SURRENDERED:
            raise BadHandoff("hand-over given back twice")
        self.state = HandoffState.SURRENDERED
        return self._parameters

    def __repr__(self) -> str:
        return f"<Handoff {self.call.trace.request_id} {self.state.value} unfinished_at={self.unfinished_at:.3f}>"


def validated(parameters: object, *, peers: KvPeers, allowed_hosts: Collection[str]) -> Mapping[str, Any]:
    """The `kv_transfer_params` of a vLLM prefill answer, checked, and its block ids serialised already.

    Looks only at what must be right for a decode engine to survive it; everything else is opaque. The side channel's
    host must be one of `allowed_hosts`, when there are any; its address is pinned in `peers` by engine id, so that it
    changes only when the engine restarts. Raises `BadHandoff`.
    """
    if not isinstance(parameters, dict):
        raise BadHandoff("prefill answer without kv_transfer_params")
    engine_id = _text(parameters, "remote_engine_id")
    _text(parameters, "remote_request_id")  # without it a decode engine waits for ever
    host = _text(parameters, "remote_host")
    port = parameters.get("remote_port")
    if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
        raise BadHandoff("kv_transfer_params.remote_port is not a port")
    checked = {**parameters, "remote_block_ids": _block_ids(parameters.get("remote_block_ids"))}
    if _size_bytes(checked) > MAX_HANDOFF_BYTES:
        raise BadHandoff(f"kv_transfer_params is larger than {MAX_HANDOFF_BYTES} bytes")
    if allowed_hosts and host not in allowed_hosts:
        raise BadHandoff("kv_transfer_params.remote_host is not one of the engine's kv_hosts")
    if peers.setdefault(engine_id, (host, port)) != (host, port):
        raise BadHandoff("the engine's KV side channel moved without a new engine id")
    while len(peers) > MAX_PEERS:
        del peers[next(iter(peers))]
    return checked


def _size_bytes(parameters: Mapping[str, Any]) -> int:
    """Serialised as a field of a body, which must work later: orjson reads 1,024 levels and writes 254."""
    try:
        return len(orjson.dumps({"kv_transfer_params": parameters}))
    except orjson.JSONEncodeError:
        raise BadHandoff("kv_transfer_params is nested too deeply") from None


def _text(parameters: Mapping[str, Any], name: str) -> str:
    value = parameters.get(name)
    if not isinstance(value, str) or not value:
        raise BadHandoff(f"kv_transfer_params.{name} is missing")
    return value


def _block_ids(ids: object) -> orjson.Fragment:
    """Serialised once for all that is sent with them: not empty, counts, flat or in one list per KV cache group.

    A prompt of 100,000 tokens has 6,250, so that they are not looked at one by one: what is left of their JSON without
    digits tells.
    """
    if isinstance(ids, list) and ids:
        groups = len(ids) if isinstance(ids[0], list) and all(ids) else 0
        try:
            text = orjson.dumps(ids)
        except orjson.JSONEncodeError:  # nested more deeply than can be written
            text = b""
        if text.translate(None, b"0123456789,") == b"[%b]" % (b"[]" * groups):
            return orjson.Fragment(text)
    raise BadHandoff("kv_transfer_params.remote_block_ids is not a list of block ids")
