"""The chat page in a real Chromium."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, expect

from mesh.api.errors import GenerationFailed
from mesh.api.keys_file import create_key
from tests.support.browser import WatchedPage, needs_chromium, open_browser
from tests.support.gateways import open_client
from tests.support.local_backend import ANSWER, MODEL, LocalBackend

DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
SCREENSHOTS = os.environ.get("MESH_SCREENSHOTS")

pytestmark = [
    pytest.mark.e2e,
    needs_chromium,
    # One browser for all of these; every test has a page and a gateway of its own.
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory) -> AsyncIterator[BrowserContext]:
    profile = tmp_path_factory.mktemp("profile")
    async with open_browser(profile, viewport=DESKTOP) as context:
        yield context


class Visit(WatchedPage):
    """The chat page."""

    async def open(self) -> None:
        await self.page.goto(self.url)
        await expect(self.page.get_by_role("status").first).not_to_have_text("Connecting…")

    async def ask(self, question: str) -> None:
        await self.page.get_by_label("Message").fill(question)
        await self.page.get_by_role("button", name="Send").click()

    @property
    def answer(self):
        return self.page.locator(".turn.assistant .text").last

    async def photograph(self, name: str) -> None:
        """Keep a picture for a person to look at, where MESH_SCREENSHOTS says so."""
        if SCREENSHOTS:
            await self.page.screenshot(path=f"{SCREENSHOTS}/{name}.png")


async def visit(browser: BrowserContext, api, *, viewport=DESKTOP) -> Visit:
    page = await browser.new_page()
    await page.set_viewport_size(viewport)
    seen = Visit(page, str(api.base_url))
    await seen.open()
    return seen


async def test_a_question_is_answered_streaming_with_its_route(browser):
    backend = LocalBackend(delay_s=0.02)
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        await seen.photograph("desktop-welcome")
        await seen.ask("How does an epoch work?")
        await expect(seen.answer).to_contain_text("An epoch has")
        # It is still being written: the text grows, and the answer can be stopped.
        assert await seen.answer.text_content() != ANSWER
        await expect(seen.page.get_by_role("button", name="Stop")).to_be_visible()
        await expect(seen.answer).to_have_text(ANSWER)
        hops = seen.page.get_by_role("list", name="Route").get_by_role("listitem")
        await expect(hops).to_have_count(2)
        await expect(hops.first).to_contain_text("blocks 0:3")
        await expect(seen.page.locator(".route")).to_contain_text("tokens/s")
        await expect(seen.page.get_by_label("Message")).to_be_focused()
        await seen.photograph("desktop-answer")
    assert seen.complaints == []
    assert all(url.startswith(seen.url) for url in seen.requested)


async def test_the_conversation_goes_on_and_can_start_anew(browser):
    backend = LocalBackend()
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        await seen.ask("First?")
        await expect(seen.answer).to_have_text(ANSWER)
        await seen.page.get_by_label("Message").fill("Second?")
        await seen.page.keyboard.press("Enter")
        await expect(seen.page.locator(".turn.assistant")).to_have_count(2)
        await expect(seen.page.get_by_role("button", name="Send")).to_be_visible()
        assert [message.content for message in backend.chats[-1]] == ["First?", ANSWER, "Second?"]
        await seen.page.get_by_role("button", name="New chat").click()
        await expect(seen.page.locator(".turn")).to_have_count(0)
        await expect(seen.page.get_by_role("heading", name="Ask the swarm")).to_be_visible()
    assert seen.complaints == []


async def test_markup_from_the_swarm_stays_text(browser):
    attack = "<img src=x onerror=alert(1)><script>alert(2)</script>&lt;b&gt;"
    backend = LocalBackend(answer=attack)
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        dialogs: list[str] = []
        seen.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
        await seen.ask("<b onclick=alert(3)>hi</b>")
        await expect(seen.answer).to_have_text(attack)
        await expect(seen.page.locator(".turn.user .text")).to_have_text(
            "<b onclick=alert(3)>hi</b>"
        )
        assert await seen.page.locator(".log img, .log script, .log b[onclick]").count() == 0
    assert dialogs == [] and seen.complaints == []


async def test_inline_script_would_be_layered(browser):
    async with open_client(LocalBackend()) as api:
        seen = await visit(browser, api)
        ran = await seen.page.evaluate(
            """() => {
                try { document.body.innerHTML += "<p>x</p>"; return "markup"; } catch { }
                const script = document.createElement("script");
                try { script.text = "window.ran = true"; document.body.append(script); } catch { }
                return window.ran ?? "nothing";
            }"""
        )
    assert ran == "nothing"


async def test_stop_ends_the_answer_and_frees_the_swarm(browser):
    backend = LocalBackend(delay_s=0.02, is_endless=True)
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        await seen.ask("Never end.")
        await expect(seen.answer).to_contain_text("An epoch")
        await seen.page.get_by_role("button", name="Stop").click()
        await expect(seen.page.get_by_role("button", name="Send")).to_be_visible()
        await expect(seen.page.locator(".problem")).to_have_count(0)
        for _ in range(200):
            if backend.running == 0:
                break
            await seen.page.wait_for_timeout(20)
        assert backend.running == 0
    assert seen.complaints == []


async def test_a_failure_in_the_middle_is_told_and_the_text_kept(browser):
    failure = GenerationFailed("Every route was lost.")
    async with open_client(LocalBackend(failure=failure, fail_after=6)) as api:
        seen = await visit(browser, api)
        await seen.ask("Will it hold?")
        await expect(seen.page.get_by_role("alert")).to_have_text("Every route was lost.")
        await expect(seen.answer).to_contain_text("An epoch has four")
        await seen.photograph("desktop-failure")


async def test_missing_layers_are_shown_and_nothing_can_be_sent(browser):
    async with open_client(LocalBackend(uncovered=((2, 4),))) as api:
        seen = await visit(browser, api)
        await expect(seen.page.get_by_role("status").first).to_have_text("nobody serves blocks 2:4")
        await seen.page.get_by_label("Message").fill("Hello?")
        await expect(seen.page.get_by_role("button", name="Send")).to_be_disabled()
        await seen.photograph("desktop-missing-blocks")


async def test_a_key_is_asked_for_used_and_not_kept(browser, tmp_path):
    keys_file = tmp_path / "keys.jsonl"
    key = create_key(keys_file, "page", now_s=1)
    async with open_client(LocalBackend(), keys_file=keys_file) as api:
        seen = await visit(browser, api)
        await expect(seen.page.get_by_role("status").first).to_have_text("API key needed")
        field = seen.page.get_by_label("API key")
        await field.fill(key)
        await field.press("Tab")
        await expect(seen.page.get_by_role("combobox", name="Model")).to_be_enabled()
        await seen.photograph("desktop-options")
        await seen.ask("Hello")
        await expect(seen.answer).to_have_text(ANSWER)
        stored = await seen.page.evaluate(
            "() => JSON.stringify([localStorage, sessionStorage, document.cookie])"
        )
        assert key not in stored and all(key not in url for url in seen.requested)
        await seen.page.reload()
        await expect(field).to_have_value("")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_fits_a_phone(browser, scheme):
    async with open_client(LocalBackend()) as api:
        page = await browser.new_page()
        await page.emulate_media(color_scheme=scheme)
        await page.set_viewport_size(PHONE)
        seen = Visit(page, str(api.base_url))
        await seen.open()
        await seen.photograph(f"phone-{scheme}-welcome")
        await seen.ask("How does an epoch work, and what does everybody do in each of its phases?")
        await expect(seen.answer).to_have_text(ANSWER)
        overflow = (
            "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert await page.evaluate(overflow) == 0
        for control in await page.locator("button:visible, select:visible").all():
            assert (await control.bounding_box())["height"] >= 44
        await seen.photograph(f"phone-{scheme}")
    assert seen.complaints == []


async def test_everything_can_be_reached_and_named_without_a_mouse(browser):
    async with open_client(LocalBackend()) as api:
        seen = await visit(browser, api)
        await seen.page.get_by_label("Message").fill("x")
        await seen.page.get_by_label("Message").focus()
        focused = set()
        for _ in range(12):
            await seen.page.keyboard.press("Tab")
            focused.add(await seen.page.evaluate("() => document.activeElement.id"))
        assert {"send", "model", "options-toggle", "log"} <= focused
        unnamed = await seen.page.evaluate(
            """() => [...document.querySelectorAll("input, textarea, select, button")]
                .filter((field) => !field.labels?.length && !field.textContent.trim())
                .map((field) => field.id)"""
        )
        assert unnamed == []
        assert await seen.page.get_by_role("option", name=MODEL).count() == 1
