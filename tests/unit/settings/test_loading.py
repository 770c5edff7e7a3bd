from pathlib import Path

from router.settings.engines import BackendSettings, Role
from router.settings.loading import load
from router.settings.tree import Settings
from tests.support.settings import DECODE, faults, write


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


def test_a_variable_that_should_be_json() -> None:
    assert faults(environ={"PD_ROUTER_BACKENDS": "http://d:1"})[0].endswith("a JSON value is expected there")


def test_the_file_must_be_a_mapping(tmp_path: Path) -> None:
    assert faults(config=write(tmp_path, "- listen\n"))[0].endswith("must be a mapping of sections, such as `listen:`")


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert load(write(tmp_path, ""), environ={}) == Settings()


def test_faults_of_the_file_name_it_and_the_line(tmp_path: Path) -> None:
    file = write(tmp_path, "listen:\n  port: [1\n")
    assert faults(config=file)[0].startswith(f"{file} line 3: not valid YAML")
    for odd in ("a: 2024-99-99", "[" * 5000, "a: \0"):
        (fault,) = faults(config=write(tmp_path, odd))
        assert fault.startswith(f"{file}")
        assert "not valid YAML" in fault
        assert "\n" not in fault
    assert faults(config=tmp_path / "none.yaml") == [f"{tmp_path}/none.yaml: cannot be read: No such file or directory"]


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
