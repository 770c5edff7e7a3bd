"""All engines, and what of them can serve one model right now."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple, Self

from router.errors import NotFound, UnknownModel
from router.fleet.backend import Backend, ModelCard
from router.fleet.links import COMPARED_TOKENS
from router.fleet.standing import State
from router.settings.engines import Role


class Snapshot(NamedTuple):
    """The usable engines of one `model`, pool by pool, at one moment.

    Their loads are read live: choosing and granting happen without an await in between, so nothing moves meanwhile.
    `known` tells whether any engine serves the model, usable or not, `prefill_known` whether a prefill engine does;
    `inflight` counts the whole fleet's requests; `at` is the moment (monotonic seconds).
    """

    model: str
    known: bool
    prefill_known: bool
    prefill: Sequence[Backend]
    decode: Sequence[Backend]
    aggregated: Sequence[Backend]
    inflight: int
    at: float = 0.0

    def of_known_model(self) -> Self:
        """Itself. Raises `UnknownModel` where no engine serves the model."""
        if not self.known:
            raise UnknownModel(f"the model {self.model!r} does not exist here; see /v1/models", param="model")
        return self


class _Usable(NamedTuple):
    """What of a snapshot stays the same until an engine changes."""

    known: bool
    prefill_known: bool
    pools: tuple[list[Backend], list[Backend], list[Backend]]


class Fleet:
    """The engines of this gateway.

    `sources` are where they are found beside the settings: why one cannot be read now, or None.
    """

    def __init__(self, backends: Sequence[Backend]) -> None:
        self.sources: dict[str, str | None] = {}
        self._usable: dict[str, _Usable] = {}
        self.backends = tuple(backends)

    @property
    def backends(self) -> tuple[Backend, ...]:
        """All of them, usable or not."""
        return self._backends

    @backends.setter
    def backends(self, backends: tuple[Backend, ...]) -> None:
        self._backends = backends
        self._answering_loads = [b.load for b in backends if b.role is not Role.PREFILL]
        self.engine_changed()
        for backend in backends:
            backend.standing.news.heard_by(self)

    def engine_changed(self) -> None:
        """One came, went, became usable or unusable, or serves other models: who is usable is found out anew."""
        self._usable.clear()

    def snapshot(self, model: str, avoid: Collection[Backend] = (), at: float = 0.0) -> Snapshot:
        """What can serve `model` now, which is `at`, without the engines to `avoid`."""
        known, prefill_known, pools = self._usable.get(model) or self._find_usable(model)
        prefill, decode, aggregated = ([b for b in pool if b not in avoid] for pool in pools) if avoid else pools
        return Snapshot(model, known, prefill_known, prefill, decode, aggregated, self.inflight, at)

    def _find_usable(self, model: str) -> _Usable:
        """Kept for models that there are: clients may ask for any."""
        serving = [b for b in self._backends if model in b.models]
        prefill, decode, aggregated = ([b for b in serving if b.role is role and b.standing.usable] for role in Role)
        prefill_known = any(b.role is Role.PREFILL for b in serving)
        usable = _Usable(bool(serving), prefill_known, (prefill, decode, aggregated))
        if serving:
            self._usable[model] = usable
        return usable

    @property
    def inflight(self) -> int:
        """Requests in flight over the fleet; one that is in both its legs counts once, for the engine that answers."""
        return sum([load.requests for load in self._answering_loads])

    def models(self) -> list[ModelCard]:
        """Every model that a request could be sent to, with the smallest context length among its engines.

        A prompt must fit on whichever engine it goes to, so the smallest is what a client can rely on.
        """
        cards: dict[str, ModelCard] = {}
        for card in self._answering_cards():
            other = cards.get(card.id, card)
            lengths = [c.max_model_len for c in (card, other) if c.max_model_len is not None]
            cards[card.id] = ModelCard(
                card.id, min(lengths, default=None), other.created or card.created, other.owned_by
            )
        return [cards[name] for name in sorted(cards)]

    def _answering_cards(self) -> Iterator[ModelCard]:
        answering = {m for b in self.backends if b.role is not Role.PREFILL for m in b.models}
        for backend in self.backends:
            yield from (card for card in backend.models.values() if card.id in answering)

    def backend(self, backend_id: str) -> Backend:
        """An engine by its `host:port`. Raises `NotFound`."""
        for backend in self.backends:
            if backend.id == backend_id:
                return backend
        raise NotFound(f"there is no engine {backend_id!r}; see /fleet")

    def stand_ins(self, backend: Backend) -> list[Backend]:
        """Usable engines of the same pool and group."""
        same = (b for b in self.backends if b.role is backend.role and b.group == backend.group)
        return [b for b in same if b is not backend and b.standing.usable]

    def can_spare(self, backend: Backend) -> bool:
        """Whether its pool can do without an engine that fails requests: at most half of one is taken out for that.

        The pool of each of its models counts by itself: the engines of its role that serve it and are to get requests.
        Groups share one, as decode engines answer for prefill engines of any. Probes and refused connections take out
        any number; an engine that answers wrongly may be better than none.
        """
        others = [b for b in self.backends if b is not backend and b.role is backend.role and _is_to_serve(b)]
        return all(_is_half_left([b for b in others if model in b.models]) for model in backend.models)

    def forget_paces(self, backend: Backend) -> None:
        """An engine has started anew, or is gone: what was learnt of it and its links is void."""
        backend.forget_paces()
        for other in self.backends:
            other.links.forget(backend.id)

    def slow_pairs(self) -> Iterator[dict[str, Any]]:
        """Pairs that are known to need longer to hand a prompt over than decode, or else prefill, to compute it."""
        by_id = {backend.id: backend for backend in self.backends}
        for decode in self.backends:
            for prefill_id, link in decode.links.items():
                prefill = by_id.get(prefill_id)
                speed = decode.paces.compute.tokens_per_s or (prefill and prefill.paces.compute.tokens_per_s)
                took_s = link.compared_s if link.is_known else None
                if speed and took_s and took_s > COMPARED_TOKENS / speed:
                    told_s = {"handover_s": round(took_s, 3), "compute_s": round(COMPARED_TOKENS / speed, 3)}
                    yield {"prefill": prefill_id, "decode": decode.id, "tokens": COMPARED_TOKENS} | told_s

    def serves(self, model: str) -> bool:
        """Whether any engine serves the model, usable now or not."""
        return any(model in b.models for b in self.backends)

    @property
    def ready(self) -> bool:
        """Whether at least one engine that can answer is usable and knows a model."""
        return any(b.standing.usable and b.models for b in self.backends if b.role is not Role.PREFILL)

    @property
    def without_prefill(self) -> bool:
        """Whether there are prefill engines and none of them is usable."""
        prefill = [b for b in self.backends if b.role is Role.PREFILL]
        return bool(prefill) and not any(b.standing.usable for b in prefill)

    @property
    def apart(self) -> bool:
        """Whether prefill and decode engines are usable, but none are of one group."""
        prefill, decode = (
            {b.group for b in self.backends if b.role is role and b.standing.usable}
            for role in (Role.PREFILL, Role.DECODE)
        )
        return bool(prefill and decode) and prefill.isdisjoint(decode)

    def describe(self, now: float) -> dict[str, Any]:
        """The facts of `/fleet`: pools with their engines."""
        pools = {role.value: [b.describe(now) for b in self.backends if b.role is role] for role in Role}
        sources = {name: {"ok": why is None, "why": why} for name, why in self.sources.items()}
        return {"ready": self.ready, "inflight_requests": self.inflight, "pools": pools, "sources": sources}

    def __repr__(self) -> str:
        counts = ", ".join(
            f"{sum(b.standing.usable for b in pool)}/{len(pool)} {role.value}"
            for role in Role
            if (pool := [b for b in self.backends if b.role is role])
        )
        return f"<Fleet {counts or 'empty'}>"


def _is_to_serve(backend: Backend) -> bool:
    """Whether it gets requests, or would if it had not failed some."""
    return backend.standing.state not in (State.UNKNOWN, State.DOWN) and not backend.standing.drained


def _is_half_left(others: Sequence[Backend]) -> bool:
    """Whether at most half of a pool is out for failed requests once one more is than among these others."""
    out = 1 + sum(b.standing.state in (State.EJECTED, State.TRIAL) for b in others)
    return 2 * out <= 1 + len(others)
