"""What may an address look like? Each kind is checked where it is read, so that nobody meets it broken later."""

import re
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field


def _origin(url: str) -> str:
    """`http://host:port`, checked and without a trailing slash; engines are addressed by origin only."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError("must look like http://host:port")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username or parts.password:
        raise ValueError("must be http://host:port without path, query or credentials")
    if parts.port == 0:
        raise ValueError("must have a port between 1 and 65535")
    if not (_is_dns_name(parts.hostname) or _is_plain_address(parts.hostname)):
        raise ValueError("must have a DNS name or an IP address as its host")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"http://{host}:{parts.port or 80}"


def _collector(url: str) -> str:
    """Where spans can be posted to. Credentials go into `OTEL_EXPORTER_OTLP_HEADERS`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("must look like http://collector:4318/v1/traces or https://...")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must be without credentials; OTEL_EXPORTER_OTLP_HEADERS takes them")
    return url


def _zmq_endpoint(endpoint: str) -> str:
    """An address for ZeroMQ to connect to, or to listen on."""
    if re.fullmatch(r"tcp://[^/\s]+:\d{1,5}|ipc://\S+", endpoint) is None:
        raise ValueError("must look like tcp://host:port or ipc:///path")
    return endpoint


def _dns_name(name: str) -> str:
    """A name that DNS can be asked for; an address needs no DNS."""
    if is_address(name):
        raise ValueError("is an address, not a name; list it in `backends`")
    if not _is_dns_name(name):
        raise ValueError("must be a DNS name, such as decode.internal")
    return name


def _is_dns_name(text: str) -> bool:
    """Whether DNS, or a file of hosts, may know it; with underscores, as containers have them."""
    labels = text.removesuffix(".").split(".")
    return len(text) <= 253 and all(re.fullmatch(r"[A-Za-z0-9_-]{1,63}", label) for label in labels)


def _is_plain_address(text: str) -> bool:
    """Whether it is an IP address, with a zone or not; `ip_address` takes any text for a zone."""
    return re.fullmatch(r"[0-9a-fA-F:.]+(%[A-Za-z0-9_.-]+)?", text) is not None and is_address(text)


def is_address(text: str) -> bool:
    """Whether it is an IP address, of either version."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from its own machine only."""
    return host == "localhost" or (is_address(host) and ip_address(host).is_loopback)


Origin = Annotated[str, AfterValidator(_origin)]
Collector = Annotated[str, AfterValidator(_collector)]
ZmqEndpoint = Annotated[str, AfterValidator(_zmq_endpoint)]
DnsName = Annotated[str, AfterValidator(_dns_name)]
Port = Annotated[int, Field(ge=0, le=65535)]
TakenPort = Annotated[int, Field(ge=1, le=65535)]
