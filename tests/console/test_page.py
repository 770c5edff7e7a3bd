"""Does the console show the fleet as it is, to everybody, in a real browser?"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, expect

from router.routing.modes import Modes
from router.sim.faults import Fault
from tests.console.browser import Seen, opened
from tests.support.fleet import Site, engine, site

pytestmark = pytest.mark.asyncio(loop_scope="session")  # that of the browser

MODEL = "sim-8b"
TOKEN = "a token of forty characters, more or less"
WITHIN_MS = 8_000
BODY = {"model": MODEL, "prompt": "Why two pools?", "max_tokens": 8, "stream": True, "ignore_eos": True}
STATE = "**/console/state"
QUICK: dict[str, Any] = {
    "scrapes": {"interval_s": 0.3},
    "timeouts": {"prefill_timeout_s": 20, "first_event_timeout_s": 20},
}


@asynccontextmanager
async def fleet(**sections: Any) -> AsyncIterator[Site]:
    """A gateway over 2 prefill and 2 decode engines."""
    engines = [engine(role) for role in ("prefill", "prefill", "decode", "decode")]
    async with site(*engines, **({"quiet": False} | QUICK | sections)) as here:
        yield here


FOREIGN_IMAGE = """new Promise(done => {
    document.body.append(Object.assign(new Image(), {src: "http://127.0.0.1:9/", onerror: done}))
})"""
NAMELESS = """[...document.querySelectorAll("button, input, dialog[open], section")].filter(e =>
    !(e.textContent.trim() || e.ariaLabel || e.labels?.length || e.getAttribute("aria-labelledby"))
).map(e => e.outerHTML)"""


async def ask(here: Site, count: int) -> None:
    """Some requests, all answered."""
    for _ in range(count):
        (await here.ask("/v1/completions", BODY)).raise_for_status()


def card(page: Page, engine_id: str) -> Any:
    return page.locator(f'[data-engine="{engine_id}"]')


def of_role(here: Site, role: str) -> list[str]:
    return [member.url.removeprefix("http://") for member in here.members if member.role == role]


async def test_it_shows_both_pools_and_what_flows_between_them(browser: Browser) -> None:
    async with fleet() as here, opened(browser, here.gateway.ops_url) as seen:
        await ask(here, 6)
        page = seen.page
        for role in ("prefill", "decode"):
            engines = page.locator(f".pool.{role} .engine")
            await expect(engines).to_have_count(2)
            assert {await one.get_attribute("data-engine") for one in await engines.all()} == set(of_role(here, role))
            await expect(page.locator(f".pool.{role} .usable")).to_have_text("2 of 2 engines at work")
        await expect(page.locator(".flow .p")).to_contain_text("ms")
        await expect(page.locator(".flow .more")).to_contain_text("6 a minute")
        await expect(page.locator("#decisions")).to_contain_text("novel prompt disaggregated")
        await expect(page.locator("#decisions b").first).to_have_text("6")
        await expect(page.locator("#ttft .chart")).to_be_visible()
        await expect(page.locator("#stages")).to_contain_text("KV hand-over")
        await expect(page.locator(".headline")).to_have_text("No pool holds users back")
        await expect(page.locator("#link")).to_have_text("live")
        assert seen.errors == []


async def test_a_frozen_engine_is_shown_as_such_within_seconds_and_why(browser: Browser) -> None:
    async with fleet() as here, opened(browser, here.gateway.ops_url) as seen, asyncio.TaskGroup() as group:
        await ask(here, 2)
        frozen = here.engines[0]
        frozen.freeze()
        for _ in range(6):
            group.create_task(ask(here, 1))
        page, name = seen.page, frozen.url.removeprefix("http://")
        await expect(card(page, name)).to_have_class("engine out", timeout=WITHIN_MS)
        await expect(card(page, name)).to_contain_text("no sign of work")
        await expect(card(page, name)).to_contain_text("counters stand still for")
        await expect(page.locator(".headline")).to_have_text("Prefill needs a look")
        await card(page, name).click()
        await expect(page.locator("#engine .cause")).to_contain_text("counters stand still")
        await expect(page.locator("#engine .means")).to_contain_text("may hang")
        frozen.thaw()
        await expect(page.locator("#engine .cause")).to_have_text("Why: probes answered", timeout=WITHIN_MS)


async def test_an_ejected_engine_and_its_errors_are_told(browser: Browser) -> None:
    rules = {"ejection": {"failures": 1, "first_s": 60}, "retries": {"min_pause_s": 0, "max_pause_s": 0}}
    async with fleet(**rules) as here, opened(browser, here.gateway.ops_url) as seen:
        here.engines[0].faults.add(Fault("status", status=500, count=4, path="/v1/completions"))
        await ask(here, 4)
        page, name = seen.page, here.engines[0].url.removeprefix("http://")
        await expect(card(page, name)).to_contain_text("ejected")
        await expect(card(page, name)).to_contain_text("engine_error, 1 in a row")
        await expect(page.locator(".pool.prefill .usable")).to_have_text("1 of 2 engines at work")
        await expect(page.locator("#troubles li").first).to_contain_text(f"engine error on prefill {name}")
        await expect(page.locator(".why").first).to_contain_text("1 of 2 engines out")


async def test_the_keyboard_opens_an_engine_and_closes_it(browser: Browser) -> None:
    async with fleet() as here, opened(browser, here.gateway.ops_url) as seen:
        page = seen.page
        await page.keyboard.press("Tab")
        await expect(page.get_by_text("Skip to the fleet")).to_be_focused()
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        first, second = of_role(here, "prefill")
        await expect(card(page, first)).to_be_focused()
        await page.keyboard.press("ArrowDown")
        await expect(card(page, second)).to_be_focused()
        await page.keyboard.press("Enter")
        sheet = page.get_by_role("dialog")
        await expect(sheet).to_have_accessible_name(second)
        await expect(sheet).to_contain_text("Why: probes answered")
        await page.wait_for_timeout(1500)  # looks at the state go on
        await page.keyboard.press("Escape")
        await expect(sheet).to_have_count(0)
        await expect(card(page, second)).to_be_focused()


def drained(here: Site, engine_id: str) -> bool:
    return here.app.fleet.backend(engine_id).standing.drained


async def test_changes_are_refused_without_the_token_and_made_with_it(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPS_TOKEN", TOKEN)
    async with (
        fleet(ops={"token_env": "OPS_TOKEN"}, environ={"OPS_TOKEN": TOKEN}) as here,
        opened(browser, here.gateway.ops_url) as seen,
    ):
        page, name = seen.page, of_role(here, "decode")[0]
        await expect(page.get_by_role("radio", name="local", exact=True)).to_be_disabled()
        await card(page, name).click()
        await expect(page.get_by_role("button", name="Drain")).to_be_disabled()
        path = f"/fleet/backends/{name}/drain"
        refused = await page.evaluate("path => fetch(path, {method: 'POST'}).then(answer => answer.status)", path)
        assert (refused, drained(here, name)) == (401, False)
        await page.keyboard.press("Escape")
        seen.errors.clear()  # the browser writes down every 401

        await page.get_by_role("button", name="Read-only").click()
        await page.get_by_role("textbox", name="Token").fill("guessed")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text("Refused: this needs the token")
        await page.get_by_role("textbox", name="Token").fill(TOKEN)
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("button", name="Changes allowed")).to_be_visible()

        await card(page, name).click()
        await page.get_by_role("button", name="Drain").click()
        await expect(page.locator("#engine .status")).to_contain_text("Drained")
        assert drained(here, name)
        await page.get_by_role("button", name="Enable").click()
        await expect(page.locator("#engine .status")).to_contain_text("Up")
        assert not drained(here, name)
        await page.keyboard.press("Escape")
        await page.get_by_role("radio", name="local", exact=True).check(force=True)
        await expect(page.locator("#notes")).to_contain_text("routing is local")
        stored = await page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]")
        assert stored == ["", 0, 0], "the token is in memory only"
        await page.reload()
        await expect(page.get_by_role("button", name="Read-only")).to_be_visible()


async def test_on_loopback_without_a_token_changes_have_to_be_wanted(browser: Browser) -> None:
    async with fleet() as here, opened(browser, here.gateway.ops_url) as seen:
        page, name = seen.page, of_role(here, "decode")[0]
        await page.get_by_role("button", name="Read-only").click()
        await expect(page.get_by_role("dialog")).to_contain_text("No token is configured")
        await page.get_by_role("button", name="Allow changes").click()
        await card(page, name).click()
        await page.get_by_role("button", name="Drain").click()
        await expect(card(page, name)).to_contain_text("taken out by an operator")


async def test_a_comparison_of_two_modes_is_told_and_goes_on_when_the_mode_is_switched(browser: Browser) -> None:
    compared = {"mode": "auto", "mode_share": 0.25, "mode_otherwise": "disaggregated"}
    async with fleet(routing=compared) as here, opened(browser, here.gateway.ops_url) as seen:
        page = seen.page
        await expect(page.locator("#notes")).to_contain_text("auto for 25% of requests, disaggregated for the others")
        await page.get_by_role("button", name="Read-only").click()
        await page.get_by_role("button", name="Allow changes").click()
        await page.get_by_role("radio", name="local", exact=True).check(force=True)
        await expect(page.locator("#notes")).to_contain_text("local for 25% of requests, disaggregated for the others")
        assert here.app.chooser.modes == Modes("local", 0.25, "disaggregated")


async def test_another_sites_page_changes_nothing(browser: Browser) -> None:
    async with fleet() as here, fleet() as other, opened(browser, other.gateway.ops_url) as seen:
        name = of_role(here, "decode")[0]
        target = f"{here.gateway.ops_url}/fleet/backends/{name}/drain"
        await seen.page.evaluate("url => fetch(url, {method: 'POST', mode: 'no-cors'}).catch(() => 0)", target)
        page = await seen.page.context.new_page()  # a page without the console's own policy
        await page.goto(f"{other.gateway.ops_url}/healthz")
        await page.evaluate("url => fetch(url, {method: 'POST', mode: 'no-cors'}).catch(() => 0)", target)
        assert not drained(here, name)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1440])
async def test_nothing_is_cut_off(browser: Browser, width: int, scheme: Any) -> None:
    async with fleet() as here, opened(browser, here.gateway.ops_url, width=width, scheme=scheme) as seen:
        await ask(here, 3)
        await expect(seen.page.locator("#ttft .chart")).to_be_visible()
        assert await scrolls_to(seen) <= width
        await card(seen.page, of_role(here, "prefill")[0]).click()
        assert await scrolls_to(seen) <= width
        box = await seen.page.get_by_role("dialog").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert seen.errors == []


async def scrolls_to(seen: Seen) -> int:
    return int(await seen.page.evaluate("document.documentElement.scrollWidth"))


async def test_it_asks_nobody_but_its_own_gateway(browser: Browser) -> None:
    async with fleet() as here, opened(browser, here.gateway.ops_url) as seen:
        await ask(here, 2)
        await seen.page.wait_for_timeout(2500)
        own = urlsplit(here.gateway.ops_url).netloc
        assert {urlsplit(url).netloc for url in seen.asked} == {own}
        assert sum(url.endswith("/console/state") for url in seen.asked) >= 2
        assert seen.errors == []
        await seen.page.evaluate(f"{FOREIGN_IMAGE}.then(() => 0)")
        assert "Content Security Policy" in "".join(seen.errors), "the policy is in force"


async def test_who_wants_no_motion_gets_none(browser: Browser) -> None:
    running = "document.getAnimations().length"
    async with fleet() as here:
        for still in (False, True):
            async with opened(browser, here.gateway.ops_url, still=still) as seen:
                await ask(here, 2)
                await expect(seen.page.locator(".flow path.runs").first).to_be_attached()
                assert bool(await seen.page.evaluate(running)) is not still


async def test_it_says_when_the_gateway_does_not_answer_any_more(browser: Browser) -> None:
    async with fleet() as here, opened(browser, here.gateway.ops_url) as seen:
        await seen.page.route(STATE, lambda route: route.abort())
        await expect(seen.page.locator("#link")).to_contain_text("no answer from the gateway")
        await seen.page.unroute(STATE)
        await expect(seen.page.locator("#link")).to_have_text("live", timeout=WITHIN_MS)


async def test_everything_has_a_name_and_a_role(browser: Browser) -> None:
    async with fleet() as here, opened(browser, here.gateway.ops_url) as seen:
        page = seen.page
        await expect(page.get_by_role("main")).to_have_count(1)
        await expect(page.get_by_role("heading", level=1)).to_have_text("pd-router")
        for name in ("Prefill", "Decode", "KV hand-over", "Time to first token", "Recent errors"):
            await expect(page.get_by_role("region", name=name)).to_have_count(1)
        assert await page.evaluate(NAMELESS) == []
