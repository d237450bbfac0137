// What the page asks its gateway. The key stays in its field and goes to this gateway only.

import { byId } from "./dom.js";
import { cutReceipt } from "./receipt_text.js";

const MAX_EVENT_LENGTH = 1 << 20;
/** A receipt has the ids of all tokens. */
const MAX_RECEIPT_LENGTH = 16 << 20;

/** An error answer of the gateway. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function makeHeaders(wantsReceipt) {
  const headers = { "Content-Type": "application/json" };
  const key = byId("key").value.trim();
  if (key) headers.Authorization = `Bearer ${key}`;
  if (wantsReceipt) headers["X-Mesh-Receipt"] = "true";
  return headers;
}

async function ask(path, { wantsReceipt = false, ...options } = {}) {
  let response;
  try {
    response = await fetch(path, { headers: makeHeaders(wantsReceipt), ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The gateway cannot be reached. Check that `mesh serve` runs.");
  }
  if (!response.ok) throw await readRefusal(response);
  return response;
}

async function readRefusal(response) {
  try {
    return new Refusal(response.status, (await response.json()).error.message);
  } catch {
    return new Refusal(response.status, `The gateway answered ${response.status}.`);
  }
}

/** Returns { id, max_context } of each model that can answer. */
export async function fetchModels() {
  return (await (await ask("/v1/models")).json()).data;
}

/** Returns what each model is known to answer: { model: { about, questions } }. */
export async function fetchKnowledge() {
  return (await ask("/static/knowledge.json")).json();
}

/** Returns { isReady, text }. */
export async function fetchReadiness() {
  const response = await fetch("/readyz");
  const { checks } = await response.json();
  const failed = checks.filter((check) => !check.ok).map((check) => check.detail);
  return { isReady: response.ok, text: response.ok ? "Ready" : failed.join("; ") };
}

/** Yields the events of an answer; one has the text of what hosters signed, if that is wanted. Throws Refusal or Error with a sentence for the reader. */
export async function* streamAnswer(body, signal, { wantsReceipt = false } = {}) {
  const response = await ask("/v1/chat/completions", {
    method: "POST", signal, wantsReceipt,
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
  });
  for await (const data of readEvents(response, wantsReceipt ? MAX_RECEIPT_LENGTH : MAX_EVENT_LENGTH)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new Error(event.error.message);
    if (event.mesh?.receipts?.[0]) event.receipt = cutReceipt(data);
    yield event;
  }
  throw new Error("The connection ended before the answer did.");
}

/** Server-sent events: yields the data of each event, skips comments. */
async function* readEvents(response, maxLength) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await readOrFail(reader);
    if (done) return;
    rest += value;
    if (rest.length > maxLength) throw new Error("The answer is malformed.");
    const events = rest.split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (event.startsWith("data: ")) yield event.slice("data: ".length);
    }
  }
}

async function readOrFail(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The connection to the gateway was lost.");
  }
}
