"""What happened to a request: one `Journey` is stamped along the way and shown to observers at the stages they name.

The core knows nothing of metrics or logs; those are observers. Times are seconds of the injected monotonic clock.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum, auto
from typing import Protocol

from router.call import Trace
from router.errors import Outcome, RequestError
from router.usage import Usage

Clock = Callable[[], float]


GAPS_PER_BATCH = 256
"""Times between events kept per stream before observers take them: 8 KB, and few answers are longer."""


class RouteKind(StrEnum):
    """Which way a request went: over both pools, decode alone, an aggregated engine, or nowhere."""

    DISAGGREGATED = "disaggregated"
    LOCAL = "local"
    AGGREGATED = "aggregated"
    NONE = "none"


class Stage(IntEnum):
    """The points of a request's life at which observers are called."""

    QUEUED = auto()
    CHOSEN = auto()
    PREFILLED = auto()
    FELL_BACK = auto()
    RETRIED = auto()
    COMMITTED = auto()
    PACED = auto()
    SETTLED = auto()


@dataclass(slots=True)
class Journey:
    """One request's life. `model` is the label for metrics: a model of the fleet, or `other`.

    `arm` is the mode that the request is routed in while two are compared, else empty.

    Times that several observers tell are worked out once, when they are known: `prefill_s`, the prefill leg, from its
    request to its judged answer; `handoff_s`, from there to the first event of decode, the KV hand-over as the client
    feels it; `ttft_s` from the request's arrival to the first byte of its answer, `total_s` to its end.
    """

    request_id: str
    api: str
    received_at: float
    clock: Clock = field(repr=False)
    observers: "Observers" = field(repr=False)
    trace: Trace | None = None
    model: str = "other"
    stream: bool = False
    prompt_tokens: int = 0
    route: RouteKind = RouteKind.NONE
    reason: str = ""
    placing_at: float | None = None
    arm: str = ""
    queue: str = ""
    queue_s: float = 0.0
    prefill: str | None = None
    decode: str | None = None
    retries: int = 0
    retry_leg: str | None = None
    retry_reason: str | None = None
    fallback_reason: str | None = None
    fallback_detail: str | None = None
    prefill_sent_at: float | None = None
    prefilled_at: float | None = None
    prefill_s: float | None = None
    committed_at: float | None = None
    handoff_s: float | None = None
    ttft_s: float | None = None
    settled_at: float | None = None
    total_s: float = 0.0
    events: int = 0
    event_gaps_s: list[float] = field(default_factory=list, repr=False)
    answer_bytes: int = 0
    prefill_usage: Usage | None = None
    usage: Usage | None = None
    outcome: Outcome | None = None
    status: int | None = None
    error: RequestError | None = None

    def queued(self, pool: str, wait_s: float) -> None:
        """The request had to wait for room in a pool."""
        self.queue, self.queue_s = pool, wait_s
        self._show(Stage.QUEUED)

    def chosen(self, route: RouteKind, reason: str, decode: str, prefill: str | None) -> None:
        """A route was chosen and granted; a further one, after a failed try, is not shown again."""
        first = self.decode is None
        self.route, self.reason, self.decode, self.prefill = route, reason, decode, prefill
        if first:
            self._show(Stage.CHOSEN)

    def retried(self, leg: str, reason: str) -> None:
        """A try failed in a leg, and there is another."""
        self.retries += 1
        self.retry_leg, self.retry_reason = leg, reason
        self._show(Stage.RETRIED)

    def prefill_sent(self) -> None:
        """The prefill leg starts."""
        self.prefill_sent_at = self.clock()

    def prefilled(self) -> None:
        """The prefill engine answered with a usable hand-over."""
        now = self.prefilled_at = self.clock()
        if self.prefill_sent_at is not None:
            self.prefill_s = now - self.prefill_sent_at
        self._show(Stage.PREFILLED)

    def fell_back(self, reason: str, detail: str | None) -> None:
        """There is no hand-over to use; decode computes the prompt itself."""
        self.fallback_reason, self.fallback_detail = reason, detail
        self.route = RouteKind.LOCAL
        self._show(Stage.FELL_BACK)

    @property
    def told_prompt_tokens(self) -> int:
        """Tokens of the prompt as an engine told them, else as they were estimated."""
        told = self.usage or self.prefill_usage
        return told.prompt_tokens if told else self.prompt_tokens

    @property
    def generated_tokens(self) -> int:
        """Tokens of the answer as the engine told them, else its events."""
        return self.usage.generated_tokens if self.usage else self.events

    def paced(self) -> None:
        """Enough times between events have come together: they are shown, and forgotten."""
        self._show(Stage.PACED)
        self.event_gaps_s.clear()

    def committed(self) -> None:
        """The first byte of an answer goes to the client."""
        now = self.committed_at = self.clock()
        self.ttft_s = now - self.received_at
        if self.prefilled_at is not None and self.route is RouteKind.DISAGGREGATED:
            self.handoff_s = now - self.prefilled_at
        self._show(Stage.COMMITTED)

    def settled(self, outcome: Outcome, status: int | None, error: RequestError | None = None) -> None:
        """The request is over; called once."""
        assert self.outcome is None, f"settled twice: {self!r}"
        now = self.settled_at = self.clock()
        self.total_s = now - self.received_at
        self.outcome, self.status, self.error = outcome, status, error
        self._show(Stage.SETTLED)

    @property
    def trace_id(self) -> str | None:
        """Under which the request is recorded; None when it is not."""
        return self.trace.trace_id if self.trace else None

    def _show(self, stage: Stage) -> None:
        for note in self.observers.at[stage]:
            note(self)


class NoTraces:
    """Records nothing; a client's context goes on to the engines as it came."""

    def begin(self, trace: Trace, _path: str, _received_at: float) -> Trace:
        """The same."""
        return trace

    async def close(self) -> None:
        """Nothing is left to do."""


Note = Callable[[Journey], None]
"""Takes note of a stage that a journey has just reached. It must not raise and must not wait."""


class Observer(Protocol):
    """A sink for what happens: metrics, log, traces."""

    @property
    def notes(self) -> Mapping[Stage, Note]:
        """What is to be called, by the stages that it has a use for."""


class Observers:
    """All observers, in order; their notes sorted by stage, so that no request asks who wants to hear what."""

    def __init__(self, *observers: Observer) -> None:
        self.all = observers
        every = [one.notes for one in observers]
        self.at = {stage: tuple(notes[stage] for notes in every if stage in notes) for stage in Stage}


class Traces(Protocol):
    """Decides which requests are recorded as traces."""

    def begin(self, trace: Trace, path: str, received_at: float) -> Trace:
        """What names a request from now on, given what its client sent."""

    async def close(self) -> None:
        """Send what was recorded; may take seconds."""


class ReleaseObserver(Protocol):
    """Is told what became of KV that no decode engine will pull."""

    def released(self, reason: str) -> None:
        """A prefill engine was told to free it."""

    def stranded(self, reason: str) -> None:
        """Nobody could be told: the engine holds it until its lease ends."""


class WarmUpObserver(Protocol):
    """Is told how engines met that are new to each other."""

    def warmed_up(self, outcome: str) -> None:
        """A warm-up has ended: `ok`, `refused`, or the reason of its fault."""


class EdgeObserver(Protocol):
    """Is told what the edge turned away."""

    def shed(self, reason: str) -> None:
        """A connection or a request, for want of room."""

    def refused(self, code: str) -> None:
        """What is not a request that is answered here, or came too slowly."""
