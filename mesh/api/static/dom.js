// Elements, icons and words. Everything that comes from the network becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** Makes an element: class, text, listeners, attributes (data and aria too), children. */
export function element(tag, { className, text, on, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  for (const [name, handler] of Object.entries(on ?? {})) made.addEventListener(name, handler);
  made.append(...children);
  return made;
}

/** Strokes in a square of 24. */
const ICONS = {
  again: "M20 11a8 8 0 1 0-2.3 6.2M20 4v7h-7",
  arrow: "M12 19V5M5 12l7-7 7 7",
  auto: "M12 3a9 9 0 1 0 0 18zM12 3a9 9 0 0 1 0 18",
  check: "M5 13l4.5 4.5L19 7",
  chat: "M4 5h16v11H10l-4 4v-4H4z",
  close: "M6 6l12 12M18 6L6 18",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  dark: "M20 14A8 8 0 0 1 10 4a8 8 0 1 0 10 10z",
  down: "M12 5v14M5 12l7 7 7-7",
  left: "M14 6l-6 6 6 6",
  light:
    "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2M12 20v2M2 12h2M20 12h2" +
    "M5 5l1.4 1.4M17.6 17.6L19 19M5 19l1.4-1.4M17.6 6.4L19 5",
  panel: "M4 5h16v14H4zM10 5v14",
  pen: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
  plus: "M12 5v14M5 12h14",
  right: "M10 6l6 6-6 6",
  sliders: "M4 7h9M17 7h3M4 17h3M11 17h9M15 5v4M9 15v4",
  stop: "M8 8h8v8H8z",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
};

export function icon(name) {
  const made = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  for (const [key, value] of Object.entries({ class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" })) {
    made.setAttribute(key, value);
  }
  path.setAttribute("d", ICONS[name]);
  made.append(path);
  return made;
}

/** A button that shows an icon and says its name to a screen reader and in a tip. */
export function iconButton(name, label, onClick, { className = "quiet icon-only", ...attributes } = {}) {
  const made = element("button", { type: "button", className, title: label, "aria-label": label, ...attributes });
  made.append(icon(name));
  made.addEventListener("click", onClick);
  return made;
}

/** Says it to a screen reader. */
export function announce(text) {
  byId("announcer").textContent = text;
}

export function shortPeer(peer) {
  return peer.length > 12 ? `${peer.slice(0, 4)}…${peer.slice(-4)}` : peer;
}

/** Copies text. Browsers have no clipboard on a page over plain http, but for this machine. */
export async function copyText(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const field = element("textarea", { className: "hidden", "aria-hidden": "true" });
  field.value = text;
  document.body.append(field);
  const focused = document.activeElement;
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  focused?.focus();
  if (!isCopied) throw new Error("This browser lets no page copy here.");
}

/** Makes a button that copies what `read` returns, and shows for a moment that it did. */
export function copyButton(label, read, options) {
  const made = iconButton("copy", label, async () => {
    try {
      await copyText(read());
      made.replaceChildren(icon("check"));
      announce("Copied");
    } catch {
      announce("Could not copy");
      made.replaceChildren(icon("close"));
    }
    setTimeout(() => made.replaceChildren(icon("copy")), 1500);
  }, options);
  return made;
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

export const makeId = () =>
  [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
