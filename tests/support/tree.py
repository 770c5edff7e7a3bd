"""Which files make up the project?"""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "router"


def files(below: Path = ROOT) -> Iterator[Path]:
    """Every file that is not made by a tool, in a stable order."""
    made = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()] + [".git"]
    for path in sorted(below.iterdir()):
        if any(path.match(pattern) for pattern in made):
            continue
        if path.is_dir():
            yield from files(path)
        else:
            yield path


def modules(below: Path = SOURCE) -> Iterator[Path]:
    """Every Python module below a folder."""
    return (path for path in files(below) if path.suffix == ".py")
