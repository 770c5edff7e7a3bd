"""Pairs that fail to hand over, against the rule said plainly: so many failures within the time, and as long alone."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from router.fleet.pairs import Pairs
from router.settings.fleet import PairRules
from tests.properties.profile import machine

RULES = PairRules(failures=2, quarantine_s=60)
ENGINES = st.sampled_from("ab")


class Handing(RuleBasedStateMachine):
    """Two prefill and two decode engines."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs = Pairs(RULES)
        self.now = 0.0
        self.failures: dict[tuple[str, str], list[float]] = {}
        self.until: dict[tuple[str, str], float] = {}

    @rule(prefill=ENGINES, decode=ENGINES, pause_s=st.sampled_from([0.0, 1.0, 59.0, 60.0, 61.0]))
    def fails(self, prefill: str, decode: str, pause_s: float) -> None:
        self.now += pause_s
        pair = (prefill, decode)
        times = self.failures[pair] = [*self.failures.get(pair, []), self.now][-2:]
        left_alone = len(times) == 2 and self.now - times[0] <= 60
        if left_alone:
            self.until[pair] = self.now + 60
            del self.failures[pair]
        assert self.pairs.failed(prefill, decode, self.now) is left_alone

    @rule(prefill=ENGINES, decode=ENGINES)
    def works(self, prefill: str, decode: str) -> None:
        self.pairs.worked(prefill, decode)
        self.failures.pop((prefill, decode), None)

    @rule(engine=ENGINES)
    def is_replaced(self, engine: str) -> None:
        self.pairs.forget(engine)
        self.failures = {pair: times for pair, times in self.failures.items() if engine not in pair}
        self.until = {pair: until for pair, until in self.until.items() if engine not in pair}

    @rule(pause_s=st.sampled_from([0.5, 30.0, 60.0]))
    def time_passes(self, pause_s: float) -> None:
        self.now += pause_s

    @invariant()
    def left_alone_are_those_of_the_rule(self) -> None:
        told = {(one["prefill"], one["decode"]): one["for_s"] for one in self.pairs.quarantined(self.now)}
        assert told == {pair: until - self.now for pair, until in self.until.items() if until > self.now}
        for pair in [(p, d) for p in "ab" for d in "ab"]:
            assert self.pairs.usable(*pair, self.now) is (pair not in told)


TestHanding = machine(Handing, examples=100, steps=50)
