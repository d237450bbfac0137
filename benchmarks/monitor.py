"""How fast the monitor page is in a browser, with 1,000 and with 10,000 nodes.

    python -m benchmarks.monitor [--json] [--rounds 5]

A monitor with an invented network serves the page to a headless chromium on this machine. Times are
in milliseconds, medians over the rounds with the highest: from the request to the first paint and
to the nodes on the page, and from an action to the frame that shows it. Needs chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

from playwright.async_api import BrowserContext, Page, async_playwright

from subnet.monitor.serving import serve_monitor
from subnet.operator.monitor_options import MonitorOptions
from tests.support.monitor import make_large

MEASURE = """async ([act, argument]) => {
  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  await frame();
  const begin = performance.now();
  (new Function("argument", act))(argument);
  await frame();
  return performance.now() - begin;
}"""
"""Runs an action, and returns the time until the frame after it is drawn."""
TYPE = """
  const field = document.getElementById("filter");
  field.value = argument;
  field.dispatchEvent(new Event("input"));
"""
SORT = """document.querySelector(`[data-column="${argument}"]`).click();"""
SCROLL = """document.querySelector("#nodes .body").scrollTop = argument;"""
OPEN = """document.querySelectorAll("#nodes .body .row")[argument].click();"""
SCROLL_HEAT = """document.querySelector("#heat").scrollTop = argument;"""
SCROLL_MAP = """document.querySelector("#map .lanes").scrollTop = argument;"""


@dataclass(frozen=True)
class Row:
    """One measured thing. Milliseconds."""

    nodes: int
    what: str
    median: float
    highest: float
    goal: float

    @property
    def is_met(self) -> bool:
        return self.median <= self.goal


@asynccontextmanager
async def open_browser() -> AsyncIterator[BrowserContext]:
    async with async_playwright() as playwright:
        with tempfile.TemporaryDirectory() as profile:
            browser = await playwright.chromium.launch_persistent_context(
                profile,
                executable_path=shutil.which("chromium"),
                # The page's policy forbids code from strings; the measurement needs it.
                bypass_csp=True,
                args=["--no-sandbox", "--disable-gpu"],
                headless=True,
                viewport={"width": 1440, "height": 900},
            )
            yield browser
            await browser.close()


async def measure_size(browser: BrowserContext, nodes: int, rounds: int) -> list[Row]:
    found: dict[str, list[float]] = {}
    urls: list[str] = []
    monitor = make_large(nodes, epochs=64 if nodes <= 1000 else 16)
    async with serve_monitor(MonitorOptions(port=0), monitor, on_start=urls.append):
        # One round more: the first one fills caches.
        for number in range(rounds + 1):
            page = await browser.new_page()
            for what, milliseconds in (await measure_page(page, urls[0], nodes)).items():
                if number:
                    found.setdefault(what, []).append(milliseconds)
            await page.close()
    goals = {"first paint": 1000.0, "nodes shown": 1000.0 if nodes <= 1000 else 3000.0}
    default = 100.0 if nodes <= 1000 else 200.0
    return [
        Row(
            nodes,
            what,
            round(statistics.median(times), 1),
            round(max(times), 1),
            goals.get(what, default),
        )
        for what, times in found.items()
    ]


async def measure_page(page: Page, url: str, nodes: int) -> dict[str, float]:
    await page.goto(url)
    await page.wait_for_function("document.querySelector('#nodes .body .row')")
    shown: float = await page.evaluate("performance.now()")
    await page.wait_for_selector("body[data-history]")
    await page.wait_for_timeout(300)
    paint: float = await page.evaluate(
        "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    )

    async def act(action: str, argument: Any) -> float:
        milliseconds: float = await page.evaluate(MEASURE, [action, argument])
        return milliseconds

    async def slowest(action: str, argument: Callable[[int], Any]) -> float:
        return max([await act(action, argument(step)) for step in range(8)])

    times = {
        "first paint": paint,
        "nodes shown": shown,
        "filter by a word": await slowest(TYPE, lambda step: "relayed int8"[: 5 + step]),
        "filter to one node": await act(TYPE, f"node {nodes - 1}"),
        "no filter": await act(TYPE, ""),
        "sort": await slowest(SORT, lambda step: ("score", "stake", "state", "paid")[step % 4]),
        "scroll the list": await slowest(SCROLL, lambda step: step * nodes * 36 // 8),
        "scroll the heat map": await slowest(SCROLL_HEAT, lambda step: step * nodes * 14 // 8),
        "scroll the map": await slowest(SCROLL_MAP, lambda step: step * 400),
        "open a node": await act(OPEN, 3),
    }
    return times


async def measure(rounds: int) -> list[Row]:
    async with open_browser() as browser:
        return [
            row for nodes in (1000, 10_000) for row in await measure_size(browser, nodes, rounds)
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rows = asyncio.run(measure(arguments.rounds))
    if arguments.json:
        print(json.dumps({"rows": [asdict(row) | {"is_met": row.is_met} for row in rows]}))
        return
    print(f"{'nodes':>6}  {'what':22}{'median':>9}{'highest':>9}{'goal':>8}  ms")
    for row in rows:
        verdict = "" if row.is_met else "  missed"
        print(
            f"{row.nodes:>6}  {row.what:22}{row.median:>9.1f}{row.highest:>9.1f}{row.goal:>8.0f}"
            f"{verdict}"
        )


if __name__ == "__main__":
    main()
