// The list of conversations: open, rename, delete, search.

import { announce, byId, element, icon, iconButton } from "./dom.js";
import { read, write } from "./settings.js";

const KEPT = "mesh.sidebar";
const SEARCH_DELAY_MS = 150;
const DAY_MS = 86_400_000;
const narrow = matchMedia("(max-width: 52rem)");

export class Sidebar {
  /** `actions` are the page's: open, rename, remove, removeAll, startNew. */
  constructor(store, actions) {
    this.store = store;
    this.actions = actions;
    this.current = null;
    this.list = byId("conversations");
    byId("new-chat").addEventListener("click", () => {
      this.closeNarrow();
      actions.startNew();
    });
    byId("sidebar-open").addEventListener("click", () => this.setOpen(document.body.dataset.sidebar !== "open"));
    byId("sidebar-close").addEventListener("click", () => this.setOpen(false));
    byId("shade").addEventListener("click", () => this.setOpen(false));
    byId("sidebar").addEventListener("keydown", (event) => {
      if (event.key === "Escape" && narrow.matches) this.setOpen(false);
    });
    byId("delete-all").addEventListener("click", () => actions.removeAll());
    byId("search").addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.refresh(), SEARCH_DELAY_MS);
    });
    narrow.addEventListener("change", () => this.restore());
    this.restore();
  }

  restore() {
    this.setOpen(!narrow.matches && read(KEPT) !== "closed", { isChosen: false });
  }

  setOpen(isOpen, { isChosen = true } = {}) {
    document.body.dataset.sidebar = isOpen ? "open" : "closed";
    byId("sidebar-open").setAttribute("aria-expanded", String(isOpen));
    byId("pane").inert = isOpen && narrow.matches;
    if (!isChosen) return;
    if (!narrow.matches) write(KEPT, isOpen ? "open" : "closed");
    byId(isOpen ? "new-chat" : "sidebar-open").focus();
  }

  closeNarrow() {
    if (narrow.matches) this.setOpen(false, { isChosen: false });
  }

  async refresh() {
    const words = byId("search").value.trim();
    const found = words ? await this.store.search(words) : null;
    const heads = (await this.store.listHeads()).filter(({ id }) => !found || found.has(id));
    // A rename or a question in progress is not torn away.
    if (this.list.querySelector("[data-pending]")) return;
    const focused = this.list.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    this.list.replaceChildren(...this.makeGroups(heads));
    if (focused) this.list.querySelector(`[data-focus="${focused}"]`)?.focus();
    byId("nothing").hidden = heads.length > 0;
    byId("nothing").textContent = words ? "Nothing found" : "No conversations yet";
    byId("delete-all").hidden = heads.length === 0 || Boolean(words);
  }

  makeGroups(heads) {
    const groups = new Map();
    for (const head of heads) {
      const age = nameAge(head.changed);
      groups.set(age, [...(groups.get(age) ?? []), head]);
    }
    return [...groups].map(([name, members]) =>
      element("li", {}, element("h3", { text: name }), element("ul", {}, ...members.map((head) => this.makeRow(head)))));
  }

  makeRow(head) {
    const { id, title } = head;
    const open = element("button", { type: "button", className: "title", text: title, title, "data-focus": `open-${id}` });
    if (id === this.current) open.setAttribute("aria-current", "true");
    open.addEventListener("click", () => {
      this.closeNarrow();
      this.actions.open(id);
    });
    const className = "quiet icon-only";
    const row = element(
      "li", { className: "conversation" }, open,
      iconButton("pen", `Rename ${title}`, () => this.rename(row, head), { className, "data-focus": `rename-${id}` }),
      iconButton("trash", `Delete ${title}`, () => this.confirmRemoval(row, head), { className, "data-focus": `delete-${id}` }),
    );
    return row;
  }

  rename(row, head) {
    const field = element("input", { type: "text", "aria-label": "New title", maxlength: 80 });
    field.value = head.title;
    const form = element("form", { className: "rename" }, field);
    let isOver = false;
    const end = (isKept) => {
      // A form that goes loses the focus, which ends it once more.
      if (isOver) return;
      isOver = true;
      delete row.dataset.pending;
      form.remove();
      if (isKept && field.value.trim()) this.actions.rename(head.id, field.value.trim());
      else this.refresh();
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      end(true);
    });
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      end(false);
    });
    field.addEventListener("blur", () => end(true));
    row.dataset.pending = "";
    row.replaceChildren(form);
    field.select();
  }

  /** Asks once more, in the row: a deleted conversation does not come back. */
  confirmRemoval(row, head) {
    const yes = element("button", { type: "button", className: "danger", text: "Delete" });
    const no = element("button", { type: "button", className: "quiet", text: "Keep" });
    yes.addEventListener("click", () => {
      delete row.dataset.pending;
      announce(`Deleted ${head.title}`);
      this.actions.remove(head.id);
    });
    no.addEventListener("click", () => {
      delete row.dataset.pending;
      this.refresh();
    });
    row.dataset.pending = "";
    row.replaceChildren(element("span", { className: "title", text: "Delete it?" }), yes, no);
    yes.focus();
  }
}

export function decorate() {
  byId("new-chat").prepend(icon("plus"));
  byId("sidebar-open").append(icon("panel"));
  byId("sidebar-close").append(icon("close"));
  byId("settings-toggle").prepend(icon("sliders"));
  byId("settings-close").append(icon("close"));
  byId("send").prepend(icon("arrow"));
  byId("stop-answer").prepend(icon("stop"));
  byId("to-end").append(icon("down"));
}

function nameAge(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (time >= midnight) return "Today";
  if (time >= midnight - DAY_MS) return "Yesterday";
  return time >= midnight - 7 * DAY_MS ? "Last 7 days" : "Older";
}
