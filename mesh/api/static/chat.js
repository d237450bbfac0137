// The chat page: what is shown, what is sent, and what happens when that fails.
//
// Everything from the network becomes text or is built node by node, never markup.

import { fetchKnowledge, fetchModels, fetchReadiness } from "./api.js";
import { announce, byId, onFrame } from "./dom.js";
import { Follower } from "./follow.js";
import { Run } from "./run.js";
import { BadSetting, openSettings, read, readSettings, startSettings, write } from "./settings.js";
import { decorate, Sidebar } from "./sidebar.js";
import { Store } from "./store.js";
import * as tree from "./tree.js";
import { createTurn } from "./turns.js";
import { showWelcome } from "./welcome.js";

const READY_CHECK_MS = 10_000;
const SAVE_MS = 1000;
const MAX_ANNOUNCED = 2000;
const DRAFT = "mesh.draft";
const MODEL = "mesh.model";

const fields = {
  model: byId("model"), health: byId("health"), log: byId("log"), turns: byId("turns"), welcome: byId("welcome"),
  form: byId("form"), prompt: byId("prompt"), send: byId("send"), stop: byId("stop-answer"), toEnd: byId("to-end"),
  keyForm: byId("key-form"), key: byId("key"), failure: byId("failure"), failureText: byId("failure-text"),
  retry: byId("retry"), notice: byId("notice"),
};

/** `views` are the turns of the shown conversation by node; `run` is the answer that is coming. */
const state = { conversation: null, views: new Map(), run: null, models: new Map(), knowledge: {}, retry: null };
const actions = { edit, regenerate, showVersion, getContext: (model) => state.models.get(model)?.max_context };
let store;
let sidebar;

// What the gateway can do.

async function refresh() {
  try {
    showModels(await fetchModels());
    showKeyForm(false);
  } catch (error) {
    showModels([]);
    if (error.status === 401) return askForKey();
  }
  return checkReady();
}

function showModels(models) {
  const chosen = fields.model.value || read(MODEL);
  state.models = new Map(models.map((model) => [model.id, model]));
  const options = models.map(({ id }) => new Option(id, id, false, id === chosen));
  fields.model.replaceChildren(...(options.length ? options : [new Option("No model is complete", "")]));
  fields.model.disabled = models.length === 0;
  // What was restored before says now how much of the context it took.
  state.views.forEach((view) => view.update());
  showChosenModel();
}

function showChosenModel() {
  const { value } = fields.model;
  showWelcome(Object.hasOwn(state.knowledge, value) ? state.knowledge[value] : null, ask);
  byId("context").textContent = state.models.has(value) ? `Context of ${actions.getContext(value)} tokens` : "";
  updateSend();
}

async function checkReady() {
  try {
    const { isReady, text } = await fetchReadiness();
    showHealth(isReady, text);
  } catch {
    showHealth(false, "Gateway unreachable");
  }
}

function showHealth(isGood, text) {
  // A live region tells what changes, so it is written only then.
  if (fields.health.textContent !== text) fields.health.textContent = fields.health.title = text;
  fields.health.className = `health ${isGood ? "good" : "bad"}`;
}

function askForKey() {
  showHealth(false, "API key needed");
  if (fields.keyForm.hidden) {
    showKeyForm(true);
    fields.key.focus();
  }
}

function showKeyForm(isShown) {
  fields.keyForm.hidden = !isShown;
}

// What is shown.

function show(conversation) {
  if (state.conversation !== conversation) {
    state.views.clear();
    fields.turns.replaceChildren();
    hideFailure();
  }
  state.conversation = conversation;
  showPath();
  const isKept = Object.keys(conversation.nodes).length > 0;
  history.replaceState(null, "", isKept ? `#${conversation.id}` : location.pathname);
  document.title = isKept ? `${conversation.title} · mesh chat` : "mesh chat";
  sidebar.current = conversation.id;
}

function showPath() {
  const { conversation } = state;
  const path = tree.listPath(conversation);
  fields.welcome.hidden = path.length > 0;
  const articles = path.map((node) => {
    if (!state.views.has(node.id)) state.views.set(node.id, createTurn(node, actions));
    const view = state.views.get(node.id);
    view.showVersions(tree.listVersions(conversation, node));
    return view.article;
  });
  const { children } = fields.turns;
  let same = 0;
  while (same < articles.length && children[same] === articles[same]) same += 1;
  while (children.length > same) fields.turns.lastElementChild.remove();
  fields.turns.append(...articles.slice(same));
  showToEnd();
}

function showVersion(node) {
  if (state.run?.conversation === state.conversation) return;
  tree.selectVersion(state.conversation, node);
  hideFailure();
  showPath();
  save(state.conversation);
}

const follower = new Follower(fields.log, fields.turns);
const scrollDown = () => follower.goToEnd();

const showToEnd = onFrame(() => {
  fields.toEnd.hidden = !fields.welcome.hidden || follower.isAtEnd;
});

function showFailure(message, retry) {
  state.retry = retry;
  fields.failureText.textContent = message;
  fields.failure.hidden = false;
  scrollDown();
}

function hideFailure() {
  fields.failure.hidden = true;
  fields.failureText.textContent = "";
}

function notify(text) {
  fields.notice.textContent = text;
  fields.notice.hidden = !text;
}

function updateSend() {
  const isRunning = Boolean(state.run);
  fields.send.hidden = isRunning;
  fields.stop.hidden = !isRunning;
  fields.send.disabled = fields.model.disabled || !fields.prompt.value.trim();
}

// What is sent.

/** Returns the parts of a request that the drawer holds, null if one of them is wrong. */
function checkSettings() {
  try {
    return readSettings();
  } catch (error) {
    if (!(error instanceof BadSetting)) throw error;
    showFailure(`${error.message} Nothing was sent.`, null);
    openSettings(error.field);
    return null;
  }
}

const canAsk = () => !state.run && !fields.model.disabled && checkSettings() !== null;

/** Asks at the end of the conversation that is shown. */
function ask(text) {
  if (!canAsk()) return;
  const node = tree.addNode(state.conversation, state.conversation.leaf, { role: "user", text });
  answer(state.conversation, node, { isNew: true });
}

function edit(node, text) {
  if (!canAsk()) return false;
  answer(state.conversation, tree.addNode(state.conversation, node.parent, { role: "user", text }));
  return true;
}

function regenerate(node) {
  if (canAsk()) answer(state.conversation, state.conversation.nodes[node.parent]);
}

function makeRequest(conversation, question) {
  const { system, sampling, wantsReceipt } = readSettings();
  const messages = tree.listMessages(conversation, question);
  if (system) messages.unshift({ role: "system", content: system });
  return { body: { model: fields.model.value, messages, ...sampling }, wantsReceipt };
}

async function answer(conversation, question, { isNew = false } = {}) {
  hideFailure();
  const { body, wantsReceipt } = makeRequest(conversation, question);
  const asked = { role: "assistant", state: "running", model: body.model, wantsReceipt };
  const node = tree.addNode(conversation, question.id, asked);
  const run = new Run(conversation, node, onFrame(() => showGrowth(run)));
  state.run = run;
  show(conversation);
  scrollDown();
  updateSend();
  announce("The answer is coming");
  save(conversation);
  const saving = setInterval(() => save(conversation), SAVE_MS);
  const error = await run.read(body);
  clearInterval(saving);
  state.run = null;
  end(conversation, question, node, { error, isNew });
}

/** Shows what came since the last frame. */
function showGrowth({ node }) {
  state.views.get(node.id)?.update();
  follower.keepUp();
}

function end(conversation, question, node, { error, isNew }) {
  if (node.text || node.thinking) state.views.get(node.id)?.update();
  else if (node.state === "done" || node.state === "length") node.text = "(The model ended without a word.)";
  else takeBack(conversation, question, node, { error, isNew });
  state.views.get(node.id)?.update();
  if (error?.status === 401) askForKey();
  else if (document.activeElement === document.body) fields.prompt.focus();
  if (!error) announce(node.state === "stopped" ? "Stopped" : `Answer: ${node.text.slice(0, MAX_ANNOUNCED)}`);
  tree.touch(conversation);
  save(conversation);
  if (state.conversation === conversation) showPath();
  updateSend();
  follower.keepUp();
}

/** Removes an answer of which nothing came. A question that was just typed goes back into the field. */
function takeBack(conversation, question, node, { error, isNew }) {
  tree.removeLeaf(conversation, node);
  const isShown = state.conversation === conversation;
  if (isNew && isShown && !fields.prompt.value) {
    tree.removeLeaf(conversation, question);
    setPrompt(question.text);
  }
  if (!isShown) return;
  const isBack = !conversation.nodes[question.id];
  const retry = isBack ? () => fields.form.requestSubmit() : () => canAsk() && answer(conversation, question);
  if (error) showFailure(error.message, retry);
  else if (!isBack) showFailure("Stopped before the first token.", retry);
  show(conversation);
}

// What is kept.

let saving = 0;

/** Keeps a conversation; the page is marked as long as that takes. */
async function save(conversation) {
  saving += 1;
  document.body.dataset.saving = "";
  try {
    if (!Object.keys(conversation.nodes).length) await store.remove([conversation.id]);
    else if ((await store.save(conversation)) > 0) notify("The oldest conversations were removed: this browser keeps 200.");
  } catch {
    notify("This conversation could not be kept: the browser refuses more storage.");
  }
  saving -= 1;
  if (!saving) delete document.body.dataset.saving;
  await sidebar.refresh();
}

/** Returns a conversation: the object that is shown or answered, or else what is kept. */
async function find(id) {
  const known = [state.conversation, state.run?.conversation].find((one) => one?.id === id);
  return known ?? store.load(id);
}

async function openConversation(id) {
  const conversation = await find(id);
  const isRunning = state.run?.conversation.id === id;
  if (!conversation) return false;
  const cut = isRunning ? [] : Object.values(conversation.nodes).filter((node) => node.state === "running");
  cut.forEach((node) => endInterrupted(conversation, node));
  show(conversation);
  const last = conversation.nodes[conversation.leaf];
  if (cut.length && last.role === "user") {
    showFailure("The page was closed before the first token.", () => canAsk() && answer(conversation, last));
  }
  await sidebar.refresh();
  scrollDown();
  return true;
}

/** The page was closed while the answer came. */
function endInterrupted(conversation, node) {
  node.state = "stopped";
  delete node.live;
  if (!node.text && !node.thinking) tree.removeLeaf(conversation, node);
}

function startNew() {
  show(tree.createConversation());
  sidebar.refresh();
  fields.prompt.focus();
}

async function renameConversation(id, title) {
  const conversation = await find(id);
  if (!conversation) return;
  tree.rename(conversation, title);
  await save(conversation);
  if (state.conversation.id === id) show(conversation);
}

async function removeConversations(ids) {
  if (state.run && ids.includes(state.run.conversation.id)) {
    notify("Stop the answer before you delete its conversation.");
  } else {
    await store.remove(ids);
    if (ids.includes(state.conversation.id)) startNew();
  }
  await sidebar.refresh();
}

async function removeAll() {
  byId("confirm-delete").showModal();
}

function setPrompt(text) {
  fields.prompt.value = text;
  keepDraft();
}

function keepDraft() {
  write(DRAFT, fields.prompt.value);
  fitPrompt();
  updateSend();
}

/** Browsers without field-sizing grow the field so. */
function fitPrompt() {
  if (CSS.supports("field-sizing", "content")) return;
  fields.prompt.style.height = "auto";
  fields.prompt.style.height = `${fields.prompt.scrollHeight}px`;
}

// What is pressed.

fields.form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = fields.prompt.value.trim();
  if (!text || !canAsk()) return;
  setPrompt("");
  ask(text);
});
fields.prompt.addEventListener("input", keepDraft);
fields.prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    fields.form.requestSubmit();
  } else if (event.key === "ArrowUp" && !fields.prompt.value && !state.run) {
    const last = tree.listPath(state.conversation).findLast(({ role }) => role === "user");
    if (!last) return;
    event.preventDefault();
    state.views.get(last.id).edit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && state.run && !document.querySelector("dialog[open]")) state.run.stop();
  const isTyping = event.target.matches?.("input, textarea, select");
  if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    fields.prompt.focus();
  }
});
fields.stop.addEventListener("click", () => state.run?.stop());
fields.retry.addEventListener("click", () => {
  const { retry } = state;
  hideFailure();
  if (retry) retry();
  else fields.form.requestSubmit();
});
fields.keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  refresh();
});
fields.key.addEventListener("change", refresh);
fields.model.addEventListener("change", () => {
  write(MODEL, fields.model.value);
  showChosenModel();
});
fields.log.addEventListener("scroll", showToEnd, { passive: true });
fields.toEnd.addEventListener("click", scrollDown);
byId("change-key").addEventListener("click", () => {
  byId("settings").close();
  showKeyForm(true);
  fields.key.focus();
});
byId("confirm-delete").addEventListener("close", async (event) => {
  if (event.target.returnValue !== "delete") return;
  event.target.returnValue = "";
  await removeConversations((await store.listHeads()).map(({ id }) => id));
});
byId("confirm-form").addEventListener("submit", (event) => {
  event.preventDefault();
  byId("confirm-delete").close(event.submitter.value);
});

decorate();
startSettings(updateSend);
store = await Store.open(() => sidebar?.refresh());
sidebar = new Sidebar(store, {
  open: openConversation, rename: renameConversation, remove: (id) => removeConversations([id]), removeAll, startNew,
});
if (!store.isLasting) notify("This browser keeps no conversations: they are gone when the page is closed.");
fields.prompt.value = read(DRAFT) ?? "";
fitPrompt();
if (!(await openConversation(location.hash.slice(1)))) show(tree.createConversation());
await sidebar.refresh();
state.knowledge = await fetchKnowledge().catch(() => ({}));
await refresh();
document.body.dataset.ready = "";
setInterval(() => {
  if (!document.hidden && !state.run) {
    if (fields.model.disabled) refresh();
    else checkReady();
  }
}, READY_CHECK_MS);
