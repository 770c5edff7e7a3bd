"""What the side-by-side comparison makes of its runs, and how it starts what it compares."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.compare import routers
from bench.compare.comparison import Pace, against, as_json, holds, interleaved
from bench.compare.loads import LOADS
from bench.compare.plot import plot
from bench.compare.processes import running
from bench.compare.ratios import coverage, estimate, ratios
from bench.compare.report import parts_table, ramp_table, tables
from bench.compare.rig import Rig, Run
from bench.compare.routers import Place, Router
from router.settings.loading import load as load_settings


def a_run(router: str, number: int, cpu_us: float, ttft_ms: float = 20, faults: tuple[str, ...] = ()) -> Run:
    result = {
        "cpu_us_per_request": cpu_us,
        "cpu_us_per_token": cpu_us / 64,
        "tokens_per_s": 5000,
        "cpu_cores": 0.2,
        "load_cpu_cores": 0.1,
        "rss_bytes": 60_000_000,
        "ttft": {"p50_ms": ttft_ms, "p99_ms": 2 * ttft_ms},
    }
    return Run(router, "streams", number, result, {}, 0.1, 0.0, list(faults))


RUNS = [a_run("pd-router", n, 900 + 10 * n, 21) for n in range(3)] + [a_run("peer", n, 1000, 20) for n in range(3)]


def test_the_interval_is_that_of_the_sign_test() -> None:
    assert coverage(10, 2) == pytest.approx(1 - 2 * 11 / 1024)
    ten = estimate([float(n) for n in range(10)])
    assert (ten.median, ten.low, ten.high) == (4.5, 1, 8)
    three = estimate([3.0, 1.0, 2.0])
    assert (three.median, three.low, three.high, three.confidence) == (2, 1, 3, 0.75)
    assert estimate([7.0]).confidence == 0


def test_ratios_are_paired_by_round() -> None:
    assert ratios([1, 20], [2, 40]).high == 0.5
    row = against([*RUNS[:3], *reversed(RUNS[3:])], ["pd-router"])[0]
    assert (row.cpu_ratio.low, row.cpu_ratio.median, row.cpu_ratio.high) == (0.9, 0.91, 0.92)
    assert (row.ttft_p50_ms.median, row.ttft_p99_ms.median) == (1, 2)


def test_rounds_with_faults_are_left_out() -> None:
    spoiled = [*RUNS[:5], a_run("peer", 2, 1, faults=("1 errors",))]
    assert against(spoiled, ["pd-router"])[0].cpu_ratio.high == 0.91
    assert against([RUNS[0], a_run("peer", 0, 1, faults=("1 errors",))], ["pd-router"]) == []


def test_the_order_of_routers_rotates() -> None:
    asked: list[tuple[str, str, int]] = []

    class Fake(Rig):
        def measure(self, router: Router, load: object, number: int, warm_s: float, measured_s: float) -> Run:
            asked.append((router.name, str(load), number))
            return a_run(router.name, number, 1000)

    everyone = [Router(name, ()) for name in "abc"]
    fake = Fake(Path(), Place(Path(), 1))
    assert len(list(interleaved(fake, everyone, [LOADS["streams"]], 3, Pace(0, 0)))) == 9
    assert [name for name, _, _ in asked] == [*"abc", *"bca", *"cab"]


def test_the_report() -> None:
    rows = against(RUNS, ["pd-router"])
    text = "\n".join(tables(RUNS, rows))
    assert "| pd-router | 910 (900 to 920) | 14.2 | 5000 | 0.20 | 21.0, 42.0 | 60 | none |" in text
    assert "| pd-router to peer | 0.91 (0.90 to 0.92) | 1.0 (1.0 to 1.0) | 2.0 (2.0 to 2.0) |" in text
    assert json.loads(json.dumps(as_json(RUNS, rows)))["runs"][0]["router"] == "pd-router"
    circles = ElementTree.fromstring(plot(rows)).findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == len(rows) == 1


def test_what_a_token_costs_is_told_apart_from_what_a_request_does() -> None:
    answers = {"short": (900, 950, 1000), "long": (3100, 3200, 3190)}
    runs = [replace(a_run("a", i, us), load=load) for load, all_us in answers.items() for i, us in enumerate(all_us)]
    assert list(parts_table(runs))[-1] == "| a | 20.0 | 630 |"
    assert "### long: 100 streams, 20 ms between tokens, 128 tokens" in "\n".join(tables(runs, []))


def test_a_ramp_tells_the_last_step_that_held() -> None:
    steps = [a_run("a", 200, 1000), a_run("a", 400, 900, 50), a_run("a", 600, 800, 150)]
    assert [holds(run) for run in steps] == [True, True, False]
    assert list(ramp_table(steps))[-1] == "| a | 400 | 5000 | 14.1 | 0.20 | 100 |"
    full = replace(steps[1], fleet_cpu_cores=0.9)
    assert "| at least 5000 |" in list(ramp_table([steps[0], full, steps[2]]))[-1]
    assert list(ramp_table([a_run("a", 200, 1000, faults=("1 errors",))]))[-1].startswith("| a | none held")


def test_the_gateway_gets_valid_settings(tmp_path: Path) -> None:
    gateway = routers.gateway(Place(tmp_path, 18300))
    settings = load_settings(Path(gateway.command[-1]), environ={})
    assert settings.routing.mode == "disaggregated"
    assert [backend.url for backend in settings.backends][::2] == ["http://127.0.0.1:18310", "http://127.0.0.1:18330"]


def test_peers_listen_on_loopback_and_know_the_fleet(tmp_path: Path) -> None:
    place = Place(tmp_path, 18300)
    peers = routers.peers(place, {name: Path(name) for name in ("nginx", "vllm-router", "smg")})
    said = {peer.name: " ".join(peer.command) for peer in peers}
    said["nginx"] += (tmp_path / "nginx.conf").read_text()
    said["smg"] += (tmp_path / "smg.json").read_text()
    for text in said.values():
        assert "127.0.0.1" in text
        assert "18330" in text
    assert "--prefill http://127.0.0.1:18311" in said["vllm-router"]
    assert said["smg"].count("NixlConnector") == 2


def test_a_process_ends_with_its_children(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(["sh", "-c", "sleep 60 & echo $!; wait"], 0, log) as process:
        while not log.read_text():
            assert process.poll() is None
    child = int(log.read_text())
    stat = Path(f"/proc/{child}/stat")
    assert not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"
