"""How many engines should there be? `autoscale`."""

from pydantic import Field, model_validator

from router.settings.engines import Role
from router.settings.section import Seconds, Section


class PoolSize(Section):
    """How small and how large a pool may be asked to be."""

    min_replicas: int = Field(1, ge=1, description="Fewest engines; a pool of none cannot show that it is needed.")
    max_replicas: int = Field(64, ge=1, description="Most engines; what the budget or the cluster allows.")

    @model_validator(mode="after")
    def _is_a_range(self) -> "PoolSize":
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas must not be above max_replicas")
        return self


class Autoscale(Section):
    """How many engines each pool should have, as `/autoscale` and `desired_replicas` tell; nothing acts on it here."""

    interval_s: Seconds = Field(5, description="Pause between looks at the pools; autoscalers ask every 15 to 30 s.")
    window_s: Seconds = Field(60, description="Loads are means over this time: one burst is no reason for an engine.")
    scale_out_above: float = Field(
        0.8, gt=0, le=1, description="A pool grows when its engines are loaded beyond this share of what they can do."
    )
    scale_in_below: float = Field(
        0.6, gt=0, le=1, description="It shrinks when fewer would be loaded below this; between the two it stays."
    )
    scale_out_pause_s: Seconds = Field(
        180, description="Between two growths: what was asked for has to come up first, which takes minutes."
    )
    scale_in_after_s: Seconds = Field(
        300, description="A surplus must last so long, as loading a model again takes minutes; prefill: and a lease."
    )
    prefill_wait_s: Seconds = Field(
        1,
        description="Time for prefill to compute all it has in flight and in line; part of a first token's 2.5 s.",
    )
    inter_token_s: Seconds = Field(0.05, description="Time between tokens at which decode is full: people read slower.")
    gateways: int = Field(
        1, ge=1, description="Gateways that share the fleet evenly: each counts its own load so many times."
    )
    prefill: PoolSize = Field(PoolSize(), description="Prefill engines of a model.")
    decode: PoolSize = Field(PoolSize(), description="Decode engines of a model.")
    aggregated: PoolSize = Field(PoolSize(), description="Aggregated engines of a model.")

    @model_validator(mode="after")
    def _has_a_band(self) -> "Autoscale":
        if self.scale_in_below >= self.scale_out_above:
            raise ValueError("scale_in_below must be below scale_out_above, or pools would grow and shrink in turns")
        return self

    @model_validator(mode="after")
    def _has_looks_to_compare(self) -> "Autoscale":
        if self.window_s < 2 * self.interval_s:
            raise ValueError("window_s must be at least 2 * interval_s: rates are differences between looks in it")
        return self

    def size(self, role: Role) -> PoolSize:
        """The bounds of a pool."""
        return {Role.PREFILL: self.prefill, Role.DECODE: self.decode, Role.AGGREGATED: self.aggregated}[role]
