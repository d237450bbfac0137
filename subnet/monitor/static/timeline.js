// One epoch, a line for each node: when its commit, audit and reveals were seen, against the time
// in which they count.

import { byId, element, formatPercent, showTip } from "/static/dom.js";
import { getJson } from "/static/data.js";
import { VirtualList } from "/static/virtual.js";

const ROW_HEIGHT = 30;
const REFRESH_MS = 1_000;
const WORDS = {
  commit: "commit", audit_commit: "audit commit", reveal: "reveal", audit_reveal: "audit reveal",
  score_reveal: "score reveal", sighting: "sighting",
};
const OWED = {
  hoster: ["commit", "reveal", "sighting"],
  validator: ["audit_commit", "audit_reveal", "score_reveal", "sighting"],
};

export class Timeline {
  constructor(store, openReceipt) {
    this.store = store;
    this.openReceipt = openReceipt;
    this.shown = null;
    this.record = null;
    this.isLive = true;
    this.header = element("div", { className: "track-head", "aria-hidden": "true" });
    this.scroller = element("div", { className: "tracks" });
    byId("timeline").append(this.header, this.scroller);
    this.list = new VirtualList(this.scroller, { rowHeight: ROW_HEIGHT, renderRow: (node) => this.renderRow(node), role: "list" });
    byId("epoch-back").addEventListener("click", () => this.step(-1));
    byId("epoch-on").addEventListener("click", () => this.step(1));
    byId("epoch-live").addEventListener("click", () => this.goLive());
    store.addEventListener("change", () => this.onChange());
    store.addEventListener("epoch", (event) => event.detail === this.shown && this.refreshSoon());
  }

  onChange() {
    const present = this.store.head.chain?.epoch;
    if (present === undefined) return;
    if (this.isLive && this.shown !== present) this.show(present);
    else if (this.shown === present) this.render();
  }

  goLive() {
    this.isLive = true;
    const present = this.store.head?.chain?.epoch;
    if (present !== undefined) this.show(present);
  }

  step(by) {
    if (this.shown === null) return;
    const present = this.store.head.chain?.epoch ?? this.shown;
    const epoch = Math.max(0, Math.min(present, this.shown + by));
    this.isLive = epoch === present;
    this.show(epoch);
  }

  pick(epoch) {
    this.isLive = epoch === this.store.head?.chain?.epoch;
    this.show(epoch);
  }

  refreshSoon() {
    if (this.timer) return;
    this.timer = setTimeout(() => {
      this.timer = null;
      this.show(this.shown);
    }, REFRESH_MS);
  }

  async show(epoch) {
    this.shown = epoch;
    byId("epoch-shown").textContent = `epoch ${epoch}`;
    byId("epoch-live").setAttribute("aria-pressed", String(this.isLive));
    try {
      const record = await getJson(`/api/v1/epochs/${epoch}`);
      if (this.shown !== epoch) return;
      this.record = record;
    } catch (error) {
      if (this.shown !== epoch) return;
      this.record = null;
      byId("timeline-note").textContent = error.message;
    }
    this.render();
  }

  render() {
    const record = this.record;
    if (record === null || record.length === null || !record.nodes.length) {
      this.header.replaceChildren();
      this.list.setItems([]);
      this.scroller.style.height = "0";
      if (record !== null) byId("timeline-note").textContent = "nothing was recorded of its course";
      return;
    }
    const chain = this.store.head.chain;
    this.now = chain && chain.epoch === record.epoch ? chain.offset : record.length;
    this.attested = new Set(record.proposal?.attested ?? []);
    this.voters = new Set(record.proposal?.voters ?? []);
    byId("timeline-note").textContent = this.describe(record);
    this.renderHeader(record);
    this.scroller.style.height = `${Math.min(record.nodes.length * ROW_HEIGHT + 2, 360)}px`;
    this.list.setItems(record.nodes);
  }

  describe(record) {
    const facts = [];
    if (record.proposal) {
      const { proposer, attested, voters, needed } = record.proposal;
      facts.push(`proposed by node ${proposer}, attested by ${attested.length} of ${voters.length}` + (needed ? ` (${formatPercent(needed)} needed)` : ""));
    } else if (record.elected !== null) facts.push(`node ${record.elected} is elected to propose`);
    if (record.audited_blocks.length) {
      const last = this.store.head.network.num_blocks;
      facts.push(`audited: ${record.audited_blocks.map((block) => (block === last ? "the head" : `block ${block}`)).join(", ")}`);
    }
    return facts.join(" · ");
  }

  place(offset) {
    return `${(100 * offset) / this.record.length}%`;
  }

  renderHeader(record) {
    const bands = record.phases.map(({ name, start, end }) => {
      const band = element("span", { className: `band ${this.now >= start && this.now < end ? "now" : ""}`, text: name });
      band.style.left = this.place(start);
      band.style.width = this.place(end - start);
      return band;
    });
    this.header.replaceChildren(element("span", { className: "label", text: "node" }), element("span", { className: "vote", text: "vote" }), element("span", { className: "track" }, ...bands));
  }

  renderRow(node) {
    const record = this.record, row = this.store.byNodeId.get(node.node_id);
    const role = node.role ?? row?.role ?? null;
    const parts = [], words = [];
    const kinds = Object.keys(record.windows).length ? (OWED[role] ?? []).concat(Object.keys(node.records).filter((kind) => !(OWED[role] ?? []).includes(kind))) : [];
    for (const kind of kinds) {
      const { status, element: bar, sentence } = this.renderRecord(kind, node.records[kind], record.windows[kind]);
      parts.push(bar);
      words.push(sentence);
      bar.dataset.status = status;
    }
    const [vote, said] = this.describeVote(node.node_id);
    if (said) words.push(said);
    if (node.problem) words.push(node.problem.replaceAll("_", " "));
    const now = element("i", { className: "clock" });
    now.style.left = this.place(Math.min(this.now, record.length));
    const sentence = `node ${node.node_id}: ${words.join(", ") || "nothing seen"}`;
    return element("div", { className: "row", role: "listitem" },
      element("button", {
        type: "button", className: "label", "data-focus": `line-${node.node_id}`, "aria-label": `${sentence}. Open the receipt`,
        on: { click: () => this.openReceipt(record.epoch, node.node_id) },
      }, element("b", { text: `node ${node.node_id}` }), element("span", { className: "faint", text: role ?? "" })), vote,
      element("span", {
        className: "track", "aria-hidden": "true",
        on: { pointermove: (event) => showTip(sentence, event.clientX, event.clientY), pointerleave: () => showTip() },
      }, ...record.phases.slice(1).map(({ start }) => this.renderLine(start)), ...parts, ...(this.now < record.length ? [now] : [])));
  }

  renderLine(offset) {
    const line = element("i", { className: "edge" });
    line.style.left = this.place(offset);
    return line;
  }

  /** Returns the sign and the words of what a node did about the epoch's proposal. */
  describeVote(node) {
    const { proposal } = this.record;
    if (proposal?.proposer === node) return [element("span", { className: "vote propose", text: "★" }), "proposed"];
    if (this.attested.has(node)) return [element("span", { className: "vote attest", text: "✓" }), "attested"];
    const isOver = this.voters.has(node) && proposal?.is_agreed !== null;
    return [element("span", { className: `vote ${isOver ? "absent" : ""}`, text: isOver ? "×" : "" }), isOver ? "did not attest" : ""];
  }

  renderRecord(kind, seen, { opens, closes }) {
    const isLate = seen !== undefined && seen >= closes;
    const status = seen !== undefined ? (isLate ? "late" : "seen") : this.now >= closes ? "missing" : this.now >= opens ? "due" : "later";
    const bar = element("span", { className: `record ${kind} ${status}` });
    const end = Math.min(this.record.length, Math.max(closes, (seen ?? 0) + 1));
    bar.style.left = this.place(opens);
    bar.style.width = `calc(${this.place(end - opens)} - 2px)`;
    if (seen !== undefined) {
      const fill = element("i");
      fill.style.width = `${(100 * Math.max(0.6, Math.min(end, seen + 1) - opens)) / (end - opens)}%`;
      bar.append(fill);
    } else if (status === "missing") bar.append(element("em", { text: "×" }));
    const sentence = {
      seen: `${WORDS[kind]} seen at block ${seen}`, late: `${WORDS[kind]} late, at block ${seen}`,
      missing: `${WORDS[kind]} missing`, due: `${WORDS[kind]} is due`, later: `${WORDS[kind]} from block ${opens}`,
    }[status];
    return { status, element: bar, sentence };
  }
}
