"""What is to go wrong on an engine, how often, and with which requests?"""

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

FaultKind = Literal[
    # to the request
    "status",
    "reset",
    "hang",
    "delay",
    "empty_200",
    "wrong_content_type",
    # to the answer
    "late_answer",
    "missing_params",
    "malformed_params",
    "first_event_error",
    "mid_stream_error",
    "die_after_tokens",
    "truncate",
    "big_event",
    "garbage",
    # to the engine
    "freeze",
    "restart",
    "kill",
    "core_death",
]
ENGINE_FAULTS = frozenset({"freeze", "restart", "kill", "core_death"})
GENERATION_PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})


@dataclass
class Fault:
    """One thing that goes wrong.

    `kind`, what it does:

    - `status`: answers `status` with `body`, or vLLM's error object when there is none.
    - `reset`: RST before any byte of an answer. `hang`: accepts the request and never answers.
    - `delay`: starts `delay_s` late. `late_answer`: does the work, then holds the answer back for `delay_s`.
    - `empty_200`: 200 without a body. `wrong_content_type`: 200 with an HTML page.
    - `missing_params`: a prefill answer without parameters. `malformed_params`: with those that `variant`, one of
      `router.sim.spoiled.VARIANTS`, makes of them.
    - `first_event_error`: as when the KV cannot be loaded. `mid_stream_error`: an error event after `tokens`.
    - `die_after_tokens`: the connection ends after `tokens`, by `how`. `truncate`: a stream ends well after `tokens`
      but without its last events; another answer loses its second half.
    - `big_event`: the first event has `size_bytes`. `garbage`: an event that is no JSON after `tokens`.
    - `freeze`: the engine does nothing for `delay_s` (None: until thawed) while /health answers.
    - `restart`: the process ends and after `delay_s` is back with a new engine id. `kill`: it ends.
    - `core_death`: the engine process dies, its HTTP server a little later.

    The engine's faults happen when they are added. The others happen to the next `count` requests for `path` (None:
    any generation), each with probability `share`; with neither, to all of them.
    """

    kind: FaultKind
    count: int | None = None
    share: float | None = None
    path: str | None = None
    status: int = 500
    body: str | None = None
    delay_s: float | None = None
    tokens: int = 1
    how: Literal["rst", "fin"] = "rst"
    variant: str = "empty_blocks"
    size_bytes: int = 10_000_000

    def __post_init__(self) -> None:
        """Refuse what would silently do nothing."""
        if self.kind not in get_args(FaultKind):
            raise ValueError(f"unknown kind of fault {self.kind!r}, known are {', '.join(get_args(FaultKind))}")
        if self.how not in ("rst", "fin"):
            raise ValueError(f"how must be rst or fin, got {self.how!r}")
        if self.kind in ("delay", "late_answer") and self.delay_s is None:
            raise ValueError(f"{self.kind} needs delay_s")

    @classmethod
    def from_json(cls, value: object) -> "Fault":
        """A fault from its JSON form; raises ValueError."""
        known = {field.name for field in fields(cls)}
        if not isinstance(value, dict) or "kind" not in value or not value.keys() <= known:
            raise ValueError(f"a fault is an object with kind and any of {', '.join(sorted(known))}; got {value!r}")
        return cls(**value)


class Faults:
    """The request faults of one engine that have not happened yet, in the order they were added."""

    def __init__(self, seed: int, engine_fault: Callable[[Fault], None]) -> None:
        self._engine_fault = engine_fault
        self._pending: list[Fault] = []
        self._random = random.Random(seed)
        self.happened = 0

    def __repr__(self) -> str:
        return f"<Faults {[fault.kind for fault in self._pending]}, {self.happened} happened>"

    def add(self, *faults: Fault) -> None:
        """Let these happen too; those of the engine happen now."""
        for fault in faults:
            if fault.kind in ENGINE_FAULTS:
                self.happened += 1
                self._engine_fault(fault)
            else:
                self._pending.append(replace(fault))

    def clear(self) -> None:
        """Let no more happen."""
        self._pending.clear()

    def pick(self, path: str) -> Fault | None:
        """The fault, if any, that happens to a request for `path` that arrives now."""
        for fault in self._pending:
            if path not in ({fault.path} if fault.path else GENERATION_PATHS):
                continue
            if fault.share is not None and self._random.random() >= fault.share:
                continue
            self._use(fault)
            return fault
        return None

    def snapshot(self) -> list[dict[str, Any]]:
        """What is pending, as JSON-able values."""
        return [asdict(fault) for fault in self._pending]

    def _use(self, fault: Fault) -> None:
        self.happened += 1
        if fault.count is not None:
            fault.count -= 1
            if fault.count <= 0:
                self._pending.remove(fault)
