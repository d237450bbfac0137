"""The monitor page in a real Chromium."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, Page, Route, expect

from subnet.monitor.hub import CLOSED
from subnet.monitor.serving import serve_monitor
from subnet.operator.monitor_options import MonitorOptions
from tests.support.browser import WatchedPage, needs_chromium, open_browser
from tests.support.monitor import FakeMonitor, make_head, make_large, make_row, make_scored_receipt

DESKTOP = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}
ATTACK = "<img src=x onerror=alert(1)>"

pytestmark = [
    pytest.mark.e2e,
    needs_chromium,
    # One browser for all of these; every test has a page and a monitor of its own.
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory) -> AsyncIterator[BrowserContext]:
    profile = tmp_path_factory.mktemp("profile")
    async with open_browser(profile, viewport=DESKTOP) as context:
        yield context


class Visit(WatchedPage):
    """The monitor page, and the dialogs that it opened."""

    def __init__(self, page: Page, url: str) -> None:
        super().__init__(page, url)
        self.dialogs: list[str] = []
        page.on("dialog", lambda dialog: self.dialogs.append(dialog.message))

    async def open(self, path: str = "/", *, is_filled: bool = True) -> None:
        await self.page.goto(self.url + path)
        if is_filled:
            await self.page.wait_for_selector("body[data-ready][data-history]")

    @property
    def bars(self):
        return self.page.locator("#map .span")

    @property
    def rows(self):
        return self.page.locator("#nodes .body .row")


@contextlib.asynccontextmanager
async def open_monitor(monitor: FakeMonitor) -> AsyncIterator[str]:
    urls: list[str] = []
    async with serve_monitor(MonitorOptions(port=0), monitor, on_start=urls.append):
        yield urls[0]


@contextlib.asynccontextmanager
async def visit(
    browser: BrowserContext, monitor: FakeMonitor, *, viewport=DESKTOP, **options
) -> AsyncIterator[Visit]:
    async with open_monitor(monitor) as url:
        page = await browser.new_page()
        await page.set_viewport_size(viewport)
        seen = Visit(page, url)
        await seen.open(**options)
        yield seen
        await page.close()


def make_swarm(**changes) -> FakeMonitor:
    """Return 8 nodes with a history of 12 epochs, and a receipt of node 1 in epoch 9."""
    monitor = make_large(8, blocks=8, epochs=12)
    monitor.receipts[9, 1] = make_scored_receipt()
    publish(monitor, *(make_row(number, **changes) for number in range(1, 5)))
    return monitor


def publish(monitor: FakeMonitor, *rows, hosters=(4,) * 8, epoch=12) -> None:
    monitor.hub.publish(make_head(epoch=epoch, hosters=hosters), {row.key: row for row in rows})


async def test_it_shows_who_serves_what_and_asks_nobody_else(browser):
    monitor = make_swarm()
    row = make_row(5, blocks=(2, 6), dtype="int8", path="relayed", throughput=4200)
    publish(monitor, make_row(1), row)
    async with visit(browser, monitor) as seen:
        await expect(seen.bars).to_have_count(2)
        bar = seen.page.get_by_role("button", name="node 5: online, blocks 2:6")
        await expect(bar).to_contain_text("int8 · 4.2k rows/s")
        await expect(bar).to_contain_text("relay")
        await expect(seen.page.locator("#tile-coverage")).to_contain_text("8 / 8")
        await expect(seen.page.get_by_role("status").first).to_have_text("Live")
        assert seen.complaints == []
        assert all(url.startswith(seen.url) for url in seen.requested)


async def test_an_uncovered_block_is_red_and_said_in_words(browser):
    monitor = make_swarm()
    publish(monitor, make_row(1, blocks=(0, 7)), hosters=(1,) * 7 + (0,))
    async with visit(browser, monitor) as seen:
        cell = seen.page.get_by_role("listitem", name="block 7: no hoster")
        await expect(cell).to_have_class("cell uncovered")
        await expect(seen.page.get_by_role("alert")).to_have_text(
            "No hoster serves block 7: no prompt can be answered."
        )
        await expect(seen.page.locator("#tile-coverage")).to_contain_text("no hoster for 7")
        publish(monitor, make_row(1), hosters=(1,) * 8)
        await expect(seen.page.locator("#notice")).to_be_hidden()


async def test_what_happens_is_seen_at_once_in_two_tabs(browser):
    monitor = make_swarm()
    async with visit(browser, monitor) as one:
        two = Visit(await browser.new_page(), one.url)
        await two.open()
        left = make_row(2, state="left", left_at=1.0)
        publish(monitor, make_row(1), left, make_row(9, blocks=(4, 8)))
        for seen in (one, two):
            await expect(seen.bars).to_have_count(3)
            name = seen.page.get_by_role("button", name="node 2: left")
            await expect(name).to_be_visible()
            await expect(seen.page.locator("#tile-nodes")).to_contain_text("1 left or absent")
        assert len(monitor.hub._subscriptions) == 2
        await two.page.close()
        assert one.complaints == [] and two.complaints == []


async def test_a_node_s_panel_says_whether_it_can_earn_in_the_next_epoch(browser):
    monitor = make_swarm()
    reason = (
        "epoch 13: not eligible: its hotkey cannot pay a fee, so it can neither propose nor attest"
    )
    poor = {"epoch": 13, "obstacle": "low_balance", "text": reason}
    rows = [
        make_row(1, eligibility={"epoch": 13, "obstacle": None, "text": "epoch 13: eligible"}),
        make_row(2, eligibility=poor),
        make_row(3),
    ]
    publish(monitor, *rows)
    async with visit(browser, monitor) as seen:
        for number, text in ((1, "epoch 13: eligible"), (2, reason), (3, None)):
            await seen.bars.nth(number - 1).click()
            facts = seen.page.locator("#details-body")
            await expect(facts).to_contain_text(f"{number:044d}")
            term = facts.locator("dt", has_text=re.compile("^next$"))
            await expect(term).to_have_count(0 if text is None else 1)
            if text is not None:
                await expect(facts.locator("dt:text-is('next') + dd")).to_have_text(text)
            await seen.page.keyboard.press("Escape")
        assert seen.complaints == []


async def test_names_with_markup_stay_text(browser):
    monitor = make_swarm()
    row = make_row(1, software=ATTACK, dtype=ATTACK, key=ATTACK, peer_id=ATTACK)
    head = make_head(epoch=12)
    network = head.network.model_copy(update={"model": ATTACK})
    monitor.hub.publish(head.model_copy(update={"network": network}), {row.key: row})
    async with visit(browser, monitor) as seen:
        await expect(seen.page.locator("#model")).to_have_text(ATTACK)
        await seen.bars.first.click()
        await expect(seen.page.locator("#details-body")).to_contain_text(ATTACK)
        assert await seen.page.locator("img[src=x]").count() == 0
        assert seen.dialogs == [] and seen.complaints == []


async def test_inline_script_and_markup_would_be_refused(browser):
    async with visit(browser, make_swarm()) as seen:
        ran = await seen.page.evaluate(
            """() => {
                try { document.body.innerHTML += "<p>x</p>"; return "markup"; } catch { }
                const script = document.createElement("script");
                try { script.text = "window.ran = true"; document.body.append(script); } catch { }
                return window.ran ?? "nothing";
            }"""
        )
        assert ran == "nothing"


async def test_a_monitor_without_data_says_so_and_fills_itself(browser):
    monitor = FakeMonitor()
    async with visit(browser, monitor, is_filled=False) as seen:
        await expect(seen.page.get_by_role("alert")).to_contain_text("has not seen the network")
        publish(monitor, make_row(1))
        await expect(seen.bars).to_have_count(1)
        await expect(seen.page.locator("#notice")).to_be_hidden()
        await expect(seen.page.locator("#scores-note")).to_have_text("no epoch has been scored yet")


@pytest.mark.parametrize("is_filled", [False, True], ids=["empty", "filled"])
async def test_a_change_while_the_snapshot_is_read_is_not_lost(browser, is_filled):
    monitor = FakeMonitor()
    if is_filled:
        publish(monitor, make_row(1))
    is_changed = False

    async def answer(route: Route) -> None:
        """Answer with what was read before a change that the page hears of first."""
        nonlocal is_changed
        response = await route.fetch()
        if monitor.hub._subscriptions and not is_changed:
            is_changed = True
            publish(monitor, make_row(1), make_row(2))
            await asyncio.sleep(0.5)
        await route.fulfill(response=response)

    async with open_monitor(monitor) as url:
        seen = Visit(await browser.new_page(), url)
        await seen.page.route("**/api/v1/snapshot", answer)
        await seen.open(is_filled=False)
        await expect(seen.bars).to_have_count(2)
        assert is_changed
        await seen.page.close()


async def test_a_monitor_that_ends_is_noticed_and_found_again(browser):
    monitor = make_swarm()
    async with visit(browser, monitor) as seen:
        for subscription in list(monitor.hub._subscriptions):
            subscription.put(CLOSED)
        await expect(seen.page.get_by_role("status").first).to_have_text("Connection lost")
        await expect(seen.page.get_by_role("status").first).to_have_text("Live", timeout=15_000)


async def test_the_timeline_says_what_each_node_did_and_goes_back(browser):
    monitor = make_swarm()
    record = monitor.records[11]
    nodes = list(record.nodes)
    hoster = next(i for i, node in enumerate(nodes) if node.role == "hoster")
    nodes[hoster] = nodes[hoster].model_copy(update={"records": {"commit": 4, "reveal": 19}})
    monitor.records[11] = record.model_copy(update={"nodes": tuple(nodes)})
    async with visit(browser, monitor) as seen:
        await seen.page.get_by_role("button", name="Earlier epoch").click()
        await expect(seen.page.locator("#epoch-shown")).to_have_text("epoch 11")
        line = seen.page.get_by_role("button", name=f"node {nodes[hoster].node_id}: commit seen")
        await expect(line).to_have_accessible_name(
            f"node {nodes[hoster].node_id}: commit seen at block 4, reveal late, at block 19, "
            "sighting missing, "
            + ("proposed" if nodes[hoster].node_id == record.proposal.proposer else "attested")
            + ". Open the receipt"
        )
        await seen.page.get_by_role("button", name="Live").click()
        await expect(seen.page.locator("#epoch-shown")).to_have_text("epoch 12")


async def test_a_click_on_a_score_opens_its_receipt_and_a_missing_one_says_why(browser):
    async with visit(browser, make_swarm()) as seen:
        await seen.page.get_by_role("button", name="Show as table").click()
        await seen.page.get_by_role("button", name="node 1, epoch 9:").click()
        dialog = seen.page.get_by_role("dialog")
        await expect(dialog).to_contain_text("Receipt: node 1, epoch 9")
        await expect(dialog).to_contain_text("equals the chain")
        await expect(dialog.get_by_role("heading", name="Records")).to_be_visible()
        assert seen.page.url.endswith("#receipt/9/1")
        await seen.page.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
        await seen.page.get_by_role("button", name="node 2, epoch 9:").click()
        await expect(dialog).to_contain_text("keeps no receipt of epoch 9")
        await expect(dialog).to_contain_text("ask for a later epoch")


async def test_the_heat_map_is_used_with_the_keyboard(browser):
    monitor = make_swarm()
    monitor.receipts[11, 2] = monitor.receipts[9, 1]
    async with visit(browser, monitor) as seen:
        canvas = seen.page.locator("#heat canvas")
        await canvas.focus()
        await seen.page.keyboard.press("ArrowLeft")
        await seen.page.keyboard.press("ArrowDown")
        await expect(seen.page.locator("#announcer")).to_contain_text("node 2, epoch 11: score 0.")
        await seen.page.keyboard.press("Enter")
        await expect(seen.page.get_by_role("dialog")).to_contain_text("Receipt: node 2, epoch 11")


async def test_a_receipt_can_be_linked_to(browser):
    async with visit(browser, make_swarm(), path="/#receipt/9/1") as seen:
        await expect(seen.page.get_by_role("dialog")).to_contain_text("Receipt: node 1, epoch 9")


async def test_the_list_is_filtered_and_sorted_and_holds_only_what_is_seen(browser):
    monitor = make_large(10_000, epochs=2)
    async with visit(browser, monitor) as seen:
        await expect(seen.page.locator("#nodes-note")).to_have_text("10000")
        assert await seen.rows.count() < 60
        await seen.page.get_by_label("Filter nodes").fill("node 9876")
        await expect(seen.rows).to_have_count(1)
        await expect(seen.rows.first).to_contain_text("node 9876")
        await seen.page.get_by_label("Filter nodes").fill("relayed int8")
        await seen.page.get_by_label("State").select_option("draining")
        matching = [
            row
            for row in monitor.hub.snapshot.nodes
            if (row.path, row.dtype, row.state) == ("relayed", "int8", "draining")
        ]
        await expect(seen.page.locator("#nodes-note")).to_have_text(f"{len(matching)} of 10000")
        await seen.page.get_by_role("button", name="score", exact=True).click()
        await seen.page.get_by_role("button", name="score ↑").click()
        best = max(matching, key=lambda row: row.score)
        await expect(seen.rows.first).to_contain_text(f"node {best.node_id}")
        assert seen.complaints == []


async def test_colours_follow_the_system_or_the_choice_which_is_kept(browser):
    async with visit(browser, make_swarm()) as seen:
        page = seen.page
        background = "() => getComputedStyle(document.body).backgroundColor"
        await page.emulate_media(color_scheme="light")
        light = await page.evaluate(background)
        await page.emulate_media(color_scheme="dark")
        dark = await page.evaluate(background)
        assert light != dark
        button = page.get_by_role("button", name="Colours:")
        await button.click()
        await expect(button).to_have_text("Light")
        assert await page.evaluate(background) == light
        await page.reload()
        await expect(button).to_have_text("Light")
        await button.click()
        await button.click()
        await expect(button).to_have_text("Auto")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_fits_a_phone(browser, scheme):
    monitor = make_swarm()
    async with visit(browser, monitor, viewport=PHONE) as seen:
        page = seen.page
        await page.emulate_media(color_scheme=scheme)
        overflow = (
            "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert await page.evaluate(overflow) == 0
        for control in await page.locator(".quiet:visible, select:visible, input:visible").all():
            assert (await control.bounding_box())["height"] >= 44
        await seen.rows.first.click()
        box = await page.get_by_role("dialog").bounding_box()
        assert box["width"] <= PHONE["width"]
        assert seen.complaints == []


async def test_everything_can_be_reached_and_named_without_a_mouse(browser):
    async with visit(browser, make_swarm()) as seen:
        page = seen.page
        focused = []
        for _ in range(120):
            await page.keyboard.press("Tab")
            focused.append(
                await page.evaluate(
                    "() => document.activeElement.id || document.activeElement.dataset.focus"
                    " || document.activeElement.tagName"
                )
            )
            if focused[-1] and focused[-1].startswith("row-"):
                break
        assert {"theme", "epoch-back", "epoch-live", "CANVAS", "filter", "state-filter"} <= set(
            focused
        )
        assert any(name.startswith("map-") for name in focused)
        assert any(name.startswith("line-") for name in focused)
        assert focused[-1].startswith("row-")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("dialog")).to_be_visible()
        await expect(page.get_by_role("button", name="Close")).to_be_focused()
        await page.keyboard.press("Escape")
        unnamed = await page.evaluate(
            """() => [...document.querySelectorAll("input, select, button, canvas, [role=img]")]
                .filter((field) => !field.labels?.length && !field.textContent.trim()
                                   && !field.getAttribute("aria-label"))
                .map((field) => field.outerHTML)"""
        )
        assert unnamed == []


async def test_a_row_that_is_drawn_anew_keeps_the_keyboard(browser):
    monitor = make_swarm()
    async with visit(browser, monitor) as seen:
        name = seen.page.locator("#nodes .body button").nth(1)
        await name.focus()
        publish(monitor, *(make_row(n, throughput=7) for n in range(1, 5)))
        await expect(seen.rows.first).to_contain_text("7")
        focused = await seen.page.evaluate("() => document.activeElement.textContent")
        assert focused == "node 2"
