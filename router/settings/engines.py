"""Which engines are there, and what is to be known of each? `backends`, and what engines that are found share."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from router.settings.addresses import Origin, ZmqEndpoint
from router.settings.section import Name, Seconds, Section, Variable

HOST = "{host}"


class Role(StrEnum):
    """What an engine is for. An aggregated engine does both phases itself."""

    PREFILL = "prefill"
    DECODE = "decode"
    AGGREGATED = "aggregated"


class KvEvents(Section):
    """Where an engine publishes what is in its KV cache, as it was started with `--kv-events-config`."""

    endpoint: ZmqEndpoint = Field(
        description="Its `endpoint` as it is reached from here, `tcp://host:port` or `ipc://path`; `{host}` stands for "
        "the engine's host."
    )
    replay_endpoint: ZmqEndpoint | None = Field(
        None, description="Its `replay_endpoint`, as above; without it what was missed stays missing."
    )
    topic: str = Field("", description="Beginning of the topics to listen to; empty: all of them.")
    bind: bool = Field(
        False,
        description="Listen at `endpoint` instead of connecting: for an engine that was given an address to "
        "connect to, one without `*` or `::`.",
    )

    def at(self, host: str) -> "KvEvents":
        """The same with the engine's host filled in."""
        replay = self.replay_endpoint
        filled = {
            "endpoint": self.endpoint.replace(HOST, host),
            "replay_endpoint": replay.replace(HOST, host) if replay else None,
        }
        return self.model_copy(update=filled)


class Place(Section):
    """Where an engine is, and what for."""

    url: Origin = Field(description="Origin of the engine, `http://host:port`.")
    role: Role = Field(description="`prefill`, `decode` or `aggregated`.")


class Traits(Section):
    """What else is to be known of an engine."""

    engine: Literal["vllm-nixl"] = Field(
        "vllm-nixl", description="How the engine is spoken to; aggregated engines get plain requests whatever it says."
    )
    models: tuple[Name, ...] = Field((), description="Models it serves; empty: learnt from its `/v1/models`.")
    group: Name | None = Field(
        None,
        description="Prefill and decode engines pair only inside one group; default: learnt, the same for engines of "
        "one version and model.",
    )
    kv_lease_s: Seconds = Field(30, description="How long it holds KV that nobody pulls; vLLM's own default.")
    kv_hosts: tuple[str, ...] = Field(
        (), description="Addresses its KV side channel may have; empty: pinned at the first good hand-over."
    )
    key_env: Variable | None = Field(None, description="Environment variable that holds the engine's API key.")
    kv_events: KvEvents | None = Field(None, description="Events of its KV cache; default: not followed.")


class BackendSettings(Traits, Place):
    """One engine."""

    @property
    def host(self) -> str:
        """The host of its URL; an IPv6 address in brackets."""
        return self.url.removeprefix("http://").rpartition(":")[0]
