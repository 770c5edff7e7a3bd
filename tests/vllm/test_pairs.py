"""Do the tools that look at pairs tell the truth about real engines?"""

import json
import subprocess
import sys
from pathlib import Path

from tests.support.vllm_fleet import ROOT, Engines, gateway_process, until


def test_the_doctor_finds_a_pair_that_hands_over(engines: Engines) -> None:
    argv = [sys.executable, "-m", "router", "doctor", "--json"]
    argv += ["--prefill", engines.prefill.url, "--decode", engines.decode.url, "--aggregated", engines.reference.url]
    told = json.loads(subprocess.run(argv, stdout=subprocess.PIPE, cwd=ROOT, check=True).stdout)
    (pair,) = told["pairs"]
    assert (told["good"], pair["verdict"]) == (True, "handed_over")
    assert (pair["pulled_tokens"], pair["computed_tokens"]) == (pair["prompt_tokens"], 0)
    assert len({engine["version"] for engine in told["engines"]} - {None}) == 1
    assert engines.at_rest()


def test_the_doctor_tells_engines_without_a_connector(engines: Engines) -> None:
    argv = [sys.executable, "-m", "router", "doctor", "--json"]
    argv += ["--prefill", engines.prefill.url, "--decode", engines.reference.url]
    process = subprocess.run(argv, stdout=subprocess.PIPE, cwd=ROOT, check=False)
    told = json.loads(process.stdout)
    assert (process.returncode, told["good"]) == (1, False)
    assert told["engines"][1]["problem"] == "it has no NIXL connector"
    assert told["pairs"][0]["verdict"] == "untried"
    assert engines.at_rest()


def test_a_gateway_warms_its_pair_up_and_leaves_nothing_behind(engines: Engines, tmp_path: Path) -> None:
    before = engines.decode.prompt_tokens()
    settings = {"PAIRS__WARM_UP": "true"}
    with gateway_process(engines.prefill.url, engines.decode.url, tmp_path / "log", **settings) as gateway:
        assert until(lambda: gateway.count("warm_ups_total", "outcome") == {"ok": 1}, within_s=20)
    grown = engines.decode.prompt_tokens_since(before, expected=1)
    assert (grown.pulled > 0, grown.computed) == (True, 0)
    assert engines.at_rest()
