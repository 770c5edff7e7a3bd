"""How much was new in what each engine was sent lately? Told by prompts, so that no clock is needed."""

from collections.abc import Sequence

from router.fleet.backend import Backend

REMEMBERED = 32
"""Prompts for each engine over which what it was given is summed up."""

RESCALE_AT = 1e12


class Given:
    """Tokens that were new to engines when they were sent there, the further back the less.

    Instead of all sums shrinking with every prompt, what is added grows, until all are scaled down.
    """

    def __init__(self) -> None:
        self._sums: dict[Backend, float] = {}
        self._weight = 1.0

    def lately(self, engines: Sequence[Backend], times: float = 1.0) -> list[float]:
        """The sum for each of some engines, `times` a factor."""
        sums, scale = self._sums.get, times / self._weight
        return [scale * sums(engine, 0) for engine in engines]

    def note(self, engine: Backend, tokens: float, among: int) -> None:
        """`engine`, one of so many, was sent that. Those that have not been sent anything for long are forgotten."""
        self._weight *= 1 + 1 / (REMEMBERED * among)
        self._sums[engine] = self._sums.get(engine, 0) + self._weight * tokens
        if self._weight > RESCALE_AT:
            scaled = {known: total / self._weight for known, total in self._sums.items()}
            self._sums = {known: total for known, total in scaled.items() if total >= 1}
            self._weight = 1.0
