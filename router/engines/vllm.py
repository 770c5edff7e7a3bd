"""vLLM with the NIXL connector: prefill with `do_remote_decode`, decode with the parameters that come back, verbatim.

Measured on vLLM 0.32 with NIXL 1.5. A stream's prefill answer carries no parameters, hence `stream: false`. A request
that decode refuses after validation (an unknown model) makes it tell prefill at once that the blocks are free: the
cheapest release there is, without a decode slot or a byte pulled.
"""

import re
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

ONE_TOKEN_KEPT = {"stream": False, "n": 1, "kv_transfer_params": {"do_remote_decode": True}}

CACHE_CONFIG = b"\nvllm:cache_config_info"


class VllmNixl(Plain):
    """The dialect of vLLM engines that are paired by the NIXL connector; alone, they take plain requests."""

    name = "vllm-nixl"
    decodes_alone = True
    release_status = 404

    def prefill_body(self, call: Call) -> bytes:
        """The client's body for one token, not streamed, asking for the KV to be kept."""
        fields = {**call.wire, **ONE_TOKEN_KEPT}
        for name in HIDDEN_FROM_PREFILL:
            fields.pop(name, None)
        limits = [name for name in TOKEN_LIMITS if name in fields]
        for name in limits or ("max_tokens",):
            fields[name] = 1
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


def cache_tokens(page: bytes) -> int | None:
    """How many tokens the engine's KV cache holds, by its metrics page; None where the page does not tell.

    A search for one line: a parser would take 15 ms for the whole page.
    """
    _, _, rest = page.partition(CACHE_CONFIG)
    line = rest.partition(b"\n")[0]
    size, count = (re.search(b'[{,]%s="(\\d{1,9})"' % name, line) for name in (b"block_size", b"num_gpu_blocks"))
    return int(size[1]) * int(count[1]) or None if size and count else None


def _finish_reason(content: dict[str, Any]) -> object:
    choices = content.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0].get("finish_reason")
    return None
