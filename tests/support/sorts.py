"""Requests of every sort, and engines that make each of them go one way only.

Each fault has a model of its own, whose engines always fail in that way, so that it is known of every request how it
must end; chance decides only over order.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from router.call import Api
from router.sim.engine import SimEngine
from router.sim.faults import Fault
from tests.support.books import BOOKS
from tests.support.fleet import Member, engine
from tests.support.scripted_engine import chunk, event, says_and_waits, scripted_engine, stream_head
from tests.support.tally import Sample, Way, sample

PERMITS = 64
"""Of each engine that answers; only the model `narrow` gets as many requests."""

QUEUE = 16

COMPLETIONS = Api.COMPLETIONS.value
"""Faults that keep to this path leave that of releases alone."""

SETTINGS: dict[str, Any] = {
    "admission": {"decode_permits": PERMITS, "prefill_permits": 0, "queue_size": QUEUE},
    "edge": {"max_buffered_body_bytes": 64 << 10, "max_body_bytes": 128 << 10},
    "ejection": {"failures": 1_000_000, "silences": 1_000_000},
    "pairs": {"warm_up": False, "failures": 1_000_000},
    "probes": {"interval_s": 3600, "down_interval_s": 3600},
    "retries": {"share": 1, "reserve": 1_000, "min_pause_s": 0, "max_pause_s": 0.01},
    "timeouts": {"first_event_timeout_s": 3},
}
"""Engines are never judged, so that all of them go on failing; retries are what their limits allow."""

WANTED = ("disaggregated", "novel_prompt")


def fell_back(reason: str, prefills: int, *more: Sample) -> Way:
    """A hand-over that failed for a reason, whereupon decode computed the prompt."""
    counts = [sample("fallback_total", pool="prefill", reason=reason), *more]
    return Way("local", WANTED, prefills, dict.fromkeys(counts, 1))


def prefill_failed(reason: str) -> Way:
    """The only prefill engine did."""
    return fell_back(reason, 0, sample("retries_total", pool="prefill", reason=reason))


def decode_failed(reason: str, kv: Sample) -> Way:
    """Three times: once after a hand-over, whose KV is accounted for, and twice with the whole prompt."""
    return Way("local", WANTED, 1, {sample("retries_total", pool="decode", reason=reason): 2, kv: 1})


def released(reason: str) -> Sample:
    """KV that is given back."""
    return sample("kv_released_total", reason=reason)


@dataclass(frozen=True)
class Sort:
    """A sort of request: so many, for a model, going one way; `fields` are added to the body."""

    requests: int
    model: str
    way: Way
    streams: tuple[bool, ...] = (True, False)
    apis: tuple[Api, ...] = tuple(Api)
    fields: dict[str, Any] = field(default_factory=dict)

    def bodies(self) -> Iterator[tuple[Api, dict[str, Any]]]:
        """The requests, each with a prompt of its own; all of a model begin alike."""
        for number in range(self.requests):
            api, stream = self.apis[number % len(self.apis)], self.streams[number // 2 % len(self.streams)]
            yield api, body_of(api, self.model, number, stream=stream) | self.fields


def body_of(api: Api, model: str, number: int, *, stream: bool) -> dict[str, Any]:
    """A body; every third stream asks for its usage."""
    text = f"{model}, once upon a time, in a fleet of engines, far away. " * 4 + f"Tell the tale {number}."
    prompt = {"messages": [{"role": "user", "content": text}]} if api is Api.CHAT else {"prompt": text}
    options = {"stream_options": {"include_usage": True}} if stream and number % 3 == 0 else {}
    return {"model": model, "stream": stream, "max_tokens": 2 + number % 9, **prompt, **options}


NO_ROUTE = Way("none", None, 0, label="other")
"""What is refused before its model is known."""

TOLD = {"stream": True, "stream_options": {"include_usage": True}}

TOO_OLD = fell_back("over_age", 1, released("over_age"))
LEFT_BEHIND = sample("kv_stranded_total", reason="timeout")

SORTS = (
    Sort(300, "plain", Way()),
    Sort(4, "plain", Way(), fields={"max_tokens": 600}),
    Sort(60, "plain", Way("local", ("local", "single_token"), 0), fields=TOLD | {"max_tokens": 1}),
    Sort(40, "plain", Way("local", ("local", "not_disaggregatable"), 0), fields=TOLD | {"prompt_logprobs": 1}),
    Sort(24, "plain", Way(prefills=0), fields={"temperature": "hot"}),
    Sort(60, "alone", Way("aggregated", ("aggregated", "decode_unavailable"), 0)),
    Sort(60, "one-of-two-prefills", Way()),
    Sort(40, "prefill-fails", prefill_failed("engine_error")),
    Sort(30, "prefill-is-gone", prefill_failed("connect_failed")),
    Sort(30, "prefill-names-nothing", prefill_failed("bad_handoff")),
    Sort(24, "too-old", TOO_OLD),
    Sort(24, "decode-fails", decode_failed("engine_error", released("decode_failed")), apis=(Api.COMPLETIONS,)),
    Sort(24, "decode-refuses", Way(per_request={released("decode_refused"): 1}), apis=(Api.COMPLETIONS,)),
    Sort(30, "breaks-off", Way(), streams=(True,)),
    Sort(12, "decode-hangs", decode_failed("timeout", LEFT_BEHIND), streams=(True,)),
    Sort(20, "headless", Way("none", ("none", "decode_unavailable"), 0)),
    Sort(20, "plain", NO_ROUTE, fields={"kv_transfer_params": {}}),
    Sort(20, "unknown", NO_ROUTE),
)
"""What is read to its end, in any order."""

ROLES = {
    "plain": ("prefill", "prefill", "decode", "decode"),
    "alone": ("aggregated",),
    "narrow": ("decode",),
    "headless": ("prefill",),
    "one-of-two-prefills": ("prefill", "prefill", "decode"),
}
"""The engines of a model; a pair if nothing is said."""

TELLS: dict[str, Any] = {"enable_prompt_tokens_details": True}

TRAITS = {"plain": TELLS, "alone": TELLS, "breaks-off": {"time_scale": 1.0, "decode_step_s": 0.02, "handshake_s": 0}}
"""What is special about the engines of a model. One whose answer breaks off must have begun it by then."""

FAULTS = {
    ("one-of-two-prefills", 0): Fault("status"),
    ("prefill-fails", 0): Fault("status"),
    ("prefill-names-nothing", 0): Fault("missing_params"),
    ("prefill-hangs", 0): Fault("hang"),
    ("decode-fails", 1): Fault("status", path=COMPLETIONS),
    ("decode-refuses", 1): Fault("status", status=400, path=COMPLETIONS),
    ("breaks-off", 1): Fault("mid_stream_error", tokens=1),
    ("decode-hangs", 1): Fault("hang"),
    ("left-in-decode", 1): Fault("hang"),
}
"""What goes wrong on an engine, by its model and number."""

LEFT = {"prefill-hangs": Way(prefills=0), "left-in-decode": Way()}
"""Models whose clients leave, when the engine that hangs has their requests."""

STALLING = [event(text) for text in ("a", "b", "c")]
"""All that the engine which stalls says."""

Engines = dict[str, list[SimEngine]]


@asynccontextmanager
async def fleet() -> AsyncIterator[tuple[Engines, list[dict[str, Any]]]]:
    """Engines by model, and how a gateway's settings list them and one that stalls."""
    engines: Engines = {}
    async with AsyncExitStack() as held:
        for model in ROLES.keys() | {sort.model for sort in SORTS if sort.way is not NO_ROUTE} | set(LEFT):
            roles = ROLES.get(model, ("prefill", "decode"))
            engines[model] = [engine(role, model=model, **TRAITS.get(model, {})) for role in roles]
            for one in engines[model]:
                await one.start()
                held.push_async_callback(one.stop)
                BOOKS.ledgers.append(one.ledger)
        stalling = await held.enter_async_context(scripted_engine(says_and_waits(stream_head(), *map(chunk, STALLING))))
        listed = [(model, Member(one.url, one.config.role)) for model, ones in engines.items() for one in ones]
        backends = [asdict(member) | ({"kv_lease_s": 1e-6} if model == "too-old" else {}) for model, member in listed]
        yield engines, [*backends, asdict(Member(stalling.url, "aggregated"))]


async def let_them_fail(engines: Engines) -> None:
    """From now on every engine fails as its model's name says."""
    for (model, number), fault in FAULTS.items():
        engines[model][number].faults.add(fault)
    await engines["prefill-is-gone"][0].kill()
