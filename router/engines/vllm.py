"""vLLM with the NIXL connector: prefill with `do_remote_decode`, decode with the parameters that come back, verbatim.

Measured on vLLM 0.32 with NIXL 1.5. A stream's prefill answer carries no parameters, hence `stream: false`. A request
that decode refuses after validation (an unknown model) makes it tell prefill at once that the blocks are free: the
cheapest release there is, without a decode slot or a byte pulled.
"""

from typing import Any

import orjson

from router.call import TOKEN_LIMITS, Call
from router.engines.dialect import Source
from router.engines.handoff import Handoff, validated
from router.engines.plain import Plain
from router.errors import BadAnswer
from router.usage import Usage

NO_SUCH_MODEL = "pd-router/release"
"""A name that no engine serves."""

HIDDEN_FROM_PREFILL = ("stream_options", "min_tokens")


class VllmNixl(Plain):
    """The dialect of vLLM engines that are paired by the NIXL connector; alone, they take plain requests."""

    name = "vllm-nixl"
    decodes_alone = True
    release_status = 404

    def prefill_body(self, call: Call) -> bytes:
        """The client's body for one token, not streamed, asking for the KV to be kept."""
        fields = {k: v for k, v in call.wire.items() if k not in HIDDEN_FROM_PREFILL}
        limits = [k for k in TOKEN_LIMITS if k in fields] or ["max_tokens"]
        fields |= dict.fromkeys(limits, 1)
        fields |= {"stream": False, "n": 1, "kv_transfer_params": {"do_remote_decode": True}}
        return orjson.dumps(fields)

    def handoff(self, call: Call, answer: bytes, source: Source) -> Handoff | None:
        """The `kv_transfer_params` of the answer, validated; None when its one token ended the text."""
        try:
            content = orjson.loads(answer)
        except orjson.JSONDecodeError:
            raise BadAnswer("prefill answer is not JSON") from None
        if not isinstance(content, dict):
            raise BadAnswer("prefill answer is not an object")
        parameters = content.get("kv_transfer_params")
        if parameters is None and _finish_reason(content) == "stop":
            return None
        return Handoff(
            call,
            validated(parameters, peers=source.peers, allowed_hosts=source.kv_hosts),
            unfinished_at=source.unfinished_at,
            max_age_s=source.max_age_s,
            usage=Usage.of(content),
        )

    def decode_body(self, call: Call, handoff: Handoff, now: float) -> bytes:
        """The client's body with the parameters."""
        return orjson.dumps({**call.wire, "kv_transfer_params": handoff.spend(call, now)})

    def release_body(self, handoff: Handoff) -> bytes:
        """A chat request that is refused with 404 after validation, which gives the blocks back."""
        return orjson.dumps({"model": NO_SUCH_MODEL, "messages": [], "kv_transfer_params": handoff.surrender()})


def _finish_reason(content: dict[str, Any]) -> object:
    choices = content.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0].get("finish_reason")
    return None
