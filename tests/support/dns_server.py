"""A DNS server on a free port of 127.0.0.1, over UDP and TCP, whose zone is changed while it runs.

It is made of dnslib, so that nobody checks an encoding of its own and no package of the system is needed.
"""

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from dnslib import QTYPE, RCODE, RR, DNSError, DNSRecord
from dnslib.server import DNSLogger, DNSServer

from tests.support.fleet import Member

log = logging.getLogger(__name__)

SILENCE = "SILENCE"
"""No answer at all."""


MOST_UDP_BYTES = 512
STOPS_WITHIN_S = 0.02


class ZoneServer:
    """Answers from `zone`, in the form of zone files; `faults` are response codes, or `SILENCE`, by name."""

    def __init__(self) -> None:
        self.zone = ""
        self.faults: dict[str, str] = {}
        self.asked: Counter[tuple[str, str, str]] = Counter()
        self.port = 0

    def resolve(self, request: DNSRecord, handler: Any) -> DNSRecord:
        """The answer to one question; dnslib calls it, in a thread."""
        name, kind = str(request.q.qname), QTYPE[request.q.qtype]
        self.asked[name, kind, handler.protocol] += 1
        records = [record for record in RR.fromZone(self.zone) if str(record.rname) == name]
        fault = self.faults.get(name, None if records else "NXDOMAIN")
        if fault == SILENCE:
            raise DNSError("no answer")
        reply = request.reply()
        if fault is not None:
            reply.header.rcode = getattr(RCODE, fault)
        else:
            reply.add_answer(*(record for record in records if QTYPE[record.rtype] == kind))
        if handler.protocol == "udp" and len(reply.pack()) > MOST_UDP_BYTES:
            reply.rr, reply.header.tc = [], 1
        return reply

    def settings(self) -> dict[str, Any]:
        """Those by which a gateway asks this server."""
        return {"nameserver": "127.0.0.1", "nameserver_port": self.port}


@contextmanager
def dns_server() -> Iterator[ZoneServer]:
    """A server that answers while the block lasts."""
    zone = ZoneServer()
    with ExitStack() as held:
        for server in _on_one_port(zone):
            thread = threading.Thread(target=server.server.serve_forever, args=(STOPS_WITHIN_S,))
            thread.start()
            held.callback(server.server.server_close)
            held.callback(thread.join)
            held.callback(server.server.shutdown)
        yield zone


def _on_one_port(zone: ZoneServer) -> tuple[DNSServer, DNSServer]:
    """A UDP and a TCP server; a port that is free for one may be taken for the other."""
    logger = DNSLogger(logf=log.debug)
    for _ in range(20):
        udp = DNSServer(zone, address="127.0.0.1", port=0, logger=logger)
        zone.port = udp.server.server_address[1]
        with suppress(OSError):
            return udp, DNSServer(zone, address="127.0.0.1", port=zone.port, tcp=True, logger=logger)
        udp.server.server_close()
    raise AssertionError("no port is free for both")


def pool_of(role: str) -> str:
    """The name under which `services` lists the engines of a role."""
    return f"_http._tcp.{role}.internal"


def services(engines: Iterable[Member], ttl_s: int = 1) -> str:
    """A zone in which each engine has an SRV record and a host of its own."""
    places = [(member.role, urlsplit(member.url)) for member in engines]
    return "\n".join(
        f"{pool_of(role)}. {ttl_s} SRV 0 0 {at.port} {role}-{at.port}.internal.\n"
        f"{role}-{at.port}.internal. {ttl_s} A {at.hostname}"
        for role, at in places
    )
