// The chat page. Everything that comes from the network is put into the page as text, never as
// markup; the key stays in its field and is sent to this gateway only.

const MAX_EVENT_LENGTH = 1 << 20;
const READY_CHECK_MS = 10_000;

const byId = (id) => document.getElementById(id);
const fields = {
  model: byId("model"), health: byId("health"), log: byId("log"), welcome: byId("welcome"),
  form: byId("form"), prompt: byId("prompt"), send: byId("send"), stop: byId("stop"),
  clear: byId("clear"), options: byId("options"), toggle: byId("options-toggle"),
  system: byId("system"), temperature: byId("temperature"), maxTokens: byId("max-tokens"),
  key: byId("key"), announcer: byId("announcer"),
};

const state = { messages: [], running: null };

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function makeHeaders() {
  const headers = { "Content-Type": "application/json" };
  const key = fields.key.value.trim();
  if (key) headers.Authorization = `Bearer ${key}`;
  return headers;
}

class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function readRefusal(response) {
  try {
    return new Refusal(response.status, (await response.json()).error.message);
  } catch {
    return new Refusal(response.status, `The gateway answered ${response.status}.`);
  }
}

// Server-sent events: yields the data of each event, skips comments.
async function* readEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    if (rest.length > MAX_EVENT_LENGTH) throw new Error("The answer is malformed.");
    const events = rest.split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (event.startsWith("data: ")) yield event.slice("data: ".length);
    }
  }
}

async function loadModels() {
  const response = await fetch("/v1/models", { headers: makeHeaders() });
  if (!response.ok) throw await readRefusal(response);
  const { data } = await response.json();
  const chosen = fields.model.value;
  fields.model.replaceChildren(
    ...data.map((model) => new Option(model.id, model.id, false, model.id === chosen)),
  );
  fields.model.disabled = data.length === 0;
  if (data.length === 0) fields.model.append(new Option("No model is complete"));
  updateSend();
}

async function checkReady() {
  try {
    const response = await fetch("/readyz");
    const { checks } = await response.json();
    const failed = checks.filter((check) => !check.ok).map((check) => check.detail);
    showHealth(response.ok, response.ok ? "Ready" : failed.join("; "));
  } catch {
    showHealth(false, "Gateway unreachable");
  }
}

function showHealth(isGood, text) {
  const changed = fields.health.textContent !== text;
  if (changed) fields.health.textContent = text;
  fields.health.className = `health ${isGood ? "good" : "bad"}`;
}

async function refresh() {
  await checkReady();
  try {
    await loadModels();
  } catch (error) {
    fields.model.disabled = true;
    fields.model.replaceChildren(new Option("No model"));
    if (error instanceof Refusal && error.status === 401) askForKey();
    updateSend();
  }
}

function askForKey() {
  showHealth(false, "API key needed");
  setOptionsOpen(true);
}

function setOptionsOpen(isOpen) {
  fields.options.hidden = !isOpen;
  fields.toggle.setAttribute("aria-expanded", String(isOpen));
}

function updateSend() {
  fields.send.disabled = fields.model.disabled || !fields.prompt.value.trim();
}

function addTurn(role, text) {
  fields.welcome.hidden = true;
  const turn = element("article", `turn ${role}`);
  turn.append(
    element("h3", role === "user" ? "hidden" : "", role === "user" ? "You" : "Swarm"),
    element("p", "text", text),
  );
  fields.log.append(turn);
  scrollDown();
  return turn;
}

function isAtEnd() {
  const { scrollHeight, scrollTop, clientHeight } = fields.log;
  return scrollHeight - scrollTop - clientHeight < 80;
}

function scrollDown() {
  fields.log.scrollTop = fields.log.scrollHeight;
}

function shorten(peerId) {
  return peerId.length > 12 ? `${peerId.slice(0, 4)}…${peerId.slice(-4)}` : peerId;
}

function showRoute(turn, mesh) {
  turn.querySelector(".route")?.remove();
  if (!mesh.route.length) return;
  const box = element("div", "route");
  const hops = element("ol");
  hops.setAttribute("aria-label", "Route: who ran which blocks");
  for (const hop of mesh.route) {
    const [start, end] = hop.blocks;
    const item = element("li");
    item.title = hop.peer_id;
    const blocks = end - start === 1 ? `block ${start}` : `blocks ${start}:${end}`;
    item.append(element("b", "", blocks), " ", element("span", "peer", shorten(hop.peer_id)));
    if (hop.step_ms !== null) item.append(" ", element("span", "", `${hop.step_ms.toFixed(1)} ms`));
    hops.append(item);
  }
  box.append(hops);
  const facts = describeTrace(mesh);
  if (facts) box.append(element("p", "", facts));
  turn.append(box);
}

function describeTrace(mesh) {
  const facts = [];
  if (mesh.tokens_per_second) facts.push(`${mesh.tokens_per_second.toFixed(1)} tokens/s`);
  if (mesh.first_token_s) facts.push(`first token after ${mesh.first_token_s.toFixed(2)} s`);
  if (mesh.reroutes) facts.push(`re-routed ${mesh.reroutes}×`);
  return facts.join(" · ");
}

function showProblem(turn, message) {
  const problem = element("p", "problem", message);
  problem.setAttribute("role", "alert");
  turn.append(problem);
}

function makeBody() {
  const system = fields.system.value.trim();
  const messages = [...state.messages];
  if (system) messages.unshift({ role: "system", content: system });
  const body = { model: fields.model.value, messages, stream: true };
  const temperature = fields.temperature.valueAsNumber;
  const maxTokens = fields.maxTokens.valueAsNumber;
  if (Number.isFinite(temperature)) body.temperature = temperature;
  if (Number.isInteger(maxTokens)) body.max_completion_tokens = maxTokens;
  return body;
}

async function streamAnswer(turn, signal) {
  const text = turn.querySelector(".text");
  const response = await fetch("/v1/chat/completions", {
    method: "POST", headers: makeHeaders(), body: JSON.stringify(makeBody()), signal,
  });
  if (!response.ok) throw await readRefusal(response);
  for await (const data of readEvents(response)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new Error(event.error.message);
    const follow = isAtEnd();
    text.append(event.choices[0]?.delta.content ?? "");
    if (event.mesh) showRoute(turn, event.mesh);
    if (follow) scrollDown();
  }
  throw new Error("The connection ended before the answer did.");
}

async function ask(question) {
  state.messages.push({ role: "user", content: question });
  addTurn("user", question);
  const turn = addTurn("assistant", "");
  turn.classList.add("running");
  state.running = new AbortController();
  setRunning(true);
  try {
    await streamAnswer(turn, state.running.signal);
    fields.announcer.textContent = `Answer: ${turn.querySelector(".text").textContent}`;
  } catch (error) {
    if (error.name !== "AbortError") showProblem(turn, error.message);
    if (error.status === 401) askForKey();
  } finally {
    const answer = turn.querySelector(".text").textContent;
    if (answer) state.messages.push({ role: "assistant", content: answer });
    else state.messages.pop();
    turn.classList.remove("running");
    state.running = null;
    setRunning(false);
    if (isAtEnd()) scrollDown();
  }
}

function setRunning(isRunning) {
  fields.send.hidden = isRunning;
  fields.stop.hidden = !isRunning;
  fields.clear.disabled = isRunning || fields.log.children.length === 1;
  if (!isRunning) fields.prompt.focus();
  updateSend();
}

fields.form.addEventListener("submit", (event) => {
  event.preventDefault();
  const question = fields.prompt.value.trim();
  if (!question || state.running || fields.model.disabled) return;
  fields.prompt.value = "";
  ask(question);
});

fields.prompt.addEventListener("input", updateSend);
fields.prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    fields.form.requestSubmit();
  }
});
fields.stop.addEventListener("click", () => state.running?.abort());
fields.toggle.addEventListener("click", () => setOptionsOpen(fields.options.hidden));
fields.key.addEventListener("change", refresh);
fields.clear.addEventListener("click", () => {
  state.messages = [];
  fields.log.replaceChildren(fields.welcome);
  fields.welcome.hidden = false;
  fields.clear.disabled = true;
  fields.prompt.focus();
});

await refresh();
setInterval(() => {
  if (!document.hidden && !state.running) {
    if (fields.model.disabled) refresh();
    else checkReady();
  }
}, READY_CHECK_MS);
