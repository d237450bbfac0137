// The list of all nodes, of which only the visible rows exist; and classes, queue and probation.

import { byId, element, formatAmount, formatBlocks, formatRate, formatScore, nameNode, shortPeer } from "/static/dom.js";
import { VirtualList } from "/static/virtual.js";

const number = (text) => (text === null ? -1 : Number(BigInt(text) / 10n ** 9n));
const COLUMNS = [
  { name: "node", value: (row) => row.node_id ?? 1e12, text: nameNode },
  { name: "peer", value: (row) => row.peer_id ?? "", text: (row) => shortPeer(row.peer_id), className: "wide mono" },
  { name: "role", value: (row) => row.role ?? "", text: (row) => row.role ?? "–", className: "middle" },
  { name: "state", value: (row) => row.state, text: (row) => row.state },
  { name: "blocks", value: (row) => (row.blocks ? row.blocks[0] * 1e4 + row.blocks[1] : -1), text: (row) => formatBlocks(row.blocks) },
  { name: "dtype", value: (row) => row.dtype, text: (row) => row.dtype || "–", className: "middle" },
  { name: "rows/s", value: (row) => row.throughput, text: (row) => formatRate(row.throughput), className: "number middle" },
  { name: "path", value: (row) => row.path ?? "", text: (row) => row.path ?? "–", className: "wide after" },
  { name: "class", value: (row) => row.node_class ?? "", text: (row) => (row.queue_place ? `queue ${row.queue_place}` : (row.node_class ?? "–")), className: "middle" },
  { name: "stake", value: (row) => number(row.stake), text: (row) => formatAmount(row.stake), className: "number middle" },
  { name: "reputation", value: (row) => number(row.reputation), text: (row) => (row.reputation === null ? "–" : (number(row.reputation) / 1e9).toFixed(2)), className: "number wide" },
  { name: "score", value: (row) => row.score ?? -1, text: (row) => formatScore(row.score), className: "number" },
  { name: "paid", value: (row) => number(row.paid), text: (row) => formatAmount(row.paid), className: "number middle" },
];

// A changed row is a new object, so what is worked out once can stay with it.
const derived = new WeakMap();

function getDerived(row) {
  if (!derived.has(row)) derived.set(row, { keys: {}, text: null });
  return derived.get(row);
}

function getKey(row, column) {
  const { keys } = getDerived(row);
  return (keys[column.name] ??= column.value(row));
}

function getSearchText(row) {
  const own = getDerived(row);
  own.text ??= [nameNode(row), row.peer_id, row.role, row.state, row.dtype, row.path, row.node_class, row.software, row.blocks && formatBlocks(row.blocks), row.is_self && "self"].filter(Boolean).join(" ").toLowerCase();
  return own.text;
}

export class NodeTable {
  constructor(openNode) {
    this.openNode = openNode;
    this.rows = [];
    this.sorted = [];
    this.sort = { column: COLUMNS[0], isDown: false };
    this.head = element("div", { className: "row head", role: "row" });
    this.scroller = element("div", { className: "body" });
    const table = byId("nodes");
    table.setAttribute("role", "table");
    table.setAttribute("aria-labelledby", "nodes-title");
    table.append(element("div", { role: "rowgroup" }, this.head), this.scroller);
    this.list = new VirtualList(this.scroller, { rowHeight: 36, renderRow: (row, index) => this.renderRow(row, index) });
    byId("filter").addEventListener("input", () => this.apply());
    byId("state-filter").addEventListener("change", () => this.apply());
    this.renderHead();
  }

  update(nodes) {
    this.rows = [...nodes.values()];
    this.sortRows();
  }

  /** Sorts all rows once; filtering keeps their order. */
  sortRows() {
    const { column, isDown } = this.sort, sign = isDown ? -1 : 1;
    const keyed = this.rows.map((row) => ({ row, key: getKey(row, column), id: row.node_id ?? 1e12 }));
    keyed.sort((a, b) => (a.key === b.key ? a.id - b.id : a.key < b.key ? -sign : sign));
    this.sorted = keyed.map(({ row }) => row);
    this.apply();
  }

  apply() {
    const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean), state = byId("state-filter").value;
    // "node 3" is one word, so that it does not find node 33.
    const exact = /^\s*node (\d+)\s*$/i.exec(byId("filter").value);
    const hasWords = (row) => {
      const text = getSearchText(row);
      return words.every((word) => text.includes(word));
    };
    const found = this.sorted.filter((row) => (!state || row.state === state) && (exact ? row.node_id === Number(exact[1]) : !words.length || hasWords(row)));
    byId("nodes-note").textContent = found.length === this.rows.length ? `${found.length}` : `${found.length} of ${this.rows.length}`;
    byId("nodes").setAttribute("aria-rowcount", String(found.length + 1));
    this.scroller.style.height = `${Math.min(Math.max(1, found.length) * 36 + 2, 560)}px`;
    this.list.setItems(found);
  }

  renderHead() {
    this.head.replaceChildren(...COLUMNS.map((column) => {
      const isSorted = this.sort.column === column;
      return element("span", { role: "columnheader", className: column.className ?? "", "aria-sort": isSorted ? (this.sort.isDown ? "descending" : "ascending") : "none" },
        element("button", {
          type: "button", text: `${column.name}${isSorted ? (this.sort.isDown ? " ↓" : " ↑") : ""}`, "data-column": column.name,
          on: { click: () => this.sortBy(column) },
        }));
    }));
  }

  sortBy(column) {
    this.sort = { column, isDown: this.sort.column === column && !this.sort.isDown };
    this.renderHead();
    this.head.querySelector(`[data-column="${column.name}"]`).focus();
    this.sortRows();
  }

  renderRow(row, index) {
    const cells = COLUMNS.map((column) => element("span", { role: "cell", className: `${column.className ?? ""} ${column.name === "state" ? `state ${row.state}` : ""}`, text: column.name === "node" ? undefined : column.text(row) }));
    cells[0].append(element("button", {
      type: "button", text: nameNode(row), "data-focus": `row-${row.key}`, on: { click: () => this.openNode(row.key) },
    }));
    if (row.is_self) cells[0].append(element("span", { className: "chip", text: "this node" }));
    if (row.probation) cells[0].append(element("span", { className: "chip bad", text: "probation" }));
    return element("div", { className: "row", role: "row", "aria-rowindex": index + 2, on: { click: (event) => event.target.tagName !== "BUTTON" && this.openNode(row.key) } }, ...cells);
  }
}

const CLASSES = ["validator", "included", "idle", "registered"];

export function renderStanding(nodes, openNode) {
  const rows = [...nodes.values()].filter((row) => row.node_id !== null);
  const queued = rows.filter((row) => row.queue_place).sort((a, b) => a.queue_place - b.queue_place);
  const active = rows.filter((row) => !row.queue_place);
  const suspended = rows.filter((row) => row.probation).sort((a, b) => b.probation - a.probation);
  const stake = rows.reduce((sum, row) => sum + BigInt(row.stake ?? 0), 0n);
  const counts = CLASSES.map((name) => [name, active.filter((row) => row.node_class === name).length]);
  byId("standing").replaceChildren(
    element("div", { className: "stack", role: "img", "aria-label": counts.map(([name, count]) => `${count} ${name}`).join(", ") },
      ...counts.filter(([, count]) => count).map(([name, count]) => element("i", { className: name, style: { "flex-grow": String(count) } }))),
    element("dl", {}, ...counts.filter(([, count]) => count).flatMap(([name, count]) => [element("dt", {}, element("i", { className: `key ${name}` }), name), element("dd", { text: String(count) })]),
      element("dt", { text: "stake" }), element("dd", { text: `${formatAmount(String(stake))} TENSOR` })),
    renderList("In the queue", queued.slice(0, 8), (row) => `place ${row.queue_place}`, "the queue is empty", openNode, queued.length),
    renderList("On probation", suspended.slice(0, 8), (row) => `${row.probation} ${row.probation === 1 ? "epoch" : "epochs"} left`, "no node", openNode, suspended.length),
  );
}

function renderList(title, rows, describe, empty, openNode, count) {
  const items = rows.map((row) => element("li", {}, element("button", { type: "button", className: "link", text: nameNode(row), on: { click: () => openNode(row.key) } }), ` ${describe(row)}`));
  if (!rows.length) items.push(element("li", { className: "faint", text: empty }));
  if (count > rows.length) items.push(element("li", { className: "faint", text: `and ${count - rows.length} more` }));
  return element("div", { className: "list" }, element("h3", { text: title }), element("ul", {}, ...items));
}

