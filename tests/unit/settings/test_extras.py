import sys

import pytest

from router.settings.loading import load
from tests.support.settings import DECODE, faults

POOL = {"name": "d.internal", "port": 1}
KV_EVENTS = {"endpoint": "tcp://{host}:5557"}


def test_dns_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dns", None)
    assert faults(flags={"discovery": {"dns": {"decode": POOL}}}) == [
        "discovery.dns: needs dnspython, which is not installed: pip install 'pd-router[dns]'"
    ]


def test_tracing_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.settings.extras.OTLP_EXPORTER", "nowhere.at.all")
    assert faults(flags={"tracing": {"otlp_endpoint": "http://c:4318/v1/traces"}}) == [
        "tracing: needs OpenTelemetry's exporter, which is not installed: pip install 'pd-router[otel]'"
    ]
    load(environ={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"})


def test_kv_events_without_their_libraries_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zmq", None)
    needs = "needs pyzmq and msgspec, which are not installed: pip install 'pd-router[kv-events]'"
    assert faults(flags={"backends": [{**DECODE, "kv_events": KV_EVENTS}]}) == [f"backends.0.kv_events: {needs}"]
    assert faults(flags={"discovery": {"dns": {"decode": {**POOL, "kv_events": KV_EVENTS}}}}) == [
        f"discovery.dns.decode.kv_events: {needs}"
    ]
