from pathlib import Path

import pytest

from router.settings.engines import BackendSettings, Role
from router.settings.keys import clients_key, engine_key, fault_in, operators_token
from router.settings.loading import load
from router.settings.tree import Settings, effective
from tests.support.settings import DECODE, faults


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


def test_a_file_name_that_there_cannot_be_is_a_fault() -> None:
    assert faults(flags={"listen": {"api_key_file": "a\0b"}}) == [
        "listen.api_key_file: the file cannot be read: it is not text"
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


@pytest.mark.parametrize(
    "value", ["abc\n", "abc\r\nx-evil: 1", "abc ", " abc", "a\tbc", "schl\u00fcssel", "\u20ac", "a\udc80"]
)
def test_what_no_header_can_carry_is_a_fault_that_does_not_tell_it(value: str) -> None:
    assert fault_in("KEY", {"KEY": value}) == (
        "the environment variable KEY must hold printable ASCII, without line breaks or spaces at its ends"
    )


def test_other_keys_are_none() -> None:
    for value in ("!s3cret~", "a", "a token of some words"):
        assert fault_in("KEY", {"KEY": value}) is None
    assert fault_in("KEY", {}) == fault_in("KEY", {"KEY": ""}) == "the environment variable KEY is not set"
