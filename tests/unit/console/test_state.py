import itertools
import random
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from router.admission.line import Line
from router.admission.permits import Permits
from router.console.recent import Recent
from router.console.state import MAX_ENGINES, Console
from router.engines.gauges import Gauges
from router.errors import EngineTimeout, Leg
from router.fleet.fleet import Fleet
from router.fleet.pairs import Pairs
from router.routing.modes import Modes
from router.scaling.autoscaler import Autoscaler, Capacity
from router.scaling.work import PrefillWork
from router.settings.admission import Admission
from router.settings.engines import Role
from router.settings.fleet import PairRules
from router.settings.scaling import Autoscale
from router.telemetry.events import Journey, Observers, RouteKind
from tests.support.builders import MODEL, a_backend


class Site:
    """A console over one prefill and one decode engine, and the clock that it reads."""

    def __init__(self) -> None:
        self.now = 100.0
        self.prefill, self.decode = a_backend(Role.PREFILL, 1), a_backend(Role.DECODE, 2)
        self.fleet = Fleet([self.prefill, self.decode])
        self.recent = Recent(self.clock)
        self.modes = Modes("auto")
        self.pairs = Pairs(PairRules(failures=1))
        line = Line(Admission(), self.clock)
        permits = Permits(Admission(prefill_permits=0))
        self.autoscaler = Autoscaler(self.fleet, line.depth, PrefillWork(), Autoscale(), Capacity(1000, 10), self.clock)
        self.console = Console(
            self.fleet, self.pairs, permits, line, self.recent, self.autoscaler, lambda: self.modes, self.clock
        )

    def clock(self) -> float:
        return self.now

    def state_after(self, seconds: float) -> dict[str, Any]:
        self.now += seconds
        return self.console.state()

    def engine(self, role: Role, seconds: float = 1.0) -> dict[str, Any]:
        pool: dict[str, Any] = self.state_after(seconds)["pools"][role.value]
        engine: dict[str, Any] = pool["engines"][0]
        return engine

    def stream(self) -> Journey:
        journey = Journey("r-1", "chat", self.now, self.clock, Observers(self.recent))
        journey.model, journey.stream = MODEL, True
        journey.chosen(RouteKind.DISAGGREGATED, "novel_prompt", self.decode.id, self.prefill.id)
        journey.prefill_sent()
        self.now += 0.2
        journey.prefilled()
        self.now += 0.1
        journey.committed()
        return journey


@pytest.fixture
def site() -> Site:
    return Site()


def test_pools_engines_and_flow_are_told(site: Site) -> None:
    site.autoscaler.look()
    site.stream()
    state = site.console.state()
    prefill, decode = state["pools"]["prefill"], state["pools"]["decode"]
    assert (prefill["permits"], decode["permits"], prefill["desired"]) == (None, 256, 1)
    assert [(e["id"], e["state"], e["why"]) for e in decode["engines"]] == [(site.decode.id, "up", "probes answered")]
    assert state["flow"] == {
        "handoffs": 1,
        "handoff_p50_s": 0.1,
        "handoff_p90_s": 0.1,
        "pairs": [[site.prefill.id, site.decode.id, 1]],
    }
    assert state["lately"]["stages_s"] == {"prefill": 0.2, "handoff": 0.1}
    assert (state["ttft"]["p50"][-1], state["ttft"]["p50"][0], len(state["ttft"]["p50"])) == (0.3, None, 60)
    assert state["decisions"] == [{"route": "disaggregated", "reason": "novel_prompt", "count": 1}]
    assert (state["verdict"]["level"], state["mode"]) == ("ok", "auto")


def test_a_pool_has_as_many_permits_as_are_taken_or_could_be(site: Site) -> None:
    down = [a_backend(Role.DECODE, 4, up=False), a_backend(Role.PREFILL, 5, up=False)]
    site.fleet.backends = (site.decode, a_backend(Role.DECODE, 3), *down)
    taken = site.console.permits.take(site.decode, 10)
    decode = site.state_after(1.0)["pools"]["decode"]
    assert (decode["permits_taken"], decode["permits"]) == (1, 512)
    site.decode.standing.drained = True
    assert site.state_after(1.0)["pools"]["decode"]["permits"] == 257, "its request, and those of the other"
    taken.release()
    assert site.state_after(1.0)["pools"]["decode"]["permits"] == 256
    assert site.state_after(1.0)["pools"]["prefill"]["permits"] is None, "there is no limit"


def test_two_modes_that_are_compared_are_both_told(site: Site) -> None:
    site.modes = Modes("auto", 0.25, "disaggregated")
    state = site.state_after(1.0)
    assert (state["mode"], state["share"], state["otherwise"]) == ("auto", 0.25, "disaggregated")


def test_engines_that_serve_several_models_are_counted_once(site: Site) -> None:
    site.fleet.backends = (a_backend(Role.PREFILL, 1, models=(MODEL, "adapter")), site.decode)
    site.autoscaler.look()
    prefill = site.state_after(1.0)["pools"]["prefill"]
    assert (prefill["desired"], len({model for model, _, _ in site.autoscaler.desired()})) == (1, 2)


def test_an_engine_with_work_whose_counters_stand_still_is_silent(site: Site) -> None:
    site.prefill.progress.note(Gauges(0, 1, 0.1, 5.0), 100.0)
    assert site.engine(Role.PREFILL)["silent_s"] is None, "it has nothing to do"
    site.prefill.load.requests = 2
    assert [site.engine(Role.PREFILL)["silent_s"] for _ in range(5)] == [None, None, None, 3.0, 4.0]
    assert site.console.state()["verdict"]["pool"] == "prefill"
    site.prefill.progress.note(Gauges(0, 1, 0.1, 6.0), site.now)
    assert site.engine(Role.PREFILL)["silent_s"] is None


def test_after_a_pause_nobody_knows_how_long_an_engine_has_been_silent(site: Site) -> None:
    site.prefill.progress.note(Gauges(0, 1, 0.1, 5.0), 0.0)
    site.prefill.load.requests = 1
    assert site.engine(Role.PREFILL)["silent_s"] is None
    assert site.engine(Role.PREFILL, 60)["silent_s"] is None


def test_requests_that_wait_for_prefill_are_no_work_of_decode(site: Site) -> None:
    site.decode.progress.note(Gauges(0, 0, 0.1, 5.0), 100.0)
    site.decode.load.requests = 2
    assert [site.engine(Role.DECODE)["silent_s"] for _ in range(6)] == [None] * 6


def test_an_engine_that_tells_nothing_is_never_silent(site: Site) -> None:
    site.decode.load.requests = 2
    assert [site.engine(Role.DECODE)["silent_s"] for _ in range(6)] == [None] * 6


def test_the_verdict_knows_of_the_last_seconds(site: Site) -> None:
    journey = Journey("r-2", "chat", site.now, site.clock, Observers(site.recent))
    journey.model, journey.stream = MODEL, True
    site.now += 3
    journey.queued("prefill", 3.0)
    journey.chosen(RouteKind.LOCAL, "prefill_saturated", site.decode.id, None)
    site.now += 1
    journey.committed()
    found = site.console.state()["verdict"]
    assert (found["level"], found["pool"]) == ("short", "prefill")
    assert found["why"].startswith("75% of the time to a first token is spent in line for it; decode computed 1 prompt")
    assert site.state_after(20)["verdict"]["level"] == "ok"


def test_the_tree_is_made_twice_a_second_at_most(site: Site) -> None:
    first = site.console.state()
    assert site.state_after(0.4) is first
    assert site.state_after(0.2) is not first


def test_engines_that_are_left_alone_and_sources_that_fail_are_told(site: Site) -> None:
    site.pairs.failed(site.prefill.id, site.decode.id, site.now)
    site.fleet.sources = {"file": "not there", "dns decode": None}
    state = site.console.state()
    assert state["quarantined_pairs"][0]["prefill"] == site.prefill.id
    assert state["sources"] == {"file": "not there"}


def test_hand_overs_are_counted_whatever_the_number_of_pairs(site: Site) -> None:
    for number in range(1100):
        journey = Journey("r", "chat", site.now, site.clock, Observers(site.recent), stream=True)
        journey.chosen(RouteKind.DISAGGREGATED, "novel_prompt", f"d:{number}", "p:1")
        journey.prefilled()
        journey.committed()
    assert site.console.state()["flow"]["handoffs"] == 1100


def test_a_large_busy_fleet_is_told_within_bounds(site: Site) -> None:
    ports: Iterator[int] = itertools.count(1000)
    engines = [a_backend(role, next(ports), models=("m" * 60,) * 1) for role in Role for _ in range(200)]
    site.fleet.backends = tuple(engines)
    rng = random.Random(1)
    for _ in range(3000):
        site.now += 0.05
        prefill, decode = rng.sample(engines, 2)
        journey = Journey("r" * 30, "chat", site.now, site.clock, Observers(site.recent))
        journey.model, journey.stream = MODEL, True
        journey.chosen(RouteKind.DISAGGREGATED, "novel_prompt", decode.id, prefill.id)
        journey.prefill_sent()
        journey.prefilled()
        journey.committed()
        error = EngineTimeout("x" * 10_000).in_leg(Leg.DECODE)
        journey.settled(error.outcome, error.status, error)
    state = site.console.state()
    assert {(len(pool["engines"]), pool["left_out"]) for pool in state["pools"].values()} == {(MAX_ENGINES, 72)}
    assert len(orjson.dumps(state)) < 300_000
