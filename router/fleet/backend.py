"""One engine as the gateway knows it: what it is, whether it may be used, what it has to do."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from router.engines import PAIRED, PLAIN
from router.engines.dialect import Dialect, PairedDialect
from router.engines.handoff import KvPeers
from router.fleet.identity import Identity
from router.fleet.kv_events.holdings import Holdings
from router.fleet.lease import Lease
from router.fleet.links import Links
from router.fleet.load import Load
from router.fleet.pace import Paces
from router.fleet.progress import Progress
from router.fleet.standing import Standing
from router.fleet.unfinished import Unfinished
from router.settings.engines import BackendSettings, Role
from router.settings.fleet import Ejection, Probes

LEASE_SHARE = 1 / 3
"""A hand-over is used within this share of the lease unless the settings say otherwise: clear of its end, also when
the decode engine takes a few seconds to start pulling."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A model that an engine serves, as its `/v1/models` tells it."""

    id: str
    max_model_len: int | None = None
    created: int = 0
    owned_by: str = "pd-router"


class Backend:
    """One engine. `id` is its host:port; it lives as long as the engine is configured."""

    def __init__(
        self,
        settings: BackendSettings,
        probes: Probes,
        *,
        now: float,
        key: str | None = None,
        max_age_s: float | None = None,
        ejection: Ejection | None = None,
    ) -> None:
        self.settings = settings
        self.id = settings.url.removeprefix("http://")
        self.url = settings.url
        self.role = settings.role
        self.paired: PairedDialect = PAIRED[settings.engine]
        """How to speak to it as one of a prefill and decode pair."""
        self.identity = Identity()
        self.group = settings.group or self.identity.group
        self.key = key
        self.handoff_max_age_s = settings.kv_lease_s * LEASE_SHARE if max_age_s is None else max_age_s
        self.standing = Standing(probes, ejection or Ejection(), now)
        self.progress = Progress()
        self.unfinished = Unfinished()
        self.load = Load()
        self.paces = Paces()
        self.links = Links()
        self.models = {name: ModelCard(name) for name in settings.models}
        self.kv_peers: KvPeers = {}
        self.cache_tokens: int | None = None
        """What its KV cache holds, as it said last; it may come back with another size."""
        self.holdings = Holdings() if settings.kv_events else None
        """What is in there now, of engines whose KV events are followed."""

    @property
    def models(self) -> Mapping[str, ModelCard]:
        """What it serves, by name; replaced as a whole."""
        return self._models

    @models.setter
    def models(self, models: Mapping[str, ModelCard]) -> None:
        self._models = models
        self.standing.news.tell()

    def learn(self, identity: Identity) -> None:
        """What the engine tells of itself decides its group, unless one is configured."""
        self.identity = identity
        self.group = self.settings.group or identity.group

    def forget_paces(self) -> None:
        """It is another engine now, or may be: how fast it was is void."""
        self.paces, self.links = Paces(), Links()

    @property
    def dialect(self) -> Dialect:
        """How to speak to it when it works alone."""
        return PLAIN if self.role is Role.AGGREGATED else self.paired

    def lease(self, tokens: int, *, local_tokens: int = 0) -> Lease:
        """Count one request of `tokens` prompt tokens against it until the lease is settled.

        `local_tokens`: the engine answers, and computes so many of them itself.
        """
        return Lease(self, tokens, local_tokens=local_tokens)

    def describe(self, now: float) -> dict[str, Any]:
        """The facts of `/fleet`."""
        return {
            "id": self.id,
            "url": self.url,
            "role": self.role.value,
            "version": self.identity.version,
            "group": self.group,
            "group_learnt": self.settings.group is None,
            "engine": self.dialect.name,
            "models": {name: card.max_model_len for name, card in self.models.items()},
            "state": self.standing.state.value,
            "why": self.standing.why,
            "drained": self.standing.drained,
            "share": round(self.standing.share, 2),
            "since_s": round(now - self.standing.since, 1),
            "inflight_requests": self.load.requests,
            "inflight_tokens": self.load.tokens,
            "local_tokens": self.load.local_tokens,
            "learnt": self._learnt(),
            "others_requests": self.load.others_requests,
            "engine_gauges": asdict(self.progress.gauges) if self.progress.gauges else None,
            "kv_events": self.holdings.describe() if self.holdings else None,
            "kv_peers": {engine: f"{host}:{port}" for engine, (host, port) in self.kv_peers.items()},
        }

    def _learnt(self) -> dict[str, float | None]:
        """How fast it is, as far as requests have shown."""
        prefill, decode = self.paces.compute.tokens_per_s, self.paces.decode.tokens_per_s
        return {
            "prefill_tokens_per_s": round(prefill) if prefill else None,
            "decode_tokens_per_s": round(decode, 1) if decode else None,
        }

    def __repr__(self) -> str:
        load = f"{self.load.requests} requests, {self.load.tokens} tokens"
        return f"<Backend {self.role.value} {self.id} {self.standing.state.value} {load}>"
