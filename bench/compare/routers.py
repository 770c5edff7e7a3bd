"""How is each router started as its users would? Loopback, one core, round robin unless asked otherwise, else defaults.

The gateway runs with metrics, probes, leases and its access log (into a file) on. Its limits of requests per engine are
off, as the peers have none, and unless asked otherwise every request is handed over, as the peers do.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

GATEWAY = "pd-router"
HAND_OVER_ALL: Mapping[str, object] = {"mode": "disaggregated", "min_novel_tokens": 0, "min_concurrency": 0}
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Place:
    """Where things listen, and where files may be written. The operations port is `port` + 1."""

    folder: Path
    port: int
    engines: int = 2

    @property
    def prefill_ports(self) -> list[int]:
        """One port per prefill engine."""
        return [self.port + 10 + i for i in range(self.engines)]

    @property
    def decode_ports(self) -> list[int]:
        """One port per decode engine."""
        return [self.port + 30 + i for i in range(self.engines)]


@dataclass(frozen=True, slots=True)
class Router:
    """A router that can be started. `hands_over` is false for a plain proxy."""

    name: str
    command: tuple[str, ...]
    hands_over: bool = True
    cwd: Path | None = None


def url(port: int) -> str:
    """The origin of a port on loopback."""
    return f"http://127.0.0.1:{port}"


def gateway(
    place: Place,
    name: str = GATEWAY,
    checkout: Path = ROOT,
    edge: Mapping[str, object] | None = None,
    routing: Mapping[str, object] = HAND_OVER_ALL,
) -> Router:
    """This gateway, or the one of another checkout; `edge` and `routing` are settings of those sections."""
    config = place.folder / f"{name.replace(' ', '-')}.yaml"
    engines = {"prefill": place.prefill_ports, "decode": place.decode_ports}
    settings = {
        "listen": {"host": "127.0.0.1", "port": place.port},
        "ops": {"port": place.port + 1},
        "backends": [{"url": url(port), "role": role} for role, ports in engines.items() for port in ports],
        "routing": dict(routing),
        "admission": {"prefill_permits": 0, "decode_permits": 0},
        "drain": {"drain_accept_s": 0, "drain_timeout_s": 1},
        "log": {"format": "json"},
        "edge": dict(edge or {}),
    }
    config.write_text(yaml.safe_dump(settings))
    return Router(name, (sys.executable, "-m", "router", "serve", "--config", str(config)), cwd=checkout)


def peers(place: Place, programs: Mapping[str, Path], policy: str = "round_robin") -> list[Router]:
    """The peers whose programs are given, with a policy of theirs; nginx has none."""
    make = {"nginx": _nginx, "vllm-router": _vllm_router, "smg": _smg}
    return [make[name](place, str(program), policy) for name, program in programs.items()]


def _vllm_router(place: Place, program: str, policy: str) -> Router:
    engines = [word for port in place.prefill_ports for word in ("--prefill", url(port))]
    engines += [word for port in place.decode_ports for word in ("--decode", url(port))]
    mode = ("--vllm-pd-disaggregation", "--kv-connector", "nixl", *engines)
    return Router("vllm-router", (program, *_rust_flags(place, policy), *mode, "--log-level", "error"))


def _smg(place: Place, program: str, policy: str) -> Router:
    """smg hands over only to workers of a manifest that names their connector."""
    manifest = place.folder / "smg.json"
    workers = [
        {"id": f"p{port}", "url": url(port), "worker_type": "prefill", "kv_connector": "NixlConnector"}
        for port in place.prefill_ports
    ]
    workers += [{"id": f"d{port}", "url": url(port), "worker_type": "decode"} for port in place.decode_ports]
    manifest.write_text(json.dumps({"version": 1, "workers": workers}))
    discovery = ("--enable-igw", "--discovery-provider", "file", "--discovery-file", str(manifest))
    mode = ("--backend", "vllm", "--pd-disaggregation", *discovery, "--log-level", "warn")
    return Router("smg", (program, "launch", *_rust_flags(place, policy), *mode))


def _rust_flags(place: Place, policy: str) -> tuple[str, ...]:
    """What vllm-router and smg, of one family, have in common."""
    listen = ("--host", "127.0.0.1", "--port", str(place.port))
    metrics = ("--prometheus-host", "127.0.0.1", "--prometheus-port", str(place.port + 1))
    return (*listen, "--policy", policy, "--worker-startup-check-interval", "1", *metrics)


NGINX = """\
daemon off; worker_processes 1; error_log {folder}/nginx.err; pid {folder}/nginx.pid;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000;
  upstream decode {{ {servers} keepalive 8192; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    client_max_body_size 64m; client_body_buffer_size 1m;
    location / {{
      proxy_pass http://decode; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


def _nginx(place: Place, program: str, _policy: str) -> Router:
    """A plain proxy to the decode engines, with half the upstream requests: what relaying costs at least."""
    config = place.folder / "nginx.conf"
    servers = " ".join(f"server 127.0.0.1:{port};" for port in place.decode_ports)
    config.write_text(NGINX.format(folder=place.folder, servers=servers, port=place.port))
    return Router("nginx", (program, "-c", str(config), "-p", str(place.folder)), hands_over=False)
