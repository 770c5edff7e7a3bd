"""How does one start several simulated engines at once?"""

import asyncio
from dataclasses import replace

from router.sim.config import Role, SimConfig
from router.sim.engine import SimEngine


class SimFleet:
    """Prefill, decode and aggregated engines of one model in this process, each on a free port of 127.0.0.1.

    `base` gives every engine its settings, but for the role, the seed (one each) and the side channel's port.
    """

    def __init__(
        self, *, prefill: int = 1, decode: int = 1, aggregated: int = 0, base: SimConfig | None = None
    ) -> None:
        self._base = base or SimConfig()
        self.prefill = [self._engine("prefill", number) for number in range(prefill)]
        self.decode = [self._engine("decode", prefill + number) for number in range(decode)]
        self.aggregated = [self._engine("aggregated", prefill + decode + number) for number in range(aggregated)]

    def __repr__(self) -> str:
        return f"<SimFleet {self.engines}>"

    @property
    def engines(self) -> list[SimEngine]:
        """All of them: prefill, decode, aggregated."""
        return [*self.prefill, *self.decode, *self.aggregated]

    async def start(self) -> None:
        """Start all engines; when one cannot start, none is left running."""
        try:
            for engine in self.engines:
                await engine.start()
        except OSError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop all engines."""
        await asyncio.gather(*(engine.stop() for engine in self.engines))

    def outstanding(self) -> dict[str, dict[str, int]]:
        """What each engine still holds, by URL; empty when all are quiet."""
        held = {engine.url: engine.ledger.outstanding() for engine in self.engines}
        return {url: what for url, what in held.items() if what}

    async def __aenter__(self) -> "SimFleet":
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Stop."""
        await self.stop()

    def _engine(self, role: Role, seed: int) -> SimEngine:
        return SimEngine(replace(self._base, role=role, seed=self._base.seed + seed, side_channel_port=0))
