"""Pictures of the console for the documents: `python -m tests.console.screenshots`, about three minutes.

One fleet of simulated engines, each a process of its own, goes through three scenes: nothing to do; more prompts than
prefill can compute; one prefill engine frozen, as if its process hung while its HTTP server answers.
"""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from PIL import Image
from playwright.async_api import Browser, Page

from router.sim.config import SimConfig
from router.sim.faults import Fault
from tests.console.browser import NoChromium, Scheme, chromium, opened
from tests.support.fleet import FleetProcess, Site, fleet_process, gateway_over, until
from tests.support.tree import ROOT

FOLDER = ROOT / "docs/screenshots"
WIDTHS = (1440, 390)

PLACES: Mapping[str, Sequence[tuple[str, int]]] = {
    "prefill": [(f"127.0.1.{number}", 8200) for number in (11, 12, 13)],
    "decode": [(f"127.0.1.{number}", 8201) for number in (21, 22, 23)],
}

SETTINGS: dict[str, Any] = {
    "routing": {"rule": "thresholds", "min_novel_tokens": 512, "min_concurrency": 2},
    "admission": {"prefill_permits": 8},
    "timeouts": {"prefill_timeout_s": 3},
    "ejection": {"first_s": 60},
}
"""Little room in prefill, so that there is a line to see, and a short wait for an engine that hangs."""

HARDLY, MUCH = 10, 60
"""Clients that ask one request after the other."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What the scenes are played on."""

    here: Site
    prefill: Sequence[FleetProcess]
    browser: Browser

    async def take(self, scene: str) -> None:
        """All sizes and colours of a scene."""
        for width in WIDTHS:
            for scheme in get_args(Scheme):
                async with self.page(width, scheme) as page:
                    await shoot(page, f"console-{scene}-{width}-{scheme}.png", full_page=True)

    async def take_sheet(self, engine: str) -> None:
        """The sheet about an engine, for the runbook."""
        async with self.page(1440, "light") as page:
            await page.locator(f'[data-engine="{engine}"]').click()
            await shoot(page, "console-why.png", full_page=False)

    @asynccontextmanager
    async def page(self, width: int, scheme: Scheme) -> AsyncIterator[Page]:
        """The console as it has settled; bars have grown, and nothing moves."""
        async with opened(self.browser, self.here.gateway.ops_url, width=width, scheme=scheme, still=True) as seen:
            await seen.page.wait_for_timeout(1500)
            yield seen.page


async def shoot(page: Page, name: str, *, full_page: bool) -> None:
    """One picture, in a palette of its own: a third of the size, and nobody sees the difference."""
    path = FOLDER / name
    await page.screenshot(path=path, full_page=full_page)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """Engines, gateway and browser."""
    async with AsyncExitStack() as held:
        engines: dict[str, list[FleetProcess]] = {"prefill": [], "decode": []}
        for role, places in PLACES.items():
            for host, port in places:
                config = SimConfig(role=role, gpu="h100", kv_blocks=6000)  # type: ignore[arg-type]
                engines[role].append(await held.enter_async_context(fleet_process(config, host=host, port=port)))
        members = [member for pool in engines.values() for engine in pool for member in engine.members]
        here = await held.enter_async_context(gateway_over(members, **SETTINGS))
        yield Stage(here, engines["prefill"], await held.enter_async_context(chromium()))


@asynccontextmanager
async def load(url: str, clients: int, prompt_bytes: int) -> AsyncIterator[None]:
    """Clients that ask while the block lasts."""
    options = {"streams": clients, "requests": 100_000, "prompts": 20_000, "prompt-bytes": prompt_bytes, "tokens": 90}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    asking = await asyncio.create_subprocess_exec(sys.executable, "-m", "router", "bench", "load", url, *words)
    try:
        yield
    finally:
        asking.kill()
        await asking.wait()


async def play() -> None:
    """The scenes, one after the other."""
    FOLDER.mkdir(exist_ok=True)
    async with stage() as on:
        await asyncio.sleep(7)  # until the autoscaler has looked
        await on.take("idle")
        async with load(on.here.url, HARDLY, 3000):
            await asyncio.sleep(40)
        async with load(on.here.url, MUCH, 28_000), load(on.here.url, HARDLY, 600):
            await asyncio.sleep(40)
            await on.take("load")
        async with load(on.here.url, HARDLY, 6000):
            await asyncio.sleep(15)
            frozen = on.prefill[1]
            await frozen.add("prefill", Fault("freeze"))
            name = frozen.members[0].url.removeprefix("http://")
            backend = on.here.app.fleet.backend(name)
            await until(lambda: backend.standing.state.value == "ejected", "it to be ejected", within_s=30)
            await asyncio.sleep(10)
            await on.take("frozen")
            await on.take_sheet(name)


def main() -> int:
    """Take them all."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    try:
        asyncio.run(play())
    except NoChromium as missing:
        sys.stderr.write(f"{missing}\n")
        return 1
    for path in sorted(FOLDER.glob("*.png")):
        sys.stdout.write(f"{Path(path).relative_to(ROOT)} {path.stat().st_size >> 10} KiB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
