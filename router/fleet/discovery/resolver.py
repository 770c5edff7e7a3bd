"""What does DNS say? The one module that needs dnspython, which is an extra.

Servers, search domains and options are those of `/etc/resolv.conf`, read at every question as it may change. Truncated
answers are asked for again over TCP.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.resolver

from router.fleet.discovery.dns import Answer, LookupFailed, Record, Service
from router.settings.discovery import DnsDiscovery

QUESTIONS_AT_ONCE = 16


class Resolver:
    """Asks the DNS servers of this machine, or the one that the settings name."""

    def __init__(self, rules: DnsDiscovery) -> None:
        self._rules = rules
        self._room = asyncio.Semaphore(QUESTIONS_AT_ONCE)

    async def addresses(self, name: str) -> Answer[str]:
        """IPv4 addresses, or IPv6 ones where there are none. Raises `LookupFailed`."""
        answer = await self._ask(name, "A", lambda record: str(record.address))
        return answer if answer.records else await self._ask(name, "AAAA", lambda record: str(record.address))

    async def services(self, name: str) -> Answer[Service]:
        """Hosts and ports; a host named `.` says that there is no such service. Raises `LookupFailed`."""
        answer = await self._ask(name, "SRV", lambda record: Service(record.target.to_text(), record.port))
        return Answer(frozenset(service for service in answer.records if service.host != "."), answer.ttl_s)

    async def _ask(self, name: str, kind: str, read: Callable[[Any], Record]) -> Answer[Record]:
        try:
            async with self._room:
                answer = await self._servers().resolve(name, kind, search=True, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN:
            return Answer(frozenset())
        except (dns.exception.DNSException, OSError) as error:
            raise LookupFailed(" ".join(str(error).split()) or type(error).__name__) from error
        if answer.rrset is None:
            return Answer(frozenset())
        return Answer(frozenset(map(read, answer.rrset)), answer.chaining_result.minimum_ttl)

    def _servers(self) -> dns.asyncresolver.Resolver:
        rules = self._rules
        resolver = dns.asyncresolver.Resolver(configure=rules.nameserver is None)
        if rules.nameserver is not None:
            resolver.nameservers, resolver.port = [rules.nameserver], rules.nameserver_port
        resolver.timeout = rules.timeout_s
        resolver.lifetime = rules.timeout_s * max(2, len(resolver.nameservers))
        return resolver
