"""Commands: flags become settings, faults become lines, and each ending has its exit code."""

import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import yaml

from router import __version__, app, cli, demo
from router.doctor import examine
from router.doctor.examine import EngineFinding, Findings, Progress
from router.edge.server import ListenError
from router.settings.tree import Settings
from router.telemetry import logs
from tests.support.builders import a_backend

SERVE = ["serve", "--decode", "http://d:1"]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PD_ROUTER_CONFIG", raising=False)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings that reach the gateway, in place of running one."""
    received: list[Settings] = []

    async def serve(settings: Settings) -> int:
        received.append(settings)
        return 0

    monkeypatch.setattr(app, "serve", serve)
    return received


def raising(error: BaseException) -> Callable[[Settings], Coroutine[Any, Any, int]]:
    async def serve(_settings: Settings) -> int:
        raise error

    return serve


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"pd-router {__version__}\n"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["srve"],
        ["serve", "--prot", "1"],
        [*SERVE, "--port", "many"],
        [*SERVE, "--por", "1"],
        ["run", "--prefill", "-1"],
        ["run", "--decode", "0"],
    ],
)
def test_bad_usage_is_2(argv: list[str], served: list[Settings], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    assert ended.value.code == 2
    assert "usage: pd-router" in capsys.readouterr().err
    assert served == []


def test_flags_become_settings(served: list[Settings]) -> None:
    argv = ["serve", "--prefill", "http://p:1", "--prefill", "http://p:2", "--decode", "http://d:1", "--aggregated"]
    argv += ["http://a:1", "--engine", "vllm-nixl", "--host", "10.0.0.1", "--port", "1", "--ops-host", "10.0.0.2"]
    assert cli.main([*argv, "--fd", "7", "--ops-port", "2", "--log-format", "json", "--log-level", "debug"]) == 0
    (settings,) = served
    assert [(b.role, b.url, b.engine) for b in settings.backends] == [
        ("prefill", "http://p:1", "vllm-nixl"),
        ("prefill", "http://p:2", "vllm-nixl"),
        ("decode", "http://d:1", "vllm-nixl"),
        ("aggregated", "http://a:1", "vllm-nixl"),
    ]
    assert (settings.listen.host, settings.listen.port, settings.listen.fd) == ("10.0.0.1", 1, 7)
    assert (settings.ops.host, settings.ops.port) == ("10.0.0.2", 2)
    assert (settings.log.format, settings.log.level) == ("json", "debug")


def test_absent_flags_leave_the_file_alone(
    served: list[Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "pd-router.yaml"
    config.write_text("listen: {port: 9000}\nlog: {level: error}\n")
    assert cli.main([*SERVE, "--config", str(config)]) == 0
    monkeypatch.setenv("PD_ROUTER_CONFIG", str(config))
    assert cli.main(SERVE) == 0
    for settings in served:
        assert (settings.listen.port, settings.listen.host, settings.log.level) == (9000, "0.0.0.0", "error")


def test_without_engines_the_ways_to_name_them_are_told(
    served: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(way in line for way in ("--prefill URL --decode URL", "`backends:`", "PD_ROUTER_BACKENDS="))
    assert served == []


def test_engines_may_all_be_found_elsewhere(
    served: list[Settings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PD_ROUTER_DISCOVERY", '{"file": {"path": "engines.yaml"}}')
    assert cli.main(["serve"]) == 0
    assert len(served) == 1
    assert cli.main(["check"]) == 0
    assert "no backends" not in capsys.readouterr().err


def test_every_fault_is_one_line(served: list[Settings], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--decode", "d:1", "--port", "99999"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ")[:2] for line in lines] == [
        ["pd-router:", "listen.port:"],
        ["pd-router:", "backends.0.url:"],
    ]
    assert served == []


@pytest.mark.parametrize(("place", "flag"), [("0.0.0.0:8000", "--port"), ("127.0.0.1:8001", "--ops-port")])
def test_a_taken_address_is_1_and_names_the_flag(
    place: str, flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(app, "serve", raising(ListenError(f"cannot listen on {place}: Address already in use")))
    assert cli.main(SERVE) == 1
    assert capsys.readouterr().err == (
        f"pd-router: cannot listen on {place}: Address already in use; choose another with {flag}\n"
    )


def test_a_socket_that_cannot_be_inherited_is_1_and_names_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*SERVE, "--fd", "9999"]) == 1
    assert capsys.readouterr().err == (
        "pd-router: cannot listen on file descriptor 9999: Bad file descriptor; choose another with --fd\n"
    )


def test_an_interrupt_before_the_gateway_listens_is_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "serve", raising(KeyboardInterrupt()))
    assert cli.main(SERVE) == 1


def test_the_demo_has_thresholds_of_0_unless_they_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[tuple[Settings, demo.Shape, str | None]] = []

    async def run(settings: Settings, shape: demo.Shape, question: str | None) -> int:
        received.append((settings, shape, question))
        return 0

    monkeypatch.setattr(demo, "run", run)
    assert cli.main(["run", "--port", "1"]) == 0
    monkeypatch.setenv("PD_ROUTER_ROUTING__MIN_CONCURRENCY", "7")
    assert (
        cli.main(["run", "--prefill", "1", "--decode", "3", "--gpu", "instant", "--ask", "why?", "--host", "::1"]) == 0
    )
    (plain, shape, question), (tuned, other_shape, other_question) = received
    assert (plain.routing.min_novel_tokens, plain.routing.min_concurrency) == (0, 0)
    assert (plain.listen.host, plain.listen.port, plain.drain.drain_accept_s) == ("127.0.0.1", 1, 0)
    assert (shape, question) == (demo.Shape(prefill=2, decode=2, gpu="h100"), None)
    assert (tuned.routing.min_novel_tokens, tuned.routing.min_concurrency, tuned.listen.host) == (0, 7, "::1")
    assert (other_shape, other_question) == (demo.Shape(prefill=1, decode=3, gpu="instant"), "why?")


def test_check_prints_what_the_settings_come_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "pd-router.yaml"
    config.write_text("listen: {port: 9000}\nbackends: [{url: 'http://d:1', role: decode}]\n")
    assert cli.main(["check", "--config", str(config)]) == 0
    printed = capsys.readouterr()
    assert {"host": "0.0.0.0", "port": 9000, "fd": None}.items() <= yaml.safe_load(printed.out)["listen"].items()
    assert printed.err == ""
    assert cli.main(["check", "--json", "--config", str(config)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {"valid": True, "settings": yaml.safe_load(printed.out)}


def test_check_notes_that_engines_are_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check"]) == 0
    assert "no backends" in capsys.readouterr().err


def test_check_tells_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "pd-router.yaml"
    config.write_text("listen: {prot: 1}\n")
    assert cli.main(["check", "--config", str(config)]) == 2
    assert capsys.readouterr().err == "pd-router: listen.prot: unknown setting; did you mean port?\n"
    assert cli.main(["check", "--json", "--config", str(config)]) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"valid": False, "faults": ["listen.prot: unknown setting; did you mean port?"]}
    assert printed.err == ""


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings that reach the doctor, who finds the first engine ill when there are several."""
    received: list[Settings] = []

    async def look(settings: Settings, progress: Progress) -> Findings:
        received.append(settings)
        progress(1, 1, "p -> d: handed over")
        problem = "probe failed: connect_failed" if len(settings.backends) > 1 else None
        return Findings([EngineFinding(a_backend(), problem)], [])

    monkeypatch.setattr(examine, "examine", look)
    monkeypatch.setattr(logs, "configure", lambda _: None)
    return received


@pytest.mark.parametrize(
    ("engines", "status", "good"),
    [(["--decode", "http://d:1"], 0, True), (["--decode", "http://d:1", "--prefill", "http://p:1"], 1, False)],
)
def test_the_doctors_status_is_its_finding(
    engines: list[str], status: int, good: bool, examined: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", *engines, "--json"]) == status
    out, err = capsys.readouterr()
    assert (json.loads(out)["good"], err) == (good, ""), "a short run tells no progress"
    assert cli.main(["doctor", *engines]) == status
    assert capsys.readouterr().out.startswith("engine ")
    assert [len(settings.backends) for settings in examined] == [len(engines) // 2] * 2


def test_a_doctor_without_engines_is_2(examined: list[Settings], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 2
    assert "no engine is known" in capsys.readouterr().err
    assert examined == []


def test_engines_may_be_listed_in_a_file_alone(served: list[Settings], tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"discovery": {"file": {"path": str(tmp_path / "engines.yaml")}}}))
    assert cli.main(["serve", "--config", str(config)]) == 0
    assert len(served) == 1
