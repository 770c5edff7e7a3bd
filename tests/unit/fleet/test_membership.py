import random
from contextlib import nullcontext

import pytest

from router.errors import InvalidRequest, NotFound
from router.fleet import membership as room
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.fleet.membership import Membership
from router.fleet.pairs import Pairs
from router.fleet.probes import Prober
from router.settings.engines import BackendSettings, Role
from router.settings.fleet import PairRules, Probes
from tests.support.asking import ask
from tests.support.builders import a_backend


class Site:
    """A fleet of one configured engine."""

    def __init__(self) -> None:
        self.fleet = Fleet([a_backend(Role.DECODE, 1)])
        self.pairs = Pairs(PairRules(failures=1))
        prober = Prober(
            self.fleet,
            ask,
            Probes(),
            clock=lambda: 0.0,
            notice=lambda _: None,
            rng=random.Random(),
        )
        self.changed: list[Backend] = []
        self.members = Membership(self.fleet, prober, self.pairs, self.make, self.changed.append)

    def make(self, settings: BackendSettings) -> Backend:
        if settings.key_env:
            raise InvalidRequest("no key", param="key_env")
        return Backend(settings, Probes(), now=0.0)

    @property
    def ports(self) -> list[int]:
        return [int(backend.id.rsplit(":", 1)[1]) for backend in self.fleet.backends]


def engine(port: int, role: Role = Role.PREFILL, **fields: object) -> BackendSettings:
    return BackendSettings.model_validate({"url": f"http://127.0.0.1:{port}", "role": role, **fields})


async def test_an_engine_comes_in_and_goes() -> None:
    here = Site()
    added = here.members.add(engine(2))
    assert here.ports == [1, 2]
    here.pairs.failed(added.id, "d", 0.0)
    assert here.members.remove(added.id) is added
    assert (here.ports, here.pairs.usable(added.id, "d", 1.0)) == ([1], True)
    assert here.changed == [added]


async def test_an_engine_is_drained_and_back() -> None:
    here = Site()
    one = here.fleet.backends[0]
    assert here.members.drain(one.id, drained=True) is one
    assert not one.standing.usable
    here.members.drain(one.id, drained=False)
    assert (one.standing.usable, here.changed) == (True, [one, one])


async def test_a_drain_outlasts_what_a_source_says(caplog: pytest.LogCaptureFixture) -> None:
    here = Site()
    here.members.found("dns", [engine(2), engine(3)])
    here.members.drain("127.0.0.1:2", drained=True)
    for listed in ([engine(3)], [engine(2), engine(3)], [engine(2, group="blue"), engine(3)]):
        here.members.found("dns", listed)
    assert {b.id: b.standing.drained for b in here.fleet.backends[1:]} == {"127.0.0.1:2": True, "127.0.0.1:3": False}
    assert [record.facts for record in caplog.records] == 2 * [{"backend": "127.0.0.1:2"}]  # type: ignore[attr-defined]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("deed", ["enable", "remove"])
async def test_a_drain_ends_with_an_operators_word(deed: str, there: bool) -> None:
    here = Site()
    here.members.found("dns", [engine(2)])
    here.members.drain("127.0.0.1:2", drained=True)
    if not there:
        here.members.found("dns", [])
    with nullcontext() if there else pytest.raises(NotFound):
        here.members.remove("127.0.0.1:2") if deed == "remove" else here.members.drain("127.0.0.1:2", drained=False)
    here.members.found("dns", [])
    here.members.found("dns", [engine(2)])
    assert not here.fleet.backends[1].standing.drained


async def test_of_the_drained_that_are_gone_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_DRAINED", 2)
    here = Site()
    ports = (2, 3, 4)
    here.members.found("dns", map(engine, ports))
    for port in (2, 3, 2, 4):
        here.members.drain(f"127.0.0.1:{port}", drained=True)
    here.members.found("dns", [])
    here.members.found("dns", map(engine, ports))
    assert [backend.standing.drained for backend in here.fleet.backends[1:]] == [True, False, True]


async def test_who_is_not_there_cannot_be_drained() -> None:
    here = Site()
    with pytest.raises(NotFound):
        here.members.drain("127.0.0.1:9", drained=True)
    assert not here.members.add(engine(9)).standing.drained


async def test_an_address_is_one_engine() -> None:
    here = Site()
    with pytest.raises(InvalidRequest):
        here.members.add(engine(1))
    assert here.ports == [1]


async def test_who_is_not_there_cannot_be_removed() -> None:
    with pytest.raises(NotFound):
        Site().members.remove("127.0.0.1:9")


async def test_a_source_says_who_is_there() -> None:
    here = Site()
    assert here.members.found("file", [engine(2), engine(3)]) == []
    two, three = here.fleet.backends[1:]
    assert here.members.found("file", [engine(3), engine(4)]) == []
    assert here.ports == [1, 3, 4]
    assert here.fleet.backends[1] is three
    assert two not in here.fleet.backends
    assert here.members.found("file", []) == []
    assert here.ports == [1]


async def test_an_engine_whose_settings_changed_is_another_one() -> None:
    here = Site()
    here.members.found("file", [engine(2)])
    before = here.fleet.backends[1]
    here.members.found("file", [engine(2, group="blue")])
    assert (here.ports, here.fleet.backends[1].group) == ([1, 2], "blue")
    assert here.fleet.backends[1] is not before


async def test_what_cannot_be_taken_in_is_told_and_tried_again() -> None:
    here = Site()
    faults = here.members.found("file", [engine(1), engine(2, key_env="KEY"), engine(3)])
    assert (len(faults), here.ports) == (2, [1, 3])
    assert len(here.members.found("file", [engine(1), engine(3)])) == 1


async def test_one_that_an_operator_removed_is_not_removed_twice() -> None:
    here = Site()
    here.members.found("file", [engine(2)])
    here.members.remove("127.0.0.1:2")
    assert here.members.found("file", []) == []


async def test_each_source_owns_what_it_found() -> None:
    here = Site()
    here.members.found("file", [engine(2), engine(3)])
    shared = here.fleet.backends[2]
    assert here.members.found("dns", [engine(3), engine(4)]) == []
    assert here.ports == [1, 2, 3, 4]
    here.members.found("file", [])
    assert here.ports == [1, 3, 4]
    assert here.fleet.backends[1] is shared, "the other source lists it, so that it was not touched"
    here.members.found("dns", [engine(4)])
    assert here.ports == [1, 4]


async def test_what_is_configured_is_no_sources_to_remove() -> None:
    here = Site()
    assert len(here.members.found("dns", [engine(1, Role.DECODE)])) == 1
    assert here.members.found("dns", []) == []
    assert (here.ports, here.changed) == ([1], [])


async def test_of_what_two_sources_list_the_first_has_its_way() -> None:
    here = Site()
    here.members.found("file", [engine(2, group="blue")])
    assert here.members.found("dns", [engine(2)]) == [
        "http://127.0.0.1:2 is listed elsewhere with another role or other settings, which it keeps"
    ]
    assert here.fleet.backends[1].group == "blue"
    here.members.found("file", [])
    assert here.fleet.backends[1].group == "unknown"


async def test_of_what_a_source_lists_twice_the_first_has_its_way() -> None:
    here = Site()
    assert here.members.found("file", [engine(2), engine(2, Role.DECODE), engine(3), engine(3)]) == [
        "http://127.0.0.1:2 is listed twice, with different roles or settings; the first has its way"
    ]
    assert (here.ports, here.fleet.backends[1].role) == ([1, 2, 3], Role.PREFILL)


async def test_a_source_hears_of_its_own_faults_only() -> None:
    here = Site()
    assert len(here.members.found("file", [engine(1)])) == 1
    assert here.members.found("dns", [engine(2)]) == []


async def test_a_source_that_cannot_be_read_changes_nothing_and_can_be_seen() -> None:
    here = Site()
    here.members.found("dns", [engine(2)])
    here.members.failed("dns", "no answer")
    assert (here.ports, here.fleet.describe(0.0)["sources"]) == ([1, 2], {"dns": {"ok": False, "why": "no answer"}})
    here.members.found("dns", [engine(2)])
    assert here.fleet.sources == {"dns": None}


async def test_what_is_wrong_with_sources_is_told_once_all_were_looked_at() -> None:
    here = Site()
    assert list(here.members.complaints()) == []
    here.members.found("file", [engine(1), engine(2, key_env="KEY"), engine(3)])
    here.members.found("dns prefill", [])
    here.members.failed("dns decode", "no answer")
    assert list(here.members.complaints()) == [
        "file: left out: http://127.0.0.1:1 is in the fleet already; an engine has one role",
        "file: left out: http://127.0.0.1:2: no key",
        "dns prefill: no engine is listed there",
        "dns decode: no answer",
    ]
    for source in ("file", "dns prefill", "dns decode"):
        here.members.found(source, [engine(3)])
    assert list(here.members.complaints()) == []


async def test_the_last_usable_engine_stays_until_its_successor_was_probed() -> None:
    here = Site()
    here.members.found("dns", [engine(2)], told_again=True)
    here.fleet.backends[1].standing.good_probe(0.0)
    here.members.found("dns", [engine(3)], told_again=True)
    assert here.ports == [1, 2, 3]
    here.fleet.backends[2].standing.good_probe(0.0)
    here.members.found("dns", [engine(3)], told_again=True)
    assert here.ports == [1, 3]
    here.members.found("dns", [], told_again=True)
    assert here.ports == [1]


async def test_the_last_usable_engine_of_one_source_outlasts_what_another_says() -> None:
    here = Site()
    here.members.found("dns", [engine(2)], told_again=True)
    here.fleet.backends[1].standing.good_probe(0.0)
    here.members.found("dns", [engine(3)], told_again=True)
    here.members.found("file", [])
    assert here.ports == [1, 2, 3]
    here.members.found("file", [engine(4)])
    here.fleet.backends[2].standing.good_probe(0.0)
    here.members.found("dns", [engine(3)], told_again=True)
    assert here.ports == [1, 3, 4]


async def test_what_a_file_does_not_list_any_more_goes_whoever_repeats_itself() -> None:
    here = Site()
    here.members.found("file", [engine(2)])
    here.fleet.backends[1].standing.good_probe(0.0)
    here.members.found("dns", [engine(2), engine(3)], told_again=True)
    here.members.found("dns", [engine(3)], told_again=True)
    here.members.found("file", [])
    assert here.ports == [1, 3]


async def test_what_a_file_lists_no_more_and_dns_does_is_as_dns_has_it() -> None:
    here = Site()
    here.members.found("file", [engine(2)])
    here.fleet.backends[1].standing.good_probe(0.0)
    here.members.found("dns", [engine(2)], told_again=True)
    here.members.found("file", [])
    here.members.found("dns", [engine(3)], told_again=True)
    assert here.ports == [1, 2, 3]
