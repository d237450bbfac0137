// The map: blocks from left to right, each hoster a bar over the blocks that it serves. Bars that do
// not overlap share a line.

import { byId, element, formatBlocks, formatRate, nameNode, showTip } from "/static/dom.js";
import { VirtualList } from "/static/virtual.js";

const LANE_HEIGHT = 34;
const MAX_LABELS = 33;

/** Puts rows with blocks into as few lines as they need: O(rows + blocks). */
export function packLanes(rows, numBlocks) {
  const sorted = rows.toSorted((a, b) => a.blocks[0] - b.blocks[0] || b.blocks[1] - a.blocks[1] || (a.node_id ?? 0) - (b.node_id ?? 0));
  const lanes = [], free = [], ending = Array.from({ length: numBlocks + 1 }, () => []);
  let at = 0;
  for (const row of sorted) {
    for (; at <= Math.min(row.blocks[0], numBlocks); at++) free.push(...ending[at].splice(0));
    const lane = free.pop() ?? lanes.push([]) - 1;
    lanes[lane].push(row);
    ending[Math.min(row.blocks[1], numBlocks)].push(lane);
  }
  return lanes;
}

export class SwarmMap {
  constructor(openNode) {
    this.openNode = openNode;
    this.box = byId("map");
    this.coverage = element("div", { className: "coverage", role: "list", "aria-label": "Hosters of each block" });
    this.axis = element("div", { className: "axis", "aria-hidden": "true" });
    this.scroller = element("div", { className: "lanes", tabindex: "-1" });
    this.box.append(this.coverage, this.axis, this.scroller);
    this.list = new VirtualList(this.scroller, { rowHeight: LANE_HEIGHT, renderRow: (lane) => this.renderLane(lane), role: "list" });
  }

  update(head, nodes) {
    this.numBlocks = head.network.num_blocks;
    const served = [...nodes.values()].filter((row) => row.blocks && row.blocks[0] < this.numBlocks);
    this.renderCoverage(head.hosters);
    const lanes = packLanes(served, this.numBlocks);
    this.scroller.style.height = `${Math.min(Math.max(1, lanes.length) * LANE_HEIGHT + 4, 420)}px`;
    this.list.setItems(lanes);
    const online = served.filter((row) => row.state === "online");
    const relayed = online.filter((row) => row.path === "relayed").length, others = served.length - online.length;
    byId("map-note").textContent = served.length
      ? [`${online.length} hosters online`, relayed && `${relayed} over a relay`, others && `${others} not online`].filter(Boolean).join(", ")
      : "no hoster is known";
  }

  renderCoverage(hosters) {
    const most = Math.max(1, ...hosters), every = Math.ceil(hosters.length / MAX_LABELS);
    this.coverage.replaceChildren(...hosters.map((count, block) => {
      const cell = element("div", {
        className: count ? "cell" : "cell uncovered", role: "listitem",
        "aria-label": count ? `block ${block}: ${count} hosters` : `block ${block}: no hoster`,
        text: hosters.length <= MAX_LABELS || !count ? String(count) : "",
        on: { pointerenter: (event) => showTip(count ? `block ${block}: ${count} hosters` : `block ${block}: no hoster serves it`, event.clientX, event.clientY), pointerleave: () => showTip() },
      });
      cell.style.setProperty("--share", `${Math.round(10 + (30 * count) / most)}%`);
      return cell;
    }));
    this.axis.replaceChildren(...hosters.map((_, block) => element("span", { text: block % every ? "" : String(block) })));
  }

  renderLane(lane) {
    return element("div", { className: "lane", role: "presentation" }, ...lane.map((row) => this.renderBar(row)));
  }

  renderBar(row) {
    const [start, end] = [row.blocks[0], Math.min(row.blocks[1], this.numBlocks)];
    const sentence = describeServer(row);
    const bar = element("button", {
      type: "button", className: `span ${row.state}${row.path === "relayed" ? " relayed" : ""}${row.is_self ? " self" : ""}`,
      "aria-label": sentence, "data-focus": `map-${row.key}`,
      on: {
        click: () => this.openNode(row.key),
        pointerenter: (event) => showTip(sentence, event.clientX, event.clientY), pointerleave: () => showTip(),
      },
    }, element("b", { text: nameNode(row) }));
    if (row.path === "relayed") bar.append(element("span", { className: "mark", text: "relay" }));
    if (row.state !== "online") bar.append(element("span", { className: "mark", text: row.state }));
    bar.append(element("span", { className: "meta", text: [row.dtype, row.throughput ? `${formatRate(row.throughput)} rows/s` : ""].filter(Boolean).join(" · ") }));
    bar.style.left = `${(100 * start) / this.numBlocks}%`;
    bar.style.width = `calc(${(100 * (end - start)) / this.numBlocks}% - 3px)`;
    return bar;
  }
}

function describeServer(row) {
  const facts = [`${nameNode(row)}: ${row.state}`, `blocks ${formatBlocks(row.blocks)}`];
  if (row.dtype) facts.push(row.dtype);
  if (row.throughput) facts.push(`${row.throughput} rows a second`);
  if (row.path) facts.push(row.path === "direct" ? "reached directly" : "reached over a relay");
  return facts.join(", ");
}
