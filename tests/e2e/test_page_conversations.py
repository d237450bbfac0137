"""Conversations that the chat page keeps: list, versions, reload, limits, two tabs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, expect

from mesh.api.errors import GenerationFailed
from tests.support.browser import needs_chromium, open_browser
from tests.support.chat_page import DESKTOP, PHONE, ChatPage, visit
from tests.support.gateways import open_client
from tests.support.local_backend import ANSWER, LocalBackend

pytestmark = [
    pytest.mark.e2e,
    needs_chromium,
    pytest.mark.asyncio(loop_scope="module"),
]
FROM_THE_END = """() => {
    const { scrollHeight, scrollTop, clientHeight } = document.getElementById("log");
    return scrollHeight - scrollTop - clientHeight;
}"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory) -> AsyncIterator[BrowserContext]:
    profile = tmp_path_factory.mktemp("profile")
    async with open_browser(profile, viewport=DESKTOP) as context:
        yield context


async def start_new(seen: ChatPage) -> None:
    await seen.page.get_by_role("button", name="New chat").click()
    await expect(seen.page.locator(".turn")).to_have_count(0)


async def test_a_reload_restores_the_conversation_and_the_draft(browser):
    backend = LocalBackend()
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        await seen.ask_and_wait("First?")
        await seen.message.fill("A draft")
        await seen.reload()
        await expect(seen.questions).to_have_text("First?")
        await expect(seen.answer).to_have_text(ANSWER)
        await expect(seen.message).to_have_value("A draft")
        hops = seen.page.get_by_role("list", name="Route").get_by_role("listitem")
        await expect(hops).to_have_count(2)
        await expect(seen.page.locator(".facts")).to_contain_text("tokens/s")
        await expect(seen.page.locator(".facts")).to_contain_text("of 512")
        await seen.ask_and_wait("Second?")
        assert [message.content for message in backend.chats[-1]] == ["First?", ANSWER, "Second?"]
    assert seen.complaints == []


async def test_an_opened_conversation_stands_at_its_end_and_an_answer_is_followed(browser):
    backend = LocalBackend()
    async with open_client(backend) as api:
        seen = await visit(browser, api, viewport=PHONE)
        for question in ("One", "Two", "Three", "Four"):
            await seen.ask_and_wait(question)
        # How much of the context an answer took is known later than its text.
        await seen.reload()
        await expect(seen.page.locator(".facts").last).to_contain_text("of 512")
        await seen.wait_for(f"() => ({FROM_THE_END})() <= 1")
        await seen.ask_and_wait("Five")
        await seen.wait_for(f"() => ({FROM_THE_END})() <= 1")
        # Who scrolls up stays there, whatever comes.
        backend.delay_s = 0.02
        await seen.ask("Six")
        await expect(seen.answer).to_contain_text("An epoch")
        await seen.page.mouse.move(200, 400)
        await seen.page.mouse.wheel(0, -500)
        await seen.wait_for(f"() => ({FROM_THE_END})() > 300")
        await expect(seen.send).to_be_visible()
        assert await seen.page.evaluate(FROM_THE_END) > 300
        await seen.page.get_by_role("button", name="To the end").click()
        assert await seen.page.evaluate(FROM_THE_END) <= 1


async def test_an_answer_that_a_reload_cut_looks_stopped(browser):
    backend = LocalBackend(delay_s=0.02, is_endless=True)
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        await seen.ask("Never end.")
        await seen.wait_for(
            """async () => {
                const { Store } = await import("/static/store.js");
                const store = await Store.open(() => {});
                const [head] = await store.listHeads();
                return head && JSON.stringify(await store.load(head.id)).includes("An epoch");
            }"""
        )
        await seen.reload()
        await expect(seen.answer).to_contain_text("An epoch")
        await expect(seen.page.locator(".mark")).to_have_text("Stopped")
        await expect(seen.send).to_be_visible()


async def test_a_reload_before_the_first_token_leaves_the_question_to_try_again(browser):
    backend = LocalBackend(delay_s=600)
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        await seen.ask("Never answered?")
        await expect(seen.titles).to_have_text(["Never answered?"])
        await seen.reload()
        await expect(seen.questions).to_have_text("Never answered?")
        await expect(seen.answers).to_have_count(0)
        backend.delay_s = 0
        await seen.page.get_by_role("button", name="Try again").click()
        await expect(seen.answer).to_have_text(ANSWER)


async def test_conversations_are_listed_opened_renamed_searched_and_deleted(browser):
    async with open_client(LocalBackend()) as api:
        seen = await visit(browser, api)
        for question in ("About apples", "About pears", "About plums"):
            await seen.ask_and_wait(question)
            await start_new(seen)
        await expect(seen.titles).to_have_text(["About plums", "About pears", "About apples"])
        await seen.titles.last.click()
        await expect(seen.questions).to_have_text("About apples")
        await expect(seen.titles.last).to_have_attribute("aria-current", "true")

        await seen.page.get_by_role("button", name="Rename About pears").click()
        await seen.page.get_by_label("New title").fill("Fruit <b>")
        await seen.page.keyboard.press("Enter")
        await expect(seen.titles).to_have_text(["About plums", "Fruit <b>", "About apples"])
        await seen.page.get_by_label("Search conversations").fill("ABOUT PEARS")
        await expect(seen.titles).to_have_text(["Fruit <b>"])
        await seen.page.get_by_label("Search conversations").fill("cherries")
        await expect(seen.page.get_by_text("Nothing found")).to_be_visible()
        await seen.page.get_by_label("Search conversations").fill("")
        await expect(seen.titles).to_have_count(3)

        await seen.page.get_by_role("button", name="Delete About apples").click()
        await seen.page.get_by_role("button", name="Keep", exact=True).click()
        await expect(seen.titles).to_have_count(3)
        await seen.page.get_by_role("button", name="Delete About apples").click()
        await seen.page.get_by_role("button", name="Delete", exact=True).click()
        await expect(seen.titles).to_have_text(["About plums", "Fruit <b>"])
        await expect(seen.page.locator(".turn")).to_have_count(0)
        await seen.reload()
        await expect(seen.titles).to_have_text(["About plums", "Fruit <b>"])

        await seen.page.get_by_role("button", name="Delete all").click()
        await seen.page.get_by_role("button", name="Keep them").click()
        await expect(seen.titles).to_have_count(2)
        await seen.page.get_by_role("button", name="Delete all").click()
        dialog = seen.page.get_by_role("dialog")
        await dialog.get_by_role("button", name="Delete all").click()
        await expect(seen.page.get_by_text("No conversations yet")).to_be_visible()
    assert seen.complaints == []


async def test_an_edited_question_is_asked_anew_and_the_former_one_kept(browser):
    backend = LocalBackend()
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        await seen.ask_and_wait("Frist?")
        await seen.ask_and_wait("Second?")
        await seen.page.get_by_role("button", name="Edit question").first.click()
        editor = seen.page.get_by_label("Edited question")
        await expect(editor).to_have_value("Frist?")
        await editor.fill("First?")
        await seen.page.get_by_role("button", name="Send edited").click()
        await expect(seen.questions).to_have_text("First?")
        await expect(seen.send).to_be_visible()
        assert [message.content for message in backend.chats[-1]] == ["First?"]
        await expect(seen.page.get_by_role("group", name="Versions").first).to_contain_text("2 / 2")
        await seen.page.get_by_role("button", name="Earlier version").first.click()
        await expect(seen.questions).to_have_text(["Frist?", "Second?"])
        await expect(seen.answers).to_have_count(2)
        await seen.reload()
        await expect(seen.questions).to_have_text(["Frist?", "Second?"])


async def test_a_regenerated_answer_stands_beside_the_former_one(browser):
    backend = LocalBackend()
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        await seen.ask_and_wait("Again?")
        backend.answer = "Another answer."
        await seen.page.get_by_role("button", name="Regenerate answer").click()
        await expect(seen.answer).to_have_text("Another answer.")
        assert [message.content for message in backend.chats[-1]] == ["Again?"]
        await seen.page.get_by_role("button", name="Earlier version").click()
        await expect(seen.answer).to_have_text(ANSWER)
        await seen.ask_and_wait("Go on")
        assert [message.content for message in backend.chats[-1]] == ["Again?", ANSWER, "Go on"]


async def test_a_regeneration_that_fails_shows_the_former_answer_again(browser):
    backend = LocalBackend()
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        await seen.ask_and_wait("Again?")
        backend.failure = GenerationFailed("Every route was lost.")
        await seen.page.get_by_role("button", name="Regenerate answer").click()
        await expect(seen.page.get_by_role("alert")).to_have_text("Every route was lost.")
        await expect(seen.answer).to_have_text(ANSWER)
        backend.failure, backend.answer = None, "Another answer."
        await seen.page.get_by_role("button", name="Try again").click()
        await expect(seen.answer).to_have_text("Another answer.")
        await expect(seen.page.get_by_role("group", name="Versions")).to_contain_text("2 / 2")


async def test_a_running_answer_tears_no_rename_or_question_away(browser):
    backend = LocalBackend(delay_s=0.02, is_endless=True)
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        await seen.ask("Endless")
        await expect(seen.titles).to_have_text(["Endless"])
        await seen.page.get_by_role("button", name="Rename Endless").click()
        await seen.page.get_by_label("New title").fill("Long")
        # Longer than the time between two savings of a running answer.
        await seen.page.wait_for_timeout(1500)
        await seen.page.keyboard.press("Enter")
        await expect(seen.titles).to_have_text(["Long"])
        await seen.page.get_by_role("button", name="Delete Long").click()
        await seen.page.wait_for_timeout(1500)
        await seen.page.get_by_role("button", name="Delete", exact=True).click()
        await expect(seen.page.locator("#notice")).to_contain_text("Stop the answer")
        await seen.stop.click()
        await expect(seen.send).to_be_visible()
        await expect(seen.titles).to_have_text(["Long"])


async def test_an_answer_goes_on_while_another_conversation_is_read(browser):
    backend = LocalBackend(delay_s=0.03)
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        await seen.ask("Slow?")
        await expect(seen.answer).to_contain_text("An epoch")
        await start_new(seen)
        await expect(seen.titles).to_have_text(["Slow?"])
        await seen.titles.first.click()
        await expect(seen.answer).to_have_text(ANSWER, timeout=60_000)
        await expect(seen.send).to_be_visible()
        await expect(seen.answers).to_have_count(1)
    assert seen.complaints == []


async def test_two_tabs_see_the_same_list(browser):
    async with open_client(LocalBackend()) as api:
        one, two = await visit(browser, api), await visit(browser, api)
        await one.ask_and_wait("In the first tab")
        await expect(two.titles).to_have_text(["In the first tab"])
        await two.titles.first.click()
        await expect(two.answer).to_have_text(ANSWER)


async def test_the_oldest_conversations_go_beyond_the_limit_and_it_is_said(browser):
    async with open_client(LocalBackend()) as api:
        seen = await visit(browser, api)
        await seen.page.evaluate(
            """async () => {
                const { Store } = await import("/static/store.js");
                const store = await Store.open(() => {});
                const { addNode, createConversation } = await import("/static/tree.js");
                for (let number = 0; number < 200; number += 1) {
                    const made = createConversation();
                    addNode(made, null, { role: "user", text: `Question ${number}` });
                    made.changed = 1000 + number;
                    await store.save(made);
                }
            }"""
        )
        await seen.reload()
        await expect(seen.titles).to_have_count(200)
        await seen.ask_and_wait("One more")
        await expect(seen.titles).to_have_count(200)
        await expect(seen.titles.last).to_have_text("Question 1")
        await expect(seen.page.locator("#notice")).to_contain_text("oldest")


async def test_a_browser_that_refuses_storage_is_told_and_chats(browser):
    async with open_client(LocalBackend()) as api:
        page = await browser.new_page()
        await page.add_init_script(
            """for (const name of ["indexedDB", "localStorage"]) {
                Object.defineProperty(window, name, { get() { throw new Error("refused"); } });
            }"""
        )
        seen = ChatPage(page, str(api.base_url))
        await seen.open()
        await expect(seen.page.locator("#notice")).to_contain_text("keeps no conversations")
        await seen.ask_and_wait("Hello")
        await expect(seen.answer).to_have_text(ANSWER)
        await expect(seen.titles).to_have_text(["Hello"])
    assert seen.complaints == []
