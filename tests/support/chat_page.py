"""The chat page of a gateway in a real Chromium, as its tests use it."""

from __future__ import annotations

import os
from typing import Any

from playwright.async_api import BrowserContext, Locator, Page, ViewportSize, expect

from tests.support.browser import WatchedPage

DESKTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
SCREENSHOTS = os.environ.get("MESH_SCREENSHOTS")


class ChatPage(WatchedPage):
    """The chat page, and the dialogs that it opened."""

    def __init__(self, page: Page, url: str) -> None:
        super().__init__(page, url)
        self.dialogs: list[str] = []
        page.on("dialog", lambda dialog: self.dialogs.append(dialog.message))

    async def open(self) -> None:
        await self.page.goto(self.url)
        await self.wait_until_ready()

    async def reload(self) -> None:
        """Load the page again, once it has kept what is shown: a person is slower than that."""
        await self.page.wait_for_selector("body:not([data-saving])")
        await self.page.reload()
        await self.wait_until_ready()

    async def wait_until_ready(self) -> None:
        await self.page.wait_for_selector("body[data-ready]")

    async def ask(self, question: str) -> None:
        await self.message.fill(question)
        await self.send.click()

    async def ask_and_wait(self, question: str) -> None:
        """Ask, and wait until the answer is whole."""
        count = await self.answers.count()
        await self.ask(question)
        await expect(self.answers).to_have_count(count + 1)
        await expect(self.send).to_be_visible()

    async def wait_for(self, script: str) -> None:
        """Wait until an asynchronous function of the page returns true."""
        for _ in range(600):
            if await self.page.evaluate(script):
                return
            await self.page.wait_for_timeout(50)
        raise AssertionError(f"never true: {script}")

    @property
    def message(self) -> Locator:
        return self.page.get_by_label("Message", exact=True)

    @property
    def send(self) -> Locator:
        return self.page.get_by_role("button", name="Send", exact=True)

    @property
    def stop(self) -> Locator:
        return self.page.get_by_role("button", name="Stop", exact=True)

    @property
    def health(self) -> Locator:
        return self.page.get_by_role("status").first

    @property
    def answers(self) -> Locator:
        return self.page.locator(".turn.assistant")

    @property
    def answer(self) -> Locator:
        return self.page.locator(".turn.assistant > .text").last

    @property
    def questions(self) -> Locator:
        return self.page.locator(".turn.user > .text")

    @property
    def titles(self) -> Locator:
        return self.page.locator(".conversation .title")

    async def photograph(self, name: str) -> None:
        """Keep a picture for a person to look at, where MESH_SCREENSHOTS says so."""
        if SCREENSHOTS:
            await self.page.screenshot(path=f"{SCREENSHOTS}/{name}.png")


async def visit(
    browser: BrowserContext, api: Any, *, viewport: ViewportSize | None = None
) -> ChatPage:
    """Open the page of the gateway behind ``api`` in a new tab."""
    page = await browser.new_page()
    await page.set_viewport_size(viewport or DESKTOP)
    seen = ChatPage(page, str(api.base_url).rstrip("/"))
    await seen.open()
    return seen
