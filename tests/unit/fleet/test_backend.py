from dataclasses import asdict

import pytest

from router.engines import PAIRED, PLAIN
from router.engines.gauges import Gauges
from router.fleet.backend import ModelCard
from router.fleet.identity import Identity
from router.fleet.load import Load
from router.settings.engines import Role
from tests.support.builders import a_backend, paced


def test_an_engine_is_known_by_its_host_and_port() -> None:
    backend = a_backend(port=8100)
    assert (backend.id, backend.url, backend.role) == ("127.0.0.1:8100", "http://127.0.0.1:8100", Role.DECODE)


def test_a_handoff_may_be_as_old_as_a_third_of_the_lease() -> None:
    assert a_backend("prefill", kv_lease_s=30).handoff_max_age_s == pytest.approx(10)


def test_or_as_old_as_the_settings_say() -> None:
    assert a_backend("prefill", kv_lease_s=30, max_age_s=4.0).handoff_max_age_s == 4.0


@pytest.mark.parametrize("role", [Role.PREFILL, Role.DECODE])
def test_an_engine_of_a_pair_is_spoken_to_in_its_dialect(role: Role) -> None:
    backend = a_backend(role)
    assert backend.dialect is backend.paired is PAIRED["vllm-nixl"]


def test_an_aggregated_engine_gets_plain_requests() -> None:
    assert a_backend("aggregated").dialect is PLAIN


def test_before_the_first_probe_an_engine_serves_what_is_configured_but_is_not_used() -> None:
    backend = a_backend(up=False, models=("a", "b"))
    assert (list(backend.models), backend.standing.usable) == (["a", "b"], False)


def test_its_group_is_learnt_unless_it_is_configured() -> None:
    learnt, configured = a_backend(), a_backend(group="blue")
    for backend in (learnt, configured):
        backend.learn(Identity("0.32.0", ("m",)))
    assert (learnt.group, configured.group) == ("0.32.0 m", "blue")
    assert [learnt.describe(0.0)[k] for k in ("version", "group", "group_learnt")] == ["0.32.0", "0.32.0 m", True]
    assert [configured.describe(0.0)[k] for k in ("version", "group", "group_learnt")] == ["0.32.0", "blue", False]


def test_a_lease_is_counted_against_it() -> None:
    backend = a_backend()
    backend.lease(10)
    assert backend.load == Load(1, 10)


def test_its_line_of_facts() -> None:
    assert (
        repr(a_backend(port=8100, requests=2, tokens=70)) == "<Backend decode 127.0.0.1:8100 up 2 requests, 70 tokens>"
    )


GAUGES = Gauges(1, 2, 0.5, 900.0)


def test_the_facts_of_the_fleet_view() -> None:
    backend = a_backend("prefill", 8100, requests=2, tokens=70, key="secret")
    backend.models = {"m": ModelCard("m", 4096)}
    backend.kv_peers["engine-1"] = ("127.0.0.1", 5600)
    assert backend.describe(now=12.34)["engine_gauges"] is None
    backend.progress.note(GAUGES, 12.0)
    assert backend.describe(now=12.34) == {
        "id": "127.0.0.1:8100",
        "url": "http://127.0.0.1:8100",
        "role": "prefill",
        "version": None,
        "group": "unknown",
        "group_learnt": True,
        "engine": "vllm-nixl",
        "models": {"m": 4096},
        "state": "up",
        "why": "probes answered",
        "drained": False,
        "share": 1.0,
        "since_s": 12.3,
        "inflight_requests": 2,
        "inflight_tokens": 70,
        "local_tokens": 0,
        "learnt": {"prefill_tokens_per_s": None, "decode_tokens_per_s": None},
        "others_requests": 0,
        "engine_gauges": asdict(GAUGES),
        "kv_events": None,
        "kv_peers": {"engine-1": "127.0.0.1:5600"},
    }


def test_what_was_learnt_is_among_the_facts_until_it_is_void() -> None:
    backend = paced(a_backend(), prefill_tokens_per_s=30_000, decode_tokens_per_s=50)
    assert backend.describe(0.0)["learnt"] == {"prefill_tokens_per_s": 30_000, "decode_tokens_per_s": 50.0}
    backend.forget_paces()
    assert backend.describe(0.0)["learnt"] == {"prefill_tokens_per_s": None, "decode_tokens_per_s": None}


def test_its_key_is_never_shown() -> None:
    backend = a_backend(key="secret")
    assert "secret" not in f"{backend!r} {backend.describe(0.0)}"
