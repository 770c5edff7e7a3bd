"""Settings: where a value comes from, and what is said about one that cannot be."""

import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from router.settings import (
    BackendSettings,
    Role,
    Settings,
    SettingsError,
    clients_key,
    effective,
    engine_key,
    is_loopback,
    load,
    operators_token,
)

DECODE = {"url": "http://10.0.0.21:8201", "role": "decode"}


def write(path: Path, text: str) -> Path:
    file = path / "pd-router.yaml"
    file.write_text(text)
    return file


def faults(**sources: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(**{"environ": {}, **sources})
    return caught.value.faults


def test_each_source_overrides_the_ones_below_it(tmp_path: Path) -> None:
    config = write(tmp_path, "listen: {port: 2}\nops: {port: 2}\nrouting: {min_novel_tokens: 2}\n")
    settings = load(
        config,
        flags={"listen": {"port": 4}},
        environ={"PD_ROUTER_LISTEN__PORT": "3", "PD_ROUTER_OPS__PORT": "3"},
        defaults={"ops": {"port": 1}, "routing": {"min_novel_tokens": 1, "min_concurrency": 1}},
    )
    assert (settings.listen.port, settings.ops.port) == (4, 3)
    assert (settings.routing.min_novel_tokens, settings.routing.min_concurrency) == (2, 1)
    assert settings.routing.long_prompt_tokens == Settings().routing.long_prompt_tokens


def test_sources_merge_inside_a_section(tmp_path: Path) -> None:
    settings = load(write(tmp_path, "listen: {host: 10.0.0.1}\n"), environ={"PD_ROUTER_LISTEN__PORT": "3"})
    assert (settings.listen.host, settings.listen.port) == ("10.0.0.1", 3)


def test_backends_of_flags_are_added_to_configured_ones(tmp_path: Path) -> None:
    config = write(tmp_path, "backends: [{url: 'http://10.0.0.11:8200', role: prefill}]\n")
    settings = load(config, flags={"backends": [DECODE]}, environ={})
    assert [(b.url, b.role) for b in settings.backends] == [
        ("http://10.0.0.11:8200", Role.PREFILL),
        ("http://10.0.0.21:8201", Role.DECODE),
    ]


def test_backends_may_come_from_the_environment() -> None:
    settings = load(environ={"PD_ROUTER_BACKENDS": '[{"url": "http://d:1", "role": "decode"}]'})
    assert settings.backends == (BackendSettings(url="http://d:1", role=Role.DECODE),)


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("http://host:8200", "http://host:8200"),
        ("http://host:8200/", "http://host:8200"),
        ("http://host", "http://host:80"),
        ("http://[::1]:8200", "http://[::1]:8200"),
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
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    assert "backends.0.url: " in faults(flags={"backends": [{"url": url, "role": "decode"}]})[0]


def test_the_tree_is_frozen() -> None:
    for branch, name in ((Settings(), "listen"), (Settings().listen, "port")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(branch, name, 1)


def test_the_file_must_be_a_mapping(tmp_path: Path) -> None:
    assert faults(config=write(tmp_path, "- listen\n"))[0].endswith("must be a mapping of sections, such as `listen:`")


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert load(write(tmp_path, ""), environ={}) == Settings()


def test_faults_of_the_file_name_it_and_the_line(tmp_path: Path) -> None:
    file = write(tmp_path, "listen:\n  port: [1\n")
    assert faults(config=file)[0].startswith(f"{file} line 3: not valid YAML")
    assert faults(config=tmp_path / "none.yaml") == [f"{tmp_path}/none.yaml: cannot be read: No such file or directory"]


def test_unknown_keys_name_the_nearest_one(tmp_path: Path) -> None:
    config = write(
        tmp_path, "listen: {prot: 1}\nroutng: {}\nbackends: [{url: 'http://d:1', role: decode, modles: []}]\n"
    )
    assert faults(config=config) == [
        "listen.prot: unknown setting; did you mean port?",
        "backends.0.modles: unknown setting; did you mean models?",
        "routng: unknown setting; did you mean routing?",
    ]


def test_unknown_variables_are_faults() -> None:
    assert faults(environ={"PD_ROUTER_ROUTNG__MODE": "auto"}) == [
        "PD_ROUTER_ROUTNG__MODE: unknown setting; did you mean PD_ROUTER_ROUTING?"
    ]
    assert faults(environ={"PD_ROUTER_ROUTING__MOD": "auto"}) == ["routing.mod: unknown setting; did you mean mode?"]

    assert faults(environ={"PD_ROUTER_LISTEN_PORT": "9000"}) == [
        "PD_ROUTER_LISTEN_PORT: unknown setting; did you mean PD_ROUTER_LISTEN?"
    ]


def test_a_variable_with_a_secret_may_be_called_as_settings_are() -> None:
    environ = {"PD_ROUTER_OPS_TOKEN": "t", "PD_ROUTER_CLIENTS": "c", "PD_ROUTER_ENGINES": "e", "PD_ROUTER_DNS": "d"}
    pool = {"name": "decode.internal", "port": 8200, "key_env": "PD_ROUTER_DNS"}
    flags = {
        "ops": {"token_env": "PD_ROUTER_OPS_TOKEN"},
        "listen": {"api_key_env": "PD_ROUTER_CLIENTS"},
        "backends": [DECODE | {"key_env": "PD_ROUTER_ENGINES"}],
        "discovery": {"dns": {"decode": pool}},
    }
    load(flags=flags, environ=environ)
    assert len(faults(environ=environ)) == len(environ), "those that nothing names are misspelt"


@pytest.mark.parametrize(
    "name",
    [
        "PD_ROUTER_CONFIG",
        "PD_ROUTER_SERVICE_HOST",
        "PD_ROUTER_PORT",
        "PD_ROUTER_PORT_8000_TCP",
        "PD_ROUTER_METRICS_SERVICE_PORT_HTTP",
        "PD_ROUTER_METRICS_PORT",
        "PD_ROUTER_METRICS_PORT_8001_TCP_ADDR",
        "OTHER",
    ],
)
def test_variables_that_are_not_settings_are_left_alone(name: str) -> None:
    assert load(environ={name: "tcp://10.0.0.1:8000"}) == Settings()


def test_every_fault_has_its_line_with_what_is_allowed() -> None:
    found = faults(
        flags={"listen": {"port": 70000}, "routing": {"mode": "fast"}, "backends": [{"url": "http://d:1"}]},
        environ={"PD_ROUTER_TIMEOUTS__TOTAL_S": "0"},
    )
    assert found == [
        "listen.port: input should be less than or equal to 65535 (got 70000)",
        "routing.mode: input should be 'auto', 'local' or 'disaggregated' (got 'fast')",
        "timeouts.total_s: input should be greater than 0 (got '0')",
        "backends.0.role: must be given",
    ]


def test_a_variable_that_should_be_json() -> None:
    assert faults(environ={"PD_ROUTER_BACKENDS": "http://d:1"})[0].endswith("a JSON value is expected there")


def test_faults_between_engines() -> None:
    prefill = {"url": "http://p:1", "role": "prefill"}
    assert faults(flags={"backends": [DECODE, {**DECODE, "role": "prefill"}]}) == [
        "backends.1.url: http://10.0.0.21:8201 is listed twice; an engine has one role"
    ]
    assert faults(flags={"backends": [prefill]}) == [
        "backends: there are prefill engines only; add a decode engine (--decode URL)"
    ]


def test_prefill_engines_only_are_no_fault_where_others_may_be_found() -> None:
    discovery = {"file": {"path": "engines.yaml"}}
    load(flags={"backends": [{"url": "http://p:1", "role": "prefill"}], "discovery": discovery}, environ={})


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


def test_dns_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dns", None)
    assert dns_faults(decode={"name": "d.internal", "port": 1}) == [
        "discovery.dns: needs dnspython, which is not installed: pip install 'pd-router[dns]'"
    ]


def test_the_operators_token_comes_from_the_variable_that_is_named() -> None:
    flags = {"ops": {"token_env": "OPS_TOKEN"}, "backends": [DECODE]}
    assert faults(flags=flags) == ["ops.token_env: the environment variable OPS_TOKEN is not set"]
    settings = load(flags=flags, environ={"OPS_TOKEN": "s3cret"})
    token = operators_token(settings.ops, {"OPS_TOKEN": "s3cret"})
    assert token is not None
    assert token.get_secret_value() == "s3cret"
    assert operators_token(Settings().ops, {}) is None
    assert "s3cret" not in effective(settings)


def test_the_key_for_clients_comes_from_a_variable_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("s3cret\n")
    for listen, environ in (
        ({}, {"PD_ROUTER_API_KEY": "s3cret"}),
        ({"api_key_env": "KEY"}, {"KEY": "s3cret"}),
        ({"api_key_file": str(file)}, {}),
    ):
        settings = load(flags={"listen": listen}, environ=environ)
        key = clients_key(settings.listen, environ)
        assert key is not None
        assert key.get_secret_value() == "s3cret"
        assert "s3cret" not in effective(settings) + repr(settings) + repr(key)
    assert clients_key(Settings().listen, {}) is None


@pytest.mark.parametrize(
    ("listen", "environ", "said"),
    [
        ({"api_key_env": "KEY"}, {}, "listen.api_key_env: the environment variable KEY is not set"),
        ({"api_key_file": "/nowhere"}, {}, "listen.api_key_file: the file cannot be read: No such file or directory"),
        ({"api_key_file": "/dev/null"}, {}, "listen.api_key_file: the file is empty"),
        ({}, {"PD_ROUTER_API_KEY": "s3cret key"}, "listen: the key for clients must be printable ASCII without spaces"),
    ],
)
def test_a_key_that_cannot_be_used_is_a_fault(listen: dict[str, str], environ: dict[str, str], said: str) -> None:
    assert faults(flags={"listen": listen}, environ=environ) == [said]


def test_a_key_is_given_in_one_way(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("s3cret")
    (said,) = faults(flags={"listen": {"api_key_file": str(file)}}, environ={"PD_ROUTER_API_KEY": "other"})
    assert said.startswith("listen.api_key_file: the environment variable PD_ROUTER_API_KEY is set as well")


def test_where_a_key_is_required_nothing_is_open_by_accident() -> None:
    required = {"require_key": True}
    (said,) = faults(flags={"listen": required})
    assert said.startswith("listen.require_key: clients on other machines could connect without a key")
    assert faults(flags={"listen": {**required, "host": "127.0.0.1", "fd": 3}}) == [said]
    load(flags={"listen": {**required, "host": "127.0.0.1"}}, environ={})
    load(flags={"listen": required}, environ={"PD_ROUTER_API_KEY": "s3cret"})


@pytest.mark.parametrize(
    ("host", "own"), [("localhost", True), ("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("gateway", False)]
)
def test_what_only_this_machine_reaches(host: str, own: bool) -> None:
    assert is_loopback(host) is own


@pytest.mark.parametrize(
    ("section", "environ", "on"),
    [
        ({}, {}, False),
        ({"otlp_endpoint": "http://c:4318/v1/traces"}, {}, True),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({}, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"otlp_endpoint": "http://c:4318/v1/traces"}, {"OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_requests_are_traced_where_there_is_a_collector(
    section: dict[str, str], environ: dict[str, str], on: bool
) -> None:
    assert load(flags={"tracing": section}, environ=environ).tracing.on(environ) is on


def test_tracing_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.settings.OTLP_EXPORTER", "nowhere.at.all")
    assert faults(flags={"tracing": {"otlp_endpoint": "http://c:4318/v1/traces"}}) == [
        "tracing: needs OpenTelemetry's exporter, which is not installed: pip install 'pd-router[otel]'"
    ]
    load(environ={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"})


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


def test_secrets_in_the_wrong_place_are_not_repeated() -> None:
    assert "s3cret" not in str(faults(flags={"listen": {"api_key_file": "s3cret"}}))
    assert "s3cret" not in str(faults(flags={"listen": {"api_key_file": ["s3cret"]}}))
    backend = {"url": "http://user:p4ss@d:1", "role": "decode", "key_env": "sk-s3cret"}
    assert faults(flags={"backends": [backend]}) == [
        "backends.0.url: must be http://host:port without path, query or credentials (got 'http://***@d:1')",
        "backends.0.key_env: must be the name of an environment variable, not what is in it",
    ]


def test_keys_come_from_the_variable_that_is_named() -> None:
    backend = {**DECODE, "key_env": "ENGINE_KEY"}
    assert faults(flags={"backends": [backend]}) == [
        "backends.0.key_env: the environment variable ENGINE_KEY is not set"
    ]
    environ = {"ENGINE_KEY": "s3cret"}
    settings = load(flags={"backends": [backend]}, environ=environ)
    key = engine_key(settings.backends[0], environ)
    assert key is not None
    assert key.get_secret_value() == "s3cret"
    assert engine_key(BackendSettings(url="http://d:1", role=Role.DECODE), environ) is None
    assert "s3cret" not in effective(settings) + repr(settings) + repr(key)


def test_what_is_effective_can_be_a_file_again(tmp_path: Path) -> None:
    backends = [{**DECODE, "models": ["m"], "kv_hosts": ["10.1.0.1"]}]
    settings = load(flags={"backends": backends, "handoff": {"handoff_max_age_s": 3}}, environ={})
    assert load(write(tmp_path, effective(settings)), environ={}) == settings


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"scale_in_below": 0.8}, "scale_in_below must be below scale_out_above"),
        ({"decode": {"min_replicas": 3, "max_replicas": 2}}, "min_replicas must not be above max_replicas"),
        ({"interval_s": 40}, "window_s must be at least 2 \\* interval_s"),
        ({"prefill": {"min_replicas": 0}}, "greater than or equal to 1"),
    ],
)
def test_pools_that_would_flap_or_have_no_size_are_refused(rules: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load(flags={"autoscale": rules}, environ={})


KV_EVENTS = {"endpoint": "tcp://{host}:5557", "replay_endpoint": "tcp://{host}:5558"}


def test_kv_events_are_where_the_engine_is() -> None:
    engine = load(flags={"backends": [{**DECODE, "kv_events": KV_EVENTS}]}, environ={}).backends[0]
    assert engine.kv_events is not None
    at = engine.kv_events.at(engine.host)
    assert (at.endpoint, at.replay_endpoint) == (f"tcp://{engine.host}:5557", f"tcp://{engine.host}:5558")
    assert engine.kv_events.model_copy(update={"replay_endpoint": None}).at("x").replay_endpoint is None


@pytest.mark.parametrize("endpoint", ["127.0.0.1:5557", "tcp://engine", "udp://engine:1", "ipc://", ""])
def test_kv_events_need_an_address(endpoint: str) -> None:
    (fault,) = faults(flags={"backends": [{**DECODE, "kv_events": {"endpoint": endpoint}}]})
    assert fault.startswith("backends.0.kv_events.endpoint: must look like tcp://host:port")


def test_kv_events_without_their_libraries_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zmq", None)
    needs = "needs pyzmq and msgspec, which are not installed: pip install 'pd-router[kv-events]'"
    assert faults(flags={"backends": [{**DECODE, "kv_events": KV_EVENTS}]}) == [f"backends.0.kv_events: {needs}"]
    assert dns_faults(decode={"name": "d.internal", "port": 1, "kv_events": KV_EVENTS}) == [
        f"discovery.dns.decode.kv_events: {needs}"
    ]
