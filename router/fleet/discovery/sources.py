"""All sources of engines beside the settings themselves, as one: looked at once at start, then for ever."""

import asyncio
from collections.abc import Coroutine, Iterator
from functools import partial
from typing import Any

from router.fleet.discovery.dns import NamedEngines
from router.fleet.discovery.file import BackendsFile
from router.fleet.membership import Membership
from router.settings.discovery import Discovery, DnsDiscovery, FileDiscovery


class Sources:
    """What `rules` name; what they list is told to `members`. Raises `ImportError` for DNS without dnspython."""

    def __init__(self, rules: Discovery, members: Membership) -> None:
        self._file = _file(rules.file, members) if rules.file else None
        self._names = _names(rules.dns, members) if rules.dns else []

    async def look(self) -> None:
        """One look at each, however it goes."""
        if self._file:
            self._file.look()
        await asyncio.gather(*(pool.look() for pool in self._names))

    def loops(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """What has to run for as long as the fleet is to follow them, with names."""
        if self._file:
            yield "list of engines", self._file.run()
        for pool in self._names:
            yield f"names of {pool.role} engines", pool.run()


def _file(rules: FileDiscovery, members: Membership) -> BackendsFile:
    return BackendsFile(rules, partial(members.found, "file"), partial(members.failed, "file"))


def _names(rules: DnsDiscovery, members: Membership) -> list[NamedEngines]:
    """One source a pool."""
    from router.fleet.discovery.resolver import Resolver  # noqa: PLC0415 - dnspython is an extra

    resolver = Resolver(rules)
    return [
        NamedEngines(
            role,
            pool,
            rules.refresh_s,
            resolver,
            found=partial(members.found, f"dns {role}", told_again=True),
            failed=partial(members.failed, f"dns {role}"),
        )
        for role, pool in rules.pools.items()
    ]
