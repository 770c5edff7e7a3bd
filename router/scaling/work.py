"""How fast do prefill engines compute, and how much is asked of them? Counted request by request; an observer.

What an engine can do at its peak is measured while it works: tokens over the time in which it had any prompt at all.
So the figure is right however much or little there is to do.
"""

from collections.abc import Collection
from dataclasses import dataclass

from router.routing.disaggregation import MISSED
from router.telemetry.events import Journey, RouteKind, Stage


@dataclass(slots=True)
class Done:
    """Of one model, since the start: prompts and novel tokens that prefill engines computed, the seconds in which each
    of them was busy, summed up, and the prompt tokens that they should have computed and could not."""

    prompts: int = 0
    tokens: int = 0
    busy_s: float = 0.0
    missed_tokens: int = 0


class PrefillWork:
    """What prefill engines did, by model."""

    def __init__(self) -> None:
        self._done: dict[str, Done] = {}
        self._busy_until: dict[str, float] = {}
        self.notes = {
            Stage.CHOSEN: self._chosen,
            Stage.PREFILLED: self._prefilled,
            Stage.COMMITTED: self._committed,
        }

    def of(self, model: str) -> Done:
        """The counts of a model; they go on counting."""
        done = self._done.get(model)
        if done is None:
            done = self._done[model] = Done()
        return done

    def keep(self, models: Collection[str], engines: Collection[str]) -> None:
        """Forget what has left the fleet."""
        self._done = {model: done for model, done in self._done.items() if model in models}
        self._busy_until = {engine: at for engine, at in self._busy_until.items() if engine in engines}

    def _chosen(self, journey: Journey) -> None:
        if journey.reason in MISSED:
            self.of(journey.model).missed_tokens += journey.prompt_tokens

    def _prefilled(self, journey: Journey) -> None:
        """An engine's prompts end about in the order in which they came, so each adds what none before it covered."""
        began, ended, engine = journey.prefill_sent_at, journey.prefilled_at, journey.prefill
        if began is None or ended is None or engine is None:
            return
        done = self.of(journey.model)
        done.prompts += 1
        done.busy_s += max(0.0, ended - max(began, self._busy_until.get(engine, began)))
        self._busy_until[engine] = ended

    def _committed(self, journey: Journey) -> None:
        if journey.route is RouteKind.DISAGGREGATED:
            self.of(journey.model).tokens += _novel_tokens(journey)


def _novel_tokens(journey: Journey) -> int:
    """What was computed of a prompt, as the engine told, else as it was estimated."""
    usage = journey.prefill_usage
    return usage.prompt_tokens - (usage.cached_tokens or 0) if usage else journey.prompt_tokens
