"""One browser for all tests, each with pages of its own; without one, all of them say what to install."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.console.browser import NoChromium, chromium


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """A headless Chromium."""
    try:
        async with chromium() as started:
            yield started
    except NoChromium as missing:
        pytest.fail(str(missing), pytrace=False)
