// The details of a node, and the receipt of a score, in a dialog at the side.

import { byId, describeReason, element, formatAgo, formatAmount, formatBlocks, formatPercent, formatScore, nameNode } from "/static/dom.js";
import { getJson } from "/static/data.js";

const SHOWN_EPOCHS = 16;
const VERDICTS = {
  equal: "equals the chain", differs: "differs from the chain", no_proposal: "nothing was proposed",
  not_compared: "not compared with the chain",
};
const BASES = {
  named: "computed again from the records that the proposal names", nothing_named: "the proposal names no sightings: every row is 0",
  not_scored: "the chain elected no validator: nothing is scored", own_view: "computed from what the observing node saw itself",
};
/** Decimal strings of integers at 10^18. */
const exact = (units) => (units === null ? "no row" : (Number(BigInt(units) / 10n ** 12n) / 1e6).toFixed(6));

export class Details {
  constructor(store) {
    this.store = store;
    this.dialog = byId("details");
    this.key = null;
    byId("details-close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    this.dialog.addEventListener("close", () => {
      this.key = null;
      history.replaceState(null, "", location.pathname);
    });
    store.addEventListener("change", () => this.key !== null && this.renderNode());
  }

  open(title) {
    byId("details-title").textContent = title;
    if (!this.dialog.open) this.dialog.showModal();
  }

  openNode(key) {
    this.key = key;
    this.renderNode();
    history.replaceState(null, "", `#node/${encodeURIComponent(key)}`);
  }

  renderNode() {
    const row = this.store.nodes.get(this.key);
    if (!row) {
      this.open("This node is gone");
      byId("details-body").replaceChildren(element("p", { text: "It left the network some time ago, and is no longer shown. Its scores stay in the history." }));
      return;
    }
    this.open(nameNode(row));
    byId("details-body").replaceChildren(this.makeFacts(row), this.makeEpochs(row));
  }

  makeFacts(row) {
    const facts = [
      ["state", row.left_at ? `left ${formatAgo(Date.now() / 1000 - row.left_at)}` : row.state],
      ["role", row.role], ["blocks", row.blocks && formatBlocks(row.blocks)], ["dtype", row.dtype], ["throughput", row.throughput && `${row.throughput} rows/s through one block`],
      ["free cache", row.free_cache_tokens && `${row.free_cache_tokens} tokens`], ["path", row.path], ["software", row.software],
      ["class", row.queue_place ? `queued, place ${row.queue_place}` : row.node_class], ["since epoch", row.start_epoch],
      ["next", row.eligibility && row.eligibility.text],
      ["stake", row.stake && `${formatAmount(row.stake)} TENSOR`], ["reputation", row.reputation && exact(row.reputation)],
      ["last score", row.score === null ? null : formatScore(row.score)], ["accuracy", row.accuracy === null ? null : formatPercent(row.accuracy)],
      ["last pay", row.paid && `${formatAmount(row.paid)} TENSOR`], ["probation", row.probation ? `${row.probation} epochs left` : null], ["peer", row.peer_id],
      ...row.addresses.map((address) => ["address", address]),
    ];
    return makeList(facts);
  }

  makeEpochs(row) {
    const history = this.store.scored, index = history && row.node_id !== null ? history.nodes.indexOf(row.node_id) : -1;
    if (index < 0) return element("p", { className: "faint", text: "No score of it is known." });
    const columns = history.epochs.map((_, column) => column).slice(-SHOWN_EPOCHS).reverse();
    return element("div", {}, element("h3", { text: "Scores" }), element("table", {},
      element("thead", {}, makeRow("th", ["epoch", "score", "paid", "why"])),
      element("tbody", {}, ...columns.map((column) => {
        const { epoch } = history.epochs[column];
        const line = makeRow("td", ["", formatScore(history.scores[index][column]), formatAmount(history.paid[index][column]), describeReason(history.problems[index][column])]);
        line.firstChild.append(element("button", { type: "button", className: "link", text: `epoch ${epoch}`, on: { click: () => this.openReceipt(epoch, row.node_id) } }));
        return line;
      }))));
  }

  async openReceipt(epoch, node) {
    this.key = null;
    this.open(`Receipt: node ${node}, epoch ${epoch}`);
    const body = byId("details-body");
    body.replaceChildren(element("p", { className: "faint", text: "Computed again from signed records…" }));
    history.replaceState(null, "", `#receipt/${epoch}/${node}`);
    try {
      const receipt = await getJson(`/api/v1/receipts/${epoch}/${node}`);
      body.replaceChildren(...this.renderReceipt(receipt));
    } catch (error) {
      body.replaceChildren(element("p", { className: "empty", text: error.message }), element("p", { className: "faint", text: error.fix ?? "" }));
    }
    const row = this.store.byNodeId.get(node);
    if (row) body.append(element("p", {}, element("button", { type: "button", className: "quiet", text: `All of node ${node}`, on: { click: () => this.openNode(row.key) } })));
  }

  renderReceipt(receipt) {
    const isGood = receipt.verdict === "equal";
    const parts = [
      element("p", { className: "score" }, element("b", { text: exact(receipt.score) }), element("span", { className: `chip ${isGood ? "good" : receipt.verdict === "differs" ? "bad" : ""}`, text: VERDICTS[receipt.verdict] ?? receipt.verdict })),
      element("p", { className: "faint", text: `${BASES[receipt.basis] ?? receipt.basis}; kept by node ${receipt.kept_by}` }),
    ];
    if (receipt.reasons.length) {
      parts.push(element("h3", { text: receipt.score === null || receipt.score === "0" ? "Why" : "What it could not earn" }),
        element("ul", { className: "reasons" }, ...receipt.reasons.map(({ reason, fix }) => element("li", {}, element("span", { text: reason }), ...(fix ? [element("span", { className: "fix", text: `Fix: ${fix}` })] : [])))));
    }
    if (receipt.records?.length) {
      parts.push(element("h3", { text: "Records" }), makeTable(["record", "seen at block", "late from", "listed by", ""],
        receipt.records.map((trace) => [`${trace.kind.replaceAll("_", " ")} of epoch ${trace.epoch}`, trace.seen_at ?? "–", trace.late_from, trace.kind === "sighting" ? "–" : `${trace.listed_by.length} of ${receipt.named_sightings}`, trace.kind === "sighting" ? (trace.accepted ? "named" : "not named") : trace.accepted ? "accepted" : "not accepted"])));
    }
    if (receipt.hoster) parts.push(...this.renderHoster(receipt));
    if (receipt.validator) parts.push(...this.renderValidator(receipt.validator));
    parts.push(element("h3", { text: "Proposal" }), this.renderProposal(receipt));
    for (const unseen of receipt.unseen ?? []) parts.push(element("p", { className: "faint", text: `Not seen: ${unseen}` }));
    return parts;
  }

  renderHoster({ hoster, num_blocks: last, audited_blocks: audited }) {
    const name = (block) => `${block === last ? "head" : block}${audited.includes(block) ? " (audited)" : ""}`;
    return [element("h3", { text: `Blocks ${formatBlocks(hoster.blocks)}` }), makeTable(["block", "valid answers", "distance", "score", "share"],
      hoster.layers.map((layer) => [name(layer.block), `${layer.valid_answers} of ${layer.answers}`, layer.distance === null ? "–" : layer.distance.toExponential(1), exact(layer.score), layer.refusal ? describeReason(layer.refusal) : exact(layer.share)]))];
  }

  renderValidator(validator) {
    const facts = [["accuracy", exact(validator.accuracy)], ["for scores", exact(validator.score_share)], ["for audits", exact(validator.audit_share)], ["scores refused", describeReason(validator.refusal)], ["audit refused", describeReason(validator.audit_refusal)]];
    const rows = validator.rows.map((row) => [`node ${row.subnet_node_id}`, row.total === null ? "–" : exact(row.total), row.expected === null ? "–" : exact(row.expected), row.refusal ? describeReason(row.refusal) : "right"]);
    const parts = [element("h3", { text: "Validator" }), makeList(facts)];
    if (rows.length) parts.push(makeTable(["about", "said", "expected", ""], rows));
    return parts;
  }

  renderProposal({ proposal, elected, settled }) {
    if (proposal === null) return element("p", { text: elected === null ? "The chain elected no validator." : `Node ${elected} was elected and proposed nothing.` });
    const verdict = proposal.agreed === null ? "" : proposal.agreed ? ", agreed" : ", not agreed";
    return element("p", { text: `By node ${proposal.proposer} in chain block ${proposal.block}; attested by ${proposal.attested.length} of ${proposal.voters.length}${settled ? verdict : ", not settled yet"}.` });
  }
}

function makeList(facts) {
  return element("dl", { className: "facts" }, ...facts.filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== 0).flatMap(([name, value]) => [element("dt", { text: name }), element("dd", { text: String(value) })]));
}

function makeRow(tag, cells) {
  return element("tr", {}, ...cells.map((cell) => element(tag, { text: String(cell) })));
}

function makeTable(head, rows) {
  return element("div", { className: "scroll" }, element("table", {}, element("thead", {}, makeRow("th", head)), element("tbody", {}, ...rows.map((row) => makeRow("td", row)))));
}
