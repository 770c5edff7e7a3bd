import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from router.bench.replay import plot
from router.bench.replay.replay import Record
from router.settings.engines import Role

SVG = "{http://www.w3.org/2000/svg}"


def lines(svg: str) -> list[list[tuple[float, float]]]:
    """The points of each line, checked to be inside the picture."""
    tree = ElementTree.fromstring(svg)
    found = [
        [(float(x), float(y)) for x, y in re.findall(r"([\d.-]+),([\d.-]+)", line.get("points", ""))]
        for line in tree.iter(f"{SVG}polyline")
    ]
    assert all(0 <= x <= plot.WIDTH and 0 <= y <= plot.HEIGHT for line in found for x, y in line)
    return found


def texts(svg: str) -> set[str]:
    return {text.text or "" for text in ElementTree.fromstring(svg).iter(f"{SVG}text")}


def test_lines_have_names_and_run_from_corner_to_corner() -> None:
    svg = plot.chart("a & b", "x", "y", {"one": [(0.0, 0.0), (10.0, 5.0)], "two": [(5.0, 5.0)]})
    one, two = lines(svg)
    assert one == [(plot.LEFT, plot.HEIGHT - plot.BOTTOM), (plot.WIDTH - plot.RIGHT, plot.TOP)]
    assert two[0][0] == pytest.approx(sum(x for x, _ in one) / 2)
    assert {"a & b", "x", "y", "one", "two", "10", "5"} <= texts(svg)


def test_a_logarithmic_axis() -> None:
    (line,) = lines(plot.reuse({"one": [(100.0, 1.0), (1000.0, 2.0), (10_000.0, 3.0)]}))
    gaps = [later[0] - earlier[0] for earlier, later in pairwise(line)]
    assert gaps[0] == pytest.approx(gaps[1], abs=0.2)


def test_times_to_the_first_token_are_a_distribution() -> None:
    record = Record(ttft_s=[float(n) for n in range(1000, 0, -1)])
    (line,) = lines(plot.ttft({"one": record}))
    assert line == sorted(line)
    assert [y for _, y in line] == sorted((y for _, y in line), reverse=True)
    assert len(line) == plot.CDF_POINTS


def test_load_is_that_of_the_busiest_engine_of_each_minute() -> None:
    record = Record(work_s={Role.PREFILL: [{0: 30.0, 2: 6.0}, {0: 12.0}], Role.DECODE: []})
    (line,) = lines(plot.load({"one": record}))
    assert [y for _, y in line] == [plot.TOP, plot.HEIGHT - plot.BOTTOM, pytest.approx(plot.HEIGHT - 52 - 56.8)]


def test_nothing_to_draw() -> None:
    assert lines(plot.chart("t", "x", "y", {})) == []
    assert lines(plot.ttft({"one": Record()})) == [[]]
