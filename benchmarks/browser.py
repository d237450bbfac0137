"""A headless Chromium for pictures of pages."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator

from playwright.async_api import BrowserContext, async_playwright

CLOSE_S = 20


@contextlib.asynccontextmanager
async def open_browser() -> AsyncIterator[BrowserContext]:
    """Run a headless Chromium with a profile of its own."""
    async with async_playwright() as playwright:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            browser = await playwright.chromium.launch_persistent_context(
                profile,
                executable_path=shutil.which("chromium"),
                args=["--no-sandbox", "--disable-gpu"],
                headless=True,
            )
            yield browser
            # On a busy machine it may not answer any more; it ends with playwright.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(browser.close(), CLOSE_S)
