"""How many engines of a pool came unasked a short while ago, and are left alone for now? Pure."""

import math
from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True, slots=True)
class Newcomers:
    """`engines` at the last look; `unasked` came beyond what was wanted, the last at `came_at` (monotonic seconds)."""

    engines: int
    unasked: int = 0
    came_at: float = -math.inf

    def look(self, engines: int, wanted: int, now: float, spared_s: float) -> Self:
        """With those that came since the last look; engines that were too many before are not among them."""
        came = engines - max(self.engines, wanted)
        if came <= 0:
            return replace(self, engines=engines)
        return replace(self, engines=engines, unasked=self.spared(now, spared_s) + came, came_at=now)

    def spared(self, now: float, spared_s: float) -> int:
        """How many are left alone: all of them until the last has been there for `spared_s`."""
        return self.unasked if now < self.came_at + spared_s else 0
