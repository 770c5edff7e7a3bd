from pathlib import Path

from router.settings.faults import SettingsError, nearest
from tests.support.settings import faults, write


def test_unknown_keys_name_the_nearest_one(tmp_path: Path) -> None:
    config = write(
        tmp_path, "listen: {prot: 1}\nroutng: {}\nbackends: [{url: 'http://d:1', role: decode, modles: []}]\n"
    )
    assert faults(config=config) == [
        "listen.prot: unknown setting; did you mean port?",
        "backends.0.modles: unknown setting; did you mean models?",
        "routng: unknown setting; did you mean routing?",
    ]


def test_secrets_in_the_wrong_place_are_not_repeated() -> None:
    assert "s3cret" not in str(faults(flags={"listen": {"api_key_file": "s3cret"}}))
    assert "s3cret" not in str(faults(flags={"listen": {"api_key_file": ["s3cret"]}}))
    backend = {"url": "http://user:p4ss@d:1", "role": "decode", "key_env": "sk-s3cret"}
    assert faults(flags={"backends": [backend]}) == [
        "backends.0.url: must be http://host:port without path, query or credentials (got 'http://***@d:1')",
        "backends.0.key_env: must be the name of an environment variable, not what is in it",
    ]


def test_the_nearest_key_is_named_as_it_would_be_written() -> None:
    assert nearest("listn", {"listen": 0, "ops": 0}) == "; did you mean listen?"
    assert nearest("listn", {"listen": 0}, "PD_ROUTER_", str.upper) == "; did you mean PD_ROUTER_LISTEN?"
    assert nearest("xyz", {"listen": 0, "ops": 0}) == "; known here: listen, ops"


def test_all_faults_are_in_the_message() -> None:
    assert str(SettingsError(["a: must be given", "b: unknown setting"])) == "a: must be given; b: unknown setting"
