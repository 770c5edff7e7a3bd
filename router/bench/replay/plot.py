"""How do the policies look side by side? Lines over an axis, as SVG written by hand: no library for three plots."""

import math
from collections.abc import Iterator, Mapping, Sequence
from xml.sax.saxutils import escape

from router.bench.replay.engines import SLICE_S
from router.bench.replay.replay import Record
from router.settings.engines import Role

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 380, 64, 170, 44, 52
COLOURS = ("#2166ac", "#b2182b", "#4d9221", "#762a83", "#e08214")
TICKS = 5
CDF_POINTS = 200

Line = Sequence[tuple[float, float]]


def ttft(records: Mapping[str, Record]) -> str:
    """Distribution of the time to the first token."""
    lines = {name: _distribution(record.ttft_s) for name, record in records.items()}
    return chart("Time to first token", "seconds (log)", "share of requests", lines, logarithmic=True)


def load(records: Mapping[str, Record]) -> str:
    """What the busiest prefill engine had to do, minute by minute."""
    lines = {name: _busiest(record) for name, record in records.items()}
    return chart("Busiest prefill engine", "minute", "busy seconds a minute", lines)


def reuse(by_size: Mapping[str, Line]) -> str:
    """Reuse over the size of caches."""
    return chart("Reused prompt tokens", "cache tokens of the prefill pool (log)", "tokens", by_size, logarithmic=True)


def chart(title: str, x_title: str, y_title: str, lines: Mapping[str, Line], *, logarithmic: bool = False) -> str:
    """Lines with their names."""
    return "\n".join(_chart(title, (x_title, y_title), lines, logarithmic))


def _chart(title: str, titles: tuple[str, str], lines: Mapping[str, Line], logarithmic: bool) -> Iterator[str]:
    scale = math.log10 if logarithmic else float
    points = [point for line in lines.values() for point in line] or [(1.0, 1.0)]
    low, high = scale(min(x for x, _ in points)), scale(max(x for x, _ in points))
    top = max(y for _, y in points) or 1.0
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + (scale(x) - low) / ((high - low) or 1) * wide, TOP + tall - y / top * tall

    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    yield f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    yield f'<text x="{LEFT}" y="24" font-size="15">{escape(title)}</text>'
    yield f'<text x="{LEFT + wide / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(titles[0])}</text>'
    turned = f'transform="rotate(-90 14 {TOP + tall / 2})" text-anchor="middle"'
    yield f'<text x="14" y="{TOP + tall / 2}" {turned}>{escape(titles[1])}</text>'
    for tick in range(TICKS + 1):
        x = low + (high - low) * tick / TICKS
        x = 10**x if logarithmic else x
        across, down = at(x, top * tick / TICKS)
        yield f'<line x1="{LEFT}" y1="{down:.1f}" x2="{LEFT + wide}" y2="{down:.1f}" stroke="#ddd"/>'
        yield f'<text x="{LEFT - 6}" y="{down + 4:.1f}" text-anchor="end">{_short(top * tick / TICKS)}</text>'
        yield f'<text x="{across:.1f}" y="{TOP + tall + 18}" text-anchor="middle">{_short(x)}</text>'
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in line))
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        y = TOP + 8 + 20 * number
        yield f'<text x="{WIDTH - RIGHT + 12}" y="{y}" fill="{colour}">{escape(name)}</text>'
    yield "</svg>"


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def _distribution(values: Sequence[float]) -> Line:
    ordered = sorted(values)
    step = max(1, len(ordered) // CDF_POINTS)
    return [(max(ordered[i], 1e-3), (i + 1) / len(ordered)) for i in range(0, len(ordered), step)]


def _busiest(record: Record) -> Line:
    work = record.work_s[Role.PREFILL]
    last = max((time for engine in work for time in engine), default=0)
    busiest = [max(engine.get(time, 0.0) for engine in work) for time in range(last + 1)]
    return [(time * SLICE_S / 60, seconds * 60 / SLICE_S) for time, seconds in enumerate(busiest)]
