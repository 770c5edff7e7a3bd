"""What the comparison of chats makes of conversations and of the engines' counters; a few of them as they are had."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bench.chats.__main__ import everyone, main
from bench.chats.conversations import Load, body, chats
from bench.chats.report import preface, table
from bench.chats.trial import Heard, Result, counters, result, trial
from bench.compare.routers import Place, Router, gateway
from bench.faults.stand import NotReady, Stand
from router.sim.config import SimConfig
from router.sim.ledger import Gauges
from router.sim.metrics import Counters, page
from router.sim.text import reference_text
from tests.integration.test_bench_faults import a_base_port

FEW = Load(chats=3, turns=3, chats_per_s=50, think_s=0.01, first_tokens=(600, 900), answer_tokens=5)


def test_chats_are_the_same_for_every_router_and_others_in_every_round() -> None:
    first, again, other = (list(chats(FEW, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert [len(chat.says) for chat in first] == [3, 3, 3]
    assert len({says for chat in first for says in chat.says}) == 9


def test_a_chat_is_as_long_as_it_says() -> None:
    load = replace(FEW, system_tokens=400, first_tokens=(700, 700))
    (chat, *_) = chats(load)
    asked = body([{"role": "system", "content": chat.system}, {"role": "user", "content": chat.says[0]}], 5)
    assert reference_text("sim-8b", "chat", asked).prompt_tokens == pytest.approx(1100, abs=20)


def test_counters_are_read_as_engines_show_them() -> None:
    counted = Counters(
        local_compute_tokens=7, local_cache_hit_tokens=5, external_kv_transfer_tokens=3, generation_tokens=9
    )
    read = counters(page(SimConfig(), counted, Gauges()).decode())
    assert {name: read[name] for name in ("local_compute", "local_cache_hit", "external_kv_transfer")} == {
        "local_compute": 7,
        "local_cache_hit": 5,
        "external_kv_transfer": 3,
    }
    assert read["generation_tokens"] == 9


def test_what_was_reused_is_what_no_engine_computed() -> None:
    heard = Heard([0.1] * 9 + [0.5], [0.1, 0.2], Counter(right=10), prompt_tokens=1000, repeated_tokens=600)
    prefill = [Counter(local_compute=300), Counter(local_compute=100)]
    decode = [Counter(local_compute=20, generation_tokens=30), Counter(external_kv_transfer=400, generation_tokens=10)]
    made = result("r", 2, heard, (prefill, decode), (12.0, 1.5))
    assert (made.computed_tokens, made.prefill_computed_tokens, made.pulled_tokens) == (420, 400, 400)
    assert (made.prefill_max_over_mean, made.decode_max_over_mean) == (1.5, 1.5)
    assert [made.reuse, made.ttft_p50_s, made.ttft_p90_s] == pytest.approx([0.58, 0.1, 0.14])
    assert made.later_ttft_p50_s == pytest.approx(0.15)
    assert (made.round, made.fates) == (2, {"right": 10})


def a_result(router: str, number: int = 0, computed_tokens: int = 400) -> Result:
    return Result(
        router, number, {"cut": 1, "right": 9}, 1000, 800, computed_tokens, 400, 90, 0.1, 0.2, 0.05, 0.06, 1.5, 1.25,
        12, 1.5,
    )  # fmt: skip


def test_the_table_has_a_line_for_each_router() -> None:
    lines = list(table([a_result("a"), a_result("b"), a_result("a", 1, 300)]))
    assert lines[2:] == [
        "| a | 18 of 20 | 0.650 (0.600-0.700) | 0 | 100 | 200 | 50 | 60 | 1.50 (1.50-1.50) | 1.25 (1.25-1.25) |",
        "| b | 9 of 10 | 0.600 | 0 | 100 | 200 | 50 | 60 | 1.50 | 1.25 |",
    ]
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    told = list(preface([a_result("a"), a_result("a", 1)], FEW, 3))
    assert told[0].endswith("3 prefill + 3 decode engines; rounds: 2.")
    assert "0.800 were in the turn before; the machine had 1.50 cores busy" in told[1]


def test_the_peers_route_by_what_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.compare.install.peers", lambda names: {name: Path(name) for name in names})
    ours, handing_over, *theirs = everyone(Place(tmp_path, 18300, 1), ("vllm-router", "smg"))
    assert [router.name for router in theirs] == ["vllm-router cache_aware", "smg cache_aware"]
    assert all("cache_aware" in router.command for router in theirs)
    texts = [Path(router.command[-1]).read_text() for router in (ours, handing_over)]
    assert ["mode: disaggregated" in text for text in texts] == [False, True]


@pytest.mark.parametrize("flags", [("--peers", "nginx"), ("--rounds", "x"), ("--chats", "x")])
def test_what_cannot_be_done_is_refused(flags: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(flags)
    assert ended.value.code == 2
    assert flags[0] in capsys.readouterr().err


# As it is run


def test_a_few_chats_with_the_gateway_alone(tmp_path: Path) -> None:
    place = Place(tmp_path, a_base_port(), engines=1)
    made = asyncio.run(trial(Stand(place), gateway(place, routing={"min_concurrency": 0}), FEW, 0))
    assert made.fates == {"right": 9}
    assert made.computed_tokens < 0.6 * made.prompt_tokens
    assert made.repeated_tokens <= made.prompt_tokens - made.computed_tokens + 16 * 9, "whole blocks at least"
    assert (made.prefill_max_over_mean, made.decode_max_over_mean) == (1, 1)
    assert json.loads(json.dumps(asdict(made)))["router"] == "pd-router"


def test_a_router_that_ends_is_not_ready(tmp_path: Path) -> None:
    place = Place(tmp_path, a_base_port(), engines=1)
    with pytest.raises(NotReady, match=f"{place.port} is not ready"):
        asyncio.run(trial(Stand(place), Router("none", ("true",)), FEW, 0))
