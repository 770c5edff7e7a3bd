"""A request's life at chosen times, for what observes it."""

from collections.abc import Sequence

from router.telemetry.events import Journey, Observer, Stage


class Clock:
    """Time that a test moves."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Notes:
    """An observer that writes down the stages it is shown."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []

    def observe(self, stage: Stage, journey: Journey) -> None:
        """Part of `Observer`."""
        self.stages.append(stage)


def a_journey(clock: Clock | None = None, observers: Sequence[Observer] = ()) -> Journey:
    """A chat request that has just come in."""
    clock = clock or Clock()
    return Journey("r-1", "chat", clock(), clock, observers, model="sim-8b", stream=True, prompt_tokens=600)
