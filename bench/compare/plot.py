"""How do the ratios look? A dot with its interval for each load and peer, on a line where 1 is equal; as SVG."""

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from bench.compare.comparison import Against

WIDTH, LEFT, RIGHT, ROW, TOP = 760, 300, 30, 26, 46
COLOURS = ("#2166ac", "#b2182b", "#4d9221", "#762a83")


def plot(rows: Sequence[Against]) -> str:
    """The document."""
    return "\n".join(_lines(rows))


def _lines(rows: Sequence[Against]) -> Iterator[str]:
    end = max([1.5, *(row.cpu_ratio.high for row in rows)]) * 1.05
    height = TOP + ROW * len(rows) + 34
    bottom = height - 30

    def x(ratio: float) -> float:
        return LEFT + ratio / end * (WIDTH - LEFT - RIGHT)

    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    yield f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">'
    yield f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
    yield '<text x="12" y="22" font-size="15">CPU per request, ratio to each peer (below 1: cheaper)</text>'
    for step in range(int(end * 4) + 1):
        at, dash = x(step / 4), "" if step == 4 else ' stroke-dasharray="2 4"'
        yield f'<line x1="{at:.1f}" y1="{TOP - 8}" x2="{at:.1f}" y2="{bottom}" stroke="#999"{dash}/>'
        yield f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{step / 4:g}</text>'
    loads = list(dict.fromkeys(row.load for row in rows))
    for i, row in enumerate(rows):
        y, colour = TOP + ROW * i + 12, COLOURS[loads.index(row.load) % len(COLOURS)]
        ratio = row.cpu_ratio
        yield f'<text x="12" y="{y + 4}">{escape(f"{row.load}: {row.target} to {row.peer}")}</text>'
        low, high = x(ratio.low), x(ratio.high)
        yield f'<line x1="{low:.1f}" y1="{y}" x2="{high:.1f}" y2="{y}" stroke="{colour}" stroke-width="3"/>'
        yield f'<circle cx="{x(ratio.median):.1f}" cy="{y}" r="5" fill="{colour}"/>'
    yield "</svg>"
