"""The command, as a process of its own and by its options."""

import argparse
import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import orjson
import pytest

from router.sim import main
from router.sim.config import SimConfig
from tests.support.sim_pair import chat, right_text, text_of

PROGRAM = (
    "import argparse, sys\n"
    "from router.sim.main import add_arguments, run\n"
    "parser = argparse.ArgumentParser()\n"
    "add_arguments(parser)\n"
    "sys.exit(run(parser.parse_args()))\n"
)


def parse(*arguments: str) -> argparse.Namespace:
    """The options of a command line."""
    parser = argparse.ArgumentParser()
    main.add_arguments(parser)
    return parser.parse_args(arguments)


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A running engine and its URL."""
    command = (sys.executable, "-W", "error", "-c", PROGRAM, *arguments)
    engine = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert engine.stdout is not None
    try:
        told = orjson.loads(await engine.stdout.readline())
        yield engine, told["url"]
    finally:
        if engine.returncode is None:
            engine.kill()
            await engine.wait()


async def test_two_processes_hand_over_and_end_cleanly() -> None:
    fast = ("--time-scale", "0")
    async with (
        process("--role", "prefill", *fast) as (first, prefill),
        process("--role", "decode", *fast) as (second, decode),
        httpx.AsyncClient() as client,
    ):
        leg = chat(max_tokens=1, kv_transfer_params={"do_remote_decode": True})
        answer = (await client.post(f"{prefill}/v1/chat/completions", json=leg)).json()
        leg = chat(kv_transfer_params=answer["kv_transfer_params"])
        assert text_of(await client.post(f"{decode}/v1/chat/completions", json=leg)) == right_text(chat())
        ledger = (await client.get(f"{prefill}/sim/ledger")).json()
        assert (ledger["totals"]["pulled"], ledger["outstanding"]) == (1, {})
        for engine, number in ((first, signal.SIGTERM), (second, signal.SIGINT)):
            engine.send_signal(number)
            assert await engine.wait() == 0


async def test_faults_may_be_given_at_the_start() -> None:
    fault = '{"kind": "status", "status": 503, "path": "/health"}'
    async with process("--faults", fault) as (_, url), httpx.AsyncClient() as client:
        assert (await client.get(f"{url}/health")).status_code == 503


async def test_a_busy_port_exits_with_1_and_says_so() -> None:
    async with process() as (_, url):
        command = (sys.executable, "-c", PROGRAM, "--port", url.rpartition(":")[2])
        other = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, told = await other.communicate()
        assert (other.returncode, b"address already in use" in told) == (1, True)


def test_senseless_settings_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(parse("--kv-blocks", "0")) == 2
    assert capsys.readouterr().err == "pd-router sim: kv_blocks must be positive, got 0\n"


@pytest.mark.parametrize("flag", ["--port", "--side-channel-port"])
def test_ports_that_there_are_not_are_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("99999", "-1"):
        with pytest.raises(SystemExit, match="2"):
            parse(flag, text)
        assert f"{flag}: must be a port" in capsys.readouterr().err


def test_faults_that_are_none_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse("--faults", '[{"kind": "meteor"}]')
    assert "unknown kind of fault 'meteor'" in capsys.readouterr().err


def test_the_defaults_are_those_of_the_settings() -> None:
    options = vars(parse())
    default = SimConfig()
    same = {name: getattr(default, name) for name in options if hasattr(default, name) and name != "aliases"}
    assert {name: options[name] for name in same} == same
    assert len(same) > 12
