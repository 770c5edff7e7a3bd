import argparse
from pathlib import Path

import pytest

from router.bench.ramp import main


def args(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    main.add_arguments(parser)
    return parser.parse_args(words)


def test_a_day_is_told_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "new" / "ramp.svg"
    assert main.run_ramp(args("--stretch-s", "120", "--plot", str(plot))) == main.CLEAN
    told = capsys.readouterr().out
    assert "turned round" in told
    assert "p99" in told
    assert plot.read_text().count("<polyline") == 4


def test_flapping_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run_ramp(args("--stretch-s", "900", "--without-band")) == main.FLAPPED
    capsys.readouterr()


@pytest.mark.parametrize("word", ["0", "-1", "x", "inf"])
def test_rates_are_positive(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        args("--high", word)
    assert "positive number" in capsys.readouterr().err
