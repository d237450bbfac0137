"""Pictures of the chat page: SmolLM2 in two ranges, as ``mesh demo-chat`` serves it.

    python -m benchmarks.chat_pictures --out docs/images

The model is downloaded once (93 MB). Its answers are its own. Needs chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path

import httpx
from playwright.async_api import BrowserContext, Page, ViewportSize

from benchmarks.browser import open_browser
from subnet.localnet.environment import find_free_port

DESKTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}
START_S = 600.0
ANSWER_MS = 600_000
FACT = "What is the capital of France?"
CODE = "Write a Python function that checks whether a word is a palindrome."


async def photograph(url: str, folder: Path) -> None:
    """Take the pictures of docs/applications.md."""
    async with open_browser() as browser:
        light = await open_page(browser, url)
        await light.screenshot(path=folder / "chat-empty.png")
        await sign_answers(light)
        await ask(light, FACT)
        receipt = light.locator("details.receipt").filter(has_text="checked")
        await receipt.locator("summary").click()
        await light.screenshot(path=folder / "chat-receipt.png")
        await ask(light, CODE)
        await light.screenshot(path=folder / "chat-page.png")

        dark = await open_page(browser, light.url, scheme="dark")
        await begin(dark, "Explain peer-to-peer networks in three sentences.")
        await dark.wait_for_function(
            "() => document.querySelector('.running .text')?.textContent.length > 120",
            timeout=ANSWER_MS,
        )
        await dark.screenshot(path=folder / "chat-dark.png")
        await wait_for_answer(dark)

        phone = await open_page(browser, light.url, size=PHONE)
        await phone.screenshot(path=folder / "chat-phone.png")
        # In a page that is behind another one the drawer does not slide in.
        await light.bring_to_front()
        await light.get_by_role("button", name="Settings").click()
        await light.wait_for_timeout(500)
        await light.screenshot(path=folder / "chat-settings.png")


async def open_page(
    browser: BrowserContext, url: str, *, scheme: str = "light", size: ViewportSize = DESKTOP
) -> Page:
    page = await browser.new_page()
    await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    await page.set_viewport_size(size)
    await page.goto(url)
    await page.wait_for_selector("body[data-ready]")
    await page.wait_for_timeout(500)
    return page


async def begin(page: Page, question: str) -> None:
    await page.get_by_label("Message", exact=True).fill(question)
    await page.keyboard.press("Enter")


async def ask(page: Page, question: str) -> None:
    await begin(page, question)
    await page.get_by_role("button", name="Stop", exact=True).wait_for()
    await wait_for_answer(page)


async def sign_answers(page: Page) -> None:
    await page.get_by_role("button", name="Settings").click()
    await page.get_by_role("switch", name="Signed receipts").check()
    await page.get_by_role("button", name="Done").click()


async def wait_for_answer(page: Page) -> None:
    await page.get_by_role("button", name="Send", exact=True).wait_for(timeout=ANSWER_MS)
    await page.wait_for_timeout(500)


async def wait_until_ready(url: str) -> None:
    async with asyncio.timeout(START_S), httpx.AsyncClient() as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(f"{url}/readyz")).is_success:
                    return
            await asyncio.sleep(0.5)


async def run(folder: Path) -> None:
    port = find_free_port()
    url = f"http://127.0.0.1:{port}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "subnet.cli.mesh", "demo-chat", "--port", str(port)
    )
    try:
        await wait_until_ready(url)
        await photograph(url, folder)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        await process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    asyncio.run(run(arguments.out))


if __name__ == "__main__":
    main()
