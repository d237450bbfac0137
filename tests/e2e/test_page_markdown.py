"""How the chat page renders what a model writes: markdown, code, links, and attacks with them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from tests.support.browser import needs_chromium, open_browser
from tests.support.chat_page import DESKTOP, ChatPage, visit
from tests.support.gateways import open_client
from tests.support.local_backend import LocalBackend

pytestmark = [
    pytest.mark.e2e,
    needs_chromium,
    pytest.mark.asyncio(loop_scope="module"),
]

RENDER = """async (text) => {
    const { MarkdownView } = await import("/static/render.js");
    const box = document.createElement("div");
    new MarkdownView(box).update(text);
    for (const button of box.querySelectorAll("button")) button.remove();
    return box.innerHTML;
}"""
RENDER_IN_PIECES = """async (texts) => {
    const { MarkdownView } = await import("/static/render.js");
    return texts.filter((text) => {
        const [whole, grown] = [document.createElement("div"), document.createElement("div")];
        new MarkdownView(whole).update(text);
        const view = new MarkdownView(grown);
        for (let end = 1; end <= text.length; end += 1) view.update(text.slice(0, end));
        grown.normalize();
        return whole.innerHTML !== grown.innerHTML;
    });
}"""
TIME_PARSING = """async (texts) => {
    const { MarkdownView } = await import("/static/render.js");
    return texts.map((text) => {
        const start = performance.now();
        new MarkdownView(document.createElement("div")).update(text);
        return performance.now() - start;
    });
}"""
LINK = 'target="_blank" rel="noopener noreferrer nofollow"'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def seen(tmp_path_factory) -> AsyncIterator[ChatPage]:
    profile = tmp_path_factory.mktemp("profile")
    async with (
        open_browser(profile, viewport=DESKTOP) as browser,
        open_client(LocalBackend()) as api,
    ):
        yield await visit(browser, api)


@pytest.fixture
def page(seen) -> Page:
    return seen.page


def link(address: str, text: str | None = None) -> str:
    return f'<a href="{address}" {LINK} title="{address}">{text or address}</a>'


def code(text: str, language: str = "", *, label: str = "") -> str:
    name = f"Code, {language}" if language else "Code"
    return (
        f'<div class="code"><div class="code-head"><span>{language or "text"}</span></div>'
        f'<pre tabindex="0" role="region" aria-label="{name}"><code>{text}</code></pre></div>'
    )


def items(*texts: str, tag: str = "ul") -> str:
    start = ' start="1"' if tag == "ol" else ""
    inner = "".join(f'<li><div class="item"><p>{text}</p></div></li>' for text in texts)
    return f"<{tag}{start}>{inner}</{tag}>"


CASES = {
    "paragraphs": ("one\ntwo\n\nthree", "<p>one<br>two</p><p>three</p>"),
    "headings": ("# A\n### B ##\n#no", "<h3>A</h3><h5>B</h5><p>#no</p>"),
    "emphasis": (
        "**a** *b* __c__ _d_ ***e*** ~~f~~",
        "<p><strong>a</strong> <em>b</em> <strong>c</strong> <em>d</em> "
        "<strong><em>e</em></strong> <del>f</del></p>",
    ),
    "nested emphasis": ("**a *b* c**", "<p><strong>a <em>b</em> c</strong></p>"),
    "no emphasis": (
        "2 * 3 * 4, snake_case_name, **open, ** a **, ~1~, \\*x\\*",
        "<p>2 * 3 * 4, snake_case_name, **open, ** a **, ~1~, *x*</p>",
    ),
    "inline code": (
        "`a*b*` and `` x`y `` and ` open",
        "<p><code>a*b*</code> and <code>x`y</code> and ` open</p>",
    ),
    "code": ("```\na < b\n\n  c\n```\nafter", code("a &lt; b\n\n  c") + "<p>after</p>"),
    "code that has no end yet": ("~~~text\nx", code("x", "text")),
    "code in colours": (
        '```python\nif x: # no\n  y = "s" + 1\n```',
        code(
            '<span class="token-keyword">if</span> x: <span class="token-comment"># no</span>\n'
            '  y = <span class="token-string">"s"</span> + <span class="token-digits">1</span>',
            "python",
        ),
    ),
    "list": ("- a\n- b\n\n- c", items("a", "b", "c")),
    "numbers": ("1. a\n2. b", items("a", "b", tag="ol")),
    "a later number": ("3) a", '<ol start="3"><li><div class="item"><p>a</p></div></li></ol>'),
    "nested list": (
        "1. a\n   - b\n   - c\n2. d",
        '<ol start="1"><li><div class="item"><p>a</p>'
        + items("b", "c")
        + '</div></li><li><div class="item"><p>d</p></div></li></ol>',
    ),
    "code in a list": (
        "- a\n  ```\n  x\n    y\n  ```\n- b",
        '<ul><li><div class="item"><p>a</p>'
        + code("x\n  y")
        + '</div></li><li><div class="item"><p>b</p></div></li></ul>',
    ),
    "tasks": (
        "- [x] a",
        '<ul><li class="task"><input type="checkbox" disabled="" aria-label="done">'
        '<div class="item"><p>a</p></div></li></ul>',
    ),
    "quote": ("> a\n> - b", f"<blockquote><p>a</p>{items('b')}</blockquote>"),
    "rule": ("a\n\n---\nb", "<p>a</p><hr><p>b</p>"),
    "table": (
        "| a | b |\n|---|--:|\n| 1 | `x\\|y` |\n| 2 |\nend",
        '<div class="table" tabindex="0" role="region" aria-label="Table"><table>'
        '<thead><tr><th>a</th><th class="right">b</th></tr></thead><tbody>'
        '<tr><td>1</td><td class="right"><code>x|y</code></td></tr>'
        '<tr><td>2</td><td class="right"></td></tr></tbody></table></div><p>end</p>',
    ),
    "no table": ("a | b\nc", "<p>a | b<br>c</p>"),
    "links": (
        '[*a*](https://a.example/x_(y) "t") <https://b.example/> https://c.example/d.',
        f"<p>{link('https://a.example/x_(y)', '<em>a</em>')} {link('https://b.example/')} "
        f"{link('https://c.example/d')}.</p>",
    ),
    "an image is a link": ("![a](https://a.example/i.png)", None),
    "html is text": ("<b>x</b> &amp;", "<p>&lt;b&gt;x&lt;/b&gt; &amp;amp;</p>"),
}


@pytest.mark.parametrize("name", CASES)
async def test_markdown_becomes_elements(page, name):
    text, wanted = CASES[name]
    made = await page.evaluate(RENDER, text)
    if wanted is None:
        wanted = f"<p>{link('https://a.example/i.png', 'a')}</p>"
    assert made == wanted


async def test_a_text_that_grows_letter_by_letter_is_rendered_as_the_whole(page):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    pieces = [
        "# h\n", "para ", "**b** ", "*i", "`c`", "\n", "\n\n", "- x\n", "  - y\n", "1. z\n",
        "```py\n", "```\n", "if x:\n", "    deep\n", "|a|b|\n", "|-|-|\n", "|1|2|\n", "---\n",
        "> q\n", "[l](https://x.y)", "~~~\n", "2", ". ", "-", " ", "https://e.f ",
        "\\", "![", "\t", "- [x] t\n",
    ]  # fmt: skip
    texts = [text for text, _ in CASES.values()]
    texts += ["".join(chance.choices(pieces, k=chance.randint(2, 24))) for _ in range(400)]
    assert await page.evaluate(RENDER_IN_PIECES, texts) == []


ATTACKS = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](vbscript:alert(1)) [y](file:///etc/passwd) [z](blob:https://a.example/1)",
    "[x](/v1/models) [y](//evil.example/) [z](#log)",
    '[x](https://a.example/"onmouseover="alert(1))',
    "![x](https://evil.example/pixel.png)",
    '<javascript:alert(1)> <https://a.example/"onclick=alert(1)>',
    "```<img/src=x/onerror=alert(1)>\n<script>alert(1)</script>\n```",
    "```python\n'<img src=x onerror=alert(1)>' # <script>alert(1)</script>\n```",
    "| <img src=x onerror=alert(1)> | b |\n|---|---|\n| <svg onload=alert(1)> | x |",
    "- <iframe srcdoc='<script>alert(1)</script>'>\n> <style>*{display:none}</style>",
    "# <a href=javascript:alert(1)>x</a>",
    "<think><img src=x onerror=alert(1)></think><svg/onload=alert(1)>",
]


async def test_markup_injection_in_markdown_makes_no_element_that_acts(seen):
    made = await seen.page.evaluate(
        """async (attacks) => {
            const { MarkdownView } = await import("/static/render.js");
            const allowed = new Set(("P BR STRONG EM DEL CODE PRE DIV SPAN BUTTON H3 H4 UL LI "
                + "TABLE THEAD TBODY TR TH TD BLOCKQUOTE A svg path").split(" "));
            const acts = ({ name }) => name.startsWith("on") || ["src", "style"].includes(name);
            return attacks.flatMap((attack) => {
                const box = document.createElement("div");
                document.body.append(box);
                new MarkdownView(box).update(attack);
                return [...box.querySelectorAll("*")].filter((made) => !allowed.has(made.tagName)
                    || [...made.attributes].some(acts)
                    || (made.tagName === "A" && !/^https?:/.test(made.getAttribute("href")))
                ).map((made) => made.outerHTML);
            });
        }""",
        ATTACKS,
    )
    assert made == []
    assert seen.dialogs == []
    assert all(url.startswith(seen.url) for url in seen.requested)


async def test_a_hostile_text_is_rendered_in_linear_time(page):
    size = 100_000
    units = [
        "*", "**a ", "*a_b", "_ ", "`", "`a``b", "[", "[a](", "[a](x \"", "![", "<http://", "((",
        "> ", ">", "- ", "  - a\n", "1. \n", "|", "|a\n|-\n", "```\n", "~~~", "\n", "a\n",
        "a|b\n-|-\n", "# ", "~~a", "http://a", "\\",
    ]  # fmt: skip
    texts = [(unit * size)[:size] for unit in units]
    texts.append("\n".join("  " * depth + "- x" for depth in range(400)))
    texts.append("".join("`" * length + "a" for length in range(440)))
    units = ["/*", '"', '"""', '\\"', "0x", "`"]
    texts += [f"```js\n{(unit * size)[:19_900]}\n```" for unit in units]
    times = await page.evaluate(TIME_PARSING, texts)
    slow = {text[:12]: round(ms) for text, ms in zip(texts, times, strict=True) if ms > 5000}
    assert slow == {}


async def test_a_long_answer_is_rendered_piece_by_piece_and_not_anew_for_each_token(page):
    """4,000 tokens of headings, lists, tables and code: few nodes are made more than once."""
    part = (
        "## A heading\n\nA paragraph with **bold** words and `code` in it, of some length.\n\n"
        "1. an item\n2. another item\n   - nested\n\n```python\ndef f(x):\n    return x\n```\n\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n"
    )
    tokens = [part[place : place + 4] for place in range(0, len(part), 4)] * 70
    tokens = tokens[:4000]
    made = await page.evaluate(
        """async (tokens) => {
            const { MarkdownView } = await import("/static/render.js");
            const box = document.createElement("div");
            document.body.append(box);
            let added = 0;
            const count = (records) => {
                const visit = (node) => {
                    added += 1;
                    node.childNodes.forEach(visit);
                };
                for (const record of records) record.addedNodes.forEach(visit);
            };
            const observer = new MutationObserver(count);
            observer.observe(box, { childList: true, subtree: true });
            const view = new MarkdownView(box);
            let text = "";
            let longest = 0;
            const start = performance.now();
            for (const token of tokens) {
                const before = performance.now();
                text += token;
                view.update(text);
                longest = Math.max(longest, performance.now() - before);
                count(observer.takeRecords());
            }
            const passed = performance.now() - start;
            const nodes = document.createNodeIterator(box);
            let left = -1;
            while (nodes.nextNode()) left += 1;
            box.remove();
            return { added, left, passed, longest };
        }""",
        tokens,
    )
    print(made)
    # A block of this text has at most 10 tokens or so in which it is made anew.
    assert made["left"] > 2000
    assert made["added"] < 12 * made["left"]


async def test_code_has_its_language_and_is_copied_as_it_is(tmp_path):
    text = "def f(x):\n\treturn x  # <b>"
    async with (
        open_browser(tmp_path, viewport=DESKTOP) as browser,
        open_client(LocalBackend(answer=f"So:\n\n```python\n{text}\n```\n")) as api,
    ):
        seen = await visit(browser, api)
        await browser.grant_permissions(["clipboard-read", "clipboard-write"], origin=seen.url)
        await seen.ask_and_wait("Code?")
        await expect(seen.page.locator(".code-head")).to_have_text("python")
        await seen.page.get_by_role("button", name="Copy code").click()
        read = "() => navigator.clipboard.readText()"
        await seen.wait_for(f"async () => (await ({read})()) !== ''")
        assert await seen.page.evaluate(read) == text
        await seen.page.get_by_role("button", name="Copy answer").click()
        await seen.wait_for(f"async () => (await ({read})()).startsWith('So:')")
        assert seen.complaints == []
