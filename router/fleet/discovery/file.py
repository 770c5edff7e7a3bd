"""Engines as a file lists them, read again whenever it changes: whoever writes the file decides who is in the fleet.

A file that cannot be read or is not such a list changes nothing: the engines that it listed last go on.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from router.settings.discovery import FileDiscovery
from router.settings.engines import BackendSettings
from router.supervision import LastResort

log = logging.getLogger(__name__)

ENGINES = TypeAdapter(tuple[BackendSettings, ...])

Found = Callable[[Iterable[BackendSettings]], list[str]]
Failed = Callable[[str], None]


class BackendsFile:
    """A file with a YAML or JSON list of engines, in the form of `backends`.

    `found` is told what it lists, `failed` why it cannot be read.
    """

    def __init__(self, rules: FileDiscovery, found: Found, failed: Failed) -> None:
        self._path = Path(rules.path)
        self._refresh_s = rules.refresh_s
        self._found = found
        self._failed = failed
        self._seen: object = None

    async def run(self) -> None:
        """Look until cancelled."""
        last_resort = LastResort("list of engines")
        while True:
            with last_resort.turn():
                self.look()
            await asyncio.sleep(self._refresh_s)

    def look(self) -> None:
        """Read the file if it has changed since the last look."""
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if seen == self._seen:
                return
            engines = ENGINES.validate_python(yaml.safe_load(self._path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # of YAML: a date that there is not
            self._tell(_why(error))
            return
        for fault in self._found(engines):
            log.warning("an engine was left out", extra={"facts": {"file": str(self._path), "why": fault}})
        self._seen = seen
        log.info("engines were read", extra={"facts": {"file": str(self._path), "engines": len(engines)}})

    def _tell(self, why: str) -> None:
        """A fault is told once, not at every look."""
        if why != self._seen:
            self._seen = why
            self._failed(why)
            log.error("the list of engines was left as it was", extra={"facts": {"file": str(self._path), "why": why}})


def _why(error: Exception) -> str:
    """One line: what is wrong, and where."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return " ".join(str(error).split())
