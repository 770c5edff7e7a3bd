"""Should the prompt be computed on another engine than the answer? The rule, as one pure function.

Two engines pay when the prompt is long enough that computing it would stall the streams of a decode engine for longer
than handing its KV over takes. Everything that speaks against it has a name, and the names are counted.
"""

from dataclasses import dataclass
from enum import StrEnum

from router.call import Call
from router.settings import Routing


class Reason(StrEnum):
    """Why a request was disaggregated, or not."""

    NOVEL_PROMPT = "novel_prompt"
    SHORT_PROMPT = "short_prompt"
    LOW_CONCURRENCY = "low_concurrency"
    NOT_DISAGGREGATABLE = "not_disaggregatable"
    SINGLE_TOKEN = "single_token"  # noqa: S105
    PREFILL_UNAVAILABLE = "prefill_unavailable"
    PREFILL_SATURATED = "prefill_saturated"
    DECODE_UNAVAILABLE = "decode_unavailable"
    DECODE_SATURATED = "decode_saturated"
    FORCED_LOCAL = "forced_local"
    HANDOVER_FAILED = "handover_failed"


@dataclass(frozen=True, slots=True)
class Pools:
    """What the rule must know of the pools: is an engine usable, has one of them room, how busy is the fleet."""

    prefill_usable: bool
    prefill_room: bool
    decode_usable: bool
    inflight: int


def decide(call: Call, pools: Pools, rules: Routing) -> tuple[bool, Reason]:
    """Whether to disaggregate `call`, and why. What cannot work comes first, then what would not pay."""
    if call.undisaggregatable:
        return False, Reason.NOT_DISAGGREGATABLE
    if call.max_tokens is not None and call.max_tokens <= 1:
        return False, Reason.SINGLE_TOKEN
    if not pools.decode_usable:
        return False, Reason.DECODE_UNAVAILABLE
    if rules.mode == "local":
        return False, Reason.FORCED_LOCAL
    if rules.mode == "auto" and (against := _does_not_pay(call, pools, rules)):
        return False, against
    if not pools.prefill_usable:
        return False, Reason.PREFILL_UNAVAILABLE
    if not pools.prefill_room:
        return False, Reason.PREFILL_SATURATED
    return True, Reason.NOVEL_PROMPT


def _does_not_pay(call: Call, pools: Pools, rules: Routing) -> Reason | None:
    if call.prompt_tokens < rules.min_novel_tokens:
        return Reason.SHORT_PROMPT
    if pools.inflight < rules.min_concurrency and call.prompt_tokens < rules.long_prompt_tokens:
        return Reason.LOW_CONCURRENCY
    return None
