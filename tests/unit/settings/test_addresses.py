import pytest

from router.settings.addresses import is_loopback
from router.settings.engines import BackendSettings, Role
from tests.support.settings import DECODE, faults


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("http://host:8200", "http://host:8200"),
        ("http://host:8200/", "http://host:8200"),
        ("http://host", "http://host:80"),
        ("http://[::1]:8200", "http://[::1]:8200"),
        ("http://[fe80::1%eth0.100]:1", "http://[fe80::1%eth0.100]:1"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("http://localhost:65535", "http://localhost:65535"),
        ("http://decode_1.pool_default.:1", "http://decode_1.pool_default.:1"),
        ("http://xn--bcher-kva.example:1", "http://xn--bcher-kva.example:1"),
    ],
)
def test_an_engine_is_named_by_its_origin(given: str, origin: str) -> None:
    assert BackendSettings(url=given, role=Role.DECODE).url == origin


@pytest.mark.parametrize(
    "url",
    [
        "host:8200",
        "https://host:1",
        "http://",
        "http://u:p@host:1",
        "http://host:1/v1",
        "http://host:1?x",
        "http://h:x",
        "http://h:0",
        "http://h:65536",
        "http://a b:1",
        "http://a..b:1",
        "http://\ud800:1",
        "http://bücher.example:1",
        "http://[fe80::1%\ud800]:1",
        f"http://{'a' * 64}:1",
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    assert "backends.0.url: " in faults(flags={"backends": [{"url": url, "role": "decode"}]})[0]


def test_what_is_wrong_with_an_address_is_told() -> None:
    engines = [{"url": url, "role": "decode"} for url in ("http://h:0", "http://a b:1")]
    assert faults(flags={"backends": engines}) == [
        "backends.0.url: must have a port between 1 and 65535 (got 'http://h:0')",
        "backends.1.url: must have a DNS name or an IP address as its host (got 'http://a b:1')",
    ]


@pytest.mark.parametrize("endpoint", ["127.0.0.1:5557", "tcp://engine", "udp://engine:1", "ipc://", ""])
def test_kv_events_need_an_address(endpoint: str) -> None:
    (fault,) = faults(flags={"backends": [{**DECODE, "kv_events": {"endpoint": endpoint}}]})
    assert fault.startswith("backends.0.kv_events.endpoint: must look like tcp://host:port")


@pytest.mark.parametrize(
    ("host", "own"), [("localhost", True), ("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("gateway", False)]
)
def test_what_only_this_machine_reaches(host: str, own: bool) -> None:
    assert is_loopback(host) is own


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("collector:4318", "must look like http://collector:4318/v1/traces"),
        ("grpc://c:4317", "must look like http://collector:4318/v1/traces"),
        ("http://", "must look like http://collector:4318/v1/traces"),
        ("http://c:99999", "port out of range"),
        ("https://u:p4ss@c/v1/traces", "must be without credentials"),
    ],
)
def test_spans_are_sent_to_an_address_that_there_can_be(endpoint: str, said: str) -> None:
    (fault,) = faults(flags={"tracing": {"otlp_endpoint": endpoint}})
    assert fault.startswith(f"tracing.otlp_endpoint: {said}")
    assert "p4ss" not in fault
