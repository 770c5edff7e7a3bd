"""Where are engines found beside `backends`? `discovery`."""

from pydantic import Field, ValidationInfo, field_validator, model_validator

from router.settings.addresses import DnsName, TakenPort, is_address
from router.settings.engines import Role, Traits
from router.settings.section import Seconds, Section


class FileDiscovery(Section):
    """Engines listed in a file."""

    path: str = Field(description="File with a list of engines in the form of `backends`; read again when it changes.")
    refresh_s: Seconds = Field(1, description="Pause between looks at the file's time and size.")


class Question(Section):
    """What DNS is asked for."""

    name: DnsName = Field(description="Name of the pool's engines; search domains apply as in `/etc/resolv.conf`.")
    srv: bool = Field(False, description="Ask for SRV records, which have the ports, instead of A and AAAA.")
    port: TakenPort | None = Field(
        None, validate_default=True, description="Port of every engine; needed without `srv`, and not taken with it."
    )

    @field_validator("port")
    @classmethod
    def _either_or(cls, port: int | None, info: ValidationInfo) -> int | None:
        if port is None and not info.data.get("srv"):
            raise ValueError("must be given unless `srv` is true: A and AAAA records have no port")
        if port is not None and info.data.get("srv"):
            raise ValueError("must be left out with `srv`: SRV records have the port")
        return port


class DnsPool(Traits, Question):
    """Engines that a DNS name stands for, all of one kind."""


class DnsDiscovery(Section):
    """Engines looked up in DNS, one name for each pool."""

    prefill: DnsPool | None = Field(None, description="Prefill engines.")
    decode: DnsPool | None = Field(None, description="Decode engines.")
    aggregated: DnsPool | None = Field(None, description="Aggregated engines.")
    refresh_s: Seconds = Field(5, description="Longest pause between lookups; a shorter TTL shortens it, down to 1 s.")
    timeout_s: Seconds = Field(1, description="A DNS server that takes longer has failed; then the next is asked.")
    nameserver: str | None = Field(
        None, description="Address of the DNS server to ask; default: those of `/etc/resolv.conf`."
    )
    nameserver_port: TakenPort = Field(53, description="Port of `nameserver`.")

    @field_validator("nameserver")
    @classmethod
    def _has_an_address(cls, nameserver: str | None) -> str | None:
        if nameserver is not None and not is_address(nameserver):
            raise ValueError("must be an IP address")
        return nameserver

    @model_validator(mode="after")
    def _has_a_pool(self) -> "DnsDiscovery":
        if not self.pools:
            raise ValueError("must name engines: `prefill`, `decode` or `aggregated`")
        return self

    @property
    def pools(self) -> dict[Role, DnsPool]:
        """The names that are looked up, by what their engines are for."""
        pools = {Role.PREFILL: self.prefill, Role.DECODE: self.decode, Role.AGGREGATED: self.aggregated}
        return {role: pool for role, pool in pools.items() if pool is not None}


class Discovery(Section):
    """Where engines are found beside `backends`."""

    file: FileDiscovery | None = Field(None, description="A file that lists them.")
    dns: DnsDiscovery | None = Field(None, description="DNS names that stand for them.")

    @property
    def on(self) -> bool:
        """Whether engines may come that are not in the settings."""
        return any(source is not None for _, source in self)
