from typing import Any

import pytest

from router.settings.engines import Role
from router.settings.loading import load
from tests.support.settings import faults


def dns_faults(**fields: Any) -> list[str]:
    return faults(flags={"discovery": {"dns": fields}})


def test_dns_names_that_can_be_looked_up() -> None:
    pools = {
        "prefill": {"name": "prefill.internal.", "port": 8200},
        "decode": {"name": "_http._tcp.decode.internal", "srv": True, "group": "blue"},
    }
    rules = load(flags={"discovery": {"dns": {**pools, "nameserver": "::1"}}}, environ={}).discovery.dns
    assert rules is not None
    assert [(role, pool.name, pool.port, pool.group) for role, pool in rules.pools.items()] == [
        (Role.PREFILL, "prefill.internal.", 8200, None),
        (Role.DECODE, "_http._tcp.decode.internal", None, "blue"),
    ]


@pytest.mark.parametrize(
    ("pool", "fault"),
    [
        ({"name": "d.internal"}, "port: must be given unless `srv` is true"),
        ({"name": "d.internal", "srv": True, "port": 1}, "port: must be left out with `srv`"),
        ({"name": "d.internal", "port": 0}, "port: input should be greater than or equal to 1"),
        ({"name": "10.0.0.1", "port": 1}, "name: is an address, not a name"),
        ({"name": "fe80::1", "port": 1}, "name: is an address, not a name"),
        ({"name": "d internal", "port": 1}, "name: must be a DNS name"),
        ({"name": "d..internal", "port": 1}, "name: must be a DNS name"),
        ({"name": "x" * 64, "port": 1}, "name: must be a DNS name"),
        ({"name": "http://d.internal", "port": 1}, "name: must be a DNS name"),
        ({"port": 1}, "name: must be given"),
        ({"name": "d.internal", "port": 1, "sped": 1}, "sped: unknown setting"),
    ],
)
def test_dns_names_that_cannot_name_the_field(pool: dict[str, Any], fault: str) -> None:
    (found,) = dns_faults(decode=pool)
    assert found.startswith(f"discovery.dns.decode.{fault}")


def test_other_faults_of_dns() -> None:
    pool = {"name": "d.internal", "port": 1}
    assert dns_faults()[0].startswith("discovery.dns: must name engines")
    assert dns_faults(decode=pool, nameserver="ns.internal")[0].startswith(
        "discovery.dns.nameserver: must be an IP address"
    )
    assert dns_faults(decode={**pool, "key_env": "KEY"}) == [
        "discovery.dns.decode.key_env: the environment variable KEY is not set"
    ]
