"""Requests in line, woken, too late or gone, between any two steps: nobody waits beside a free place untold."""

import asyncio
from random import Random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.admission.permits import Permit, Permits
from router.errors import Unavailable
from router.settings.admission import Admission
from router.settings.engines import Role
from tests.properties.profile import machine
from tests.support.builders import MODEL, a_backend
from tests.support.stage import WatchedLine
from tests.support.stepped_loop import SteppedLoop

WAIT_S = 5.0
PLACES = 2
RULES = Admission(decode_permits=PLACES, queue_size=4, queue_timeout_s=WAIT_S)
WHICH = st.integers(0, 9)


class Waiting(RuleBasedStateMachine):
    """One engine with two places, and requests that each want one, as the gateway has them do it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = SteppedLoop()
        self.line = WatchedLine(RULES, self.loop.time)
        self.permits = Permits(RULES, self.line)
        self.engine = a_backend(Role.DECODE)
        self.tasks: list[asyncio.Task[None]] = []
        self.held: list[Permit] = []
        self.turned_away = 0

    async def _ask(self) -> None:
        """Wait for a place, and keep it."""
        by, waited = self.loop.time() + WAIT_S, False
        while not (self.permits.has_room(self.engine, 1) and (waited or not self._others())):
            try:
                await self.line.wait(MODEL, Role.DECODE, by, again=waited)
            except Unavailable:
                self.turned_away += 1
                return
            waited = True
        self.held.append(self.permits.take(self.engine, 1))
        if waited:
            self.line.call_next(MODEL, Role.DECODE)

    def _others(self) -> bool:
        return self.line.before(MODEL, [Role.DECODE]) is not None

    @rule()
    def arrives(self) -> None:
        self.tasks.append(self.loop.start(self._ask(), "request"))

    @precondition(lambda self: self.tasks)
    @rule(which=WHICH)
    def is_cancelled(self, which: int) -> None:
        with self.loop.running():
            self.tasks[which % len(self.tasks)].cancel()

    @precondition(lambda self: self.held)
    @rule(which=WHICH)
    def gives_back(self, which: int) -> None:
        with self.loop.running():
            self.held.pop(which % len(self.held)).release()

    @rule(longest_s=st.sampled_from([0.5, 2.0, WAIT_S]))
    def time_passes(self, longest_s: float) -> None:
        self.loop.pass_time(longest_s)

    @rule(order=st.lists(WHICH, min_size=1, max_size=6))
    def steps(self, order: list[int]) -> None:
        for which in order:
            self.loop.step(which)
            self.adds_up()

    @rule(rng=st.randoms(use_true_random=False))
    def comes_to_rest(self, rng: Random) -> None:
        self.loop.settle(lambda: rng.randrange(9))
        room = self.permits.has_room(self.engine, 1)
        assert not (room and self._others()), "somebody waits beside a free place"

    @invariant()
    def adds_up(self) -> None:
        assert self.permits.taken(self.engine) == len(self.held) <= PLACES
        waiting = self.line.waiting[Role.DECODE]
        assert self.line.depth(Role.DECODE) == len(waiting) <= len(self.tasks)
        assert self.loop.crashes == []
        for task in [task for task in self.tasks if task.done()]:
            self.tasks.remove(task)
            if not task.cancelled():
                task.result()

    def teardown(self) -> None:
        """All get a place, or are told that there is none in time."""
        while self.tasks:
            self.loop.settle()
            self.adds_up()
            with self.loop.running():
                for permit in self.held:
                    permit.release()
            self.held.clear()
            assert self.loop.is_busy or not self.tasks, "somebody waits beside free places"
        assert (self.line.depth(Role.DECODE), self._others()) == (0, False)


TestWaiting = machine(Waiting, examples=150, steps=50)
