"""A whole gateway, whatever happens in whatever order: one answer, one end, and nothing is left.

Real admission, retries, legs, connections and hand-overs; only the network is played. Requests are cancelled, and
clients leave, between any two steps of the loop.
"""

from random import Random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from router.settings.admission import Admission
from tests.properties.profile import machine
from tests.support.played_engines import (
    Move,
    answers,
    begins,
    is_lost,
    talks_nonsense,
    tells_of_a_failure,
    well,
)
from tests.support.stage import Stand

WHICH = st.integers(0, 7)
ORDER = st.lists(WHICH, max_size=16)
"""Which of the steps that are due is taken, again and again."""
RARELY = st.sampled_from([False, False, False, True])
MOVES: list[Move] = [
    *(well, well, well, begins, begins),
    *(answers(400), answers(500), answers(503), tells_of_a_failure, is_lost, talks_nonsense),
]


class Life(RuleBasedStateMachine):
    """What may happen to a gateway."""

    stand: Stand

    @initialize(
        permits=st.integers(1, 3),
        queue=st.integers(0, 3),
        prefill=st.integers(0, 2),
        decode=st.integers(1, 2),
        releases=st.sampled_from([1, 64]),
    )
    def is_made(self, permits: int, queue: int, prefill: int, decode: int, releases: int) -> None:
        rules = Admission(
            prefill_permits=permits,
            prefill_permit_tokens=50,
            decode_permits=permits,
            queue_size=queue,
            queue_timeout_s=5,
        )
        self.stand = Stand(rules, prefill=prefill, decode=decode, max_releases=releases)

    # Clients

    @precondition(lambda self: len(self.stand.living) < 6)
    @rule(stream=st.booleans(), spliced=st.booleans(), words=st.sampled_from([4, 4, 100, 200]))
    def arrives(self, stream: bool, spliced: bool, words: int) -> None:
        self.stand.arrive(stream=stream, spliced=spliced, words=words)

    @precondition(lambda self: self.stand.living)
    @rule(which=WHICH, leaves=st.booleans())
    def gives_up(self, which: int, leaves: bool) -> None:
        asking = self.stand.living[which % len(self.stand.living)]
        with self.stand.loop.running():
            if leaves:
                asking.client.leave()
            else:
                self.stand.cancel(asking)

    # The loop

    @rule(order=ORDER)
    def steps(self, order: list[int]) -> None:
        for which in order:
            if not self.stand.loop.step(which):
                return
            assert list(self.stand.violations()) == []

    @rule(rng=st.randoms(use_true_random=False))
    def comes_to_rest(self, rng: Random) -> None:
        self.stand.loop.settle(lambda: rng.randrange(8))
        assert self.stand.waits_in_vain() == []

    @rule(longest_s=st.sampled_from([0.05, 0.05, 1.0, 31.0]))
    def time_passes(self, longest_s: float) -> None:
        self.stand.loop.pass_time(longest_s)

    # Engines

    @precondition(lambda self: self.stand.engines.dialled)
    @rule(which=WHICH, refused=RARELY, order=ORDER)
    def is_dialled(self, which: int, refused: bool, order: list[int]) -> None:
        with self.stand.loop.running():
            self.stand.engines.accept(which, refused=refused)
        self.steps(order)

    @precondition(lambda self: self.stand.engines.asked)
    @rule(which=WHICH, move=st.sampled_from(MOVES), order=ORDER)
    def answers(self, which: int, move: Move, order: list[int]) -> None:
        with self.stand.loop.running():
            self.stand.engines.play(which, move)
        self.steps(order)

    @rule(moves=st.integers(1, 6), order=ORDER)
    def all_goes_well(self, moves: int, order: list[int]) -> None:
        with self.stand.loop.running():
            for _ in range(moves):
                self.stand.loop.settle()
                _ = self.stand.engines.accept(0) or self.stand.engines.play(0, begins)
        self.steps(order)

    @precondition(lambda self: self.stand.engines.begun)
    @rule(which=WHICH, fails=RARELY)
    def goes_on(self, which: int, fails: bool) -> None:
        with self.stand.loop.running():
            self.stand.engines.go_on(which, well=not fails)

    @rule(which=WHICH, event=st.sampled_from(["hang up", "good", "good", "bad", "enabled", "enabled", "drained"]))
    def something_else_happens(self, which: int, event: str) -> None:
        stand, backend = self.stand, self.stand.fleet.backends[which % len(self.stand.fleet.backends)]
        with stand.loop.running():
            match event:
                case "hang up":
                    stand.engines.hang_up(which)
                case "good" | "bad":
                    stand.probe(backend, good=event == "good")
                case _:
                    stand.drain(backend, drained=event == "drained")

    @invariant()
    def adds_up(self) -> None:
        assert list(self.stand.violations()) == []

    def teardown(self) -> None:
        if hasattr(self, "stand"):
            with self.stand.loop.running():
                self.stand.finish()
            assert (self.stand.left(), self.stand.badly_ended()) == ({}, [])


TestLife = machine(Life, examples=200, steps=80)
