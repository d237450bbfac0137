// Markdown in the page, built node by node. An answer that grows changes only its last two blocks, and
// within a long list, table or piece of code only the end.

import { copyButton, element } from "./dom.js";
import { splitCode } from "./highlight.js";
import { parseInline } from "./inline.js";
import { parseBlocks } from "./markdown.js";

/** Shows a text that grows. `update` takes the whole text so far. */
export class MarkdownView {
  constructor(container) {
    this.container = container;
    this.text = "";
    /** Blocks that can still change, and how many before them cannot. */
    this.blocks = [];
    this.settled = 0;
    this.start = 0;
  }

  update(text) {
    if (text === this.text) return;
    if (!text.startsWith(this.text)) this.clear();
    this.text = text;
    const blocks = parseBlocks(text.slice(this.start));
    patchAll(this.container, this.blocks, blocks, renderBlock, this.settled);
    const isDone = Math.max(0, blocks.length - 2);
    this.settled += isDone;
    this.blocks = blocks.slice(isDone);
    const begun = this.blocks[0]?.start ?? 0;
    this.start += begun;
  }

  clear() {
    this.container.replaceChildren();
    Object.assign(this, { text: "", blocks: [], settled: 0, start: 0 });
  }
}

/** Makes the children of `parent` from place `from` on show `fresh`; they showed `old`. */
function patchAll(parent, old, fresh, render, from = 0) {
  fresh.forEach((block, place) => {
    const node = parent.children[from + place];
    if (place >= old.length || !node) parent.append(render(block));
    else if (block.source !== old[place].source && !patch(node, old[place], block)) node.replaceWith(render(block));
  });
  while (parent.children.length > from + fresh.length) parent.lastElementChild.remove();
}

/** Changes a node that showed `old` to show `fresh`; false if it has to be made anew. */
function patch(node, old, fresh) {
  if (old.kind !== fresh.kind) return false;
  if (fresh.kind === "code") return patchCode(node, old, fresh);
  if (fresh.kind === "quote") patchAll(node, old.blocks, fresh.blocks, renderBlock);
  else if (fresh.kind === "list" && old.number === fresh.number) patchAll(node, old.items, fresh.items, renderItem);
  else if (fresh.kind === "table" && old.head === fresh.head) {
    patchAll(node.querySelector("tbody"), old.rows, fresh.rows, (row) => renderRow(row, fresh));
  } else if (fresh.kind === undefined && fresh.blocks && old.isDone === fresh.isDone) {
    patchAll(node.querySelector(":scope > .item"), old.blocks, fresh.blocks, renderBlock);
  } else return false;
  return true;
}

function patchCode(node, old, fresh) {
  if (!old.isOpen || old.language !== fresh.language || !fresh.text.startsWith(old.text)) return false;
  const code = node.querySelector("code");
  code.firstChild.appendData(fresh.text.slice(old.text.length));
  if (!fresh.isOpen) colour(code, fresh);
  return true;
}

const RENDERERS = {
  // The page's own headings come first.
  heading: ({ level, text }) => withInline(element(`h${Math.min(6, level + 2)}`), text),
  paragraph: ({ text }) => withInline(element("p"), text),
  rule: () => element("hr"),
  quote: ({ blocks }) => element("blockquote", {}, ...blocks.map(renderBlock)),
  code: renderCode,
  table: renderTable,
  list: ({ number, items }) =>
    element(number === null ? "ul" : "ol", number === null ? {} : { start: number }, ...items.map(renderItem)),
};

function renderBlock(block) {
  return RENDERERS[block.kind](block);
}

function renderItem({ isDone, blocks }) {
  const content = element("div", { className: "item" }, ...blocks.map(renderBlock));
  if (isDone === null) return element("li", {}, content);
  const mark = element("input", { type: "checkbox", disabled: "", "aria-label": isDone ? "done" : "to do" });
  mark.checked = isDone;
  return element("li", { className: "task" }, mark, content);
}

function renderCode(block) {
  const code = element("code");
  code.append(document.createTextNode(block.text));
  const head = element(
    "div", { className: "code-head" },
    element("span", { text: block.language || "text" }),
    copyButton("Copy code", () => code.textContent),
  );
  if (!block.isOpen) colour(code, block);
  // It scrolls, so the keyboard has to reach it.
  const label = `Code${block.language ? `, ${block.language}` : ""}`;
  const pre = element("pre", { tabindex: 0, role: "region", "aria-label": label }, code);
  return element("div", { className: "code" }, head, pre);
}

function colour(code, { text, language }) {
  code.replaceChildren(
    ...splitCode(text, language).map(([name, part]) =>
      name ? element("span", { className: `token-${name}`, text: part }) : document.createTextNode(part),
    ),
  );
}

function renderTable(block) {
  const names = block.header.map((text, column) => renderCell("th", text, block.align[column]));
  const table = element(
    "table", {},
    element("thead", {}, element("tr", {}, ...names)),
    element("tbody", {}, ...block.rows.map((row) => renderRow(row, block))),
  );
  return element("div", { className: "table", tabindex: 0, role: "region", "aria-label": "Table" }, table);
}

function renderRow({ cells }, { align }) {
  return element("tr", {}, ...cells.map((text, column) => renderCell("td", text, align[column])));
}

function renderCell(tag, text, align) {
  return withInline(element(tag, align ? { className: align } : {}), text);
}

function withInline(parent, text) {
  parent.append(...parseInline(text).map(renderInline));
  return parent;
}

function renderInline(part) {
  if (typeof part === "string") return document.createTextNode(part);
  if (part.kind === "break") return element("br");
  if (part.kind === "code") return element("code", { text: part.text });
  const children = part.children.map(renderInline);
  if (part.kind !== "link") return element(part.kind, {}, ...children);
  const safe = { href: part.href, target: "_blank", rel: "noopener noreferrer nofollow", title: part.href };
  return element("a", safe, ...children);
}
