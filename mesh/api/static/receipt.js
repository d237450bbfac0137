// What is shown of a receipt below its answer: who signed which blocks, whether it holds, and the file.

import { announce, element, icon } from "./dom.js";
import { canCheck, checkReceipt, listHops } from "./receipt_check.js";

const CHECKED =
  "Checked in this browser: the signatures, that each hoster received what the one before sent, and the token numbers " +
  "of prompt and answer.";
const LIMITS =
  "This page came from the gateway, and that the numbers spell this text is the gateway's word: to rely on neither, " +
  "download the receipt and run “mesh receipt check FILE”. A receipt shows who says that they computed, not that " +
  "they computed rightly.";
const UNCHECKED =
  "Not checked: this browser checks such signatures only in a page of this machine or over https. Download the receipt " +
  "and run “mesh receipt check FILE”.";
const ABSENT = {
  done: "No receipt came: the gateway signs none.",
  length: "No receipt came: the gateway signs none.",
  stopped: "No receipt: the answer was stopped before the hosters signed.",
  failed: "No receipt: the answer ended before the hosters signed.",
};

/** Checks run one after the other: a long conversation has many. */
let checking = Promise.resolve();

export class ReceiptView {
  /** `box` is where it is shown. */
  constructor(box) {
    this.box = box;
    this.shown = undefined;
  }

  update(node) {
    const { receipt, state } = node;
    const key = state === "running" ? null : receipt ?? (node.wantsReceipt ? state : null);
    if (key === this.shown) return;
    this.shown = key;
    if (key === null) this.box.replaceChildren();
    else if (!receipt) this.box.replaceChildren(element("p", { className: "receipt absent", text: ABSENT[state] }));
    else this.show(node, parse(receipt));
  }

  show(node, receipt) {
    const hops = receipt === null ? [] : listHops(receipt);
    const signed = hops.filter(({ signedS }) => signedS !== null).length;
    const summary = element("summary");
    const words = element("p", { text: "Checking…" });
    const verdict = element("div", { className: "verdict" }, words);
    const details = element(
      "details", { className: "receipt" }, summary, renderSigners(hops), verdict,
      element("button", { type: "button", text: "Download receipt", on: { click: () => download(node) } }),
    );
    const count = `${signed} of ${hops.length} signatures · `;
    const say = (state, short, ...sentences) => {
      details.dataset.verdict = state;
      const name = { holds: "check", refused: "close" }[state];
      summary.replaceChildren(
        ...(name ? [icon(name)] : []), element("span", { text: `Receipt: ${state === "refused" ? "" : count}${short}` }));
      verdict.replaceChildren(...sentences.map((text) => element("p", { text })));
    };
    say("checking", "checking…");
    details.addEventListener("toggle", () => details.open && details.scrollIntoView({ block: "nearest" }));
    this.box.replaceChildren(details);
    checking = checking.then(() => judge(receipt, node)).then(([state, short, ...sentences]) => {
      if (signed < hops.length) sentences.push("Hosters that were lost, or too slow, signed nothing.");
      say(state, short, ...sentences);
    });
  }
}

/** Returns the verdict, the short word for it, and the sentences. */
async function judge(receipt, node) {
  if (receipt === null) return ["refused", "does not hold", "The receipt does not hold: it is malformed."];
  if (!(await canCheck())) return ["unchecked", "not checked", UNCHECKED];
  try {
    await checkReceipt(receipt, node.mesh?.route ?? []);
    return ["holds", "checked", CHECKED, LIMITS];
  } catch (error) {
    announce("The receipt does not hold");
    return ["refused", "does not hold", `The receipt does not hold: ${error.message}. Do not rely on this answer.`];
  }
}

/** Returns the receipt if it has a shape that can be shown, else null. */
function parse(text) {
  try {
    const receipt = JSON.parse(text);
    return listHops(receipt).every(({ peer, blocks }) => typeof peer === "string" && blocks.length === 2) ? receipt : null;
  } catch {
    return null;
  }
}

function renderSigners(hops) {
  const list = element("ol", { className: "signers", role: "list", "aria-label": "Who signed" });
  for (const { peer, blocks, signedS } of hops) {
    const time = signedS === null ? "not signed" : `signed ${new Date(signedS * 1000).toLocaleString()}`;
    list.append(element(
      "li", {}, element("span", { className: "hidden", text: "blocks " }), element("b", { text: blocks.join(":") }), " ",
      element("span", { className: "peer", text: peer }), " ", element("span", { className: "time", text: time })));
  }
  return list;
}

/** Gives the receipt as `mesh receipt check` takes it. */
function download(node) {
  const url = URL.createObjectURL(new Blob([`${node.receipt}\n`], { type: "application/json" }));
  const link = element("a", { href: url, download: `receipt-${node.id.slice(0, 8)}.json` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
