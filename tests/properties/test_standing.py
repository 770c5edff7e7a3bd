"""Engines that fail, come back and fail again: an engine is used only as its state allows, and no pool is emptied."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.errors import Outcome
from router.fleet.backend import Backend, ModelCard
from router.fleet.fleet import Fleet
from router.fleet.lease import Lease
from router.fleet.standing import Standing, State
from router.settings.engines import Role
from router.settings.fleet import Ejection, Probes
from tests.properties.profile import machine
from tests.support.builders import MODEL, a_backend

ENGINES = 5
WHICH = st.integers(0, ENGINES - 1)
OUT = (State.EJECTED, State.TRIAL)
PROBES, EJECTION = Probes(down_after=2, up_after=2), Ejection(failures=2, first_s=5, longest_s=20, trial_successes=2)

ALLOWED: dict[str, set[tuple[State, State]]] = {
    "good": {
        (State.UNKNOWN, State.UP),
        (State.DOWN, State.UP),
        (State.EJECTED, State.TRIAL),
    },
    "bad": {(state, State.DOWN) for state in State if state is not State.DOWN},
    "worked": {(State.TRIAL, State.UP)},
    "refused": {(State.UP, State.DOWN), (State.TRIAL, State.DOWN)},
    "failed": {(State.UP, State.EJECTED), (State.TRIAL, State.EJECTED)},
}
"""What may become of an engine by which evidence."""


class Pool(RuleBasedStateMachine):
    """One pool, and leases on its engines that end in every way and order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.backends = [a_backend(port=number + 1) for number in range(ENGINES)]
        for backend in self.backends:
            backend.standing = Standing(PROBES, EJECTION, 0.0)
        self.fleet = Fleet(self.backends)
        self.changing = Fleet(self.backends)
        """Of the same engines, which come and go here."""
        self.leases: list[Lease] = []

    @rule(which=WHICH, good=st.booleans(), pause_s=st.sampled_from([0.0, 1.0, 5.0, 20.0]))
    def is_probed(self, which: int, good: bool, pause_s: float) -> None:
        self.now += pause_s
        standing = self.backends[which].standing
        since = (standing.state, standing.since)
        changed = standing.good_probe(self.now) if good else standing.bad_probe("no", self.now)
        self._may_have_become(standing, since, "good" if good else "bad", changed=changed)

    @rule(pause_s=st.sampled_from([0.0, 5.0, 20.0]))
    def all_answer(self, pause_s: float) -> None:
        self.now += pause_s
        for which in range(ENGINES):
            self.is_probed(which, True, 0.0)

    @rule(which=WHICH)
    def fails_often(self, which: int) -> None:
        """Whatever it gets, as long as it gets something."""
        for _ in range(EJECTION.failures):
            if self.backends[which].standing.usable:
                self.leases.append(self.backends[which].lease(1))
                self.ends(-1, "failed")

    @rule(which=WHICH, tokens=st.integers(0, 1000), local=st.booleans())
    def gets_a_request(self, which: int, tokens: int, local: bool) -> None:
        usable = [backend for backend in self.backends if backend.standing.usable]
        if usable:
            self.leases.append(usable[which % len(usable)].lease(tokens, local_tokens=tokens if local else 0))

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0, 50), how=st.sampled_from(["worked", "worked", "failed", "failed", "refused", "nothing"]))
    def ends(self, which: int, how: str) -> None:
        lease = self.leases.pop(which % len(self.leases))
        standing = lease.backend.standing
        since = (standing.state, standing.since)
        changed = self._tell(lease.backend, how)
        self._may_have_become(standing, since, how, changed=changed)
        for _ in range(2):  # a second time does nothing
            lease.settle(Outcome.OK)

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0, 50))
    def begins_to_answer(self, which: int) -> None:
        self.leases[which % len(self.leases)].prompt_computed()

    @rule(which=WHICH, drained=st.sampled_from([True, False, False]))
    def is_drained(self, which: int, drained: bool) -> None:
        self.backends[which].standing.drained = drained
        assert self.backends[which].standing.usable <= (not drained)

    @rule(which=WHICH)
    def comes_or_goes(self, which: int) -> None:
        there, one = self.changing.backends, self.backends[which]
        self.changing.backends = tuple(b for b in there if b is not one) if one in there else (*there, one)

    @rule(which=WHICH, names=st.sets(st.sampled_from([MODEL, "adapter"])))
    def serves(self, which: int, names: set[str]) -> None:
        self.backends[which].models = {name: ModelCard(name) for name in names}

    def _tell(self, backend: Backend, how: str) -> bool:
        match how:
            case "worked":
                return backend.standing.worked(self.now)
            case "refused":
                return backend.standing.refused(self.now)
            case "failed":
                return self._fail(backend)
        return False

    def _fail(self, backend: Backend) -> bool:
        """At most half of who is to serve a model is out for failed requests at the moment that one more goes."""
        was = backend.standing.state
        changed = backend.standing.failed("timeout", self.now, can_be_spared=self.fleet.can_spare(backend))
        if changed and was is State.UP:
            serving = [b for b in self.backends if b is backend or self._is_to_serve(b)]
            for model in backend.models:
                pool = [b.standing.state for b in serving if model in b.models]
                assert 2 * sum(state in OUT for state in pool) <= len(pool)
        return changed

    def _is_to_serve(self, backend: Backend) -> bool:
        return not backend.standing.drained and backend.standing.state in (State.UP, *OUT)

    def _may_have_become(self, standing: Standing, before: tuple[State, float], how: str, *, changed: bool) -> None:
        state, since = before
        if not changed:
            assert (standing.state, standing.since) == before
        else:
            assert (state, standing.state) in ALLOWED[how], f"{state} became {standing.state} as a request {how}"
            assert standing.since == self.now >= since

    @invariant()
    def leases_add_up(self) -> None:
        for backend in self.backends:
            here = [lease for lease in self.leases if lease.backend is backend]
            load = (backend.load.requests, backend.load.tokens, backend.load.local_tokens, backend.standing.on_trial)
            assert load == (
                len(here),
                sum(lease._tokens for lease in here),
                sum(lease._local_tokens for lease in here),
                sum(lease._trial for lease in here),
            )

    @invariant()
    def used_as_it_is(self) -> None:
        for backend in self.backends:
            usable = backend.standing.state is State.UP or (
                backend.standing.state is State.TRIAL and not backend.standing.on_trial
            )
            assert backend.standing.usable is (usable and not backend.standing.drained)
            assert backend.standing.on_trial <= 1 or backend.standing.state is not State.TRIAL

    @invariant()
    def snapshots_are_of_those_that_are_usable_now(self) -> None:
        """Who is usable is kept from one snapshot to the next; here it is found out each time."""
        for fleet in (self.fleet, self.changing):
            for model in (MODEL, "adapter", "nobody's"):
                serving = [b for b in fleet.backends if model in b.models]
                usable = [b for b in serving if b.standing.usable]
                for avoid in ((), {self.backends[0]}):
                    snapshot = fleet.snapshot(model, avoid)
                    assert snapshot.decode == [b for b in usable if b.role is Role.DECODE and b not in avoid]
                    assert snapshot.prefill == [b for b in usable if b.role is Role.PREFILL and b not in avoid]
                    assert snapshot.known is bool(serving)
                    assert snapshot.prefill_known is any(b.role is Role.PREFILL for b in serving)
                    assert snapshot.inflight == sum(b.load.requests for b in fleet.backends if b.role is Role.DECODE)

    def teardown(self) -> None:
        for lease in self.leases:
            lease.settle(Outcome.OK)
        self.leases = []
        self.leases_add_up()
        self._comes_back()

    def _comes_back(self) -> None:
        """Whatever was, good probes and requests bring every engine back."""
        for backend in self.backends:
            backend.standing.drained = False
            for _ in range(100):
                self.now += 1
                backend.standing.good_probe(self.now)
                if backend.standing.usable:
                    backend.standing.worked(self.now)
            assert backend.standing.state is State.UP


TestPool = machine(Pool, examples=100, steps=80)
