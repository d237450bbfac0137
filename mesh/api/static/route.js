// The way of an answer: who computed which blocks in what time, and how fast it came.

import { element, shortPeer } from "./dom.js";

/** Returns the hops as a list: each as wide as it has blocks. */
export function renderRoute(route) {
  const list = element("ol", { className: "route", role: "list", "aria-label": "Route: who computed which blocks" });
  for (const { peer_id: peer, blocks, step_ms: step } of route) {
    const [start, end] = blocks;
    const hop = element("li", { title: peer });
    hop.style.setProperty("--blocks", String(end - start));
    hop.append(
      element("span", { className: "hidden", text: "blocks " }), element("b", { text: `${start}:${end}` }), " ",
      element("span", { className: "peer", text: shortPeer(peer) }),
    );
    if (step !== null && step !== undefined) {
      hop.append(" ", element("span", { className: "time", text: `${step.toFixed(1)} ms` }));
    }
    list.append(hop);
  }
  return list;
}

/** Returns the facts under an answer in one line; `live` is measured by the page while it comes. */
export function describeAnswer({ mesh, usage, live }, context) {
  const tokens = usage?.completion_tokens ?? live?.tokens;
  const speed = mesh?.tokens_per_second ?? live?.speed;
  const first = mesh?.first_token_s ?? live?.firstTokenS;
  const facts = [];
  if (tokens) facts.push(tokens === 1 ? "1 token" : `${tokens} tokens`);
  if (speed) facts.push(`${speed.toFixed(1)} tokens/s`);
  if (first) facts.push(`first token after ${first.toFixed(2)} s`);
  if (mesh?.reroutes) facts.push(`re-routed ${mesh.reroutes}×${mesh.refills ? ", only the lost blocks computed again" : ""}`);
  if (usage && context) facts.push(`context ${usage.total_tokens} of ${context}`);
  return facts.join(" · ");
}
