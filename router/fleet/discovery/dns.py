"""Engines as DNS has them, one name for each pool, looked up again and again: who keeps the zone decides who is there.

A name stands for the addresses of its A records, or of its AAAA records if it has no others, as an engine that has both
would count as two. With `srv` it stands for hosts and their ports, and each host for its addresses; priorities and
weights are not used.

A lookup that fails changes nothing. An answer without a record, or that the name does not exist, counts from the third
in a row: a DNS server that has just started may know nothing yet.
"""

import asyncio
import logging
import math
import operator
from collections.abc import Awaitable, Callable, Iterable, Set
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

from tenacity import AsyncRetrying, retry_if_result, wait_exponential, wait_random

from router.fleet.discovery.file import Failed, Found
from router.settings.discovery import DnsPool, Question
from router.settings.engines import BackendSettings, Role
from router.supervision import LastResort

log = logging.getLogger(__name__)

EMPTY_ANSWERS = 3
"""So many in a row are believed."""

LEAST_PAUSE_S = 1
"""Between looks however short the TTL, unless `refresh_s` is shorter; DNS servers serve others, too."""

BACKOFF_S = 0.5
"""Before the first look after one that failed; it doubles up to `refresh_s`."""

Record = TypeVar("Record")


class LookupFailed(Exception):
    """DNS gave no answer, neither records nor that there are none."""


class Service(NamedTuple):
    """What an SRV record names."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Answer(Generic[Record]):
    """The records of a name, and how long they hold; none when the name has none or does not exist."""

    records: frozenset[Record]
    ttl_s: float = math.inf


class Resolver(Protocol):
    """Asks DNS. Both methods raise `LookupFailed`."""

    async def addresses(self, name: str) -> Answer[str]:
        """The addresses of a name."""

    async def services(self, name: str) -> Answer[Service]:
        """The SRV records of a name."""


@dataclass(slots=True)
class Look:
    """What is learnt by the way while names are looked up."""

    ttl_s: float = math.inf
    failures: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Known(Generic[Record]):
    """The records that a name is taken to have."""

    records: frozenset[Record] = frozenset()
    empty_answers: int = 0

    def hear(self, records: frozenset[Record]) -> None:
        """Take what an answer says, unless it is one of few that are empty."""
        self.empty_answers = 0 if records else self.empty_answers + 1
        if records or self.empty_answers >= EMPTY_ANSWERS:
            self.records = records


class Names(Generic[Record]):
    """Looks names up by `ask`, and remembers what they stood for when it fails."""

    def __init__(self, ask: Callable[[str], Awaitable[Answer[Record]]]) -> None:
        self._ask = ask
        self._known: dict[str, Known[Record]] = {}

    async def records(self, name: str, look: Look) -> frozenset[Record]:
        """The records that the name is taken to have now."""
        known = self._known.setdefault(name, Known())
        try:
            answer = await self._ask(name)
        except LookupFailed as failure:
            look.failures.append(f"{name}: {failure}")
        else:
            known.hear(answer.records)
            look.ttl_s = min(look.ttl_s, answer.ttl_s)
        return known.records

    def forget_all_but(self, names: Set[str]) -> None:
        """Others are not asked for any more."""
        self._known = {name: known for name, known in self._known.items() if name in names}


class NamedEngines:
    """The engines of one pool, by name. `found` is told where they are, `failed` why that cannot be known."""

    def __init__(
        self, role: Role, rules: DnsPool, refresh_s: float, resolver: Resolver, *, found: Found, failed: Failed
    ) -> None:
        self.role = role
        self._rules = rules
        self._traits = rules.model_dump(exclude=set(Question.model_fields))
        self._refresh_s = refresh_s
        self._found = found
        self._failed = failed
        self._addresses = Names(resolver.addresses)
        self._services = Names(resolver.services)
        self._pause_s = 0.0
        self._told: object = None
        self._failing = False

    async def run(self) -> None:
        """Look until cancelled; soon again after a failure, then ever more rarely."""
        backoff = wait_exponential(multiplier=BACKOFF_S, max=self._refresh_s) + wait_random(0, BACKOFF_S)
        until_answered = AsyncRetrying(retry=retry_if_result(operator.not_), wait=backoff)
        last_resort = LastResort(f"names of {self.role} engines")
        while True:
            await asyncio.sleep(self._pause_s)
            with last_resort.turn():
                await until_answered(self.look)

    async def look(self) -> bool:
        """Look everything up once; whether all lookups were answered."""
        self._pause_s = BACKOFF_S  # whatever comes now, the next look is not at once
        look = Look()
        places = sorted(await self._places(look))
        left_out = self._found(self._engine(host, port) for host, port in places)
        self._tell(places, [*look.left_out, *left_out])
        if look.failures:
            self._fail(look.failures[0])
        elif self._failing:
            self._failing = False
            log.info("DNS answers again", extra={"facts": self._facts})
        if not look.failures:
            self._pause_s = pause_s(look.ttl_s, self._refresh_s)
        return not look.failures

    async def _places(self, look: Look) -> Iterable[tuple[str, int]]:
        """Address and port of every engine."""
        if self._rules.port is not None:
            addresses = await self._addresses.records(self._rules.name, look)
            return {(address, self._rules.port) for address in addresses}
        records = await self._services.records(self._rules.name, look)
        services = {service for service in records if service.port}
        look.left_out += sorted(f"{service.host} has port 0" for service in records - services)
        hosts = {service.host for service in services}
        self._addresses.forget_all_but(hosts)
        found = await asyncio.gather(*(self._addresses.records(host, look) for host in hosts))
        of = dict(zip(hosts, found, strict=True))
        return {(address, service.port) for service in services for address in of[service.host]}

    def _engine(self, address: str, port: int) -> BackendSettings:
        host = f"[{address}]" if ":" in address else address
        return BackendSettings.model_validate({"url": f"http://{host}:{port}", "role": self.role, **self._traits})

    @property
    def _facts(self) -> dict[str, object]:
        return {"pool": self.role.value, "name": self._rules.name}

    def _tell(self, places: list[tuple[str, int]], left_out: list[str]) -> None:
        """What is as it was is not told again."""
        if (places, left_out) == self._told:
            return
        self._told = places, left_out
        for why in left_out:
            log.warning("an engine was left out", extra={"facts": {**self._facts, "why": why}})
        log.info("engines were looked up", extra={"facts": {**self._facts, "engines": len(places)}})

    def _fail(self, why: str) -> None:
        self._failed(why)
        if not self._failing:
            self._failing = True
            log.error("a DNS lookup failed; its engines stay", extra={"facts": {**self._facts, "why": why}})


def pause_s(ttl_s: float, refresh_s: float) -> float:
    """When to look again: as records end, within bounds."""
    return min(refresh_s, max(ttl_s, LEAST_PAUSE_S))
