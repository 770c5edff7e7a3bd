"""How long did each leg of a call take? Told to the engines' paces and links as soon as it is known.

Legs are timed by what the gateway sees: a prefill leg from its being sent to its answer, a hand-over from there to the
first event of decode, a local prefill from its being sent to its first event. The tokens that each engine had to
compute before are counted with them, so that waiting in line is not taken for slowness. Complete answers tell of the
prefill leg only: their first byte comes with their last.
"""

from types import TracebackType
from typing import Self

from router.call import Call
from router.errors import Outcome
from router.fleet.links import Moving
from router.routing.disaggregation import Reason
from router.routing.policies.burden import tokens_ahead
from router.routing.route import Route

MIN_ANSWER_TOKENS = 8
"""Shorter answers say little of the pace of decode."""


class Timed:
    """One call under way, begun before it is counted on its engines; a context manager around the exchange.

    Times are monotonic seconds, given by the caller.
    """

    __slots__ = (
        "_ahead_tokens",
        "_answered_at",
        "_began_at",
        "_moving",
        "_own_tokens",
        "_prefill_paces",
        "_route",
        "_stream",
        "_to_move",
    )

    def __init__(self, call: Call, route: Route, now: float) -> None:
        self._route = route
        self._stream = call.stream
        self._began_at = now
        self._answered_at: float | None = None
        self._moving: Moving | None = None
        self._own_tokens = max(0, call.prompt_tokens - route.cached_tokens)
        self._to_move = max(0, call.prompt_tokens - route.decode_cached_tokens)
        self._ahead_tokens = tokens_ahead(route.prefill or route.decode)
        self._prefill_paces = route.prefill.paces if route.prefill else None
        if route.prefill is not None:
            route.decode.links.ask(now, route.prefill.id, trial=route.reason == Reason.TRIAL)
        if route.passed_over is not None:
            route.passed_over.links.ask(now)

    def prefill_over(self, outcome: Outcome, now: float) -> None:
        """The prefill leg has ended; if well, the hand-over begins."""
        prefill, decode = self._route.prefill, self._route.decode
        if prefill is None or outcome is not Outcome.OK or prefill.paces is not self._prefill_paces:
            return  # an engine that was forgotten meanwhile is another one now, or none
        prefill.paces.compute.note(self._ahead_tokens + self._own_tokens, now - self._began_at)
        if self._stream:
            self._moving = decode.links.begin(prefill.id, self._to_move, now)

    def answer_began(self, now: float, *, handed_over: bool) -> None:
        """The first event of a stream is there."""
        if not self._stream:
            return
        self._answered_at = now
        moving, self._moving = self._moving, None
        if moving is not None:
            if handed_over:
                moving.arrived(now)
            else:
                moving.gone()
        elif self._route.prefill is None:
            self._route.decode.paces.compute.note(self._ahead_tokens + self._own_tokens, now - self._began_at)

    def ended(self, answer_tokens: int, now: float) -> None:
        """The answer is complete, and its engine had to wait for nobody."""
        if self._answered_at is not None and answer_tokens >= MIN_ANSWER_TOKENS:
            self._route.decode.paces.decode.note(answer_tokens, now - self._answered_at)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._moving is not None:
            self._moving.gone()
