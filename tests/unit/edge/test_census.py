import resource

import pytest

from router.edge.census import (
    SPARE_CONNECTIONS,
    Census,
    connections_for,
    file_limit,
    raise_file_limit,
    site_of,
)
from tests.support.edge import TurnedAway


def test_those_over_the_limit_are_shed_and_told_when_to_come_back() -> None:
    observer = TurnedAway()
    census = Census(2, 2, observer)
    assert census.enter("a") is None
    assert census.enter("b") is None
    shed = census.enter("c")
    assert shed is not None
    assert (shed.status, shed.code, shed.retry_after_s) == (503, "connections", 1)
    census.leave("c")
    census.leave("a")
    assert census.enter("c") is None
    assert observer.reasons == ["connections"]


def test_one_address_cannot_take_all() -> None:
    observer = TurnedAway()
    census = Census(4, None, observer)
    assert [census.enter("a") is None for _ in range(3)] == [True, True, False]
    assert census.enter("b") is None
    assert observer.reasons == ["address_connections"]


def test_everybody_who_left_is_forgotten() -> None:
    census = Census(4, 1, TurnedAway())
    for _ in range(3):
        census.enter("a")
        census.enter("a")
        census.leave("a")
        census.leave("a")
    assert (census.open, dict(census._by_site)) == (0, {})


def test_in_the_end_there_is_not_even_room_to_wait_for_clients_to_read() -> None:
    census = Census(1, 1, TurnedAway())
    for _ in range(1 + SPARE_CONNECTIONS):
        census.enter("a")
    assert not census.overrun
    census.enter("a")
    assert census.overrun


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
    ],
)
def test_a_network_of_ipv6_is_one_client(one: str, other: str, same: bool) -> None:
    assert (site_of(one) == site_of(other)) is same


def test_engines_get_two_files_for_each_client() -> None:
    assert connections_for(1024) == 320
    assert 3 * connections_for(20_000) + 64 <= 20_000
    assert connections_for(10) == 1


def test_the_limit_of_files_is_raised_as_far_as_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"now": (256, 4096)}
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, given: limits.update(now=given))
    assert file_limit() == 256
    raise_file_limit()
    assert file_limit() == 4096
    limits["now"] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert file_limit() == 1 << 20
