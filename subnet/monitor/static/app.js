// The monitor page: puts the parts together and keeps them up to date.

import { byId, element, formatAmount, formatPercent, onFrame } from "/static/dom.js";
import { Store } from "/static/data.js";
import { SwarmMap } from "/static/map.js";
import { Timeline } from "/static/timeline.js";
import { Scores } from "/static/scores.js";
import { NodeTable, renderStanding } from "/static/nodes.js";
import { Details } from "/static/receipt.js";

const THEMES = { auto: "Auto", light: "Light", dark: "Dark" };
const LINKS = {
  waiting: "Connecting…", live: "Live", polling: "Refreshed every 10 s",
  empty: "Nothing seen yet", lost: "Connection lost",
};

const dark = matchMedia("(prefers-color-scheme: dark)");
const store = new Store();
const details = new Details(store);
const openNode = (key) => details.openNode(key);
const openReceipt = (epoch, node) => details.openReceipt(epoch, node);
const swarm = new SwarmMap(openNode);
const timeline = new Timeline(store, openReceipt);
const scores = new Scores(store, { openReceipt, pickEpoch: (epoch) => timeline.pick(epoch), getTheme });
const table = new NodeTable(openNode);

// Colours.

function readTheme() {
  try {
    return localStorage.getItem("mesh-monitor-theme") ?? "auto";
  } catch {
    return "auto";
  }
}

function getTheme() {
  const chosen = document.documentElement.dataset.theme;
  return chosen === "light" || chosen === "dark" ? chosen : dark.matches ? "dark" : "light";
}

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme").textContent = THEMES[theme] ?? THEMES.auto;
  byId("theme").setAttribute("aria-label", `Colours: ${theme === "auto" ? "as the system has them" : theme}`);
  scores.render();
}

function turnTheme() {
  const names = Object.keys(THEMES), next = names[(names.indexOf(readTheme()) + 1) % names.length];
  try {
    localStorage.setItem("mesh-monitor-theme", next);
  } catch {
    // Without storage the choice lasts until the page is left.
  }
  setTheme(next);
}

// The summary.

function setTile(id, big, small, isBad = false) {
  const tile = byId(id);
  tile.querySelector(".big").textContent = big;
  tile.querySelector(".small").textContent = small;
  tile.classList.toggle("bad", isBad);
}

function listRuns(blocks) {
  const runs = [];
  for (const block of blocks) {
    if (runs.length && runs.at(-1)[1] === block - 1) runs.at(-1)[1] = block;
    else runs.push([block, block]);
  }
  return runs.map(([start, end]) => (start === end ? String(start) : `${start}:${end + 1}`));
}

function renderTiles(head, nodes) {
  const rows = [...nodes.values()], total = head.hosters.length;
  const bare = head.hosters.flatMap((count, block) => (count ? [] : [block]));
  const least = Math.min(...head.hosters);
  if (total) setTile("tile-coverage", `${total - bare.length} / ${total}`, bare.length ? `no hoster for ${listRuns(bare).slice(0, 4).join(", ")}` : `at least ${least} ${least === 1 ? "hoster" : "hosters"} each`, bare.length > 0);
  else setTile("tile-coverage", "–", "the model is not known");
  const online = rows.filter((row) => row.state === "online").length, gone = rows.filter((row) => row.state === "left" || row.state === "absent").length;
  setTile("tile-nodes", `${online} / ${rows.length}`, gone ? `${gone} left or absent` : "all are there", online === 0 && rows.length > 0);
  renderEpoch(head.chain);
  const paid = rows.reduce((sum, row) => sum + BigInt(row.paid ?? 0), 0n);
  setTile("tile-paid", rows.some((row) => row.paid !== null) ? formatAmount(String(paid)) : "–", head.settled_epoch === null ? "TENSOR, once an epoch is settled" : `TENSOR for epoch ${head.settled_epoch}`);
}

function renderEpoch(chain) {
  const bar = byId("tile-epoch").querySelector(".phases");
  if (!chain) {
    setTile("tile-epoch", "–", "no chain is followed");
    bar.replaceChildren();
    return;
  }
  const left = (chain.length - chain.offset) * chain.block_time_s;
  setTile("tile-epoch", `${chain.epoch} · ${chain.phase}`, `block ${chain.offset + 1} of ${chain.length} · head ${chain.head} · ${left >= 120 ? `${Math.round(left / 60)} min` : `${Math.round(left)} s`} left`);
  bar.setAttribute("aria-label", `phase ${chain.phase}, block ${chain.offset + 1} of ${chain.length}`);
  bar.replaceChildren(...chain.phases.map(({ name, start, end }) => {
    const part = element("i", { title: name, className: name === chain.phase ? "now" : "" }, element("b"));
    part.style.flexGrow = String(end - start);
    part.firstChild.style.width = `${100 * Math.max(0, Math.min(1, (chain.offset + 1 - start) / (end - start)))}%`;
    return part;
  }));
}

function renderAgreementTile() {
  const last = store.history?.epochs.findLast(({ is_agreed: isAgreed }) => isAgreed !== null);
  if (!last) setTile("tile-agreement", "–", "no proposal is settled yet");
  else setTile("tile-agreement", formatPercent(last.ratio), `${last.attested} of ${last.voters} attested, epoch ${last.epoch}`, last.is_agreed === false);
}

const render = onFrame(() => {
  const { head, nodes } = store;
  if (head === null) return;
  byId("model").textContent = head.network.model || "unknown model";
  byId("subnet").textContent = head.network.subnet_id === null ? "" : `subnet ${head.network.subnet_id}`;
  document.title = `${head.network.model || "mesh"} · monitor`;
  byId("observer").textContent = `As seen by ${head.observer.name} (${head.observer.software}).`;
  const bare = head.hosters.flatMap((count, block) => (count ? [] : [block]));
  const notices = [...head.notices];
  if (bare.length) notices.unshift(`No hoster serves ${bare.length === 1 ? "block" : "blocks"} ${listRuns(bare).slice(0, 8).join(", ")}: no prompt can be answered.`);
  byId("notice").hidden = !notices.length;
  if (byId("notice").textContent !== notices.join(" ")) byId("notice").textContent = notices.join(" ");
  renderTiles(head, nodes);
  swarm.update(head, nodes);
  table.update(nodes);
  renderStanding(nodes, openNode);
  document.body.dataset.ready = "";
});

function renderLink() {
  byId("link").textContent = LINKS[store.link];
  byId("link").dataset.state = store.link;
  if (store.link === "empty") {
    byId("notice").hidden = false;
    byId("notice").textContent = "This process has not seen the network yet. The page fills itself as soon as it has.";
  }
}

function openFromAddress() {
  const [kind, first, second] = location.hash.slice(1).split("/").map(decodeURIComponent);
  if (kind === "node" && first) openNode(first);
  if (kind === "receipt" && /^\d+$/.test(first) && /^\d+$/.test(second)) openReceipt(Number(first), Number(second));
}

byId("theme").addEventListener("click", turnTheme);
dark.addEventListener("change", () => scores.render());
store.addEventListener("link", renderLink);
store.addEventListener("change", render);
store.addEventListener("history", () => {
  scores.render();
  renderAgreementTile();
  document.body.dataset.history = "";
});
setTheme(readTheme());
const wanted = location.hash;
store.start();
if (wanted) store.addEventListener("change", openFromAddress, { once: true });
