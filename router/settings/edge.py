"""What do clients and operators touch? `listen`, `ops` and `edge`."""

from pydantic import Field

from router.settings.addresses import Port, is_loopback
from router.settings.section import ENV_PREFIX, Seconds, Section, Variable

API_KEY = f"{ENV_PREFIX}API_KEY"


class Listen(Section):
    """Where clients connect."""

    host: str = Field("0.0.0.0", description="Address of the data listener; every interface, as in a container.")  # noqa: S104
    port: Port = Field(8000, description="Port of the data listener; 0 takes a free one.")
    fd: int | None = Field(
        None,
        ge=0,
        description="Listening socket inherited under this number, not host and port; systemd's is 3.",
    )
    api_key_env: Variable = Field(
        API_KEY, description="Environment variable with the key that clients must send; not set: they need none."
    )
    api_key_file: str | None = Field(None, description="File with that key instead, such as a mounted secret.")
    require_key: bool = Field(
        False, description="Refuse to serve without a key, unless on loopback; true in the container image."
    )

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can connect; of an inherited socket that is not known."""
        return self.fd is None and is_loopback(self.host)


class Ops(Section):
    """Where metrics, health and the fleet view are served; keep it off the public network."""

    host: str = Field("127.0.0.1", description="Address of the operations listener; loopback, as it has no key.")
    port: Port = Field(8001, description="Port of the operations listener; 0 takes a free one.")
    token_env: Variable | None = Field(
        None,
        description="Variable with the token that changes and explanations need; without one, loopback only.",
    )


class Edge(Section):
    """What clients may send and engines may answer."""

    max_request_line_bytes: int = Field(
        8 << 10, ge=256, description="Longest request line; nginx and Apache take 8 KiB."
    )
    max_header_line_bytes: int = Field(8 << 10, ge=256, description="Longest header line; fits any key or token.")
    max_headers: int = Field(100, ge=8, description="Headers of one request; SDKs send 15 to 20.")
    max_head_bytes: int = Field(32 << 10, ge=1024, description="Request line and headers together, as in nginx.")
    head_timeout_s: Seconds = Field(10, description="A head is complete by then; it is sent in one packet as a rule.")
    body_timeout_s: Seconds = Field(30, description="A body is complete by then: 8 MiB at 2.2 Mbit/s.")
    min_body_bytes_per_s: int = Field(1024, ge=1, description="Slower bodies are given up, after a grace of 5 s.")
    keep_alive_s: Seconds = Field(15, description="An idle connection is closed; SDKs drop theirs after 5 s.")
    max_connections: int | None = Field(
        None, ge=1, description="Clients connected at once; default: a third of the files that may be open."
    )
    max_connections_per_address: int | None = Field(
        None,
        ge=1,
        description="Those of one IPv4 address or IPv6 /64; default: half of all, as clients may share a balancer's.",
    )
    max_buffered_body_bytes: int = Field(
        256 << 20, ge=1024, description="Bodies of all requests being read; 32 of the largest."
    )
    max_body_bytes: int = Field(8 << 20, ge=1024, description="Largest request body; a million tokens of text fit.")
    max_json_depth: int = Field(
        64, ge=8, le=200, description="Deepest nesting of a request body; tool schemas have 10 to 20 levels."
    )
    max_json_values: int = Field(
        150_000,
        ge=1000,
        description="Most JSON values of a request body: a 128k-token prompt as ids fits, and parses in milliseconds.",
    )
    max_answer_bytes: int = Field(32 << 20, ge=1024, description="Largest non-stream answer of an engine.")
    early_status_s: Seconds | None = Field(
        None,
        description="Who waits for a stream gets its status, then a comment, every so often, for proxies that give up "
        "on silence; what fails later is told inside the stream. Default: never.",
    )
    strip_engine_fields: bool = Field(
        False, description="Remove engine-internal body fields instead of refusing them with 400."
    )
