"""The commands as a user starts them: real processes, real sockets, real signals."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

WAIT_S = 30


def start(*argv: str, **settings: str) -> subprocess.Popen[str]:
    """A command as a process; `settings` are environment variables without their prefix."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PD_ROUTER_")}
    environ |= {f"PD_ROUTER_{name}": value for name, value in settings.items()}
    return subprocess.Popen(
        [sys.executable, "-m", "router", *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env=environ | {"COLUMNS": "120", "PYTHONUNBUFFERED": "1"},
    )


@pytest.fixture
def shown() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running demo on free ports, and all that it prints before it waits."""
    process = start("run", "--port", "0", "--ops-port", "0", "--prefill", "1", "--decode", "1", "--gpu", "instant")
    try:
        yield process, _until(process, "Ctrl-C")
    finally:
        process.kill()
        process.communicate()


def _until(process: subprocess.Popen[str], word: str, *, on: str = "stdout") -> str:
    lines: list[str] = []
    for line in getattr(process, on):
        lines.append(line)
        if word in line:
            return "".join(lines)
    pytest.fail(f"ended before it said {word!r}: {''.join(lines)} {process.communicate()[1]}")


def test_a_question_is_answered_by_way_of_a_hand_over() -> None:
    process = start("run", "--port", "0", "--ops-port", "0", "--gpu", "instant", "--ask", "Why two pools?")
    out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, err) == (0, "")
    _, answer, counters = out.splitlines()
    assert len(answer.split()) > 10
    match = re.fullmatch(
        r"hand-overs 1; decode engines: prompt tokens pulled (\d+), computed 0, moved [\d.]+ MB", counters
    )
    assert match is not None, counters
    assert int(match[1]) > 0


def test_what_is_printed_can_be_pasted(shown: tuple[subprocess.Popen[str], str]) -> None:
    process, text = shown
    url = re.search(r"curl -N (http://[\d.:]+)/v1/chat/completions", text)
    snippet = re.search(r"^from openai.*?flush=True\)$", text, re.MULTILINE | re.DOTALL)
    ops = re.search(r"operations\S* .*?(http://[\d.:]+)", text)
    assert url is not None
    assert snippet is not None
    assert ops is not None
    assert "min_novel_tokens and routing.min_concurrency are 0" in text
    pasted = subprocess.run(
        [sys.executable, "-c", snippet[0]], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert pasted.returncode == 0, pasted.stderr
    assert len(pasted.stdout.split()) > 10
    assert httpx.get(f"{ops[1]}/readyz").status_code == 200
    assert 'route="disaggregated"' in httpx.get(f"{ops[1]}/metrics").text
    process.send_signal(signal.SIGINT)
    assert process.wait(WAIT_S) == 0


@pytest.mark.parametrize("from_file", [False, True])
def test_what_is_printed_has_the_key_without_showing_it(from_file: bool, tmp_path: Path) -> None:
    file = tmp_path / "the key"
    file.write_text("s3cret\n")
    key = {"LISTEN__API_KEY_FILE": str(file)} if from_file else {"API_KEY": "s3cret"}
    process = start("run", "--port", "0", "--ops-port", "0", "--gpu", "instant", **key)
    try:
        text = _until(process, "Ctrl-C")
        assert "s3cret" not in text
        shell = f"$(cat '{file}')" if from_file else "$PD_ROUTER_API_KEY"
        assert f'-H "authorization: Bearer {shell}"' in text
        snippet = re.search(r"^(import os\s+)?from openai.*?flush=True\)$", text, re.MULTILINE | re.DOTALL)
        assert snippet is not None
        environ = os.environ | {"PD_ROUTER_API_KEY": "s3cret"}
        command = [sys.executable, "-c", snippet[0]]
        pasted = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False, env=environ)
        assert pasted.returncode == 0, pasted.stderr
    finally:
        process.kill()
        process.communicate()


def test_a_taken_port_is_named(shown: tuple[subprocess.Popen[str], str]) -> None:
    port = re.findall(r"http://127\.0\.0\.1:(\d+)/v1/chat", shown[1])[0]
    out, err = (second := start("run", "--port", port, "--ops-port", "0")).communicate(timeout=WAIT_S)
    assert (second.returncode, out) == (1, "")
    assert err.splitlines()[-1] == (
        f"pd-router: cannot listen on 127.0.0.1:{port}: Address already in use; choose another with --port"
    )


def test_serve_serves_engines_until_it_is_told_to_stop() -> None:
    engine = start("sim", "--model", "tiny")
    url = json.loads(_until(engine, "url"))["url"]
    ports = ("--host", "127.0.0.1", "--port", "0", "--ops-port", "0", "--log-format", "json")
    gateway = start("serve", "--aggregated", url, *ports, DRAIN__DRAIN_ACCEPT_S="0")
    try:
        serving = json.loads(_until(gateway, '"serving"', on="stderr").splitlines()[-1])
        assert [card["id"] for card in httpx.get(f"{serving['data']}/v1/models").json()["data"]] == ["tiny"]
        assert httpx.get(f"{serving['operations']}/readyz").status_code == 200
        gateway.send_signal(signal.SIGTERM)
        _, err = gateway.communicate(timeout=WAIT_S)
        assert (gateway.returncode, json.loads(err.splitlines()[-1])["message"]) == (0, "stopped")
    finally:
        for process in (gateway, engine):
            process.terminate()
            process.communicate(timeout=WAIT_S)
