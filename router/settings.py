"""What can be set: one frozen tree, read once at start; every default carries its reason.

Order of precedence: command-line flags, then environment variables `PD_ROUTER_*` (nested with `__`), then the YAML
file, then the defaults of the command, then the defaults here. Units are in the names. Unknown keys are errors that
name the nearest valid key.
"""

import difflib
import importlib.util
import os
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as EnvError

ENV_PREFIX = "PD_ROUTER_"
API_KEY = f"{ENV_PREFIX}API_KEY"
OTHER_VARIABLES = frozenset({"CONFIG", "ENGINE_HOME", "API_KEY"})  # read by the commands, not part of the tree


HOST = "{host}"
NO_KV_EVENTS = "needs pyzmq and msgspec, which are not installed: pip install 'pd-router[kv-events]'"

OTLP_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

OTLP_EXPORTER = "opentelemetry.exporter.otlp.proto.http"

CREDENTIALS = re.compile(r"//[^/\s]*@")
"""In a URL: name and password."""


class SettingsError(Exception):
    """Settings that cannot be used; `faults` has one line per fault, each naming its key and what is allowed."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class Role(StrEnum):
    """What an engine is for. An aggregated engine does both phases itself."""

    PREFILL = "prefill"
    DECODE = "decode"
    AGGREGATED = "aggregated"


def _origin(url: str) -> str:
    """`http://host:port`, checked and without a trailing slash; engines are addressed by origin only."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError("must look like http://host:port")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username or parts.password:
        raise ValueError("must be http://host:port without path, query or credentials")
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
    if _is_address(name):
        raise ValueError("is an address, not a name; list it in `backends`")
    labels = name.removesuffix(".").split(".")
    if len(name) > 253 or not all(re.fullmatch(r"[A-Za-z0-9_-]{1,63}", label) for label in labels):
        raise ValueError("must be a DNS name, such as decode.internal")
    return name


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from its own machine only."""
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


def _variable(name: str) -> str:
    """Name of an environment variable; a secret that was written in its place seldom looks like one."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("must be the name of an environment variable, not what is in it")
    return name


Origin = Annotated[str, AfterValidator(_origin)]
Collector = Annotated[str, AfterValidator(_collector)]
Variable = Annotated[str, AfterValidator(_variable)]
ZmqEndpoint = Annotated[str, AfterValidator(_zmq_endpoint)]
DnsName = Annotated[str, AfterValidator(_dns_name)]
Port = Annotated[int, Field(ge=0, le=65535)]
TakenPort = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
Mode = Literal["auto", "local", "disaggregated"]
PolicyName = Literal["round_robin", "least_loaded", "power_of_two", "session", "prefix_aware"]


class Section(BaseModel):
    """A branch of the tree: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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


class KvEvents(Section):
    """Where an engine publishes what is in its KV cache, as it was started with `--kv-events-config`."""

    endpoint: ZmqEndpoint = Field(
        description="Its `endpoint` as it is reached from here, `tcp://host:port` or `ipc://path`; `{host}` stands for "
        "the engine's host."
    )
    replay_endpoint: ZmqEndpoint | None = Field(
        None, description="Its `replay_endpoint`, as above; without it what was missed stays missing."
    )
    topic: str = Field("", description="Beginning of the topics to listen to; empty: all of them.")
    bind: bool = Field(
        False,
        description="Listen at `endpoint` instead of connecting: for an engine that was given an address to "
        "connect to, one without `*` or `::`.",
    )

    def at(self, host: str) -> "KvEvents":
        """The same with the engine's host filled in."""
        replay = self.replay_endpoint
        filled = {
            "endpoint": self.endpoint.replace(HOST, host),
            "replay_endpoint": replay.replace(HOST, host) if replay else None,
        }
        return self.model_copy(update=filled)


class Place(Section):
    """Where an engine is, and what for."""

    url: Origin = Field(description="Origin of the engine, `http://host:port`.")
    role: Role = Field(description="`prefill`, `decode` or `aggregated`.")


class Traits(Section):
    """What else is to be known of an engine."""

    engine: Literal["vllm-nixl"] = Field(
        "vllm-nixl", description="How the engine is spoken to; aggregated engines get plain requests whatever it says."
    )
    models: tuple[str, ...] = Field((), description="Models it serves; empty: learnt from its `/v1/models`.")
    group: str | None = Field(
        None,
        min_length=1,
        description="Prefill and decode engines pair only inside one group; default: learnt, the same for engines of "
        "one version and model.",
    )
    kv_lease_s: Seconds = Field(30, description="How long it holds KV that nobody pulls; vLLM's own default.")
    kv_hosts: tuple[str, ...] = Field(
        (), description="Addresses its KV side channel may have; empty: pinned at the first good hand-over."
    )
    key_env: Variable | None = Field(None, description="Environment variable that holds the engine's API key.")
    kv_events: KvEvents | None = Field(None, description="Events of its KV cache; default: not followed.")


class BackendSettings(Traits, Place):
    """One engine."""

    @property
    def host(self) -> str:
        """The host of its URL; an IPv6 address in brackets."""
        return self.url.removeprefix("http://").rpartition(":")[0]


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
        if nameserver is not None and not _is_address(nameserver):
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


class Routing(Section):
    """When a request is disaggregated, and how an engine is picked."""

    mode: Mode = Field(
        "auto", description="`auto` applies the rule; `local` and `disaggregated` force one way where it is possible."
    )
    mode_share: float = Field(
        1.0, ge=0, le=1, description="Share of requests, drawn by their ids, that have `mode`; 1: there is one mode."
    )
    mode_otherwise: Mode = Field(
        "local", description="Mode of the other requests: what to compare with, as if there were no hand-overs."
    )
    rule: Literal["learnt", "thresholds"] = Field(
        "learnt",
        description="`learnt` goes by what hand-overs and prefills took, and by the thresholds until that is known; "
        "`thresholds` by those alone.",
    )
    stall_weight: float = Field(
        0.05,
        ge=0,
        description="A second for which a stream is held up, as seconds until a first token: with 10 to 20 streams a "
        "hand-over over a fast link is worth it.",
    )
    prefill_policy: PolicyName = Field(
        "prefix_aware", description="What an engine holds of a prompt against what it has to do; see routing.md."
    )
    decode_policy: PolicyName = Field(
        "prefix_aware", description="As prefill_policy, for decode and aggregated engines."
    )
    min_novel_tokens: int = Field(
        512,
        ge=0,
        description="Prompts with fewer tokens that decode has not cached stay there: handing over would cost more.",
    )
    min_novel_ratio: float = Field(
        0.3, ge=0, le=1, description="So do those of which a smaller part is new, up to max_local_tokens."
    )
    max_local_tokens: int = Field(
        2048, ge=1, description="So many new tokens are computed by prefill whatever their part: 55 ms of an H200."
    )
    min_concurrency: int = Field(
        10,
        ge=0,
        description="Below this many requests in flight nothing is stalled by local prefill, so it stays local.",
    )
    long_prompt_tokens: int = Field(
        8192, ge=1, description="Prompts this long are disaggregated even below min_concurrency."
    )
    local_prefill_budget_tokens: int = Field(
        8192,
        ge=0,
        description="Prompt tokens that a decode engine may compute at once in prefill's stead; more stall streams.",
    )
    prefill_tokens_per_s: int = Field(
        20_000, ge=1, description="What one prefill engine computes at its peak: turns tokens in line into seconds."
    )
    ttft_slack_s: float = Field(
        2, ge=0, description="Longest extra wait for an engine that holds the prompt's beginning, or had the session."
    )
    engine_cache_tokens: int = Field(
        400_000, ge=1, description="KV cache of an engine that does not tell its size: 8B in bf16 on 80 GB."
    )
    max_index_blocks: int = Field(
        1_000_000, ge=1, description="Blocks of about 64 tokens that the index keeps, over all engines; 150 MB at most."
    )
    on_prefill_unavailable: Literal["local_if_small", "local", "fail"] = Field(
        "local_if_small",
        description="Without a usable prefill engine: `local` lets decode compute every prompt, `local_if_small` those "
        "within local_prefill_budget_tokens, `fail` none; the others are answered with 503.",
    )


class Timeouts(Section):
    """Bounds on waiting for engines. Bare values are what a small prompt gets; two of them grow with the prompt."""

    connect_s: Seconds = Field(1, description="TCP connect to an engine; a live one in the same network needs 1 ms.")
    prefill_timeout_s: Seconds = Field(60, description="Whole prefill answer; grows by 1 s per 1,000 prompt tokens.")
    first_event_timeout_s: Seconds = Field(
        30, description="First event of a stream, hand-over included; grows by 1 s per 1,000 prompt tokens."
    )
    stream_idle_s: Seconds = Field(30, description="Longest silence inside a stream; engines emit every few ms.")
    total_s: Seconds = Field(600, description="Whole request; the OpenAI SDK gives up after 600 s too.")
    write_stall_s: Seconds = Field(60, description="A client that takes no byte for this long is dropped.")


class HandoffSettings(Section):
    """Life of a hand-over between prefill and decode."""

    handoff_max_age_s: Seconds | None = Field(
        None, description="Oldest hand-over that may be used; default: a third of the prefill engine's kv_lease_s."
    )
    release_timeout_s: Seconds = Field(2, description="Time to give unused KV back; a decode engine needs 6-15 ms.")
    max_releases: int = Field(64, ge=1, description="Releases in flight; KV beyond that is left to the engine's lease.")


class Admission(Section):
    """How much is let in."""

    decode_permits: int = Field(
        256, ge=0, description="Requests per decode or aggregated engine; vLLM's max_num_seqs; 0: no limit."
    )
    prefill_permits: int = Field(
        64, ge=0, description="Short prompts per prefill engine; more only wait inside it; 0: no limit."
    )
    prefill_permit_tokens: int = Field(
        2048,
        ge=1,
        description="Prompt tokens that one prefill permit is for; a longer prompt takes several, at most all of them.",
    )
    queue_size: int = Field(
        1024, ge=0, description="Requests of one model that may wait for a pool; 0: none, over capacity is 503 at once."
    )
    queue_timeout_s: Seconds = Field(10, description="Longest wait; who would wait longer is told 503 at once.")


class Probes(Section):
    """Active health checks of engines."""

    interval_s: Seconds = Field(2, description="Pause between probes of an engine that is up, +-20 % jitter.")
    down_interval_s: Seconds = Field(
        0.5, description="Pause between probes of an engine that is down, so it returns soon."
    )
    timeout_s: Seconds = Field(1, description="A probe that takes longer has failed.")
    knock_timeout_s: Seconds = Field(
        20, description="An engine that fell silent is asked for one token again and again, each time for so long."
    )
    down_after: int = Field(3, ge=1, description="Failed probes in a row that take an engine out; one may be a hiccup.")
    up_after: int = Field(
        2, ge=1, description="Good probes in a row that bring an engine back; the first ever one suffices at start."
    )
    models_interval_s: Seconds = Field(
        30, description="Pause between looks at an engine's /v1/models and /version; adapters come and go."
    )


class Scrapes(Section):
    """Reading the engines' own metrics."""

    interval_s: Seconds = Field(1, description="Pause between looks at an engine's /metrics; 0.1 ms of CPU each.")
    timeout_s: Seconds = Field(1, description="An engine that takes longer tells nothing this time.")


class Ejection(Section):
    """Taking out an engine by how requests on it end; probes may be answered by an engine that works no more."""

    failures: int = Field(3, ge=1, description="Failed requests, or refused connections, in a row that take it out.")
    silences: int = Field(
        2, ge=1, description="Timeouts in a row, without a sign of work in between, that take it out: it hangs."
    )
    first_s: Seconds = Field(5, description="How long it is out before it is tried again; doubles while trials fail.")
    longest_s: Seconds = Field(60, description="Longest time out; an engine that worked for so long begins anew.")
    trial_successes: int = Field(2, ge=1, description="Good requests, one at a time, that bring it back.")
    slow_start_s: Seconds = Field(
        30, description="Over which the share of requests of an engine that came back grows to that of the others."
    )


class PairRules(Section):
    """Making engines acquainted, and leaving alone two that cannot hand over to each other, though each works."""

    failures: int = Field(2, ge=1, description="Failed hand-overs within quarantine_s.")
    quarantine_s: Seconds = Field(60, description="How long the pair is left alone.")
    warm_up: bool = Field(
        True, description="Two engines new to each other hand over one tiny prompt before requests need them to."
    )
    warm_up_timeout_s: Seconds = Field(15, description="For that; vLLM gives up a handshake after 5 s.")


class Retries(Section):
    """Trying a request again on other engines, before anything of an answer went out."""

    prefill_tries: int = Field(3, ge=1, description="Prefill engines that a request is tried on; then see routing.")
    decode_tries: int = Field(3, ge=1, description="Times that a request is sent to a decode or aggregated engine.")
    share: float = Field(0.2, ge=0, le=1, description="Retries per request of the last window_s, over each pool.")
    reserve: int = Field(3, ge=0, description="Retries in window_s beside the share, for when there are few requests.")
    window_s: Seconds = Field(10, description="Over which requests and retries are counted.")
    min_pause_s: float = Field(0.025, ge=0, description="Shortest pause before a retry; none after a lost connection.")
    max_pause_s: float = Field(0.25, ge=0, description="Longest; pauses are drawn evenly between the two.")


class Drain(Section):
    """How the gateway stops."""

    drain_accept_s: float = Field(
        5, ge=0, le=3600, description="Keeps accepting after SIGTERM while balancers notice /readyz."
    )
    drain_timeout_s: Seconds = Field(120, description="Streams still open after this are ended with an error event.")


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


class Process(Section):
    """The process itself."""

    loop: Literal["uvloop", "asyncio"] = Field(
        "uvloop", description="Event loop; uvloop needs less CPU per token. `pd-router run` is always on asyncio."
    )


class PoolSize(Section):
    """How small and how large a pool may be asked to be."""

    min_replicas: int = Field(1, ge=1, description="Fewest engines; a pool of none cannot show that it is needed.")
    max_replicas: int = Field(64, ge=1, description="Most engines; what the budget or the cluster allows.")

    @model_validator(mode="after")
    def _is_a_range(self) -> "PoolSize":
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas must not be above max_replicas")
        return self


class Autoscale(Section):
    """How many engines each pool should have, as `/autoscale` and `desired_replicas` tell; nothing acts on it here."""

    interval_s: Seconds = Field(5, description="Pause between looks at the pools; autoscalers ask every 15 to 30 s.")
    window_s: Seconds = Field(60, description="Loads are means over this time: one burst is no reason for an engine.")
    scale_out_above: float = Field(
        0.8, gt=0, le=1, description="A pool grows when its engines are loaded beyond this share of what they can do."
    )
    scale_in_below: float = Field(
        0.6, gt=0, le=1, description="It shrinks when fewer would be loaded below this; between the two it stays."
    )
    scale_out_pause_s: Seconds = Field(
        180, description="Between two growths: what was asked for has to come up first, which takes minutes."
    )
    scale_in_after_s: Seconds = Field(
        300, description="A surplus must last so long, as loading a model again takes minutes; prefill: and a lease."
    )
    prefill_wait_s: Seconds = Field(
        1,
        description="Time for prefill to compute all it has in flight and in line; part of a first token's 2.5 s.",
    )
    inter_token_s: Seconds = Field(0.05, description="Time between tokens at which decode is full: people read slower.")
    gateways: int = Field(
        1, ge=1, description="Gateways that share the fleet evenly: each counts its own load so many times."
    )
    prefill: PoolSize = Field(PoolSize(), description="Prefill engines of a model.")
    decode: PoolSize = Field(PoolSize(), description="Decode engines of a model.")
    aggregated: PoolSize = Field(PoolSize(), description="Aggregated engines of a model.")

    @model_validator(mode="after")
    def _has_a_band(self) -> "Autoscale":
        if self.scale_in_below >= self.scale_out_above:
            raise ValueError("scale_in_below must be below scale_out_above, or pools would grow and shrink in turns")
        return self

    @model_validator(mode="after")
    def _has_looks_to_compare(self) -> "Autoscale":
        if self.window_s < 2 * self.interval_s:
            raise ValueError("window_s must be at least 2 * interval_s: rates are differences between looks in it")
        return self

    def size(self, role: Role) -> PoolSize:
        """The bounds of a pool."""
        return {Role.PREFILL: self.prefill, Role.DECODE: self.decode, Role.AGGREGATED: self.aggregated}[role]


class Log(Section):
    """What is written to standard error."""

    format: Literal["pretty", "json"] = Field("pretty", description="`pretty` for people, `json` for collectors.")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level written.")


class Tracing(Section):
    """Traces of requests; all else of them is set by OpenTelemetry's own variables (`OTEL_*`)."""

    otlp_endpoint: Collector | None = Field(
        None,
        description="Where spans are sent, OTLP over HTTP: `http://collector:4318/v1/traces`; default: what "
        "`OTEL_EXPORTER_OTLP_ENDPOINT` says, and no tracing without either.",
    )

    def on(self, environ: Mapping[str, str]) -> bool:
        """Whether requests are to be recorded."""
        off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none"
        return not off and (self.otlp_endpoint is not None or any(map(environ.get, OTLP_ENDPOINTS)))


class Settings(BaseSettings):
    """The whole tree. Build it with `load`, which turns faults into `SettingsError`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    listen: Listen = Listen()
    ops: Ops = Ops()
    backends: tuple[BackendSettings, ...] = Field((), description="The engines; flags add to them.")
    discovery: Discovery = Discovery()
    routing: Routing = Routing()
    timeouts: Timeouts = Timeouts()
    handoff: HandoffSettings = HandoffSettings()
    admission: Admission = Admission()
    probes: Probes = Probes()
    scrapes: Scrapes = Scrapes()
    ejection: Ejection = Ejection()
    pairs: PairRules = PairRules()
    retries: Retries = Retries()
    autoscale: Autoscale = Autoscale()
    drain: Drain = Drain()
    edge: Edge = Edge()
    process: Process = Process()
    log: Log = Log()
    tracing: Tracing = Tracing()


def load(
    config: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings from all sources, validated.

    `flags` and `defaults` are nested mappings shaped like the tree. The `backends` of `flags` are added to the
    configured ones, everything else overrides; `defaults` are what a command prefers to the defaults of the tree.
    Raises `SettingsError` with one line per fault.
    """
    environ = os.environ if environ is None else environ
    flags = dict(flags or {})
    added = flags.pop("backends", ())
    file_values = {} if config is None else _read_yaml(config)
    variables = {name.lower(): value for name, value in environ.items()}
    faults: list[str] = []

    class Sources(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            env = EnvSettingsSource(settings_cls)
            env.env_vars = variables
            given = InitSettingsSource(settings_cls, init_kwargs=file_values)
            return init_settings, env, given, InitSettingsSource(settings_cls, init_kwargs=dict(defaults or {}))

    try:
        settings: Settings = Sources(**flags)
    except ValidationError as error:
        faults = [_explain(fault) for fault in error.errors()]
        settings = Settings.model_construct()
    except EnvError as error:
        raise SettingsError([f"environment: {error}: a JSON value is expected there"]) from None
    added_backends, flag_faults = _added_backends(added, len(settings.backends))
    backends = (*settings.backends, *added_backends)
    faults = [*_unknown_variables(environ, _secrets_of(settings, backends)), *faults, *flag_faults]
    faults += _backend_faults(backends, settings.discovery, environ)
    faults += _dns_faults(settings.discovery.dns, environ)
    faults += _key_faults(settings.listen, environ)
    if settings.tracing.otlp_endpoint and not can_trace():
        faults.append("tracing: needs OpenTelemetry's exporter, which is not installed: pip install 'pd-router[otel]'")
    if settings.ops.token_env and not environ.get(settings.ops.token_env):
        faults.append(f"ops.token_env: the environment variable {settings.ops.token_env} is not set")
    if faults:
        raise SettingsError(faults)
    return Settings.model_construct(**dict(settings) | {"backends": backends})


def engine_key(backend: BackendSettings, environ: Mapping[str, str] | None = None) -> SecretStr | None:
    """The API key of an engine, read from the variable that `key_env` names; None when it needs none."""
    environ = os.environ if environ is None else environ
    return SecretStr(environ[backend.key_env]) if backend.key_env else None


def clients_key(listen: Listen, environ: Mapping[str, str] | None = None) -> SecretStr | None:
    """The key that clients need, from the file or variable that is named; None when they need none.

    Raises `SettingsError` when the file cannot be read.
    """
    environ = os.environ if environ is None else environ
    if listen.api_key_file is None:
        key = environ.get(listen.api_key_env, "")
    else:
        try:
            key = Path(listen.api_key_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise SettingsError([f"listen.api_key_file: the file cannot be read: {why}"]) from None
    return SecretStr(key) if key else None


def operators_token(ops: Ops, environ: Mapping[str, str] | None = None) -> SecretStr | None:
    """The token that changes need, read from the variable that `token_env` names; None when there is none."""
    environ = os.environ if environ is None else environ
    return SecretStr(environ[ops.token_env]) if ops.token_env else None


def kv_events_installed() -> bool:
    """Whether KV events can be followed: what that takes is an extra."""
    return all(importlib.util.find_spec(name) for name in ("zmq", "msgspec"))


def effective(settings: Settings) -> str:
    """The tree as YAML, as it would be written in a file. Secrets are not in it: it only names their variables."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def _added_backends(added: Iterable[Mapping[str, Any]], first: int) -> tuple[list[BackendSettings], list[str]]:
    """The engines that flags name, and what is wrong with them; counted on from `first`, after the configured ones."""
    backends: list[BackendSettings] = []
    faults: list[str] = []
    for i, fields in enumerate(added, first):
        try:
            backends.append(BackendSettings.model_validate(fields))
        except ValidationError as error:
            faults += [_explain(fault, ("backends", i)) for fault in error.errors()]
    return backends, faults


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError([f"{path}: cannot be read: {error.strerror}"]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise SettingsError([f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}"]) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError([f"{path}: must be a mapping of sections, such as `listen:`"])
    return {str(key): value for key, value in values.items()}


def _secrets_of(settings: Settings, backends: Iterable[BackendSettings]) -> set[str | None]:
    """The variables that settings name: they may be called as settings are."""
    pools = settings.discovery.dns.pools.values() if settings.discovery.dns else ()
    return {settings.listen.api_key_env, settings.ops.token_env, *(place.key_env for place in (*backends, *pools))}


def _unknown_variables(environ: Mapping[str, str], named: Container[str | None]) -> Iterator[str]:
    """Misspelt `PD_ROUTER_*` variables; those that are `named` are not."""
    for name, value in environ.items():
        bare = name.removeprefix(ENV_PREFIX)
        if name == bare or bare in OTHER_VARIABLES or name in named or _is_of_a_service(bare, value):
            continue
        section = bare.split("__")[0].lower()
        if section not in Settings.model_fields:
            yield f"{name}: unknown setting{_nearest(section, Settings.model_fields, ENV_PREFIX, str.upper)}"


def _is_of_a_service(name: str, value: str) -> bool:
    """Made by Kubernetes for a service that is called pd-router, or pd-router-something."""
    numbered = re.match(r"(\w+_)?(SERVICE_(HOST|PORT)|PORT_\d)", name) is not None
    return numbered or (name.endswith("PORT") and "://" in value)


def _key_faults(listen: Listen, environ: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with the key for clients. Its value is in no message."""
    named = environ.get(listen.api_key_env)
    if listen.api_key_env != API_KEY and not named and listen.api_key_file is None:
        yield f"listen.api_key_env: the environment variable {listen.api_key_env} is not set"
    if listen.api_key_file is not None and named:
        yield f"listen.api_key_file: the environment variable {listen.api_key_env} is set as well; give one of them"
    try:
        key = clients_key(listen, environ)
    except SettingsError as error:
        yield from error.faults
        return
    if key is None and listen.api_key_file is not None:
        yield "listen.api_key_file: the file is empty"
    elif key is None and listen.require_key and not listen.on_loopback:
        yield (
            f"listen.require_key: clients on other machines could connect without a key: set {listen.api_key_env} or "
            "listen.api_key_file, or listen.require_key to false if something in front asks for one"
        )
    elif key is not None and not re.fullmatch(r"[!-~]+", key.get_secret_value()):
        yield "listen: the key for clients must be printable ASCII without spaces"


def _backend_faults(
    backends: tuple[BackendSettings, ...], discovery: Discovery, environ: Mapping[str, str]
) -> Iterator[str]:
    seen: set[str] = set()
    for i, backend in enumerate(backends):
        if backend.url in seen:
            yield f"backends.{i}.url: {backend.url} is listed twice; an engine has one role"
        seen.add(backend.url)
        if backend.key_env and not environ.get(backend.key_env):
            yield f"backends.{i}.key_env: the environment variable {backend.key_env} is not set"
        if backend.kv_events and not kv_events_installed():
            yield f"backends.{i}.kv_events: {NO_KV_EVENTS}"
    roles = {backend.role for backend in backends}
    if roles == {Role.PREFILL} and not discovery.on:
        yield "backends: there are prefill engines only; add a decode engine (--decode URL)"


def can_trace() -> bool:
    """Whether what sends traces is installed."""
    return _is_installed(OTLP_EXPORTER)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even what it is in
        return False


def _dns_faults(rules: DnsDiscovery | None, environ: Mapping[str, str]) -> Iterator[str]:
    if rules is None:
        return
    if not _is_installed("dns"):
        yield "discovery.dns: needs dnspython, which is not installed: pip install 'pd-router[dns]'"
    for role, pool in rules.pools.items():
        if pool.key_env and not environ.get(pool.key_env):
            yield f"discovery.dns.{role}.key_env: the environment variable {pool.key_env} is not set"
        if pool.kv_events and not kv_events_installed():
            yield f"discovery.dns.{role}.kv_events: {NO_KV_EVENTS}"


def _explain(fault: ErrorDetails, below: tuple[str | int, ...] = ()) -> str:
    """One line for one pydantic fault: the key, what is wrong, what is allowed."""
    loc = below + fault["loc"]
    key = ".".join(str(part) for part in loc)
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown setting{_nearest(str(loc[-1]), _fields_at(loc[:-1]))}"
    if fault["type"] == "missing":
        return f"{key}: must be given"
    message = fault["msg"].removeprefix("Value error, ")
    got = "" if key.endswith(("_env", "_key_file")) else f" (got {CREDENTIALS.sub('//***@', repr(fault['input']))})"
    return f"{key}: {message[0].lower()}{message[1:]}{got}"


def _fields_at(loc: tuple[str | int, ...]) -> Mapping[str, Any]:
    """The fields of the section that a path leads to."""
    model: type[BaseModel] = Settings
    for part in loc:
        if isinstance(part, str) and part in model.model_fields:
            kind = model.model_fields[part].annotation
            kind = next((arg for arg in get_args(kind) if arg is not ...), kind)
            model = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else model
    return model.model_fields


def _nearest(name: str, known: Mapping[str, Any], prefix: str = "", style: Callable[[str], str] = str) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {prefix}{style(close[0])}?"
    return f"; known here: {', '.join(prefix + style(field) for field in known)}"
