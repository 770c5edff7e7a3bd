import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from router.fleet.discovery.sources import Sources
from router.fleet.membership import Membership
from router.settings.discovery import Discovery


class Heard:
    """A membership that remembers what each source listed."""

    def __init__(self) -> None:
        self.urls: dict[str, list[str]] = {}
        self.faults: list[str] = []

    def found(self, source: str, engines: Any, **_: Any) -> list[str]:
        self.urls[source] = [engine.url for engine in engines]
        return []

    def failed(self, source: str, why: str) -> None:
        self.faults.append(source)


def sources(heard: Heard, **rules: Any) -> Sources:
    return Sources(Discovery.model_validate(rules), cast("Membership", heard))


async def test_without_any_there_is_nothing_to_do() -> None:
    none = sources(Heard())
    await none.look()
    assert list(none.loops()) == []


async def test_each_source_is_looked_at_and_tells_under_its_own_name(tmp_path: Path) -> None:
    listed = tmp_path / "engines.yaml"
    listed.write_text("[{url: 'http://10.0.0.1:8200', role: prefill}]")
    nowhere = {"nameserver": "127.0.0.1", "nameserver_port": 9, "timeout_s": 0.1}
    heard = Heard()
    both = sources(
        heard, file={"path": str(listed)}, dns={"decode": {"name": "decode.example", "port": 8201}, **nowhere}
    )
    await both.look()
    assert heard.urls["file"] == ["http://10.0.0.1:8200"]
    assert heard.faults == ["dns decode"]


async def test_each_is_followed_until_it_is_cancelled(tmp_path: Path) -> None:
    listed = tmp_path / "engines.yaml"
    listed.write_text("[]")
    heard = Heard()
    following = sources(heard, file={"path": str(listed), "refresh_s": 0.01})
    ((name, loop),) = following.loops()
    assert name == "list of engines"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(loop, 0.1)
    assert heard.urls == {"file": []}
