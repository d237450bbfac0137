"""Receipts in the chat page, in a real Chromium: asked for, checked there, shown and downloaded."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, expect

from mesh.api.mesh_backend import MeshBackend
from mesh.assets import SHIPPED_MODEL_NAME, shipped_model_path, shipped_questions
from mesh.client.receipt_check import ReceiptRefused, check_receipt, read_receipts
from mesh.client.receipts import AnswerReceipt
from tests.mesh.client.conftest import Swarm
from tests.mesh.client.test_receipts import EDITS, flip
from tests.support.answer_receipts import make_receipt
from tests.support.browser import needs_chromium, open_browser
from tests.support.chat_page import DESKTOP, PHONE, ChatPage, visit
from tests.support.gateways import open_client
from tests.support.local_backend import LocalBackend

pytestmark = [pytest.mark.e2e, needs_chromium, pytest.mark.asyncio(loop_scope="module")]

QUESTION = min(shipped_questions(), key=lambda entry: len(entry.answer))
ANSWER_MS = 60_000
"""Real hosters share the machine with the browser."""
NOT_IN_THE_PAGE = {"temperature", "field"}
"""How tokens were to be drawn, and fields that are none, are for ``mesh receipt check``."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory) -> AsyncIterator[BrowserContext]:
    profile = tmp_path_factory.mktemp("profile")
    async with open_browser(profile, viewport=DESKTOP) as context:
        yield context


@asynccontextmanager
async def serve(*, features="grs"):
    """Two hosters of mesh-tiny with a gateway before them; gives the gateway and the swarm."""
    swarm = Swarm(shipped_model_path())
    async with AsyncExitStack() as stack:
        for span in ((0, 4), (4, 8)):
            hoster = await swarm.add_hoster(*span, features=features)
            stack.push_async_callback(hoster.stop)
        client = await swarm.open_client(stack)
        backend = MeshBackend(client, model_id=SHIPPED_MODEL_NAME, created_s=1)
        yield await stack.enter_async_context(open_client(backend)), swarm


async def switch_receipts(seen: ChatPage, *, on: bool) -> None:
    await seen.page.get_by_role("button", name="Settings").click()
    switch = seen.page.get_by_role("switch", name="Signed receipts")
    await switch.set_checked(on)
    await seen.page.get_by_role("button", name="Done").click()


async def set_seed(seen: ChatPage, seed: str) -> None:
    await seen.page.get_by_role("button", name="Settings").click()
    await seen.page.get_by_label("Seed").fill(seed)
    await seen.page.get_by_role("button", name="Done").click()


async def ask_hosters(seen: ChatPage) -> None:
    count = await seen.answers.count()
    await seen.ask(QUESTION.question)
    await expect(seen.answers).to_have_count(count + 1)
    await expect(seen.send).to_be_visible(timeout=ANSWER_MS)


def receipt_of(seen: ChatPage):
    return seen.page.locator("details.receipt")


async def test_a_receipt_is_checked_shown_downloaded_and_kept(browser, tmp_path):
    async with serve() as (api, swarm):
        seen = await visit(browser, api)
        await switch_receipts(seen, on=True)
        # A seed that JavaScript's numbers cannot tell: the receipt is kept as text.
        await set_seed(seen, "-7")
        await ask_hosters(seen)
        await expect(seen.answer).to_have_text(QUESTION.answer)
        summary = receipt_of(seen).locator("summary")
        await expect(summary).to_have_text("Receipt: 2 of 2 signatures · checked")
        await seen.photograph("receipt-closed")
        await summary.focus()
        await seen.page.keyboard.press("Enter")
        rows = seen.page.get_by_role("list", name="Who signed").get_by_role("listitem")
        await expect(rows).to_have_count(2)
        for row, hoster, blocks in zip(
            await rows.all(), swarm.hosters, ("0:4", "4:8"), strict=True
        ):
            await expect(row).to_contain_text(f"blocks {blocks}")
            await expect(row).to_contain_text(str(hoster.key.peer_id))
            await expect(row).to_contain_text("signed ")
        await expect(receipt_of(seen)).to_contain_text("is the gateway's word")
        await seen.photograph("receipt-open")
        async with seen.page.expect_download() as coming:
            await seen.page.get_by_role("button", name="Download receipt").click()
        file = tmp_path / "receipt.json"
        await (await coming.value).save_as(file)
        (found,) = read_receipts(file.read_bytes())
        assert found["sampling"]["seed"] == 2**64 - 7
        assert check_receipt(found).is_complete and check_receipt(found).is_disclosed
        await seen.reload()
        await expect(summary).to_have_text("Receipt: 2 of 2 signatures · checked")
        # What is not asked for is not signed, and nothing is said of it.
        await switch_receipts(seen, on=False)
        await ask_hosters(seen)
        await expect(seen.answers.last.locator(".receipt")).to_have_count(0)
        for scheme in ("dark", "light"):
            await seen.page.emulate_media(color_scheme=scheme)
            await seen.page.set_viewport_size(PHONE)
            await summary.click()
            await seen.photograph(f"receipt-phone-{scheme}")
            assert await seen.page.evaluate(
                "() => document.documentElement.scrollWidth <= innerWidth"
                " && document.getElementById('log').scrollWidth <= innerWidth"
            )
    assert seen.complaints == []


async def test_a_receipt_that_does_not_hold_is_said_so(browser, monkeypatch):
    honest = AnswerReceipt.to_dict

    def forge(self):
        told = honest(self)
        signed = told["parts"][0]["hops"][1]["receipt"]
        signed["signature"] = flip(signed["signature"])
        return told

    monkeypatch.setattr(AnswerReceipt, "to_dict", forge)
    async with serve() as (api, swarm):
        seen = await visit(browser, api)
        await switch_receipts(seen, on=True)
        await ask_hosters(seen)
        receipt = receipt_of(seen)
        await expect(receipt.locator("summary")).to_have_text("Receipt: does not hold")
        await receipt.locator("summary").click()
        await expect(receipt).to_contain_text(f"{swarm.hosters[1].key.peer_id} did not sign it")
        await expect(receipt).to_contain_text("Do not rely on this answer.")
        await seen.photograph("receipt-refused")


async def test_a_browser_that_cannot_check_says_so_and_gives_the_file(browser):
    async with serve() as (api, _):
        seen = await visit(browser, api)
        await seen.page.evaluate(
            "() => { crypto.subtle.importKey = () => Promise.reject(new Error('no')); }"
        )
        await switch_receipts(seen, on=True)
        await ask_hosters(seen)
        await expect(receipt_of(seen).locator("summary")).to_contain_text("not checked")
        await receipt_of(seen).locator("summary").click()
        await expect(receipt_of(seen)).to_contain_text("mesh receipt check FILE")
        await expect(seen.page.get_by_role("button", name="Download receipt")).to_be_visible()


async def test_hosters_that_cannot_sign_cost_no_typed_text(browser):
    async with serve(features="gs") as (api, _):
        seen = await visit(browser, api)
        await switch_receipts(seen, on=True)
        await seen.ask("Who signs?")
        alert = seen.page.get_by_role("alert").last
        await expect(alert).to_contain_text("no hoster of blocks 0:8")
        await expect(alert).to_contain_text("signs receipts. Ask without it")
        await expect(seen.message).to_have_value("Who signs?")


async def test_an_answer_that_was_stopped_or_that_nobody_signed_has_a_word_for_it(browser):
    backend = LocalBackend(delay_s=0.02, is_endless=True)
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        await switch_receipts(seen, on=True)
        await seen.ask("Never end.")
        await expect(seen.answer).to_contain_text("An epoch")
        await seen.stop.click()
        await expect(seen.page.get_by_text("stopped before the hosters signed")).to_be_visible()
        backend.is_endless = False
        await seen.ask_and_wait("End.")
        await expect(seen.page.get_by_text("No receipt came")).to_be_visible()


async def test_the_page_refuses_what_the_command_refuses(browser):
    honest = make_receipt((8, 9, 10, 11, 2))
    route = [
        {"peer_id": hop["peer_id"], "blocks": hop["blocks"]} for hop in honest["parts"][0]["hops"]
    ]
    cases = {"honest": honest}
    for name, (edit, _) in EDITS.items():
        cases[name] = copy.deepcopy(honest)
        edit(cases[name])
        with pytest.raises(ReceiptRefused):
            check_receipt(json.loads(json.dumps(cases[name])))
    async with open_client(LocalBackend()) as api:
        seen = await visit(browser, api)
        verdicts = await seen.page.evaluate(
            """async ([cases, route]) => {
                const { checkReceipt } = await import("/static/receipt_check.js");
                const judge = (receipt, way) => checkReceipt(receipt, way).then(() => "", String);
                const found = {};
                for (const [name, receipt] of Object.entries(cases)) {
                    found[name] = await judge(receipt, route);
                }
                found["another route"] = await judge(cases.honest, route.slice(1));
                return found;
            }""",
            [cases, route],
        )
    passed = {name for name, verdict in verdicts.items() if verdict == ""}
    assert passed == {"honest"} | NOT_IN_THE_PAGE, verdicts


async def test_the_pages_blake2b_is_hashlibs(browser):
    key, person = bytes(range(32)), b"mesh-rcpt-tokens"
    sizes = [0, 1, 127, 128, 129, 256, 1000]
    expected = [
        hashlib.blake2b(bytes(n % 251 for n in range(size)), key=key, person=person, digest_size=32)
        for size in sizes
    ]
    async with open_client(LocalBackend()) as api:
        seen = await visit(browser, api)
        found = await seen.page.evaluate(
            """async (sizes) => {
                const { blake2b } = await import("/static/blake2b.js");
                const make = (size) => Uint8Array.from({ length: size }, (_, n) => n % 251);
                const key = Uint8Array.from({ length: 32 }, (_, n) => n);
                return sizes.map((size) => [...blake2b(make(size), key, "mesh-rcpt-tokens")]);
            }""",
            sizes,
        )
    assert [bytes(one) for one in found] == [one.digest() for one in expected]
