"""Should the prompt be computed on another engine than the answer? The rule, as one pure function.

Two engines pay when what is new in the prompt is long enough that computing it would stall the streams of a decode
engine for longer than handing its KV over takes. What the decode engine has cached already needs neither. How long each
takes is learnt; until it is, thresholds stand for it. Everything that speaks for one or two engines has a name, and the
names are counted.
"""

from enum import StrEnum
from typing import NamedTuple

from router.call import Call
from router.routing.times import Times
from router.settings.routing import Routing


class Reason(StrEnum):
    """Why a request was disaggregated, or not."""

    NOVEL_PROMPT = "novel_prompt"
    FASTER_REMOTE = "faster_remote"
    TRIAL = "trial"
    DECODE_BUSY = "decode_busy"
    ENGINE_REQUIRES = "engine_requires"
    SLOW_HANDOVER = "slow_handover"
    FASTER_LOCAL = "faster_local"
    SHORT_PROMPT = "short_prompt"
    CONTINUATION = "continuation"
    LOW_CONCURRENCY = "low_concurrency"
    NOT_DISAGGREGATABLE = "not_disaggregatable"
    SINGLE_TOKEN = "single_token"  # noqa: S105
    PREFILL_UNAVAILABLE = "prefill_unavailable"
    PREFILL_SATURATED = "prefill_saturated"
    DECODE_UNAVAILABLE = "decode_unavailable"
    DECODE_SATURATED = "decode_saturated"
    FORCED_LOCAL = "forced_local"
    HANDOVER_FAILED = "handover_failed"


MISSED = (Reason.PREFILL_UNAVAILABLE, Reason.PREFILL_SATURATED)
"""The prompt should be computed by a prefill engine, and cannot be now."""

WEIGHED = (Reason.SLOW_HANDOVER, Reason.FASTER_LOCAL)
"""A hand-over would have taken longer, by what has been learnt."""


class Pools(NamedTuple):
    """What the rule must know of the pools: is an engine usable, has one of them room, how busy is the fleet."""

    prefill_usable: bool
    prefill_room: bool
    decode_usable: bool
    inflight: int


class Home(NamedTuple):
    """What the rule must know of the engine that would answer.

    It has `cached_tokens` of the prompt, computes `local_tokens` of other prompts beside its streams, and may need
    another engine for every prompt.
    """

    cached_tokens: int = 0
    local_tokens: int = 0
    decodes_alone: bool = True


def decide(call: Call, home: Home, pools: Pools, rules: Routing, times: Times | None = None) -> tuple[bool, Reason]:
    """Whether to disaggregate `call`, and why. What cannot work comes first, then what would not pay.

    `times` is what each way would take as far as that was learnt, None if nothing was.
    """
    if call.undisaggregatable:
        return False, Reason.NOT_DISAGGREGATABLE
    if call.max_tokens is not None and call.max_tokens <= 1:
        return False, Reason.SINGLE_TOKEN
    if not pools.decode_usable:
        return False, Reason.DECODE_UNAVAILABLE
    remote, reason = _wanted(call, home, pools, rules, times)
    if remote and not pools.prefill_usable:
        return False, Reason.PREFILL_UNAVAILABLE
    if remote and not pools.prefill_room:
        return False, Reason.PREFILL_SATURATED
    return remote, reason


def is_novel(call: Call, cached_tokens: int, rules: Routing) -> bool:
    """Whether so much of a prompt is new to an engine that another one should compute it."""
    novel = call.prompt_tokens - cached_tokens
    large_part = novel >= rules.min_novel_tokens and novel >= rules.min_novel_ratio * call.prompt_tokens
    return large_part or novel >= rules.max_local_tokens


def goes_by_times(call: Call, home: Home, rules: Routing) -> bool:
    """Whether it matters how long each way takes: for prompts that are no short ones, alone or with those under way."""
    return is_novel(call, home.cached_tokens, rules) or _over_budget(call, home, rules)


def _wanted(call: Call, home: Home, pools: Pools, rules: Routing, times: Times | None) -> tuple[bool, Reason]:
    """What would be best if there were a prefill engine with room."""
    if not home.decodes_alone:
        return True, Reason.ENGINE_REQUIRES
    if rules.mode == "local":
        return False, Reason.FORCED_LOCAL
    if rules.mode == "disaggregated":
        return True, Reason.NOVEL_PROMPT
    if times is not None and (by_times := _by_times(call, home, times, rules)):
        return by_times
    against = _does_not_pay(call, home, pools, rules)
    if against is None:
        return True, Reason.NOVEL_PROMPT
    if pools.prefill_room and _over_budget(call, home, rules):
        return True, Reason.DECODE_BUSY
    return False, against


def _by_times(call: Call, home: Home, times: Times, rules: Routing) -> tuple[bool, Reason] | None:
    """What is faster, where that is known and matters; None leaves it to the thresholds."""
    if not goes_by_times(call, home, rules):
        return None
    staying_s = times.cost_of_staying_s(rules.stall_weight)
    if max(times.handover_s or 0.0, times.late_s) >= staying_s:
        return False, Reason.SLOW_HANDOVER
    if times.remote_s is None or not times.stay_is_known:
        return None
    return (True, Reason.FASTER_REMOTE) if times.remote_s < staying_s else (False, Reason.FASTER_LOCAL)


def _does_not_pay(call: Call, home: Home, pools: Pools, rules: Routing) -> Reason | None:
    if not is_novel(call, home.cached_tokens, rules):
        return Reason.CONTINUATION if is_novel(call, 0, rules) else Reason.SHORT_PROMPT
    novel = call.prompt_tokens - home.cached_tokens
    if pools.inflight < rules.min_concurrency and novel < rules.long_prompt_tokens:
        return Reason.LOW_CONCURRENCY
    return None


def _over_budget(call: Call, home: Home, rules: Routing) -> bool:
    """Whether short prompts that come together would stall an engine's streams as a long one does."""
    novel = call.prompt_tokens - home.cached_tokens
    return home.local_tokens > 0 and home.local_tokens + novel > rules.local_prefill_budget_tokens
