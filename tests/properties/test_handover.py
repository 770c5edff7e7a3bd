"""Hand-overs in custody while their legs wait, fail or are cancelled: each is used, given back or counted, once."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.engines.handoff import Handoff, HandoffState
from router.errors import BadAnswer, ConnectFailed, ConnectionLost, EngineError, EngineRefusal, ErrorEvent
from router.exchange.pool import Connections
from router.exchange.release import Releases
from router.settings.engines import Role
from router.settings.exchange import HandoffSettings
from tests.properties.profile import machine
from tests.support.builders import a_backend, a_call, kv_params
from tests.support.legs import Told
from tests.support.played_engines import Move, PlayedEngines, answers, is_lost, talks_nonsense, well
from tests.support.stepped_loop import SteppedLoop

MAX_AGE_S = 5.0
WHICH = st.integers(0, 7)
ORDER = st.lists(WHICH, max_size=8)
REFUSED: list[Callable[[], Exception]] = [
    lambda: EngineRefusal(400, b""),
    lambda: EngineError("no", 503),
    lambda: ErrorEvent("no"),
]
"""What says that decode does not pull."""
GONE: list[Callable[[], Exception]] = [
    lambda: ConnectFailed("no"),
    lambda: ConnectionLost("no"),
    lambda: BadAnswer("no"),
]
MOVES: list[Move] = [well, well, well, answers(500), is_lost, talks_nonsense]


@dataclass(eq=False)
class Leg:
    """A hand-over and the task that has it; it waits once before it sends, and once after."""

    name: str
    handoff: Handoff
    task: asyncio.Task[None]
    unsent: asyncio.Future[None]
    answered: asyncio.Future[None]

    @property
    def waits(self) -> asyncio.Future[None]:
        """What it waits for."""
        return self.answered if self.unsent.done() else self.unsent


class Handing(RuleBasedStateMachine):
    """Legs that live beside each other."""

    def __init__(self) -> None:
        super().__init__()
        self.engines = PlayedEngines()
        self.loop = self.engines.loop = SteppedLoop(self.engines)
        self.told = Told()
        self.decode = a_backend(Role.DECODE)
        self.legs: list[Leg] = []
        self.lost: set[str] = set()
        self.spent: list[str] = []
        with self.loop.running():
            self.connections = Connections(connect_s=1)
            self.releases = Releases(self.connections, HandoffSettings(max_releases=3), self.told)

    async def _leg(
        self, name: str, handoff: Handoff, unsent: asyncio.Future[None], answered: asyncio.Future[None]
    ) -> None:
        with self.releases.unless_used(handoff, self.decode):
            await unsent
            handoff.spend(handoff.call, self.loop.time())
            self.spent.append(name)
            self.engines.books.sent.add(name)
            await answered

    @property
    def living(self) -> list[Leg]:
        """Legs that have not ended."""
        return [leg for leg in self.legs if not leg.task.done()]

    @precondition(lambda self: len(self.living) < 6)
    @rule()
    def is_handed_over(self) -> None:
        name = f"kv-{len(self.legs)}"
        call = a_call(request_id=name)
        parameters = kv_params(remote_request_id=name)
        handoff = Handoff(call, parameters, unfinished_at=self.loop.time(), max_age_s=MAX_AGE_S)
        unsent, answered = self.loop.create_future(), self.loop.create_future()
        self.legs.append(
            Leg(name, handoff, self.loop.start(self._leg(name, handoff, unsent, answered), name), unsent, answered)
        )
        self.loop.settle()

    @precondition(lambda self: self.living)
    @rule(which=WHICH, order=ORDER)
    def goes_on(self, which: int, order: list[int]) -> None:
        self._wakes(self.living[which % len(self.living)], None, order)

    @precondition(lambda self: self.living)
    @rule(which=WHICH, fault=st.sampled_from([*REFUSED, *GONE]), order=ORDER)
    def fails(self, which: int, fault: Callable[[], Exception], order: list[int]) -> None:
        leg = self.living[which % len(self.living)]
        if leg.unsent.done() and fault in REFUSED:
            self.engines.books.failed.add(leg.name)
        elif leg.unsent.done():
            self.lost.add(leg.name)
        self._wakes(leg, fault(), order)

    def _wakes(self, leg: Leg, error: Exception | None, order: list[int]) -> None:
        with self.loop.running():
            if leg.waits.done():
                return
            if error is None:
                leg.waits.set_result(None)
            else:
                leg.waits.set_exception(error)
        self.steps(order)

    @precondition(lambda self: self.living)
    @rule(which=WHICH, order=ORDER)
    def is_cancelled(self, which: int, order: list[int]) -> None:
        with self.loop.running():
            self.living[which % len(self.living)].task.cancel()
        self.steps(order)

    @rule(order=ORDER)
    def steps(self, order: list[int]) -> None:
        for which in order:
            self.loop.step(which)
            self.each_is_spent_at_most_once()

    @rule(rng=st.randoms(use_true_random=False))
    def comes_to_rest(self, rng: Random) -> None:
        self.loop.settle(lambda: rng.randrange(8))
        assert sum(self.told.counts.values()) + self.releases.open == self._unused

    @rule(longest_s=st.sampled_from([0.1, 1.0, 3.0]))
    def time_passes(self, longest_s: float) -> None:
        self.loop.pass_time(longest_s)

    @rule(which=WHICH, move=st.sampled_from(MOVES), refused=st.sampled_from([False, False, True]))
    def engines_do_something(self, which: int, move: Move, refused: bool) -> None:
        with self.loop.running():
            _ = self.engines.play(which, move) or self.engines.accept(which, refused=refused)

    @invariant()
    def each_is_spent_at_most_once(self) -> None:
        assert len(set(self.spent)) == len(self.spent)
        assert self.loop.crashes == []
        assert self.releases.open <= 3
        assert sum(self.told.counts.values()) <= self._unused <= sum(self.told.counts.values()) + self.releases.open

    @property
    def _unused(self) -> int:
        return sum(leg.task.done() and not self._is_used(leg) for leg in self.legs)

    def _is_used(self, leg: Leg) -> bool:
        """It was sent, and nobody knows that decode does not pull."""
        books = self.engines.books
        sent = leg.handoff.state is HandoffState.SENT
        assert sent is (leg.name in self.spent and not self._is_given_back(leg))
        raised = not leg.task.cancelled() and leg.task.exception()
        return sent and not (raised and leg.name in books.failed | self.lost)

    def _is_given_back(self, leg: Leg) -> bool:
        return leg.handoff.state is HandoffState.SURRENDERED

    def teardown(self) -> None:
        """Decode answers all, releases end, and every hand-over has had one fate."""
        for _ in range(1000):
            self.loop.settle()
            with self.loop.running():
                moved = self.engines.play(0, well) or self.engines.accept(0)
            for leg in self.living:
                self._wakes(leg, None, [])
            if not moved and not self.living and not self.loop.pass_time():
                break
        self.each_is_spent_at_most_once()
        assert (self.releases.open, self.connections.open, self.living) == (0, 0, [])
        assert self.engines.books.freed <= self.engines.books.freeing


TestHanding = machine(Handing, examples=150, steps=60)
