"""The command over a trace of a few chats."""

import argparse
import json
from pathlib import Path

import pytest

from router.bench.replay import main
from router.bench.replay.report import COLUMNS
from router.bench.replay.trace import Request
from tests.support.traces import chats


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    main.add_arguments(parser)
    return parser.parse_args(arguments)


def written(requests: list[Request], path: Path) -> str:
    rows = [
        {
            "timestamp": request.at_s * 1000,
            "input_length": request.input_tokens,
            "output_length": request.output_tokens,
            "hash_ids": request.blocks,
        }
        for request in requests
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.fixture
def trace(tmp_path: Path) -> str:
    return written(chats(30, 4), tmp_path / "trace.jsonl")


def test_a_row_for_each_policy(trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "figures.json"
    asked = ("--policy", "round_robin", "--policy", "prefix_aware", "--prefill", "2", "--decode", "3")
    assert main.run(parse("--trace", trace, *asked, "--json", str(figures))) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[0].split() == ["policy", *COLUMNS]
    assert "prefix_aware" in shown.err, "the progress bar"
    tree = json.loads(figures.read_text())
    assert (tree["requests"], tree["fleet"]["prefill"], tree["fleet"]["decode"]) == (120, 2, 3)
    assert [policy["policy"] for policy in tree["policies"]] == ["round_robin", "prefix_aware"]


def test_all_but_session_by_default(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(parse("--trace", trace)) == 0
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:5]]
    assert rows == ["round_robin", "power_of_two", "least_loaded", "prefix_aware"]


def test_pictures(trace: str, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "plots"
    assert main.run(parse("--trace", trace, "--policy", "prefix_aware", "--plot", str(folder))) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["load.svg", "reuse.svg", "ttft.svg"]
    assert "pooled LRU" in (folder / "reuse.svg").read_text()


def test_a_file_that_is_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(parse("--trace", str(tmp_path / "none"))) == 1
    assert capsys.readouterr().err.endswith("none: No such file or directory\n")


@pytest.mark.parametrize(
    "wrong", [("--prefill", "0"), ("--decode", "x"), ("--speed", "0"), ("--speed", "nan"), ("--policy", "best")]
)
def test_arguments_that_cannot_be(wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--trace", "x", *wrong)
    assert wrong[0] in capsys.readouterr().err
