"""Does what is shipped work as it is shipped: as nobody, on a root that cannot be written to, closed unless it is told?

`make test-image`, as root.
"""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import openai
import pytest

from tests.image.conftest import PREFIX, Image, buildah
from tests.support.tree import ROOT

Images = dict[str, Image]

KEY = {"PD_ROUTER_API_KEY": "s3cret"}
MOST_BYTES = 120_000_000
"""Of layers that are not the base's."""

USER = "65532"
PROGRAM = "opt/pd-router"

pytestmark = pytest.mark.timeout(900)


def free_port() -> int:
    """One that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def until(condition: Callable[[], bool], within_s: float = 20) -> None:
    """Wait until something holds."""
    by = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < by, "it did not come to hold in time"
        time.sleep(0.05)


def answers(url: str) -> bool:
    """Whether somebody says 200 there."""
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def inside(process: subprocess.Popen[bytes]) -> int:
    """The process that is the first in its container, as seen from here."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


@contextmanager
def fleet(images: Images) -> Iterator[tuple[subprocess.Popen[bytes], str, str, str]]:
    """A gateway before two engines, each from its image: the gateway's process, its URLs, and the prefill engine's."""
    sim, gateway = images["pd-router-sim"], images["pd-router"]
    with ExitStack() as held:
        urls = {}
        for role in ("prefill", "decode"):
            port = free_port()
            urls[role] = f"http://127.0.0.1:{port}"
            held.enter_context(sim.running("--role", role, "--port", str(port)))
        for url in urls.values():
            until(lambda url=url: answers(f"{url}/health"))  # type: ignore[misc]
        data, ops = free_port(), free_port()
        serve = ["serve", "--host", "127.0.0.1", "--port", str(data), "--ops-port", str(ops)]
        serve += [word for role, url in urls.items() for word in (f"--{role}", url)]
        environ = KEY | {"PD_ROUTER_ROUTING__MODE": "disaggregated", "PD_ROUTER_DRAIN__DRAIN_ACCEPT_S": "0"}
        environ |= {"PD_ROUTER_PAIRS__WARM_UP": "false"}  # all that is handed over is a client's
        process = held.enter_context(gateway.running(*serve, **environ, PD_ROUTER_LISTEN__PORT=str(data)))
        until(lambda: answers(f"http://127.0.0.1:{ops}/readyz"))
        yield process, f"http://127.0.0.1:{data}", f"http://127.0.0.1:{ops}", urls["prefill"]


def test_an_sdk_request_goes_through(images: Images) -> None:
    with fleet(images) as (process, url, _, prefill):
        with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY["PD_ROUTER_API_KEY"], max_retries=0) as sdk:
            model = sdk.models.list().data[0].id
            answer = sdk.completions.create(model=model, prompt="Why two pools?", max_tokens=8)
            assert answer.usage is not None
            assert answer.usage.completion_tokens == 8
        wrong = openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0)
        with wrong, pytest.raises(openai.AuthenticationError):
            wrong.models.list()
        assert httpx.get(f"{prefill}/sim/ledger", trust_env=False).json()["totals"]["pulled"] == 1
        check_confinement(inside(process))
        check_health(images["pd-router"], url)
        os.kill(inside(process), signal.SIGTERM)
        assert process.wait(20) == 0


def check_confinement(pid: int) -> None:
    """A process is nobody, may nothing, and writes nowhere."""
    status = dict(re.findall(r"^(\w+):\s+(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE))
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {USER}
    assert (int(status["CapEff"], 16), int(status["CapBnd"], 16), status["NoNewPrivs"]) == (0, 0, "1")
    mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    roots = [options for _, _, _, _, where, options, *_ in mounts if where == "/" or where.endswith("/merged")]
    assert "ro" in roots[-1].split(",")


def check_health(gateway: Image, url: str) -> None:
    """The image's own health check tells a gateway that serves from one that does not."""
    _, *check = gateway.config["Healthcheck"]["Test"]
    for port, healthy in ((url.rsplit(":", 1)[1], True), (str(free_port()), False)):
        command = gateway.program(*check, PD_ROUTER_LISTEN__PORT=port)
        assert (subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0) is healthy


def test_it_is_not_open_by_accident(images: Images) -> None:
    command = images["pd-router"].command("serve", "--decode", "http://127.0.0.1:9")
    refused = subprocess.run(command, check=False, stderr=subprocess.PIPE, timeout=20)
    assert refused.returncode == 2
    assert b"listen.require_key" in refused.stderr


def test_nothing_can_be_written(images: Images) -> None:
    script = "for d in / /tmp /opt/pd-router /etc /dev/shm; do touch $d/x 2>/dev/null && echo $d; done; id -u"
    told = subprocess.run(images["pd-router"].program("sh", "-c", script), check=True, stdout=subprocess.PIPE)
    assert told.stdout.split() == [USER.encode()]
    owned = [path for path in (images["pd-router"].root / PROGRAM).rglob("*") if path.lstat().st_uid != 0]
    assert owned == []


def test_labels_say_what_it_is(images: Images) -> None:
    labels = images["pd-router"].config["Labels"]
    told = {name.rpartition(".")[2]: value for name, value in labels.items() if name.startswith("org.opencontainers")}
    revision = subprocess.run(["git", "rev-parse", "HEAD"], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert (told["title"], told["licenses"], told["revision"]) == ("pd-router", "Apache-2.0", revision.stdout.strip())


def test_its_own_layers_are_small(images: Images) -> None:
    files = [path for path in (images["pd-router"].root / PROGRAM).rglob("*") if not path.is_symlink()]
    size_bytes = sum(path.lstat().st_size for path in files)
    print(f"pd-router: own layer {size_bytes / 1e6:.0f} MB in {len(files)} files")
    assert size_bytes < MOST_BYTES
    assert len(layers(images["pd-router"])) == len(layers(images["pd-router-sim"]))


def layers(image: Image) -> list[str]:
    """Digests of what an image is made of, the base's first."""
    found: list[str] = image.facts["OCIv1"]["rootfs"]["diff_ids"]
    return found


def test_it_comes_out_the_same_when_it_is_built_again(images: Images) -> None:
    environ = os.environ | {"PREFIX": f"{PREFIX}again-"}
    subprocess.run([ROOT / "docker/build.sh", "--no-cache"], check=True, env=environ)
    again = f"{PREFIX}again-pd-router"
    told = buildah("inspect", "--type", "image", "--format", "{{.OCIv1.RootFS.DiffIDs}}", again)
    buildah("rmi", again, f"{again}-sim")
    assert told.strip("[]").split() == layers(images["pd-router"])
