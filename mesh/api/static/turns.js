// One turn of a conversation in the page: a question or an answer, with what can be done to it.

import { copyButton, element, iconButton } from "./dom.js";
import { ReceiptView } from "./receipt.js";
import { MarkdownView } from "./render.js";
import { describeAnswer, renderRoute } from "./route.js";

const MARKS = { stopped: "Stopped", length: "Cut at the token limit" };

/** What both kinds have. `actions` are the page's: edit, regenerate, showVersion, getContext. */
class TurnView {
  constructor(node, actions, role) {
    this.node = node;
    this.actions = actions;
    this.article = element("article", { className: `turn ${role}`, "aria-label": role === "user" ? "You" : "Answer" });
    this.foot = element("div", { className: "foot" });
    this.versions = element("span", { className: "versions", role: "group", "aria-label": "Versions" });
  }

  /** Shows which of its versions this is, with buttons to the others. */
  showVersions(versions) {
    this.versions.hidden = versions.length < 2;
    if (versions.length < 2) return;
    const place = versions.indexOf(this.node);
    const makeStep = (name, label, other) => {
      const button = iconButton(name, label, () => this.actions.showVersion(other));
      button.disabled = !other;
      return button;
    };
    this.versions.replaceChildren(
      makeStep("left", "Earlier version", versions[place - 1]),
      element("span", { text: `${place + 1} / ${versions.length}` }),
      makeStep("right", "Later version", versions[place + 1]),
    );
  }
}

class QuestionView extends TurnView {
  constructor(node, actions) {
    super(node, actions, "user");
    this.text = element("p", { className: "text", text: node.text });
    this.foot.append(
      this.versions,
      copyButton("Copy question", () => node.text),
      iconButton("pen", "Edit question", () => this.edit(), { className: "quiet icon-only edit" }),
    );
    this.article.append(element("h2", { className: "hidden", text: "You" }), this.text, this.foot);
  }

  update() {}

  /** Puts a field in the place of the text. Sending it asks anew; the former question stays as a version. */
  edit() {
    const field = element("textarea", { "aria-label": "Edited question", rows: 3, maxlength: 100000 });
    field.value = this.node.text;
    const form = element(
      "form", { className: "editor" }, field,
      element("div", { className: "row" },
        element("button", { type: "button", className: "quiet", text: "Cancel", on: { click: () => this.endEdit(form) } }),
        element("button", { type: "submit", className: "primary", text: "Send edited" })),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!field.value.trim() || !this.actions.edit(this.node, field.value.trim())) return;
      this.endEdit(form);
    });
    form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        this.endEdit(form);
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.target === field) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    this.text.hidden = this.foot.hidden = true;
    this.text.before(form);
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }

  endEdit(form) {
    form.remove();
    this.text.hidden = this.foot.hidden = false;
    this.foot.querySelector(".edit").focus();
  }
}

class AnswerView extends TurnView {
  constructor(node, actions) {
    super(node, actions, "assistant");
    this.text = element("div", { className: "text markdown" });
    this.markdown = new MarkdownView(this.text);
    this.thinkingText = element("div", { className: "markdown" });
    this.thinkingView = new MarkdownView(this.thinkingText);
    this.summary = element("summary");
    this.thinking = element("details", { className: "thinking" }, this.summary, this.thinkingText);
    this.mark = element("p", { className: "mark" });
    this.problem = element("p", { className: "problem", role: "alert" });
    this.way = element("div", { className: "way" });
    this.receiptBox = element("div");
    this.receipt = new ReceiptView(this.receiptBox);
    this.facts = element("span", { className: "facts" });
    this.buttons = element(
      "span", { className: "buttons" },
      copyButton("Copy answer", () => node.text),
      iconButton("again", "Regenerate answer", () => actions.regenerate(node)),
    );
    this.foot.append(this.versions, this.buttons, this.facts);
    this.waiting = element("p", { className: "waiting" }, element("i"), element("i"), element("i"));
    this.article.append(
      element("h2", { className: "who", text: node.model ?? "Swarm" }),
      this.thinking, this.text, this.waiting, this.mark, this.problem, this.way, this.receiptBox, this.foot,
    );
    this.shownWay = null;
    this.update();
  }

  update() {
    const { node } = this;
    const { state } = node;
    const isRunning = state === "running";
    this.article.dataset.state = state;
    this.article.classList.toggle("running", isRunning);
    this.article.setAttribute("aria-busy", String(isRunning));
    this.markdown.update(node.text);
    this.text.hidden = !node.text;
    this.showThinking(isRunning);
    this.waiting.hidden = !isRunning || Boolean(node.text || node.thinking);
    this.mark.textContent = MARKS[state] ?? "";
    this.mark.hidden = !MARKS[state];
    this.problem.textContent = node.problem ?? "";
    this.problem.hidden = !node.problem;
    this.buttons.hidden = isRunning;
    this.facts.textContent = describeAnswer(node, this.actions.getContext(node.model));
    this.showWay();
    this.receipt.update(node);
  }

  showThinking(isRunning) {
    const { node } = this;
    this.thinking.hidden = !node.thinking;
    if (!node.thinking) return;
    const isThinking = isRunning && !node.text;
    this.thinking.classList.toggle("now", isThinking);
    const seconds = node.thinkingS === undefined ? "" : ` for ${node.thinkingS.toFixed(1)} s`;
    this.summary.textContent = isThinking ? "Thinking…" : `Thought${seconds}`;
    // What is folded is rendered when it is opened.
    if (this.thinking.open) this.thinkingView.update(node.thinking);
    else this.thinking.ontoggle = () => this.thinkingView.update(node.thinking);
  }

  showWay() {
    const { mesh } = this.node;
    if (mesh === this.shownWay) return;
    this.shownWay = mesh;
    this.way.replaceChildren(...(mesh?.route?.length ? [renderRoute(mesh.route)] : []));
  }
}

export function createTurn(node, actions) {
  return node.role === "user" ? new QuestionView(node, actions) : new AnswerView(node, actions);
}
