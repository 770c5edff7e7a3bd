"""Is what is deployed well-formed, and does it fit the program?"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from router.cli import parser
from router.settings.loading import load
from tests.support.tree import ROOT

COMPOSE = ROOT / "deploy/compose"
FILES = sorted(path.name for path in COMPOSE.glob("*.yml"))
TOOLS = Path(sys.executable).parent


def services(file: str) -> dict[str, Any]:
    """The services of a compose file."""
    found: dict[str, Any] = yaml.safe_load((COMPOSE / file).read_text(encoding="utf-8"))["services"]
    return found


PROGRAMS = {"pd-router": [], "pd-router-sim": ["sim"]}
"""The project's images, and what their entrypoint says before the command."""


def ours(file: str) -> dict[str, list[str]]:
    """The services that run an image of the project, and their commands."""
    found = {name: service for name, service in services(file).items() if service["image"] in PROGRAMS}
    return {name: [*PROGRAMS[service["image"]], *service["command"]] for name, service in found.items()}


def follows_schema(path: Path) -> bool:
    """Whether a compose file is one by the specification."""
    check = [str(TOOLS / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(check, check=False).returncode == 0


def test_the_image_is_built_without_findings() -> None:
    subprocess.run([TOOLS / "hadolint", ROOT / "Dockerfile"], check=True)


@pytest.mark.parametrize("file", FILES)
def test_compose_files_follow_their_schema(file: str) -> None:
    assert follows_schema(COMPOSE / file)


def test_the_schema_finds_what_is_wrong(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text("services: {gateway: {image: pd-router, stop_grace: 5s}}")
    assert not follows_schema(wrong)


@pytest.mark.parametrize("file", FILES)
def test_commands_are_those_of_the_program(file: str) -> None:
    for command in ours(file).values():
        parser().parse_args(command)


@pytest.mark.parametrize("file", FILES)
def test_the_gateway_has_time_to_drain_and_its_engines_are_there(file: str) -> None:
    gateway = services(file)["gateway"]
    drain = load(environ=gateway["environment"] | {"PD_ROUTER_API_KEY": "given"}).drain
    grace_s = int(gateway["stop_grace_period"].removesuffix("s"))
    assert grace_s >= drain.drain_accept_s + drain.drain_timeout_s + 10
    engines = [re.sub(r"https?://|:\d+", "", word) for word in gateway["command"] if word.startswith("http")]
    networks = [service["networks"] for service in services(file).values() if "networks" in service]
    addresses = [network["default"]["ipv4_address"] for network in networks]
    assert set(engines) == {name for name in services(file) if name in engines} | set(addresses)
    assert len(engines) == sum(bool(re.match(r"(prefill|decode)-\d", name)) for name in services(file))


@pytest.mark.parametrize("file", FILES)
def test_what_other_machines_reach_asks_for_a_key(file: str) -> None:
    published = [port for service in services(file).values() for port in service.get("ports", ())]
    public = [port for port in published if not port.startswith("127.0.0.1:")]
    asks = "PD_ROUTER_API_KEY" in services(file)["gateway"]["environment"]
    assert public == (["8000:8000"] if asks else [])


def test_the_image_does_not_serve_without_a_key_by_accident() -> None:
    *_, gateway = (ROOT / "Dockerfile").read_text().split("\nFROM ")
    assert "PD_ROUTER_LISTEN__REQUIRE_KEY=true" in gateway.split()


@pytest.mark.parametrize("file", FILES)
def test_what_is_mounted_exists(file: str) -> None:
    mounts = [mount for service in services(file).values() for mount in service.get("volumes", ())]
    paths = [mount.split(":")[0] for mount in mounts if mount.startswith(".")]
    assert [path for path in paths if not (COMPOSE / path).exists()] == []


def test_simulated_engines_listen_where_decode_pulls_from() -> None:
    for name, command in ours("sim.yml").items():
        if name != "gateway":
            assert parser().parse_args(command).host == name == services("sim.yml")[name]["hostname"]


def test_the_health_of_a_simulated_engine_is_looked_at_where_it_listens() -> None:
    (stage,) = re.findall(
        r"^FROM program AS sim$(.*?)^FROM ", (ROOT / "Dockerfile").read_text(), re.DOTALL | re.MULTILINE
    )
    command = json.loads(re.findall(r"^CMD (.*)$", stage, re.MULTILINE)[0])
    engine = parser().parse_args(["sim", *command])
    assert f"(socket.gethostname(), {engine.port})" in stage
    assert engine.host == "0.0.0.0", "the container's name is not an address of loopback"


def test_prometheus_finds_the_gateway() -> None:
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert scraped[0]["static_configs"] == [{"targets": ["gateway:8001"]}]
    assert load(environ=services("sim.yml")["gateway"]["environment"]).ops.host == "0.0.0.0"


@pytest.mark.parametrize("file", ["Makefile", "Dockerfile"])
def test_locks_are_installed_as_they_are(file: str) -> None:
    """Whoever resolves anew meets releases that came after the lock, of which the next one may break the install."""
    installs = [line for line in (ROOT / file).read_text(encoding="utf-8").splitlines() if "--require-hashes" in line]
    assert installs
    assert all("--no-deps" in line for line in installs)
