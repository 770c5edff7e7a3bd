"""What does routing cost the gateway? `python -m bench.prefixes`: hashing and writing down a long prompt, looking it
up, whole decisions over up to 128 engines, learning from a request, and the memory of an index that is full.
"""

import itertools
import random
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from time import monotonic
from timeit import repeat

from router.admission.permits import Permits
from router.call import Api, Blocks, Call, Trace, understand
from router.errors import Outcome
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.fleet.pairs import Pairs
from router.routing.choose import Chooser, partners_of
from router.routing.prefix.index import PrefixIndex
from router.routing.prefix.prefixes import Prefixes
from router.routing.route import Route
from router.routing.timed import Timed
from router.settings.admission import Admission
from router.settings.engines import BackendSettings, Role
from router.settings.fleet import PairRules, Probes
from router.settings.routing import Routing
from router.telemetry.events import RouteKind

MODEL = "m"
LONG_TOKENS = 100_000
ENGINES = 64
FLEETS = (2, ENGINES // 2, ENGINES)
"""Engines of each of the two pools."""

CACHE_TOKENS = 400_000
ROUNDS = 100


def main() -> int:
    """Measure and print a Markdown table."""
    print("| what | |\n|---|---|")
    for what, value in (*_of_one_prompt(), *_of_decisions(), *_of_learning(), _memory()):
        print(f"| {what} | {value} |")
    return 0


def microseconds(work: Callable[[], object], number: int = 3) -> str:
    """The best of many short rounds: what the machine does beside it only adds."""
    return f"{min(repeat(work, number=number, repeat=ROUNDS)) / number * 1e6:.0f} us"


def _call(tokens: int, seed: int = 0) -> Call:
    text = random.Random(seed).randbytes(tokens * 2).hex()
    fields = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
    return understand(Api.CHAT, fields, Trace("bench"))


def _engines(prefill: int, decode: int) -> list[Backend]:
    roles = [Role.PREFILL] * prefill + [Role.DECODE] * decode
    engines = [
        Backend(BackendSettings(url=f"http://e{number}:1", role=role, models=(MODEL,)), Probes(), now=0.0)
        for number, role in enumerate(roles)
    ]
    for engine in engines:
        engine.standing.good_probe(0.0)
    return engines


def _of_one_prompt() -> Iterator[tuple[str, str]]:
    prefixes, call, (engine,) = Prefixes(PrefixIndex(10**9, 10**9)), _call(LONG_TOKENS), _engines(0, 1)

    def hash_again() -> None:
        call.blocks = None
        prefixes.blocks(call)

    yield (
        f"hashing a prompt of {LONG_TOKENS:,} tokens ({len(prefixes.blocks(call).hashes):,} blocks)",
        microseconds(hash_again),
    )

    def write_new() -> None:
        prefixes.index.drop(engine)
        prefixes.expect(call, engine)

    yield "writing it down where it is new, and dropping it again", microseconds(write_new)
    yield "writing it down where it is known", microseconds(lambda: prefixes.expect(call, engine))
    longer = Blocks([*prefixes.blocks(call).hashes, 1, 2, 3], 64)
    yield "looking it up", microseconds(lambda: prefixes.index.held(longer), 100)


def _of_decisions() -> Iterator[tuple[str, str]]:
    for title, tokens in (
        ("a new prompt", 8000),
        (f"one of {LONG_TOKENS:,} tokens that two engines hold", LONG_TOKENS),
    ):
        for each in FLEETS:
            yield f"one decision, {title}, {each} prefill + {each} decode engines", _decision_us(each, tokens)
    for each in FLEETS:
        name = f"one decision, a new prompt, all pairs known, {each} prefill + {each} decode engines"
        yield name, _decision_us(each, 8000, learnt=True)
    for each in FLEETS:
        fleet = Fleet(_engines(each, each))

        def look_anew(fleet: Fleet = fleet) -> None:
            fleet.engine_changed()
            fleet.snapshot(MODEL)

        of = f"of {each} prefill + {each} decode engines"
        yield f"who is usable (a part of a decision), {of}", microseconds(partial(fleet.snapshot, MODEL), 10)
        yield f"who is usable, once one of them has changed, {of}", microseconds(look_anew, 10)


def _of_learning() -> Iterator[tuple[str, str]]:
    prefill, decode = _engines(1, 1)
    route, call, times = Route(RouteKind.DISAGGREGATED, decode, prefill, "x"), _call(8000), itertools.count()
    call.stream = True

    def learn() -> None:
        at = float(next(times))
        with Timed(call, route, at) as timed:
            timed.prefill_over(Outcome.OK, at + 0.2)
            timed.answer_began(at + 0.3, handed_over=True)
            timed.ended(100, at + 0.9)

    yield "learning from a request", microseconds(learn, 10)


def _all_known(engines: Sequence[Backend]) -> None:
    """As after some requests over each pair."""
    decode = [engine for engine in engines if engine.role is Role.DECODE]
    for engine in engines:
        for tokens in (500, 4000, 16_000):
            engine.paces.compute.note(tokens, tokens / 30_000)
            for other in decode if engine.role is Role.PREFILL else ():
                other.links.begin(engine.id, tokens, 0.0).arrived(0.01 + tokens * 1e-5)


def _decision_us(each: int, tokens: int, *, learnt: bool = False) -> str:
    return microseconds(_decision(each, tokens, learnt=learnt), 10)


def _decision(each: int, tokens: int, *, learnt: bool = False) -> Callable[[], object]:
    """A choice as the gateway makes it, by who is usable, with its permits and pairs, over two pools of so many engines
    each, with some load, that all hold a common beginning.
    """
    engines, rng = _engines(each, each), random.Random(1)
    rules = Routing(prefill_policy="prefix_aware", decode_policy="prefix_aware")
    pairs, permits = Pairs(PairRules()), Permits(Admission())
    chooser = Chooser(rules, permits.with_room, rng, partners_of(pairs, monotonic), lambda: pairs.cold)
    prefixes = chooser.prefixes
    assert prefixes is not None
    call, other = _call(tokens), _call(tokens, seed=1)
    common, own = prefixes.blocks(call).hashes[:8], prefixes.blocks(call).hashes
    for engine in engines:
        engine.load.requests, engine.load.tokens = rng.randint(1, 9), rng.randint(1, 90_000)
        prefixes.index.expect(engine, Blocks([*common, *prefixes.blocks(other).hashes], 64))
    for engine in (engines[0], engines[-1]) if tokens == LONG_TOKENS else ():
        prefixes.index.expect(engine, Blocks(own, 64))
    if learnt:
        _all_known(engines)
    fleet = Fleet(engines)

    def decide() -> object:
        prefixes.index.version += 1  # as if something had been sent since: the lookup is part of it
        return chooser.choose(call, fleet.snapshot(MODEL, at=1.0))

    return decide


def _memory() -> tuple[str, str]:
    """Of an index over full caches, each block on one engine only: the most that it can take."""
    rng = random.Random(1)
    engines, blocks = _engines(0, ENGINES), CACHE_TOKENS // 64
    tracemalloc.start()
    index = PrefixIndex(CACHE_TOKENS, 10**9)
    for engine in engines:
        index.expect(engine, Blocks([rng.getrandbits(64) for _ in range(blocks)], 64))
    size_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    what = f"memory for {ENGINES} engines of {CACHE_TOKENS:,} tokens, {len(engines) * blocks:,} blocks"
    return what, f"{size_bytes / 1e6:.0f} MB, {size_bytes / len(engines) / blocks:.0f} bytes a block"


def _prog(argv: Sequence[str]) -> int:
    if argv:
        print(__doc__, file=sys.stderr)
        return 2
    return main()


if __name__ == "__main__":
    raise SystemExit(_prog(sys.argv[1:]))
