"""`pd-router doctor` in front of fleets that are well, and of one that is not: what does it find, say and return?"""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from router.sim.engine import SimEngine
from router.sim.faults import Fault
from tests.support.dns_server import dns_server
from tests.support.fleet import engine, until
from tests.support.sim_pair import closed_port


@asynccontextmanager
async def started(*engines: SimEngine) -> AsyncIterator[None]:
    """Engines that run, and hold nothing at the end."""
    for one in engines:
        await one.start()
    try:
        yield
        await until(lambda: not any(one.ledger.outstanding() for one in engines), "all to be given back")
    finally:
        await asyncio.gather(*(one.stop() for one in engines))


def flags(*engines: SimEngine) -> list[str]:
    """The engines as `serve` takes them."""
    return [word for one in engines for word in (f"--{one.config.role}", one.url)]


async def doctor(*argv: str, **settings: str) -> tuple[int | None, str, str]:
    """The command as a process: its status and what it printed."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PD_ROUTER_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "router", "doctor", *argv),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env=environ | {f"PD_ROUTER_{name}": value for name, value in settings.items()},
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def verdicts(told: dict[str, Any], *engines: SimEngine) -> dict[tuple[int, int], str]:
    """What came of the pairs, by the places of their engines."""
    place = {one.url: number for number, one in enumerate(engines)}
    return {(place[pair["prefill"]], place[pair["decode"]]): pair["verdict"] for pair in told["pairs"]}


async def test_a_fleet_that_is_well() -> None:
    engines = [engine(role) for role in ("prefill", "prefill", "decode", "decode", "aggregated")]
    async with started(*engines):
        status, out, err = await doctor(*flags(*engines))
        assert (status, err) == (0, "")
        assert len(re.findall(r"handed over +\d+ ms +\d+ ms +\d+ pulled, 0 computed", out)) == 4
        assert out.splitlines()[-1] == "engines: 5 of 5 up; pairs: 4 handed over; all is well"
        assert [one.ledger.totals.issued for one in engines] == [2, 2, 0, 0, 0]
        assert [one.ledger.totals.pulled for one in engines] == [2, 2, 0, 0, 0]


async def test_a_fleet_that_is_not() -> None:
    well = engine("prefill"), engine("decode")
    strange = engine("decode", kv_bytes_per_token=1)  # as another dtype: nothing tells before the handshake
    old = engine("decode", version="0.31.0")
    with closed_port() as nobody:
        async with started(*well, strange, old):
            down = ["--decode", f"http://127.0.0.1:{nobody}"]
            status, out, _ = await doctor(*flags(*well, strange, old), *down, "--json")
            told = json.loads(out)
            assert (status, told["good"]) == (1, False)
            *_, last = told["pairs"]
            assert (last["decode"], last["verdict"]) == (down[1], "untried")
            told["pairs"].remove(last)
            expected = {(0, 1): "handed_over", (0, 2): "failed", (0, 3): "apart"}
            assert verdicts(told, *well, strange, old) == expected
            problems = [found["problem"] for found in told["engines"]]
            assert problems == [
                None,
                None,
                None,
                "no partner: '0.32.0 sim-8b' and '0.31.0 sim-8b'",
                "probe failed: connect_failed",
            ]
            failed = told["pairs"][1]
            assert failed["problem"] == f"decode: {strange.url.removeprefix('http://')} answered 500"
            assert "dtypes agree" in failed["advice"]
            await well[0].restart()  # what no decode engine could be made to give back is gone with it


async def test_a_prompt_that_decode_computed_is_no_hand_over() -> None:
    engines = engine("prefill"), engine("decode", kv_bytes_per_token=1, kv_load_failure_policy="recompute")
    async with started(*engines):
        status, out, _ = await doctor(*flags(*engines), "--json")
        (pair,) = json.loads(out)["pairs"]
        assert (status, pair["verdict"], pair["pulled_tokens"]) == (1, "computed", 0)
        assert pair["computed_tokens"] == pair["prompt_tokens"] > 0
        assert "kv_load_failure_policy" in pair["advice"]
        await engines[0].restart()


@pytest.mark.parametrize(
    ("faults", "settings", "problem", "advice"),
    [
        ([Fault("missing_params")], {}, "without kv_transfer_params", "kv_producer"),
        ([Fault("status", status=401)], {}, "answered 401", "backends.key_env"),
        ([Fault("status", status=400)], {}, "refused a completion with status 400", "see the logs"),
        ([Fault("hang")], {"pairs": {"warm_up_timeout_s": 0.3}}, "prefill: no answer in 0.3 s", "see the log of"),
        ([], {"kv_hosts": ["10.9.9.9"]}, "not one of the engine's kv_hosts", "(now 10.9.9.9)"),
    ],
    ids=["no connector", "key", "refused", "hangs", "kv_hosts"],
)
async def test_what_is_wrong_with_a_prefill_engine_is_told_with_what_to_do(
    faults: list[Fault], settings: dict[str, Any], problem: str, advice: str, tmp_path: Path
) -> None:
    prefill, decode = engine("prefill", lease_s=0.5), engine("decode")
    more = {name: settings[name] for name in settings.keys() & {"kv_hosts"}}
    async with started(prefill, decode):
        prefill.faults.add(*faults)
        backends = [{"url": prefill.url, "role": "prefill", **more}, {"url": decode.url, "role": "decode"}]
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump({"backends": backends} | {"pairs": settings.get("pairs", {})}))
        status, out, _ = await doctor("--config", str(config))
        prefill.faults.clear()
    line, following = next(two for two in pairwise(out.splitlines()) if problem in two[0])
    assert (status, line.startswith("    ")) == (1, True)
    assert following.startswith("    next: ")
    assert advice in following


async def test_engines_without_a_connector_are_found() -> None:
    prefill, alone = engine("prefill"), engine("aggregated")
    async with started(prefill, alone):
        status, out, _ = await doctor("--prefill", prefill.url, "--decode", alone.url, "--json")
        assert (status, json.loads(out)["engines"][1]["problem"]) == (1, "it has no NIXL connector")
        assert prefill.ledger.totals.requests == 0, "whose KV would nobody pull"


async def test_engines_that_a_file_lists(tmp_path: Path) -> None:
    engines = engine("prefill"), engine("decode")
    async with started(*engines):
        listed = tmp_path / "engines.json"
        listed.write_text(json.dumps([{"url": one.url, "role": one.config.role} for one in engines]))
        status, out, _ = await doctor("--json", DISCOVERY__FILE=json.dumps({"path": str(listed)}))
        assert (status, verdicts(json.loads(out), *engines)) == (0, {(0, 1): "handed_over"})


async def test_a_file_that_lists_nobody_who_can_answer(tmp_path: Path) -> None:
    listed = tmp_path / "engines.yaml"
    file = json.dumps({"path": str(listed)})
    async with started(lone := engine("prefill")):
        alone = [{"url": lone.url, "role": "prefill"}]
        keyless = [{"url": "http://127.0.0.1:1", "role": "decode", "key_env": "NO_SUCH_KEY"}]
        for text, problem in (
            (None, "file: [Errno 2] No such file"),
            ("", "file: "),
            ("[]", "file: no engine is listed there"),
            (json.dumps(keyless), "file: left out: http://127.0.0.1:1: the environment variable NO_SUCH_KEY is not"),
            (json.dumps(alone), "no decode or aggregated engine is up"),
        ):
            if text is not None:
                listed.write_text(text)
            status, out, _ = await doctor("--json", DISCOVERY__FILE=file)
            told = json.loads(out)
            assert (status, told["good"]) == (1, False), text
            assert told["problems"][0].startswith(problem), text
        assert told["engines"][0]["problem"] == "no partner: there is no decode engine"
        status, out, _ = await doctor(DISCOVERY__FILE=file)
        assert (status, out.splitlines()[-1].endswith("something is to be done")) == (1, True)


@pytest.mark.parametrize(
    ("code", "problem"), [("NXDOMAIN", "no engine is listed there"), ("SERVFAIL", "decode.example")]
)
async def test_a_name_that_does_not_resolve(code: str, problem: str) -> None:
    with dns_server() as server:
        server.faults["decode.example."] = code
        async with started(alone := engine("aggregated")):
            names = {"decode": {"name": "decode.example", "port": 8201}, "timeout_s": 0.5, **server.settings()}
            status, out, _ = await doctor(*flags(alone), "--json", DISCOVERY__DNS=json.dumps(names))
            told = json.loads(out)
            assert (status, told["good"], told["engines"][0]["problem"]) == (1, False, None)
            (said,) = told["problems"]
            assert said.startswith(f"dns decode: {problem}")


async def test_long_runs_tell_how_far_they_are() -> None:
    engines = engine("prefill", time_scale=1), engine("decode", time_scale=1, handshake_s=2.2)
    async with started(*engines):
        status, _, err = await doctor(*flags(*engines))
        ids = [one.url.removeprefix("http://") for one in engines]
        assert (status, err) == (0, f"pd-router: 1 of 1: {ids[0]} -> {ids[1]}: handed over\n")


async def test_bad_settings_are_2() -> None:
    status, out, err = await doctor("--prefill", "http://127.0.0.1:1")
    assert (status, out) == (2, "")
    assert "there are prefill engines only" in err
