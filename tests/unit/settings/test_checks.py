from pathlib import Path

import pytest

from router.settings.loading import load
from router.settings.tree import Settings
from tests.support.settings import DECODE, faults


def test_unknown_variables_are_faults() -> None:
    assert faults(environ={"PD_ROUTER_ROUTNG__MODE": "auto"}) == [
        "PD_ROUTER_ROUTNG__MODE: unknown setting; did you mean PD_ROUTER_ROUTING?"
    ]
    assert faults(environ={"PD_ROUTER_ROUTING__MOD": "auto"}) == ["routing.mod: unknown setting; did you mean mode?"]

    assert faults(environ={"pd_router_lisen__port": "9000"}) == [
        "pd_router_lisen__port: unknown setting; did you mean PD_ROUTER_LISTEN?"
    ]

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


@pytest.mark.parametrize(
    ("flags", "setting"),
    [
        ({"ops": {"token_env": "KEY"}}, "ops.token_env"),
        ({"backends": [DECODE | {"key_env": "KEY"}]}, "backends.0.key_env"),
        (
            {"discovery": {"dns": {"decode": {"name": "d.internal", "port": 1, "key_env": "KEY"}}}},
            "discovery.dns.decode.key_env",
        ),
    ],
)
def test_so_is_one_for_engines_or_operators(flags: dict[str, object], setting: str) -> None:
    (said,) = faults(flags=flags, environ={"KEY": "s3cret\n"})
    why = "must hold printable ASCII, without line breaks or spaces at its ends"
    assert said == f"{setting}: the environment variable KEY {why}"
    load(flags=flags, environ={"KEY": "s3cret"})


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
