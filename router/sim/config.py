"""What can be set on a simulated engine?"""

import importlib.util
from dataclasses import dataclass, field
from typing import Literal

from router.sim.latency import PROFILES, LatencyProfile

Role = Literal["prefill", "decode", "aggregated"]
KvLoadFailurePolicy = Literal["fail", "recompute"]


@dataclass(frozen=True)
class SimConfig:
    """One simulated engine.

    Times that belong to the protocol (`lease_s`, `handshake_timeout_s`, `keep_alive_s`, `death_linger_s`) are real
    seconds; times that belong to the hardware (engine steps, transfers, `handshake_s`) are multiplied by `time_scale`.
    An aggregated engine has no KV connector: it ignores `kv_transfer_params` and opens no side channel.
    """

    role: Role = "aggregated"
    model: str = "sim-8b"
    aliases: tuple[str, ...] = ()
    max_model_len_tokens: int = 131_072
    block_size_tokens: int = 16
    kv_blocks: int = 8192
    kv_bytes_per_token: int = 131_072
    """16.8 MB for 128 tokens: the shape of an 8B model with grouped-query attention in bf16."""
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    gpu: str = "instant"
    time_scale: float = 1.0
    decode_step_s: float | None = None
    """Overrides the profile: a step with streams in it takes this long, beside what prompts add to it."""
    link_gb_per_s: float = 12.0
    """What 100 GbE RoCE carries; a queue, so that concurrent pulls share it.

    KV moves at the speed of the slower of two engines, so that a slow prefill engine has a slow link to every decode
    engine, and one beside it a fast one.
    """
    lease_s: float = 30.0
    kv_load_failure_policy: KvLoadFailurePolicy = "fail"
    side_channel_port: int = 0
    handshake_s: float = 0.09
    handshake_timeout_s: float = 5.0
    keep_alive_s: float = 5.0
    death_linger_s: float = 1.0
    """How long a dead engine still answers (503 on /health) before its server is gone too."""
    enable_prompt_tokens_details: bool = False
    """Whether answers tell how much of the prompt was in the prefix cache, as vLLM does when asked to."""
    kv_events: str | None = None
    """Where KV events are published; a ZeroMQ address as vLLM's `--kv-events-config` takes it. None: not at all."""
    kv_events_replay: str | None = None
    kv_events_topic: str = ""
    seed: int = 0
    version: str = field(default="0.32.0", repr=False)

    def __post_init__(self) -> None:
        """Refuse what no engine could run with."""
        if self.gpu not in PROFILES:
            raise ValueError(f"gpu must be one of {', '.join(sorted(PROFILES))}, got {self.gpu!r}")
        for name in ("block_size_tokens", "kv_blocks", "max_num_seqs", "max_num_batched_tokens", "link_gb_per_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.kv_events and not all(importlib.util.find_spec(name) for name in ("zmq", "msgspec")):
            raise ValueError("KV events need pyzmq and msgspec: pip install 'pd-router[kv-events]'")

    @property
    def served_models(self) -> tuple[str, ...]:
        """Every name under which a request may ask for the model."""
        return (self.model, *self.aliases)

    @property
    def context_tokens(self) -> int:
        """The longest prompt and answer together: what one sequence may have, and what the pool can hold of one."""
        return min(self.max_model_len_tokens, self.kv_blocks * self.block_size_tokens)

    @property
    def has_connector(self) -> bool:
        """Whether the engine takes part in KV transfers at all."""
        return self.role != "aggregated"

    @property
    def latency(self) -> LatencyProfile:
        """How long the steps of this engine take."""
        return PROFILES[self.gpu]

    @property
    def block_bytes(self) -> int:
        """Nominal size of one KV block."""
        return self.block_size_tokens * self.kv_bytes_per_token
