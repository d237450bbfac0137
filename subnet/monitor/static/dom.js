// Elements, numbers and words. Everything that comes from the network becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** Makes an element: class, text, attributes (data and aria too), children. */
export function element(tag, { className, text, title, on, style, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  if (title) made.title = title;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  for (const [name, handler] of Object.entries(on ?? {})) made.addEventListener(name, handler);
  // Set on the object, which a strict style-src allows.
  for (const [name, value] of Object.entries(style ?? {})) made.style.setProperty(name, value);
  made.append(...children);
  return made;
}

export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

export function announce(text) {
  byId("announcer").textContent = text;
}

export const nameNode = (row) => (row.node_id === null ? shortPeer(row.peer_id) : `node ${row.node_id}`);

export function shortPeer(peer) {
  return !peer ? "unknown" : peer.length > 12 ? `${peer.slice(0, 4)}…${peer.slice(-5)}` : peer;
}

/** Millionths as a decimal: 125925 → 0.1259. */
export const formatScore = (score) => (score === null || score === undefined ? "–" : (score / 1e6).toFixed(4));
export const formatPercent = (part) =>
  part === null || part === undefined ? "–" : `${Number((part / 1e4).toFixed(part % 1e4 ? 1 : 0))} %`;

/** Units of 10^-18, a decimal string, as TENSOR with a few digits. */
export function formatAmount(units) {
  if (units === null || units === undefined) return "–";
  const whole = Number(BigInt(units) / 10n ** 12n) / 1e6;
  if (whole >= 1e6) return `${(whole / 1e6).toFixed(2)} M`;
  if (whole >= 1e4) return `${(whole / 1e3).toFixed(1)} k`;
  return whole >= 100 ? whole.toFixed(1) : whole.toFixed(whole ? 4 : 0);
}

export function formatRate(rows) {
  if (!rows) return "–";
  return rows >= 1000 ? `${(rows / 1000).toFixed(1)}k` : String(rows);
}

export function formatBlocks(blocks) {
  return blocks ? `${blocks[0]}:${blocks[1]}` : "–";
}

export function formatAgo(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  return `${Math.round(seconds / 3600)} h ago`;
}

/** Words for the reasons that a record or score has; others are shown as they are. */
const REASONS = {
  outside_tolerance: "outside the tolerance", not_revealed: "did not reveal", no_commit: "did not commit",
  refuted: "refuted by the audit", withheld: "withheld an audited block", on_probation: "on probation",
  not_serving: "does not serve", commitment_mismatch: "the reveal does not match the commitment",
  late: "late", equivocation: "two versions of one record",
};
export const describeReason = (reason) => (reason ? (REASONS[reason] ?? reason.replaceAll("_", " ")) : "");

const tip = byId("tip");
/** Shows text beside the pointer; nothing hides it. */
export function showTip(text, x, y) {
  if (!text) {
    tip.hidden = true;
    return;
  }
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - box.width - 8))}px`;
  tip.style.top = `${y + 18 + box.height > innerHeight ? y - box.height - 10 : y + 18}px`;
}

/** Runs at most once a frame. */
export function onFrame(work) {
  let isAsked = false;
  return () => {
    if (isAsked) return;
    isAsked = true;
    requestAnimationFrame(() => {
      isAsked = false;
      work();
    });
  };
}
