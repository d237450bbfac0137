"""The chat page in a real Chromium: asking, stopping, failing, keys, phones, keyboard."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, Route, expect

from mesh.api.errors import GenerationFailed
from mesh.api.keys_file import create_key
from mesh.assets import SHIPPED_MODEL_NAME, shipped_questions
from tests.support import local_backend
from tests.support.browser import needs_chromium, open_browser
from tests.support.chat_page import DESKTOP, PHONE, ChatPage, visit
from tests.support.gateways import open_client
from tests.support.local_backend import ANSWER, MODEL, LocalBackend

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


async def wait_until_free(seen: ChatPage, backend: LocalBackend) -> None:
    for _ in range(500):
        if backend.running == 0:
            return
        await seen.page.wait_for_timeout(20)
    raise AssertionError("the answer still runs")


async def test_a_question_is_answered_streaming_with_its_route(browser):
    backend = LocalBackend(delay_s=0.02)
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        await seen.photograph("desktop-welcome")
        await seen.ask("How does an epoch work?")
        await expect(seen.answer).to_contain_text("An epoch has")
        # It is still being written: the text grows, and the answer can be stopped.
        assert await seen.answer.text_content() != ANSWER
        await expect(seen.stop).to_be_visible()
        await expect(seen.answer).to_have_text(ANSWER)
        hops = seen.page.get_by_role("list", name="Route").get_by_role("listitem")
        await expect(hops).to_have_count(2)
        await expect(hops.first).to_have_text("blocks 0:3 12D3…irst 1.3 ms")
        facts = seen.page.locator(".facts")
        await expect(facts).to_contain_text("tokens/s · first token after")
        await expect(facts).to_contain_text("of 512")
        await expect(seen.message).to_be_focused()
        await seen.photograph("desktop-answer")
    assert seen.complaints == []
    assert all(url.startswith(seen.url) for url in seen.requested)


async def test_a_route_that_changed_is_drawn_as_it_was_in_the_end(browser):
    async with open_client(LocalBackend(reroute_after=5)) as api:
        seen = await visit(browser, api)
        await seen.ask_and_wait("Will it change?")
        hops = seen.page.get_by_role("list", name="Route").get_by_role("listitem")
        await expect(hops).to_have_text(["blocks 0:6 12D3…hird 4.0 ms"])
        await expect(seen.page.locator(".facts")).to_contain_text("re-routed 1×")


async def test_the_conversation_goes_on_and_can_start_anew(browser):
    backend = LocalBackend()
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        await seen.ask_and_wait("First?")
        await expect(seen.answer).to_have_text(ANSWER)
        await seen.message.fill("Second?")
        await seen.page.keyboard.press("Enter")
        await expect(seen.answers).to_have_count(2)
        await expect(seen.send).to_be_visible()
        assert [message.content for message in backend.chats[-1]] == ["First?", ANSWER, "Second?"]
        await seen.page.get_by_role("button", name="New chat").click()
        await expect(seen.page.locator(".turn")).to_have_count(0)
        await expect(seen.page.get_by_role("heading", name="Ask the swarm")).to_be_visible()
    assert seen.complaints == []


async def test_markup_injection_by_the_swarm_stays_text(browser):
    attack = "<img src=x onerror=alert(1)><script>alert(2)</script>&lt;b&gt;"
    failure = GenerationFailed(attack)
    backend = LocalBackend(answer=f"<think>{attack}</think>{attack}")
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        await seen.ask_and_wait("<b onclick=alert(3)>hi</b>")
        await expect(seen.answer).to_have_text(attack)
        await expect(seen.questions).to_have_text("<b onclick=alert(3)>hi</b>")
        await expect(seen.titles).to_have_text("<b onclick=alert(3)>hi</b>")
        await seen.page.get_by_text("Thought").click()
        await expect(seen.page.locator(".thinking .markdown")).to_have_text(attack)
        assert seen.complaints == []
        backend.failure = failure
        await seen.ask("Once more")
        await expect(seen.page.get_by_role("alert")).to_have_text(attack)
        acting = "body img[src=x], body script, b[onclick], body iframe"
        assert await seen.page.locator(acting).count() == 0
    assert seen.dialogs == []


async def test_inline_script_would_be_refused(browser):
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


async def test_stop_ends_the_answer_frees_the_swarm_and_shows_that_it_was_stopped(browser):
    backend = LocalBackend(delay_s=0.02, is_endless=True)
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        await seen.ask("Never end.")
        await expect(seen.answer).to_contain_text("An epoch")
        await seen.stop.click()
        await expect(seen.send).to_be_visible()
        await expect(seen.page.get_by_text("Stopped", exact=True).last).to_be_visible()
        await expect(seen.page.get_by_role("alert")).to_have_count(0)
        await wait_until_free(seen, backend)
        await seen.photograph("desktop-stopped")
        await seen.ask("Again.")
        await expect(seen.answers).to_have_count(2)
        await expect(seen.stop).to_be_visible()
        await seen.page.keyboard.press("Escape")
        await wait_until_free(seen, backend)
    assert seen.complaints == []


async def test_an_answer_at_its_limit_says_so(browser):
    backend = LocalBackend()
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        await seen.page.get_by_role("button", name="Settings").click()
        await seen.page.get_by_label("Max tokens").fill("5")
        await seen.page.get_by_role("button", name="Done").click()
        await seen.ask_and_wait("Short, please.")
        await expect(seen.page.locator(".mark")).to_have_text("Cut at the token limit")


async def test_a_failure_in_the_middle_is_told_and_the_text_kept(browser):
    failure = GenerationFailed("Every route was lost.")
    backend = LocalBackend(failure=failure, fail_after=6)
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        await seen.ask("Will it hold?")
        await expect(seen.page.get_by_role("alert")).to_have_text("Every route was lost.")
        await expect(seen.answer).to_contain_text("An epoch has four")
        await seen.photograph("desktop-failure")
        backend.failure = None
        await seen.page.get_by_role("button", name="Regenerate answer").click()
        await expect(seen.answer).to_have_text(ANSWER)
        await expect(seen.page.get_by_role("alert")).to_have_count(0)


async def test_an_answer_that_was_cut_at_once_has_no_speed(browser):
    async with open_client(LocalBackend()) as api:
        seen = await visit(browser, api)
        speeds = await seen.page.evaluate(
            """async () => {
                const { Run } = await import("/static/run.js");
                return [0, 1000].map((agoMs) => {
                    const run = new Run({}, { mesh: { route: [] } }, () => {});
                    run.tokens = 6;
                    run.firstMs = performance.now() - agoMs;
                    run.keepMeasured();
                    return run.node.mesh.tokens_per_second;
                });
            }"""
        )
    assert speeds[0] is None and 0 < speeds[1] <= 5


async def test_a_failed_request_leaves_the_typed_text_and_no_empty_answer(browser):
    backend = LocalBackend(failure=GenerationFailed("Every route was lost."))
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        await seen.ask("A question that took long to write.")
        await expect(seen.page.get_by_role("alert")).to_have_text("Every route was lost.")
        await expect(seen.message).to_have_value("A question that took long to write.")
        await expect(seen.page.locator(".turn")).to_have_count(0)
        backend.failure = None
        await seen.page.get_by_role("button", name="Try again").click()
        await expect(seen.answer).to_have_text(ANSWER)
        await expect(seen.questions).to_have_text("A question that took long to write.")
        await expect(seen.message).to_have_value("")


async def test_a_gateway_that_is_gone_leaves_the_typed_text(browser):
    async with open_client(LocalBackend()) as api:
        seen = await visit(browser, api)
        await seen.page.route("**/v1/chat/completions", lambda route: route.abort())
        await seen.ask("Are you there?")
        await expect(seen.page.get_by_role("alert")).to_contain_text("cannot be reached")
        await expect(seen.message).to_have_value("Are you there?")


async def test_what_is_typed_while_a_request_fails_is_not_overwritten(browser):
    backend = LocalBackend(delay_s=0.5, failure=GenerationFailed("Lost."), fail_after=0)
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        waiting: list[Route] = []
        await seen.page.route("**/v1/chat/completions", lambda route: waiting.append(route))
        await seen.ask("The first question.")
        await expect(seen.stop).to_be_visible()
        await seen.message.fill("The next one.")
        while not waiting:
            await seen.page.wait_for_timeout(20)
        await waiting[0].continue_()
        await expect(seen.page.get_by_role("alert")).to_have_text("Lost.")
        await expect(seen.message).to_have_value("The next one.")
        await expect(seen.questions).to_have_text("The first question.")
        await expect(seen.answers).to_have_count(0)
        await seen.page.unroute("**/v1/chat/completions")
        backend.failure, backend.delay_s = None, 0
        await seen.page.get_by_role("button", name="Try again").click()
        await expect(seen.answer).to_have_text(ANSWER, timeout=60_000)


async def test_missing_layers_are_shown_and_nothing_can_be_sent(browser):
    async with open_client(LocalBackend(uncovered=((2, 4),))) as api:
        seen = await visit(browser, api)
        await expect(seen.health).to_have_text("no hoster serves blocks 2:4")
        await seen.message.fill("Hello?")
        await expect(seen.send).to_be_disabled()
        await seen.photograph("desktop-missing-blocks")


async def test_a_phone_shows_what_is_wrong_beside_a_long_model_name(browser, monkeypatch):
    monkeypatch.setattr(local_backend, "MODEL", "a-model/with-a-rather-long-name-135m-instruct")
    backend = LocalBackend()
    async with open_client(backend) as api:
        seen = await visit(browser, api, viewport=PHONE)
        await expect(seen.health).to_have_text("Ready")
        backend.uncovered = ((2, 4),)
        await seen.reload()
        await expect(seen.health).to_have_text("no hoster serves blocks 2:4")
        box = await seen.health.bounding_box()
        assert box is not None and box["width"] > 200


async def test_a_key_is_asked_for_used_and_not_kept(browser, tmp_path):
    keys_file = tmp_path / "keys.jsonl"
    key = create_key(keys_file, "page", now_s=1)
    async with open_client(LocalBackend(), keys_file=keys_file) as api:
        seen = await visit(browser, api)
        await expect(seen.health).to_have_text("API key needed")
        field = seen.page.get_by_label("API key")
        await expect(field).to_be_focused()
        await seen.photograph("desktop-key")
        await field.fill(key)
        await field.press("Enter")
        await expect(seen.page.get_by_role("combobox", name="Model")).to_be_enabled()
        await expect(field).to_be_hidden()
        await seen.ask_and_wait("Hello")
        await expect(seen.answer).to_have_text(ANSWER)
        stored = await seen.page.evaluate(
            """async () => {
                const { Store } = await import("/static/store.js");
                const store = await Store.open(() => {});
                const [head] = await store.listHeads();
                const kept = await store.load(head.id);
                return JSON.stringify([localStorage, sessionStorage, document.cookie, kept]);
            }"""
        )
        assert "Hello" in stored
        assert key not in stored and all(key not in url for url in seen.requested)
        await seen.reload()
        await expect(field).to_have_value("")


async def test_a_revoked_key_is_asked_for_again_and_the_text_kept(browser, tmp_path):
    keys_file = tmp_path / "keys.jsonl"
    key = create_key(keys_file, "page", now_s=1)
    async with open_client(LocalBackend(), keys_file=keys_file) as api:
        seen = await visit(browser, api)
        field = seen.page.get_by_label("API key")
        await field.fill(key)
        await field.press("Enter")
        await expect(seen.page.get_by_role("combobox", name="Model")).to_be_enabled()
        await field.evaluate("(field) => { field.value = 'mesh-wrong'; }")
        await seen.ask("Still me?")
        await expect(field).to_be_focused()
        await expect(seen.message).to_have_value("Still me?")


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_no_placeholder_is_clipped(browser, tmp_path, viewport):
    keys_file = tmp_path / "keys.jsonl"
    create_key(keys_file, "page", now_s=1)
    async with open_client(LocalBackend(), keys_file=keys_file) as api:
        seen = await visit(browser, api, viewport=viewport)
        await expect(seen.page.get_by_label("API key")).to_be_visible()
        await seen.page.evaluate("() => document.getElementById('settings').showModal()")
        widths = await seen.page.evaluate(
            """() => [...document.querySelectorAll("input[placeholder], textarea[placeholder]")]
                .filter((field) => field.checkVisibility())
                .map((field) => {
                    const style = getComputedStyle(field);
                    const canvas = document.createElement("canvas").getContext("2d");
                    canvas.font = style.font;
                    const padding = parseFloat(style.paddingLeft) + parseFloat(style.paddingRight);
                    const room = field.clientWidth - padding;
                    return [field.id, canvas.measureText(field.placeholder).width, room];
                })"""
        )
        assert {"key", "prompt", "system", "stop", "seed"} <= {name for name, _, _ in widths}
        assert [name for name, text, room in widths if text > room] == []


async def test_the_questions_are_those_that_the_served_model_knows(browser, monkeypatch):
    monkeypatch.setattr(local_backend, "MODEL", SHIPPED_MODEL_NAME)
    backend = LocalBackend()
    known = [entry.question for entry in shipped_questions()]
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        await expect(seen.page.locator("#about")).to_contain_text(f"knows {len(known)} answers")
        examples = seen.page.get_by_role("list", name="Questions to begin with")
        await expect(examples.get_by_role("button")).to_have_text(known[:4])
        await seen.page.get_by_text(f"All {len(known)} questions").click()
        await expect(seen.page.locator("#all-examples button")).to_have_text(known)
        await seen.page.locator("#all-examples").get_by_role("button", name=known[-1]).click()
        await expect(seen.answer).to_have_text(ANSWER)
        assert [message.content for message in backend.chats[-1]] == [known[-1]]
        # What it knows by heart it says exactly where the likeliest token is taken.
        assert backend.requests[-1].sampling.temperature == 0


async def test_another_model_has_general_questions_and_no_claim(browser):
    async with open_client(LocalBackend()) as api:
        seen = await visit(browser, api)
        await expect(seen.page.locator("#about")).to_be_hidden()
        examples = seen.page.get_by_role("list", name="Questions to begin with")
        await expect(examples.get_by_role("button")).to_have_count(4)
        await expect(seen.page.locator("#more")).to_be_hidden()


async def test_thinking_is_folded_and_not_sent_back(browser):
    backend = LocalBackend(answer="<think>First I think.</think>\nThen I answer.")
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        await seen.ask_and_wait("Think!")
        await expect(seen.answer).to_have_text("Then I answer.")
        thinking = seen.page.locator(".thinking .markdown")
        await expect(thinking).to_be_hidden()
        await seen.page.get_by_text("Thought for").click()
        await expect(thinking).to_have_text("First I think.")
        await seen.ask_and_wait("And now?")
        contents = [message.content for message in backend.chats[-1]]
        assert contents == ["Think!", "Then I answer.", "And now?"]


async def test_thinking_that_the_gateway_split_off_is_folded_too(browser):
    events = (
        '{"choices": [{"delta": {"reasoning_content": "Hm, "}}]}',
        '{"choices": [{"delta": {"reasoning_content": "yes."}}]}',
        '{"choices": [{"delta": {"content": "Yes."}, "finish_reason": "stop"}]}',
        "[DONE]",
    )
    body = "".join(f"data: {event}\n\n" for event in events)
    async with open_client(LocalBackend()) as api:
        seen = await visit(browser, api)
        await seen.page.route(
            "**/v1/chat/completions",
            lambda route: route.fulfill(content_type="text/event-stream", body=body),
        )
        await seen.ask_and_wait("Well?")
        await expect(seen.answer).to_have_text("Yes.")
        await seen.page.get_by_text("Thought for").click()
        await expect(seen.page.locator(".thinking .markdown")).to_have_text("Hm, yes.")


async def test_settings_are_sent_and_kept(browser):
    backend = LocalBackend()
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        wanted = {
            "Instructions for the model": "Be brief.", "Temperature": "0.7", "Top P": "0.9",
            "Top K": "40", "Min P": "0.05", "Max tokens": "100", "Seed": "7",
            "Stop sequences": "END\n\\n\\n",
        }  # fmt: skip
        await seen.page.get_by_role("button", name="Settings").click()
        for label, value in wanted.items():
            await seen.page.get_by_label(label).fill(value)
        await seen.photograph("desktop-settings")
        await seen.page.keyboard.press("Escape")
        await seen.reload()
        await seen.ask_and_wait("Sampled?")
        request = backend.requests[-1]
        sampling = request.sampling
        assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.7, 0.9, 40)
        assert (sampling.min_p, sampling.seed, request.max_new_tokens) == (0.05, 7, 100)
        assert backend.chats[-1][0].role == "system"
        assert backend.chats[-1][0].content == "Be brief."
        await seen.page.get_by_role("button", name="Settings").click()
        await seen.page.get_by_role("button", name="Reset").click()
        await expect(seen.page.get_by_label("Top K")).to_have_value("")
        await expect(seen.page.get_by_label("Temperature")).to_have_value("0")


async def test_stop_sequences_end_the_answer(browser):
    async with open_client(LocalBackend(answer="one\n\ntwo END three")) as api:
        seen = await visit(browser, api)
        for stop, left in (("END", "one two"), ("\\n\\n", "one")):
            await seen.page.get_by_role("button", name="Settings").click()
            await seen.page.get_by_label("Stop sequences").fill(stop)
            await seen.page.get_by_role("button", name="Done").click()
            await seen.ask_and_wait("Count.")
            text = await seen.answer.inner_text()
            assert " ".join(text.split()) == left


@pytest.mark.parametrize(
    ("label", "value"), [("Temperature", "3"), ("Top K", "1.5"), ("Stop sequences", "x\n" * 9)]
)
async def test_a_wrong_setting_is_named_and_nothing_is_sent(browser, label, value):
    backend = LocalBackend()
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        await seen.page.get_by_role("button", name="Settings").click()
        await seen.page.get_by_label(label).fill(value)
        await seen.page.keyboard.press("Escape")
        await seen.ask("Hello?")
        await expect(seen.page.get_by_label(label)).to_be_focused()
        await seen.page.keyboard.press("Escape")
        await expect(seen.page.get_by_role("alert")).to_contain_text(label)
        await expect(seen.message).to_have_value("Hello?")
        assert backend.requests == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_fits_a_phone(browser, scheme):
    answer = f"{ANSWER}\n\n```python\n{'x = 1; ' * 40}\n```\n\n|{'a|' * 30}\n|{'-|' * 30}\n"
    async with open_client(LocalBackend(answer=answer)) as api:
        page = await browser.new_page()
        await page.emulate_media(color_scheme=scheme)
        await page.set_viewport_size(PHONE)
        seen = ChatPage(page, str(api.base_url))
        await seen.open()
        await seen.photograph(f"phone-{scheme}-welcome")
        await seen.ask_and_wait("How does an epoch work, and what is done in each of its phases?")
        overflow = (
            "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert await page.evaluate(overflow) == 0
        log = "(log) => log.scrollWidth - log.clientWidth"
        assert await page.get_by_role("log").evaluate(log) == 0
        await check_sizes(seen)
        await seen.photograph(f"phone-{scheme}")
        await page.get_by_role("button", name="Conversations").click()
        await expect(seen.titles.first).to_be_visible()
        await check_sizes(seen)
        await page.keyboard.press("Escape")
        await expect(seen.titles.first).to_be_hidden()
        await page.get_by_role("button", name="Settings").click()
        await check_sizes(seen)
    assert seen.complaints == []


async def check_sizes(seen: ChatPage) -> None:
    """What a finger has to hit is 44 pixels high."""
    for control in await seen.page.locator("button:visible, select:visible").all():
        box = await control.bounding_box()
        assert box is None or box["height"] >= 44, await control.get_attribute("aria-label")


async def test_the_colours_follow_the_system_until_they_are_chosen(browser):
    read = "() => getComputedStyle(document.body).backgroundColor"
    async with open_client(LocalBackend()) as api:
        seen = await visit(browser, api)
        await seen.page.emulate_media(color_scheme="light")
        light = await seen.page.evaluate(read)
        await seen.page.emulate_media(color_scheme="dark")
        dark = await seen.page.evaluate(read)
        assert light != dark
        switch = seen.page.get_by_role("button", name="Colours")
        await switch.click()
        await expect(switch).to_have_text("Colours: light")
        assert await seen.page.evaluate(read) == light
        await seen.reload()
        assert await seen.page.evaluate(read) == light
        await switch.click()
        await seen.page.emulate_media(color_scheme="light")
        assert await seen.page.evaluate(read) == dark
        await switch.click()
        assert await seen.page.evaluate(read) == light


async def test_everything_can_be_reached_and_named_without_a_mouse(browser):
    async with open_client(LocalBackend(answer="```py\nx\n```")) as api:
        seen = await visit(browser, api)
        await seen.ask_and_wait("Hello")
        await seen.message.fill("x")
        await seen.message.focus()
        focused = set()
        for _ in range(30):
            await seen.page.keyboard.press("Tab")
            focused.add(
                await seen.page.evaluate(
                    "() => document.activeElement.id || document.activeElement.ariaLabel"
                    " || document.activeElement.className"
                )
            )
        assert {"send", "model", "settings-toggle", "log", "theme", "new-chat", "search"} <= focused
        assert {"Copy answer", "Regenerate answer", "Edit question", "Copy code"} <= focused
        assert {"Rename Hello", "Delete Hello", "title", "Code, py"} <= focused
        unnamed = await seen.page.evaluate(
            """() => [...document.querySelectorAll("input, textarea, select, button")]
                .filter((field) => !field.labels?.length && !field.ariaLabel)
                .filter((field) => !field.textContent.trim())
                .map((field) => field.outerHTML)"""
        )
        assert unnamed == []
        assert await seen.page.get_by_role("option", name=MODEL).count() == 1


async def test_a_screen_reader_is_told_once_what_was_answered(browser):
    async with open_client(LocalBackend(delay_s=0.005)) as api:
        seen = await visit(browser, api)
        await seen.page.evaluate(
            """() => {
                window.told = [];
                const box = document.getElementById("announcer");
                const note = () => window.told.push(box.textContent);
                new MutationObserver(note).observe(box, { childList: true });
            }"""
        )
        await seen.ask_and_wait("Hello")
        await seen.page.wait_for_function("() => window.told.length >= 2")
        told = await seen.page.evaluate("() => window.told")
        assert told == ["The answer is coming", f"Answer: {ANSWER}"]
        await expect(seen.answers.first).to_have_attribute("aria-busy", "false")


async def test_nothing_moves_where_the_reader_wants_no_motion(browser):
    async with open_client(LocalBackend(delay_s=0.02, is_endless=True)) as api:
        seen = await visit(browser, api)
        await seen.page.emulate_media(reduced_motion="reduce")
        await seen.ask("Hello")
        await expect(seen.answer).to_contain_text("An epoch")
        assert await seen.page.evaluate("() => document.getAnimations().length") == 0
        await seen.stop.click()


async def test_up_edits_the_last_question_and_slash_goes_to_the_field(browser):
    backend = LocalBackend()
    async with open_client(backend) as api:
        seen = await visit(browser, api)
        await seen.ask_and_wait("First")
        await seen.message.press("ArrowUp")
        editor = seen.page.get_by_label("Edited question")
        await expect(editor).to_be_focused()
        await editor.press("Escape")
        await expect(editor).to_have_count(0)
        await seen.page.get_by_role("log").focus()
        await seen.page.keyboard.press("/")
        await expect(seen.message).to_be_focused()
        await expect(seen.message).to_have_value("")
        assert len(backend.requests) == 1
