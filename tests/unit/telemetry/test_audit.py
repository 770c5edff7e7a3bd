import asyncio
import logging
from types import SimpleNamespace
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from router.admission.grant import Grant
from router.admission.permits import Permits
from router.exchange.pool import Connections
from router.exchange.release import Releases
from router.exchange.warm_up import WarmUps
from router.fleet.fleet import Fleet
from router.settings.admission import Admission
from router.settings.engines import Role
from router.telemetry import audit as room
from router.telemetry.audit import LOOKS, RULES, SPARE, Audit
from tests.support.builders import a_backend


class Site:
    """A pair and what a gateway holds of it."""

    def __init__(self) -> None:
        self.prefill, self.decode = a_backend(Role.PREFILL, 1), a_backend(Role.DECODE, 2)
        self.fleet = Fleet([self.prefill, self.decode])
        self.permits = Permits(Admission())
        self.sockets = SimpleNamespace(open=0, idle=0)
        self.releases = SimpleNamespace(open=0)
        self.warm_ups = SimpleNamespace(open=0)
        self.registry = CollectorRegistry()
        self.audit = Audit(
            self.fleet,
            self.permits,
            cast("Connections", self.sockets),
            cast("Releases", self.releases),
            cast("WarmUps", self.warm_ups),
            self.registry,
        )

    @property
    def broken(self) -> set[str]:
        """The rules that do not hold."""
        return {rule for rule, _ in self.audit.violations()}

    def counted(self) -> dict[str, float | None]:
        name = "pd_router_invariant_violations_total"
        return {rule: self.registry.get_sample_value(name, {"rule": rule}) for rule in RULES}


def test_a_request_in_any_phase_adds_up() -> None:
    here = Site()
    with Grant(here.permits, here.decode, here.prefill, 100):
        here.sockets.open = 6
        assert here.broken == set()
    here.sockets.open = 4
    with Grant(here.permits, here.decode, None, 100) as alone:
        alone.answer_began()
        assert here.broken == set()
    here.sockets.idle = 2
    assert here.broken == set()


def test_a_lost_permit_is_found() -> None:
    here = Site()
    here.permits.take(here.decode, 10)
    assert here.broken == {"permits"}


@pytest.mark.parametrize("count", ["requests", "tokens", "local_tokens"])
@pytest.mark.parametrize("by", [1, -1])
def test_a_count_that_was_not_given_back_or_given_back_twice_is_found(count: str, by: int) -> None:
    here = Site()
    setattr(here.prefill.load, count, by)
    assert here.broken == ({"permits", "leases"} if count == "requests" and by < 0 else here.broken)
    assert here.broken


def test_a_trial_that_never_ended_is_found() -> None:
    here = Site()
    here.decode.standing.on_trial = 1
    assert here.broken == {"leases"}


def test_a_connection_that_was_not_given_back_is_found() -> None:
    here = Site()
    here.sockets.open = 2 * LOOKS + SPARE
    assert here.broken == set()
    here.sockets.open += 1
    assert here.broken == {"sockets"}
    here.releases.open = 1
    assert here.broken == set()
    here.sockets.open += 2
    assert here.broken == {"sockets"}
    here.warm_ups.open = 1
    assert here.broken == set()


def test_an_engine_that_left_the_fleet_may_finish() -> None:
    here = Site()
    with Grant(here.permits, here.decode, None, 100):
        here.fleet.backends = (here.prefill,)
        here.sockets.open = 3
        assert here.broken == set()


def test_what_is_wrong_is_counted_each_time_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    here = Site()
    assert here.counted() == dict.fromkeys(RULES, 0)
    here.permits.take(here.decode, 10)
    with caplog.at_level(logging.ERROR):
        here.audit.look()
        here.audit.look()
    assert (here.counted()["permits"], len(caplog.records)) == (2, 1)


async def test_a_look_that_failed_is_followed_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    here, again, looks = Site(), asyncio.Event(), 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise ZeroDivisionError
        again.set()

    monkeypatch.setattr(room, "INTERVAL_S", 0)
    monkeypatch.setattr(here.audit, "look", look)
    async with asyncio.TaskGroup() as group:
        looking = group.create_task(here.audit.run())
        await again.wait()
        looking.cancel()
