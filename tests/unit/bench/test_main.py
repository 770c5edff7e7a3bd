"""The command against a simulated engine, over real sockets."""

import argparse
import asyncio
import json

import httpx
import pytest

from router.bench import main
from router.bench.load import Plan, Record
from router.sim.config import SimConfig
from router.sim.engine import SimEngine


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    main.add_arguments(parser)
    return parser.parse_args(["load", *arguments])


async def against_an_engine(*arguments: str) -> int:
    engine = SimEngine(SimConfig(role="decode", time_scale=0))
    await engine.start("127.0.0.1", 0)
    try:
        return await asyncio.to_thread(main.run, parse(engine.url, *arguments))
    finally:
        await engine.stop()


async def test_all_answers_of_an_engine_are_right(capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--requests", "6", "--streams", "3", "--tokens", "5", "--prompts", "2", "--same-text")
    assert await against_an_engine(*few, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["right"], figures["faults"], figures["model"]) == (6, {}, SimConfig().model)


async def test_a_table_by_default_and_a_status_for_wrong_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert await against_an_engine("--requests", "2", "--model", "none") == 1
    text = capsys.readouterr().out
    assert "0 of 2 answers right" in text
    assert "2 x status 404" in text


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://127.0.0.1:x", "127.0.0.1:1"])
def test_an_address_without_a_gateway(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(parse(url)) == 1
    assert capsys.readouterr().err.startswith(f"pd-router bench: {url}: ")


@pytest.mark.parametrize("flag", ["streams", "rate", "requests", "tokens", "prompt-bytes", "prompts", "timeout-s"])
def test_numbers_are_positive(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("0", "-1", "x"):
        with pytest.raises(SystemExit, match="2"):
            parse("http://127.0.0.1:1", f"--{flag}", word)
        assert f"--{flag}: must be a positive " in capsys.readouterr().err


def test_a_load_that_asked_nothing_is_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run_load(_client: httpx.AsyncClient, _plan: Plan) -> Record:
        return Record()

    monkeypatch.setattr(main, "run_load", run_load)
    assert main.run(parse("http://127.0.0.1:1", "--model", "m")) == 1
    assert capsys.readouterr() == ("", "pd-router bench: http://127.0.0.1:1: nothing was asked\n")


@pytest.mark.parametrize("text", ["[]", "{"])
def test_further_fields_are_an_object(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("http://127.0.0.1:1", "--extra-body", text)
    assert "--extra-body" in capsys.readouterr().err
