"""Can these two engines hand over? One tiny request over both, as a client's goes, with nobody to answer to.

A refused release would make the two shake hands as well, and for less, but says nothing of whether they did: it is
answered before. A pulled token proves the way that requests take.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from router.call import Api, Trace, understand
from router.errors import BadHandoff, EngineTimeout, Leg, Outcome
from router.exchange.exchange import Exchange, Legs
from router.fleet.backend import Backend
from router.telemetry.events import Clock, Journey, Observers, RouteKind


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """A hand-over that both engines answered well. `prompt_tokens` as decode counted them, if it did."""

    prompt_tokens: int | None
    prefill_s: float
    handoff_s: float


def common_model(prefill: Backend, decode: Backend) -> str | None:
    """A model that both serve; the first of decode's list, as adapters come last."""
    return next((model for model in decode.models if model in prefill.models), None)


class Rehearsal:
    """Sends tiny requests over pairs; each may take `timeout_s`."""

    def __init__(self, exchange: Exchange, timeout_s: float, clock: Clock) -> None:
        self._exchange = exchange
        self._timeout_s = timeout_s
        self._clock = clock

    async def of(self, prefill: Backend, decode: Backend, model: str, request_id: str) -> Rehearsed:
        """One hand-over of a prompt that no engine has cached, as it begins with `request_id`, which is unique.

        Raises `EngineRefusal`, and `EngineFault` that knows its leg.
        """
        call = understand(Api.COMPLETIONS, _body(model, request_id), Trace(request_id))
        journey = Journey(request_id, call.api.label, self._clock(), self._clock, Observers())
        journey.chosen(RouteKind.DISAGGREGATED, "rehearsal", decode.id, prefill.id)
        try:
            async with asyncio.timeout(self._timeout_s):
                async with self._exchange.open(call, Legs(decode, prefill, _nobody_waits), journey):
                    journey.committed()
        except TimeoutError:
            leg = Leg.PREFILL if journey.prefilled_at is None else Leg.DECODE
            raise EngineTimeout(f"no answer in {self._timeout_s:g} s").in_leg(leg) from None
        if journey.prefill_s is None or journey.handoff_s is None:
            why = journey.fallback_detail or journey.fallback_reason
            raise BadHandoff(f"there was no hand-over: {why}").in_leg(Leg.PREFILL)
        prompt_tokens = journey.usage.prompt_tokens if journey.usage else None
        return Rehearsed(prompt_tokens, journey.prefill_s, journey.handoff_s)


def _nobody_waits(_: Outcome) -> None:
    """The prefill engine was not counted as busy."""


def _body(model: str, request_id: str) -> dict[str, Any]:
    return {"model": model, "prompt": f"{request_id} says hello to", "max_tokens": 1, "temperature": 0}
