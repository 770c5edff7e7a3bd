"""Questions to a DNS server that answers over UDP and TCP, fails, or is silent."""

import re
from collections.abc import Iterator
from pathlib import Path

import dns.asyncresolver
import dns.resolver
import pytest

from router.fleet.discovery.dns import Answer, LookupFailed, Service
from router.fleet.discovery.resolver import Resolver
from router.settings.discovery import DnsDiscovery
from tests.support.dns_server import SILENCE, ZoneServer, dns_server

ZONE = """
decode.internal. 7 A 10.0.0.1
decode.internal. 7 A 10.0.0.2
both.internal. 7 A 10.0.0.1
both.internal. 7 AAAA fd00::1
six.internal. 9 AAAA fd00::1
text.internal. 9 TXT hello
_http._tcp.decode.internal. 3 SRV 0 0 8201 a.internal.
_http._tcp.decode.internal. 3 SRV 0 0 8202 a.internal.
_none._tcp.decode.internal. 3 SRV 0 0 0 .
"""


@pytest.fixture
def server() -> Iterator[ZoneServer]:
    with dns_server() as server:
        server.zone = ZONE
        yield server


def resolver(server: ZoneServer, timeout_s: float = 5) -> Resolver:
    rules = {"decode": {"name": "d", "port": 1}, "timeout_s": timeout_s}
    return Resolver(DnsDiscovery.model_validate(rules | server.settings()))


async def test_addresses_and_how_long_they_hold(server: ZoneServer) -> None:
    assert await resolver(server).addresses("decode.internal") == Answer(frozenset({"10.0.0.1", "10.0.0.2"}), 7)


async def test_an_engine_with_both_kinds_of_address_is_one(server: ZoneServer) -> None:
    assert (await resolver(server).addresses("both.internal")).records == {"10.0.0.1"}
    assert await resolver(server).addresses("six.internal") == Answer(frozenset({"fd00::1"}), 9)


async def test_services(server: ZoneServer) -> None:
    answer = await resolver(server).services("_http._tcp.decode.internal")
    assert answer == Answer(frozenset({Service("a.internal.", 8201), Service("a.internal.", 8202)}), 3)
    assert (await resolver(server).services("_none._tcp.decode.internal")).records == set()


@pytest.mark.parametrize("name", ["nobody.internal", "text.internal"])
async def test_that_there_is_nothing_is_an_answer(server: ZoneServer, name: str) -> None:
    assert await resolver(server).addresses(name) == Answer(frozenset())


@pytest.mark.parametrize(
    ("fault", "timeout_s", "why"),
    [("SERVFAIL", 5, "SERVFAIL"), ("REFUSED", 5, "REFUSED"), (SILENCE, 0.05, "timed out")],
)
async def test_no_answer_is_a_failure_with_its_reason(
    server: ZoneServer, fault: str, timeout_s: float, why: str
) -> None:
    server.faults["decode.internal."] = fault
    with pytest.raises(LookupFailed, match=why):
        await resolver(server, timeout_s).addresses("decode.internal")


async def test_ipv6_is_not_asked_for_where_there_is_ipv4(server: ZoneServer) -> None:
    await resolver(server).addresses("both.internal")
    assert [kind for _, kind, _ in server.asked] == ["A"]


async def test_long_answers_are_asked_for_again_over_tcp(server: ZoneServer) -> None:
    server.zone = "\n".join(f"decode.internal. 7 A 10.0.1.{i}" for i in range(200))
    assert len((await resolver(server).addresses("decode.internal")).records) == 200
    assert server.asked["decode.internal.", "A", "tcp"] == 1


async def test_without_a_server_of_its_own_it_asks_as_the_machine_is_set_up(
    server: ZoneServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.1\nsearch elsewhere.internal internal\n")

    class Here(dns.asyncresolver.Resolver):
        def __init__(self, filename: str = "", configure: bool = True) -> None:
            super().__init__(str(resolv_conf), configure)
            self.port = server.port

    monkeypatch.setattr(dns.asyncresolver, "Resolver", Here)
    asking = Resolver(DnsDiscovery.model_validate({"decode": {"name": "d", "port": 1}, "timeout_s": 5}))
    assert len((await asking.addresses("decode")).records) == 2
    resolv_conf.unlink()
    with pytest.raises(LookupFailed, match=re.escape("cannot open")):
        await asking.addresses("decode")
