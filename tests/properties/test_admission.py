"""Permits and grants in every order: limits hold, what is taken comes back once, and all that is held adds up."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.admission.grant import Grant
from router.admission.line import Line
from router.admission.permits import Permit, Permits
from router.errors import Outcome
from router.fleet.backend import Backend
from router.settings.admission import Admission
from router.settings.engines import Role
from tests.properties.profile import machine
from tests.support.builders import a_backend

LIMITS = Admission(prefill_permits=3, prefill_permit_tokens=100, decode_permits=2)
WHICH = st.integers(0, 7)
OUTCOMES = st.sampled_from(list(Outcome))


class Freed(Line):
    """A line that counts what it hears of."""

    def __init__(self) -> None:
        super().__init__(LIMITS, lambda: 0.0)
        self.heard = 0

    def freed(self, models: object, pool: Role) -> None:
        """A permit has come back."""
        self.heard += 1


class Counting(Permits):
    """Permits that keep a list of what they gave out."""

    def __init__(self, line: Line) -> None:
        super().__init__(LIMITS, line)
        self.given: list[Permit] = []

    def take(self, backend: Backend, prompt_tokens: int) -> Permit:
        """The same, listed."""
        self.given.append(super().take(backend, prompt_tokens))
        return self.given[-1]


class Admissions(RuleBasedStateMachine):
    """Requests over two engines of each pool."""

    def __init__(self) -> None:
        super().__init__()
        self.line = Freed()
        self.permits = Counting(self.line)
        self.prefill = [a_backend(Role.PREFILL, port) for port in (1, 2)]
        self.decode = [a_backend(Role.DECODE, port) for port in (3, 4)]
        self.grants: list[Grant] = []

    @rule(which=WHICH, tokens=st.integers(0, 1000), alone=st.booleans())
    def is_granted(self, which: int, tokens: int, alone: bool) -> None:
        decode, prefill = self.decode[which % 2], None if alone else self.prefill[which // 2 % 2]
        if all(self.permits.has_room(backend, tokens) for backend in (decode, prefill) if backend is not None):
            self.grants.append(Grant(self.permits, decode, prefill, tokens))

    @precondition(lambda self: self.grants)
    @rule(which=WHICH, outcome=OUTCOMES)
    def ends_its_prefill(self, which: int, outcome: Outcome) -> None:
        self.grants[which % len(self.grants)].settle_prefill(outcome)

    @precondition(lambda self: self.grants)
    @rule(which=WHICH)
    def begins_to_answer(self, which: int) -> None:
        self.grants[which % len(self.grants)].answer_began()

    @precondition(lambda self: self.grants)
    @rule(which=WHICH, outcome=OUTCOMES, again=st.booleans())
    def ends(self, which: int, outcome: Outcome, again: bool) -> None:
        which %= len(self.grants)
        (self.grants[which] if again else self.grants.pop(which)).settle(outcome)

    @precondition(lambda self: self.permits.given)
    @rule(which=st.integers(0, 50))
    def is_given_back_twice(self, which: int) -> None:
        """What has been given back already may be given back by anybody: it stays that way."""
        back = [permit for permit in self.permits.given if not permit.open]
        if back:
            back[which % len(back)].release()

    @invariant()
    def what_is_out_is_within_limits_and_adds_up(self) -> None:
        for backend, limit in (*((b, 3) for b in self.prefill), *((b, 2) for b in self.decode)):
            out = [permit for permit in self.permits.given if permit.open and permit.backend is backend]
            assert self.permits.taken(backend) == sum(permit.weight for permit in out) <= limit
            assert self.permits.requests(backend) == len(out) == backend.load.requests
        assert self.permits.of_pool(self.decode) == (
            4.0 - sum(map(self.permits.taken, self.decode)),
            sum(map(self.permits.taken, self.decode)),
        )

    @invariant()
    def each_comes_back_once(self) -> None:
        assert self.line.heard == sum(not permit.open for permit in self.permits.given)

    def teardown(self) -> None:
        for grant in self.grants:
            grant.settle(Outcome.OK)
        self.what_is_out_is_within_limits_and_adds_up()
        assert [permit for permit in self.permits.given if permit.open] == []
        loads = [(b.load.requests, b.load.tokens, b.load.local_tokens) for b in (*self.prefill, *self.decode)]
        assert loads == [(0, 0, 0)] * 4


TestAdmissions = machine(Admissions, examples=100, steps=60)
