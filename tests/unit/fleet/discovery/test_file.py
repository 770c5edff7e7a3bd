import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path

import pytest

from router.fleet.discovery.file import BackendsFile
from router.settings.discovery import FileDiscovery
from router.settings.engines import BackendSettings

ONE = "- {url: 'http://10.0.0.1:8200', role: prefill}\n"
TWO = ONE + "- {url: 'http://10.0.0.2:8201', role: decode}\n"


class Reader:
    """A file and what was read of it."""

    def __init__(self, path: Path) -> None:
        self.path = path / "backends.yaml"
        self.found: list[list[str]] = []
        self.mistaken = False
        self.faults: list[str] = []
        self.file = BackendsFile(FileDiscovery(path=str(self.path), refresh_s=0.01), self.note, self.faults.append)

    def note(self, engines: Iterable[BackendSettings]) -> list[str]:
        self.found.append([engine.url for engine in engines])
        if self.mistaken:
            raise IndexError
        return []

    def look(self, text: str | None = None) -> int:
        """Write, look, and count what was read so far."""
        if text is not None:
            self.path.write_text(text)
        self.file.look()
        return len(self.found)


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


def test_a_file_is_read_when_it_has_changed(reader: Reader) -> None:
    assert [reader.look(ONE), reader.look(), reader.look(TWO), reader.look()] == [1, 1, 2, 2]
    assert reader.found == [["http://10.0.0.1:8200"], ["http://10.0.0.1:8200", "http://10.0.0.2:8201"]]


def test_an_empty_list_is_a_list(reader: Reader) -> None:
    assert reader.look("[]") == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "No such file"),
        ("", "should be a valid tuple"),
        ("a: [", "expected"),
        ("a: 2024-99-99", "month must be in 1..12"),
        ("[" * 5000, "recursion"),
        ("- {url: 'http://x:1'}", "0.role: Field required"),
        ("- {url: 'http://x:1', role: both}", "0.role"),
        ("- {url: 'http://x:1', role: decode, sped: 1}", "0.sped"),
    ],
)
def test_what_is_no_list_changes_nothing_and_is_told_once(
    reader: Reader, caplog: pytest.LogCaptureFixture, text: str | None, why: str
) -> None:
    with caplog.at_level(logging.ERROR):
        assert [reader.look(text), reader.look()] == [0, 0]
    (record,) = caplog.records
    assert why in record.__dict__["facts"]["why"]
    assert reader.faults == [record.__dict__["facts"]["why"]]
    assert reader.look(ONE) == 1


def test_a_list_that_could_not_be_applied_is_tried_again(reader: Reader) -> None:
    reader.mistaken = True
    for _ in range(2):
        with pytest.raises(IndexError):
            reader.look(ONE)
    reader.mistaken = False
    assert [reader.look(), reader.look()] == [3, 3]


async def test_it_is_looked_at_again_and_again(reader: Reader) -> None:
    reader.path.write_text(ONE)
    looking = asyncio.get_running_loop().create_task(reader.file.run())
    await asyncio.sleep(0.05)
    reader.path.write_text(TWO)
    await asyncio.sleep(0.1)
    looking.cancel()
    assert len(reader.found) == 2
