"""Percentiles by the nearest rank, and both forms of a report."""

from collections import Counter

from rich.console import Console

from router.bench.load import Plan, Record
from router.bench.report import percentiles_ms, table, tree

RECORD = Record(ttft_s=[0.1, 0.3], inter_event_s=[0.02], total_s=[1.0, 2.0], tokens=128, elapsed_s=4)


def test_percentiles() -> None:
    assert percentiles_ms([n / 1000 for n in range(100, 0, -1)]) == {"p50": 50, "p90": 90, "p99": 99, "max": 100}
    assert percentiles_ms([0.0015]) == {"p50": 1.5, "p90": 1.5, "p99": 1.5, "max": 1.5}
    assert percentiles_ms([]) == {}


def test_the_tree() -> None:
    figures = tree(Plan("m", rate=2, requests=3), RECORD)
    assert (figures["loop"], figures["requests"], figures["right"]) == ("open", 3, 2)
    assert (figures["requests_per_s"], figures["tokens_per_s"]) == (0.5, 32)
    assert figures["total_ms"]["max"] == 2000


def test_the_table_shows_figures_and_faults() -> None:
    console = Console(width=100, record=True, quiet=True)
    with console.capture() as shown:
        record = Record(faults=Counter({"no text": 3}), elapsed_s=1)
        console.quiet = False
        console.print(table(tree(Plan("m"), RECORD)), table(tree(Plan("m"), record)))
    text = shown.get()
    assert "first token      100.0" in text
    assert "2 of 100 answers right, in 4.0 s: 0.5 requests/s, 32.0 tokens/s" in text
    assert "3 x no text" in text
