"""Names that change, fail and come back, on a clock that jumps."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest

from router.fleet.discovery.dns import Answer, LookupFailed, NamedEngines, Service, pause_s
from router.settings.discovery import DnsPool
from router.settings.engines import BackendSettings, Role
from tests.support.virtual_time import virtual_time

REFRESH_S = 5


class Zone:
    """A resolver that answers from memory."""

    def __init__(self) -> None:
        self.hosts: dict[str, set[str]] = {}
        self.srv: dict[str, set[tuple[str, int]]] = {}
        self.ttl_s = math.inf
        self.broken: set[str] = set()
        self.asked_at: list[float] = []

    async def addresses(self, name: str) -> Answer[str]:
        await self._ask(name)
        return Answer(frozenset(self.hosts.get(name, set())), self.ttl_s)

    async def services(self, name: str) -> Answer[Service]:
        await self._ask(name)
        return Answer(frozenset(Service(*record) for record in self.srv.get(name, set())), self.ttl_s)

    async def _ask(self, name: str) -> None:
        self.asked_at.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0)
        if name in self.broken:
            raise LookupFailed(f"no answer {len(self.asked_at)}")


class Pool:
    """A pool by name, and what was told of it."""

    def __init__(self, left_out: Iterable[str] = (), /, **fields: object) -> None:
        self.zone = Zone()
        self.found: list[BackendSettings] = []
        self.failures: list[str] = []
        self.left_out = list(left_out)
        rules = DnsPool.model_validate(fields)
        self.engines = NamedEngines(
            Role.DECODE, rules, REFRESH_S, self.zone, found=self.note, failed=self.failures.append
        )

    def note(self, engines: Iterable[BackendSettings]) -> list[str]:
        self.found = list(engines)
        return self.left_out

    async def look(self) -> list[str]:
        """Look once; where the engines are."""
        await self.engines.look()
        return [engine.url for engine in self.found]

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """Look again and again while the block lasts."""
        task = asyncio.get_running_loop().create_task(self.engines.run())
        yield
        task.cancel()


def plain(*left_out: str, **fields: object) -> Pool:
    """Engines on port 8201 of the addresses of `d`; at first, of 10.0.0.1."""
    pool = Pool(left_out, name="d", port=8201, **fields)
    pool.zone.hosts["d"] = {"10.0.0.1"}
    return pool


def served() -> Pool:
    """Engines as the SRV records of `_d` say; at first, one on `a` and one on `b`."""
    pool = Pool(name="_d", srv=True)
    pool.zone.srv["_d"] = {("a.", 1), ("b.", 2)}
    pool.zone.hosts |= {"a.": {"10.0.0.1"}, "b.": {"10.0.0.2"}}
    return pool


async def test_a_name_stands_for_its_addresses() -> None:
    pool = plain(group="blue", models=["m"], kv_lease_s=7)
    pool.zone.hosts["d"] = {"10.0.0.2", "fd00::1", "10.0.0.1"}
    assert await pool.look() == ["http://10.0.0.1:8201", "http://10.0.0.2:8201", "http://[fd00::1]:8201"]
    assert {(e.role, e.group, e.models, e.kv_lease_s) for e in pool.found} == {(Role.DECODE, "blue", ("m",), 7)}


async def test_services_are_where_their_hosts_are() -> None:
    pool = served()
    pool.zone.srv["_d"] |= {("b.", 3), ("unknown.", 4)}
    assert await pool.look() == ["http://10.0.0.1:1", "http://10.0.0.2:2", "http://10.0.0.2:3"]


async def test_a_service_without_a_port_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    pool = served()
    pool.zone.srv["_d"] |= {("a.", 0), ("c.", 0)}
    for _ in range(2):
        assert await pool.look() == ["http://10.0.0.1:1", "http://10.0.0.2:2"]
    assert [record.__dict__["facts"]["why"] for record in caplog.records] == ["a. has port 0", "c. has port 0"]


async def test_a_name_that_moves_moves_its_engines() -> None:
    pool = plain()
    assert await pool.look() == ["http://10.0.0.1:8201"]
    pool.zone.hosts["d"] = {"10.0.0.2"}
    assert await pool.look() == ["http://10.0.0.2:8201"]


async def test_a_service_that_moves_moves_at_once_and_its_host_is_forgotten() -> None:
    pool = served()
    await pool.look()
    pool.zone.srv["_d"] = {("a.", 1)}
    assert await pool.look() == ["http://10.0.0.1:1"]
    pool.zone.srv["_d"] = {("a.", 1), ("b.", 2)}
    pool.zone.broken = {"b."}
    assert await pool.look() == ["http://10.0.0.1:1"]


async def test_empty_answers_count_from_the_third_in_a_row() -> None:
    pool = plain()
    await pool.look()
    for records, left in ((set[str](), 1), (set(), 1), ({"10.0.0.1"}, 1), (set(), 1), (set(), 1), (set(), 0)):
        pool.zone.hosts["d"] = records
        assert len(await pool.look()) == left
    pool.zone.hosts["d"] = {"10.0.0.3"}
    assert await pool.look() == ["http://10.0.0.3:8201"]


async def test_a_service_without_records_is_gone_with_the_third_empty_answer() -> None:
    pool = served()
    await pool.look()
    pool.zone.srv.clear()
    assert [len(await pool.look()) for _ in range(3)] == [2, 2, 0]


async def test_failures_never_empty_a_pool_and_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    pool = plain()
    await pool.look()
    pool.zone.broken = {"d"}
    with caplog.at_level(logging.INFO):
        for _ in range(10):
            assert await pool.look() == ["http://10.0.0.1:8201"]
        pool.zone.broken.clear()
        await pool.look()
    assert [record.message for record in caplog.records] == [
        "a DNS lookup failed; its engines stay",
        "DNS answers again",
    ]
    assert caplog.records[0].__dict__["facts"] == {"pool": "decode", "name": "d", "why": "d: no answer 2"}
    assert len(pool.failures) == 10


async def test_failures_between_empty_answers_are_no_empty_answers() -> None:
    pool = plain()
    await pool.look()
    pool.zone.hosts.clear()
    counts = []
    for broken in (False, False, True, True, False):
        pool.zone.broken = {"d"} if broken else set()
        counts.append(len(await pool.look()))
    assert counts == [1, 1, 1, 1, 0]


async def test_one_host_that_cannot_be_looked_up_keeps_its_address_and_holds_nobody_up() -> None:
    pool = served()
    await pool.look()
    pool.zone.broken = {"a."}
    pool.zone.hosts["b."] = {"10.0.0.9"}
    assert await pool.look() == ["http://10.0.0.1:1", "http://10.0.0.9:2"]
    (failure,) = pool.failures
    assert failure.startswith("a.: no answer")


async def test_what_is_as_it_was_is_not_told_again(caplog: pytest.LogCaptureFixture) -> None:
    pool = plain("http://10.0.0.1:8201 is in the fleet already")
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            await pool.look()
    assert [record.message for record in caplog.records] == ["an engine was left out", "engines were looked up"]


@pytest.mark.parametrize(
    ("ttl_s", "refresh_s", "expected_s"),
    [(30, 5, 5), (3, 5, 3), (0, 5, 1), (math.inf, 5, 5), (0, 0.05, 0.05), (30, 60, 30)],
)
def test_pauses_follow_the_ttl_within_bounds(ttl_s: float, refresh_s: float, expected_s: float) -> None:
    assert pause_s(ttl_s, refresh_s) == expected_s


@virtual_time
async def test_it_is_looked_at_as_often_as_the_records_say() -> None:
    pool = plain()
    began = asyncio.get_running_loop().time()
    async with pool.looking():
        await asyncio.sleep(9)
        pool.zone.ttl_s = 2
        await asyncio.sleep(6)
    assert [at - began for at in pool.zone.asked_at] == pytest.approx([0, 5, 10, 12, 14], abs=0.01)


@virtual_time
async def test_after_a_failure_it_is_looked_at_soon_then_ever_more_rarely() -> None:
    pool = plain()
    pool.zone.broken = {"d"}
    await pool.engines.look()
    async with pool.looking():
        await asyncio.sleep(60)
        pool.zone.broken.clear()
        await asyncio.sleep(REFRESH_S + 0.6)
    gaps = [later - at for at, later in zip(pool.zone.asked_at, pool.zone.asked_at[1:], strict=False)]
    for gap, least_s in zip(gaps, [0.5, 0.5, 1, 2, 4, 5, 5], strict=False):
        assert least_s - 0.001 <= gap <= least_s + 0.501
    assert 14 <= len(gaps) <= 17
    assert [engine.url for engine in pool.found] == ["http://10.0.0.1:8201"]


@virtual_time
async def test_a_mistake_in_looking_names_up_is_told_with_its_pool(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pool = Pool(name="decode", port=8000)
    monkeypatch.setattr(pool.engines, "_found", lambda _: 1 / 0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(pool.engines.run(), 1)
    assert len(pool.zone.asked_at) in (1, 2), "not again and again at once"
    assert {record.facts["work"] for record in caplog.records} == {"names of decode engines"}  # type: ignore[attr-defined]
