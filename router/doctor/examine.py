"""Looks at every engine, and has every pair hand over a tiny prompt, with the parts that the gateway does it with."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from uuid import uuid4

from router.assembly import Assembly, build
from router.doctor import advice, counters
from router.doctor.counters import Counters, PromptTokens
from router.errors import EngineFault, EngineRefusal
from router.exchange.rehearsal import Rehearsed, common_model
from router.fleet.backend import Backend
from router.fleet.discovery.sources import Sources
from router.settings.engines import Role
from router.settings.tree import Settings

PUBLISHED_WITHIN_S = 2.0
"""Engines publish what they counted with a later step: some 0.3 s after an answer, later when they are busy."""

LOOK_S = 0.05

NOBODY_ANSWERS = "no decode or aggregated engine is up: no request can be answered"

Pair = tuple[Backend, Backend]
Progress = Callable[[int, int, str], None]


class Verdict(StrEnum):
    """What came of a pair: the prompt was pulled; it answered but does not tell; decode computed it; it failed.

    APART: of different groups, which the gateway never pairs. UNTRIED: something is wrong with one of the two.
    """

    HANDED_OVER = "handed over"
    UNPROVEN = "answered"
    COMPUTED = "computed by decode"
    FAILED = "failed"
    APART = "apart"
    UNTRIED = "not tried"


@dataclass(frozen=True, slots=True)
class EngineFinding:
    """An engine, what is wrong with it and what to do, if anything."""

    backend: Backend
    problem: str | None = None
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class PairFinding:
    """A pair, what came of it, how long it took, and where decode had the prompt from, as far as it tells."""

    prefill: Backend
    decode: Backend
    verdict: Verdict
    problem: str | None = None
    advice: str | None = None
    rehearsed: Rehearsed | None = None
    tokens: PromptTokens | None = None

    @property
    def good(self) -> bool:
        """Whether nothing need be done about it; what is wrong with an engine is told once, there."""
        return self.verdict not in (Verdict.COMPUTED, Verdict.FAILED)


@dataclass(frozen=True, slots=True)
class Findings:
    """All that was found. `sources`: what is wrong with where engines are found beside the settings."""

    engines: Sequence[EngineFinding]
    pairs: Sequence[PairFinding]
    sources: Sequence[str] = ()

    @property
    def problems(self) -> Sequence[str]:
        """What is wrong with the fleet as a whole, beside its engines and pairs."""
        answering = any(e.backend.standing.usable for e in self.engines if e.backend.role is not Role.PREFILL)
        return [*self.sources, *([] if answering else [NOBODY_ANSWERS])]

    @property
    def good(self) -> bool:
        """Whether every engine can be used, every pair of a group hands over, and somebody can answer."""
        ill = self.problems or any(engine.problem for engine in self.engines)
        return not ill and all(pair.good for pair in self.pairs)


async def examine(settings: Settings, progress: Progress) -> Findings:
    """Look at a fleet that may be serving; each pair costs it one prompt of a few tokens."""
    async with _app(settings) as app:
        await app.prober.probe_all()
        doctor = Doctor(app, progress)
        return await doctor.examine()


@asynccontextmanager
async def _app(settings: Settings) -> AsyncIterator[Assembly]:
    """The gateway's parts, without its listeners and its background work."""
    app = build(settings)
    try:
        await Sources(settings.discovery, app.membership).look()
        yield app
        await app.releases.close()
    finally:
        app.connections.close()


class Doctor:
    """Examines the engines of an `Assembly`, once they have been probed."""

    def __init__(self, app: Assembly, progress: Progress) -> None:
        self._app = app
        self._progress = progress
        self._timeout_s = app.settings.probes.timeout_s
        self._done = 0

    async def examine(self) -> Findings:
        """Every engine, then every pair."""
        backends = self._app.fleet.backends
        async with asyncio.TaskGroup() as group:
            looks = [group.create_task(self._engine(backend)) for backend in backends]
        pairs = [(p, d) for p in backends for d in backends if (p.role, d.role) == (Role.PREFILL, Role.DECODE)]
        ill = {look.result().backend for look in looks if look.result().problem}
        judged = {pair: finding for pair in pairs if (finding := _beforehand(*pair, ill))}
        rest = [pair for pair in pairs if pair not in judged]
        for now in rounds(rest):
            async with asyncio.TaskGroup() as group:
                tries = {pair: group.create_task(self._try(pair, len(rest))) for pair in now}
            judged |= {pair: task.result() for pair, task in tries.items()}
        found = [judged[pair] for pair in pairs]
        engines = [with_partners(look.result(), found) for look in looks]
        return Findings(engines, found, list(self._app.membership.complaints()))

    async def _engine(self, backend: Backend) -> EngineFinding:
        if not backend.standing.usable:
            why = backend.standing.why
            return EngineFinding(backend, why, advice.for_engine(backend, why))
        told = await self._counters(backend)
        if backend.role is not Role.AGGREGATED and told and not told.has_connector:
            return EngineFinding(backend, "it has no NIXL connector", advice.for_missing_connector(backend))
        return EngineFinding(backend)

    async def _try(self, pair: Pair, pairs: int) -> PairFinding:
        finding = await self._rehearse(*pair)
        self._done += 1
        self._progress(self._done, pairs, f"{pair[0].id} -> {pair[1].id}: {finding.verdict}")
        return finding

    async def _rehearse(self, prefill: Backend, decode: Backend) -> PairFinding:
        finding = partial(PairFinding, prefill, decode)
        model = common_model(prefill, decode)
        assert model is not None
        before = await self._counters(decode)
        try:
            rehearsed = await self._app.rehearsal.of(prefill, decode, model, f"{uuid4().hex}-doctor")
        except EngineRefusal as refusal:
            why = f"an engine refused a completion with status {refusal.status}"
            return finding(Verdict.FAILED, why, f"see the logs of {prefill.id} and {decode.id}")
        except EngineFault as fault:
            return finding(Verdict.FAILED, f"{fault.leg}: {fault.detail}", advice.for_fault(fault, prefill, decode))
        tokens = await self._grown(decode, before.tokens, rehearsed.prompt_tokens or 1) if before else None
        return replace(judge(prefill, decode, tokens), rehearsed=rehearsed, tokens=tokens)

    async def _grown(self, decode: Backend, before: PromptTokens, expected: int) -> PromptTokens | None:
        """What an engine has counted since, once that is as much as expected."""
        loop = asyncio.get_running_loop()
        by = loop.time() + PUBLISHED_WITHIN_S
        while (now := await self._counters(decode)) and (grown := now.tokens - before).total < expected:
            if loop.time() >= by:
                return None
            await asyncio.sleep(LOOK_S)
        return grown if now else None

    async def _counters(self, backend: Backend) -> Counters | None:
        return await counters.read(self._app.questions.ask, backend, self._timeout_s)


def rounds(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    """The pairs in turns; in one turn each engine has one hand-over at most, so that its counters tell of that."""
    left = list(pairs)
    while left:
        taken: set[Backend] = set()
        now: list[Pair] = []
        for pair in left:
            if taken.isdisjoint(pair):
                taken.update(pair)
                now.append(pair)
        yield now
        left = [pair for pair in left if pair not in now]


def judge(prefill: Backend, decode: Backend, tokens: PromptTokens | None) -> PairFinding:
    """What an answer was worth, by what decode counted meanwhile; other requests may have been counted, too."""
    if tokens is None:
        why = f"{decode.id} does not count where prompts come from: whether it pulled is not known"
        return PairFinding(prefill, decode, Verdict.UNPROVEN, why)
    if tokens.failed_transfers or (tokens.computed and not tokens.pulled):
        why = f"{decode.id} computed the prompt itself"
        return PairFinding(prefill, decode, Verdict.COMPUTED, why, advice.for_computed_prompt(prefill, decode))
    return PairFinding(prefill, decode, Verdict.HANDED_OVER)


def with_partners(engine: EngineFinding, pairs: Sequence[PairFinding]) -> EngineFinding:
    """The finding; none but partners of other groups is a problem, and for a prefill engine to have none at all."""
    own = [pair for pair in pairs if engine.backend in (pair.prefill, pair.decode)]
    if engine.problem or any(pair.verdict is not Verdict.APART for pair in own):
        return engine
    if not own:
        if engine.backend.role is not Role.PREFILL:
            return engine  # it serves alone
        return replace(engine, problem="no partner: there is no decode engine", advice=advice.FOR_MISSING_DECODE)
    others = sorted({pair.problem or "" for pair in own})
    return replace(engine, problem=f"no partner: {'; '.join(others)}", advice=advice.for_lone_engine(engine.backend))


def _beforehand(prefill: Backend, decode: Backend, ill: Collection[Backend]) -> PairFinding | None:
    """What needs no try; one with an engine that is ill would only leave KV behind."""
    finding = partial(PairFinding, prefill, decode)
    if prefill in ill or decode in ill:
        return finding(Verdict.UNTRIED)
    if prefill.group != decode.group:
        return finding(Verdict.APART, f"{prefill.group!r} and {decode.group!r}")
    if common_model(prefill, decode) is None:
        return finding(Verdict.APART, "no model that both serve")
    return None
