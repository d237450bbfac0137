"""Pictures of the monitor page: a local network of 8, a planted cheat and an uncovered block.

    python -m benchmarks.monitor_pictures --out docs/images

Six hosters and two validators run as ``mesh localnet`` runs them. Node 5 answers challenges with
noise. After some epochs node 6, alone with the last block, is killed. Needs chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from playwright.async_api import Page

from benchmarks.browser import open_browser
from benchmarks.monitor_cheat import run_cheating_child
from consensus.types import LayerRange
from subnet.localnet import run as localnet
from subnet.localnet.display import PlainDisplay
from subnet.localnet.environment import find_free_port
from subnet.localnet.node_plan import NodePlan, plan_nodes
from subnet.localnet.options import LocalnetOptions
from subnet.localnet.processes import ProcessGroup

LAYERS = ((0, 7), (0, 7), (0, 5), (2, 7), (1, 6), (3, 8))
CHEAT, ALONE_WITH_THE_LAST_BLOCK = "hoster-5", "hoster-6"


class SceneDisplay(PlainDisplay):
    """Tells when an epoch is scored."""

    def __init__(self) -> None:
        super().__init__(sys.stderr, results=None)
        self.rows = 0
        self.changed = asyncio.Event()

    def row(self, row: Any) -> None:
        super().row(row)
        self.rows += 1
        self.changed.set()

    async def wait_for(self, rows: int) -> None:
        while self.rows < rows:
            await self.changed.wait()
            self.changed.clear()


def plant() -> None:
    """Make the local network that of the scene."""

    def plan(**options: Any) -> tuple[NodePlan, ...]:
        nodes = plan_nodes(**options)
        return tuple(
            replace(node, layers=LayerRange(*LAYERS[index])) if node.layers else node
            for index, node in enumerate(nodes)
        )

    honest_start = ProcessGroup.start

    async def start(self: ProcessGroup, name: str, main: Any, config: Any) -> Any:
        return await honest_start(self, name, run_cheating_child if name == CHEAT else main, config)

    localnet.plan_nodes = plan  # type: ignore[assignment]
    ProcessGroup.start = start  # type: ignore[method-assign]


async def photograph(url: str, folder: Path) -> None:
    """Take the pictures of docs/monitor.md."""
    async with open_browser() as browser:
        for name, scheme, size in (
            ("monitor-light", "light", (1280, 800)),
            ("monitor-dark", "dark", (1280, 800)),
            ("monitor-phone", "light", (390, 844)),
        ):
            page = await open_page(browser, url, scheme, size)
            await page.screenshot(path=folder / f"{name}.png", full_page=True)
            if name == "monitor-light":
                await photograph_receipt(page, url, folder)
            await page.close()


async def open_page(browser: Any, url: str, scheme: str, size: Sequence[int]) -> Page:
    page: Page = await browser.new_page()
    await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    await page.set_viewport_size({"width": size[0], "height": size[1]})
    await page.goto(url)
    await page.wait_for_selector("body[data-history]")
    # An epoch that is over shows every bar.
    await page.get_by_role("button", name="Earlier epoch").click()
    await page.wait_for_timeout(1500)
    await page.evaluate("scrollTo(0, 0)")
    return page


async def photograph_receipt(page: Page, url: str, folder: Path) -> None:
    history = await page.evaluate("fetch('/api/v1/history').then((answer) => answer.json())")
    row = history["nodes"].index(5)
    epochs = [
        column["epoch"]
        for column, problem in zip(history["epochs"], history["problems"][row], strict=True)
        if problem
    ]
    await page.goto(f"{url}/#receipt/{epochs[0]}/5")
    await page.reload()
    await page.wait_for_selector("#details-body .score")
    await page.wait_for_timeout(500)
    await page.screenshot(path=folder / "monitor-receipt.png")


async def run_scene(folder: Path, *, epochs: int, block_seconds: float) -> None:
    plant()
    port = find_free_port()
    display = SceneDisplay()
    options = LocalnetOptions(
        hosters=6, validators=2, epochs=0, block_seconds=block_seconds, monitor_port=port
    )
    running = asyncio.ensure_future(localnet.run_localnet(options, display))  # noqa: TID251
    try:
        await wait_or_fail(display.wait_for(epochs - 3), running)
        for child in multiprocessing.active_children():
            if child.name == ALONE_WITH_THE_LAST_BLOCK:
                child.kill()
        await wait_or_fail(display.wait_for(epochs), running)
        await photograph(f"http://127.0.0.1:{port}", folder)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def wait_or_fail(waiting: Any, running: asyncio.Future[bool]) -> None:
    """Wait, unless the network ends before."""
    wait = asyncio.ensure_future(waiting)  # noqa: TID251
    await asyncio.wait([wait, running], return_when=asyncio.FIRST_COMPLETED)
    if not wait.done():
        wait.cancel()
        running.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--epochs", type=int, default=12, help="scored epochs to show")
    parser.add_argument("--block-seconds", type=float, default=1.5, help="more on a busy machine")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    asyncio.run(
        run_scene(arguments.out, epochs=arguments.epochs, block_seconds=arguments.block_seconds)
    )


if __name__ == "__main__":
    main()
