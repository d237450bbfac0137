// A conversation is a tree: an edited question and a regenerated answer stand beside the former one.
//
// { id, title, isNamed, created, changed, nodes, leaf }: `nodes` by id, in the order they were made. What is
// shown is the path from the root to `leaf`. A node is { id, parent, role, text, state, ... }; states of
// an answer are running, done, length, stopped and failed.

import { makeId } from "./dom.js";

const MAX_TITLE = 80;

export function createConversation() {
  const now = Date.now();
  return { id: makeId(), title: "New chat", isNamed: false, created: now, changed: now, nodes: {}, leaf: null };
}

/** Adds a node below `parent` (null: at the root) and makes it the leaf. */
export function addNode(conversation, parent, fields) {
  const node = { id: makeId(), parent, text: "", state: "done", ...fields };
  conversation.nodes[node.id] = node;
  conversation.leaf = node.id;
  touch(conversation);
  if (!conversation.isNamed && parent === null) conversation.title = makeTitle(node.text);
  return node;
}

export function touch(conversation) {
  conversation.changed = Date.now();
}

export function rename(conversation, title) {
  conversation.title = makeTitle(title);
  conversation.isNamed = true;
}

function makeTitle(text) {
  const line = text.trim().replace(/\s+/g, " ");
  return line.length > MAX_TITLE ? `${line.slice(0, MAX_TITLE - 1)}…` : line || "New chat";
}

/** Returns the nodes that are shown, the first one first. */
export function listPath(conversation) {
  const path = [];
  for (let node = conversation.nodes[conversation.leaf]; node; node = conversation.nodes[node.parent]) path.push(node);
  return path.reverse();
}

/** Returns the nodes with the same parent, the node itself among them. */
export function listVersions(conversation, node) {
  return Object.values(conversation.nodes).filter(({ parent }) => parent === node.parent);
}

/** Shows another version of a node, and what followed it last. */
export function selectVersion(conversation, node) {
  conversation.leaf = node.id;
  for (;;) {
    const last = Object.values(conversation.nodes).findLast(({ parent }) => parent === conversation.leaf);
    if (!last) return;
    conversation.leaf = last.id;
  }
}

/** Removes a node without children; its last other version, or else its parent, is shown. */
export function removeLeaf(conversation, node) {
  delete conversation.nodes[node.id];
  const other = listVersions(conversation, node).at(-1);
  if (other) selectVersion(conversation, other);
  else conversation.leaf = node.parent;
}

/** Returns the messages of a request: the path to `node`, without answers that have no text. */
export function listMessages(conversation, node) {
  return listPath({ nodes: conversation.nodes, leaf: node.id })
    .filter(({ role, text }) => role === "user" || text)
    .map(({ role, text }) => ({ role, content: text }));
}
