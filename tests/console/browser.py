"""A real headless Chromium, and what it saw of a page: errors, and every address that it asked."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from playwright.async_api import Browser, Page, async_playwright

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")

MISSING = (
    f"{CHROMIUM} is not there: the console is tested in Debian's Chromium. As root: apt-get install "
    "--no-install-recommends chromium; or name another one: CHROMIUM=/path/to/chromium"
)

Scheme = Literal["light", "dark"]


class NoChromium(Exception):
    """There is no browser to test with; says what to install."""


@dataclass
class Seen:
    """What happened on a page."""

    page: Page
    errors: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser of its own. Raises `NoChromium`."""
    if shutil.which(CHROMIUM) is None:
        raise NoChromium(MISSING)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def opened(
    browser: Browser, url: str, *, width: int = 1440, scheme: Scheme = "light", still: bool = False
) -> AsyncIterator[Seen]:
    """The page at `url`, once it shows the fleet; `still`: its reader wants no motion."""
    context = await browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        reduced_motion="reduce" if still else "no-preference",
    )
    page = await context.new_page()
    seen = Seen(page)
    page.on("console", lambda said: seen.errors.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("request", lambda request: seen.asked.append(request.url))
    try:
        await page.goto(url)
        await page.locator(".pool .engine").first.wait_for()
        yield seen
    finally:
        await context.close()
