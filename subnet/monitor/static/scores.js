// Scores of the last epochs: a heat map on a canvas with a table of the same numbers beside it,
// lines of a few nodes, the attestations of each epoch, and the validators' accuracy.

import { announce, byId, describeReason, element, formatPercent, formatScore, onFrame, showTip, svg } from "/static/dom.js";
import { VirtualList } from "/static/virtual.js";

const LABEL_WIDTH = 64;
const TOP = 18;
const MAX_LINES = 6;
// From little to much; distinct in lightness, so that every kind of sight tells them apart.
const SCALES = {
  light: ["#e9f0ec", "#c5dfd6", "#8fc4bd", "#559fa5", "#2b7489", "#194a6b", "#122a4d"],
  dark: ["#1c2a35", "#26405a", "#3d5b78", "#62768a", "#948f86", "#c8ad6d", "#ffdf6b"],
};
const LINES = {
  light: ["#0072b2", "#d55e00", "#00805d", "#b0578a", "#8f7a00", "#3f8fc0"],
  dark: ["#6fb1f0", "#ff8a5c", "#4fd1c0", "#e6a3cf", "#e0c25a", "#b3b9ff"],
};

const parse = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
function mix(scale, share) {
  const place = Math.max(0, Math.min(1, share)) * (scale.length - 1), low = Math.min(scale.length - 2, Math.floor(place));
  const [from, to] = [parse(scale[low]), parse(scale[low + 1])];
  return `rgb(${from.map((part, index) => Math.round(part + (to[index] - part) * (place - low))).join(" ")})`;
}

export class Scores {
  constructor(store, { openReceipt, pickEpoch, getTheme }) {
    Object.assign(this, { store, openReceipt, pickEpoch, getTheme });
    this.selected = [];
    this.cursor = null;
    this.makeHeat();
    this.makeTable();
    this.accuracyList = new VirtualList(byId("accuracy"), { rowHeight: 30, renderRow: (row) => this.renderAccuracy(row), role: "list" });
    byId("scores-as-table").addEventListener("click", () => this.toggleTable());
    new ResizeObserver(onFrame(() => this.render())).observe(byId("heat"));
  }

  makeHeat() {
    const heat = byId("heat");
    this.canvas = element("canvas", { tabindex: "0", role: "application", "aria-roledescription": "heat map", "aria-label": "Scores by node and epoch. Arrow keys move, Enter opens a receipt, and the button above shows a table." });
    this.spacer = element("div", { className: "spacer" });
    heat.append(this.canvas, this.spacer);
    const paint = onFrame(() => this.paint());
    heat.addEventListener("scroll", paint, { passive: true });
    this.canvas.addEventListener("pointermove", (event) => this.hover(event));
    this.canvas.addEventListener("pointerleave", () => showTip());
    this.canvas.addEventListener("click", (event) => this.click(event));
    this.canvas.addEventListener("keydown", (event) => this.press(event));
    this.canvas.addEventListener("blur", () => this.paint());
    this.canvas.addEventListener("focus", () => {
      this.cursor ??= { row: 0, column: Math.max(0, (this.history?.epochs.length ?? 1) - 1) };
      this.paint();
    });
  }

  makeTable() {
    this.table = element("div", { className: "scoretable", role: "table", "aria-label": "Scores by node and epoch", tabindex: "0", hidden: "" });
    byId("heat").after(this.table);
    this.tableHead = element("div", { className: "row head", role: "row" });
    this.table.append(this.tableHead);
    this.tableList = new VirtualList(this.table, { rowHeight: 28, renderRow: (item) => this.renderTableRow(item) });
  }

  toggleTable() {
    const isTable = this.table.hidden;
    this.table.hidden = !isTable;
    byId("heat").hidden = isTable;
    byId("heat-scale").hidden = isTable;
    const button = byId("scores-as-table");
    button.setAttribute("aria-pressed", String(isTable));
    button.textContent = isTable ? "Show as heat map" : "Show as table";
    this.render();
  }

  /** What is drawn: the scored epochs. */
  get history() {
    return this.store.scored;
  }

  render() {
    const history = this.history;
    if (!history) return;
    const isEmpty = !history.epochs.length || !history.nodes.length;
    byId("scores-note").textContent = isEmpty ? "no epoch has been scored yet" : `${history.nodes.length} nodes, epochs ${history.epochs[0].epoch}–${history.epochs.at(-1).epoch}`;
    this.top = Math.max(1, ...history.scores.map((row) => Math.max(0, ...row.map((score) => score ?? 0))));
    this.renderAgreement();
    this.renderAccuracies();
    if (isEmpty) return;
    const heat = byId("heat");
    this.rowHeight = history.nodes.length > 200 ? 14 : 20;
    const width = heat.clientWidth || 600;
    this.cell = Math.max(7, Math.min(44, (width - LABEL_WIDTH - 6) / history.epochs.length));
    this.spacer.style.height = `${history.nodes.length * this.rowHeight + TOP}px`;
    this.spacer.style.width = `${LABEL_WIDTH + this.cell * history.epochs.length}px`;
    heat.style.height = `${Math.min(history.nodes.length * this.rowHeight + TOP + 4, 380)}px`;
    this.paint();
    this.renderScale();
    this.renderLines();
    if (!this.table.hidden) this.renderTable();
  }

  // The heat map.

  paint() {
    const { history, canvas, rowHeight, cell } = this;
    const heat = byId("heat");
    if (!history?.epochs.length || heat.hidden || !heat.clientWidth) return;
    const ratio = devicePixelRatio || 1, width = heat.clientWidth, height = heat.clientHeight;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const style = getComputedStyle(heat), ink = style.color, line = style.borderTopColor, bad = style.getPropertyValue("outline-color") || "#d55e00";
    const scale = SCALES[this.getTheme()];
    const first = Math.max(0, Math.floor(heat.scrollTop / rowHeight));
    const last = Math.min(history.nodes.length, first + Math.ceil(height / rowHeight) + 1);
    pen.font = "12px system-ui, sans-serif";
    pen.textBaseline = "middle";
    for (let row = first; row < last; row++) {
      const y = TOP + row * rowHeight - heat.scrollTop;
      history.scores[row].forEach((score, column) => {
        const x = LABEL_WIDTH + column * cell - heat.scrollLeft;
        if (x + cell < LABEL_WIDTH || x > width) return;
        const problem = history.problems[row][column];
        if (score === null) {
          pen.strokeStyle = line;
          pen.strokeRect(x + 1.5, y + 1.5, cell - 3, rowHeight - 3);
        } else {
          pen.fillStyle = mix(scale, score / this.top);
          pen.fillRect(x + 1, y + 1, cell - 2, rowHeight - 2);
        }
        if (problem) this.paintProblem(pen, x, y, bad);
      });
    }
    this.paintLabels(pen, { first, last, width, ink });
    this.paintCursor(pen, ink);
  }

  paintProblem(pen, x, y, colour) {
    const { cell, rowHeight } = this, size = Math.min(cell, rowHeight) / 2 - 3.5, [cx, cy] = [x + cell / 2, y + rowHeight / 2];
    pen.strokeStyle = colour;
    pen.lineWidth = 2;
    pen.beginPath();
    pen.moveTo(cx - size, cy - size);
    pen.lineTo(cx + size, cy + size);
    pen.moveTo(cx + size, cy - size);
    pen.lineTo(cx - size, cy + size);
    pen.stroke();
    pen.lineWidth = 1;
  }

  paintLabels(pen, { first, last, width, ink }) {
    const { history, rowHeight, cell } = this, heat = byId("heat");
    pen.clearRect(0, 0, width, TOP);
    pen.clearRect(0, 0, LABEL_WIDTH - 2, heat.clientHeight);
    pen.fillStyle = ink;
    pen.textAlign = "left";
    const size = rowHeight > 14 ? 12 : 10;
    pen.font = `${size}px system-ui, sans-serif`;
    for (let row = first; row < last; row++) {
      const y = TOP + (row + 0.5) * rowHeight - heat.scrollTop;
      if (y > TOP) pen.fillText(`node ${history.nodes[row]}`, 2, y);
    }
    pen.font = "11px system-ui, sans-serif";
    pen.textAlign = "center";
    const every = Math.ceil(34 / cell);
    history.epochs.forEach(({ epoch }, column) => {
      if ((history.epochs.length - 1 - column) % every) return;
      const x = LABEL_WIDTH + (column + 0.5) * cell - heat.scrollLeft;
      if (x > LABEL_WIDTH) pen.fillText(String(epoch), x, 8);
    });
  }

  paintCursor(pen, ink) {
    if (this.cursor === null || document.activeElement !== this.canvas) return;
    const { row, column } = this.cursor, heat = byId("heat");
    pen.strokeStyle = ink;
    pen.lineWidth = 2;
    pen.strokeRect(LABEL_WIDTH + column * this.cell - heat.scrollLeft, TOP + row * this.rowHeight - heat.scrollTop, this.cell, this.rowHeight);
    pen.lineWidth = 1;
  }

  find(event) {
    const heat = byId("heat"), box = this.canvas.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    const row = Math.floor((y - TOP + heat.scrollTop) / this.rowHeight);
    const column = Math.floor((x - LABEL_WIDTH + heat.scrollLeft) / this.cell);
    if (!this.history || row < 0 || y < TOP || row >= this.history.nodes.length || column >= this.history.epochs.length) return null;
    return { row, column: x < LABEL_WIDTH ? -1 : column };
  }

  describe({ row, column }) {
    const { history } = this, node = history.nodes[row], problem = history.problems[row][column];
    const score = history.scores[row][column];
    return `node ${node}, epoch ${history.epochs[column].epoch}: ${score === null ? "no row" : `score ${formatScore(score)}`}${problem ? `, ${describeReason(problem)}` : ""}`;
  }

  hover(event) {
    const found = this.find(event);
    this.canvas.style.cursor = found ? "pointer" : "default";
    showTip(found === null ? "" : found.column < 0 ? `show node ${this.history.nodes[found.row]} as a line` : this.describe(found), event.clientX, event.clientY);
  }

  click(event) {
    const found = this.find(event);
    if (found === null) return;
    if (found.column < 0) this.select(this.history.nodes[found.row]);
    else {
      this.cursor = found;
      this.openReceipt(this.history.epochs[found.column].epoch, this.history.nodes[found.row]);
    }
    this.paint();
  }

  press(event) {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [-10, 0], PageDown: [10, 0] };
    if (!this.history?.nodes.length || this.cursor === null) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.openReceipt(this.history.epochs[this.cursor.column].epoch, this.history.nodes[this.cursor.row]);
      return;
    }
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const { row, column } = this.cursor, heat = byId("heat");
    this.cursor = {
      row: Math.max(0, Math.min(this.history.nodes.length - 1, row + step[0])),
      column: Math.max(0, Math.min(this.history.epochs.length - 1, column + step[1])),
    };
    const y = this.cursor.row * this.rowHeight;
    if (y < heat.scrollTop) heat.scrollTop = y;
    if (y + TOP + this.rowHeight > heat.scrollTop + heat.clientHeight) heat.scrollTop = y + TOP + this.rowHeight - heat.clientHeight;
    announce(this.describe(this.cursor));
    this.paint();
  }

  renderScale() {
    const scale = SCALES[this.getTheme()];
    byId("heat-scale").replaceChildren(
      element("span", { text: "0" }),
      ...Array.from({ length: 24 }, (_, step) => element("i", { style: { background: mix(scale, step / 23) } })),
      element("span", { text: formatScore(this.top) }),
      element("span", { className: "gap" }), element("i", { className: "box" }), element("span", { text: "no row" }),
      element("b", { text: "×" }), element("span", { text: "does not count, with a reason" }),
    );
  }

  // The same numbers as a table.

  renderTable() {
    const { history } = this;
    const columns = `6.5rem repeat(${history.epochs.length}, 4.6rem)`;
    this.table.style.setProperty("--columns", columns);
    this.table.setAttribute("aria-rowcount", String(history.nodes.length + 1));
    this.tableHead.replaceChildren(element("span", { role: "columnheader", text: "node" }),
      ...history.epochs.map(({ epoch }) => element("span", { role: "columnheader", text: `epoch ${epoch}` })));
    this.tableList.setItems(history.nodes);
  }

  renderTableRow(node) {
    const { history } = this, row = history.nodes.indexOf(node);
    return element("div", { className: "row", role: "row", "aria-rowindex": row + 2 },
      element("span", { role: "rowheader", text: `node ${node}` }),
      ...history.epochs.map(({ epoch }, column) => element("span", { role: "cell" },
        element("button", {
          type: "button", className: history.problems[row][column] ? "bad" : "", text: formatScore(history.scores[row][column]),
          "data-focus": `score-${node}-${epoch}`, "aria-label": this.describe({ row, column }),
          on: { click: () => this.openReceipt(epoch, node) },
        }))));
  }

  // Lines.

  select(node) {
    this.selected = this.selected.includes(node) ? this.selected.filter((other) => other !== node) : [...this.selected, node].slice(-MAX_LINES);
    announce(`node ${node} is ${this.selected.includes(node) ? "shown" : "no longer shown"} as a line`);
    this.renderLines();
  }

  renderLines() {
    const { history } = this;
    const latest = history.nodes.map((node, row) => [node, history.scores[row].findLast((score) => score !== null) ?? -1]);
    const shown = (this.selected.length ? this.selected : latest.toSorted((a, b) => b[1] - a[1]).slice(0, MAX_LINES).map(([node]) => node)).filter((node) => history.nodes.includes(node));
    byId("lines-note").textContent = this.selected.length ? "the nodes that you chose" : history.nodes.length > MAX_LINES ? `the ${MAX_LINES} best of the last epoch; click a node's name to choose` : "click a node's name to choose";
    const width = Math.max(260, byId("lines").clientWidth || 420), height = 260, right = 66, bottom = 22, left = 44, top = 10;
    const count = history.epochs.length;
    const toX = (column) => left + (count < 2 ? 0.5 : column / (count - 1)) * (width - left - right);
    const toY = (score) => top + (1 - score / this.top) * (height - top - bottom);
    const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Scores over the last ${count} epochs of ${shown.map((node) => `node ${node}`).join(", ")}` });
    for (const share of [0, 0.5, 1]) {
      const y = toY(this.top * share);
      chart.append(svg("line", { x1: left, x2: width - right, y1: y, y2: y, class: "grid" }), this.makeText(formatScore(Math.round(this.top * share)), left - 6, y + 4, "end"));
    }
    for (const column of new Set([0, count - 1])) chart.append(this.makeText(`epoch ${history.epochs[column].epoch}`, toX(column), height - 5, count < 2 ? "middle" : column ? "end" : "start"));
    this.drawLines(chart, shown, { toX, toY, width, right, height });
    byId("lines").replaceChildren(chart);
  }

  drawLines(chart, shown, { toX, toY, width, right, height }) {
    const { history } = this, labels = [];
    shown.forEach((node, index) => {
      const row = history.nodes.indexOf(node), colour = LINES[this.getTheme()][index % MAX_LINES];
      let path = "", isOpen = false, last = null;
      history.scores[row].forEach((score, column) => {
        if (score === null) isOpen = false;
        else {
          path += `${isOpen ? "L" : "M"}${toX(column).toFixed(1)} ${toY(score).toFixed(1)}`;
          isOpen = true;
          last = [toX(column), toY(score)];
        }
      });
      if (last === null) return;
      chart.append(svg("path", { d: path, class: "line", stroke: colour, "stroke-dasharray": ["", "7 4", "2 3", "9 3 2 3", "4 4", "12 4"][index % 6] }), svg("circle", { cx: last[0], cy: last[1], r: 3.5, fill: colour }));
      labels.push({ node, colour, y: last[1] });
    });
    let lowest = -Infinity;
    labels.sort((a, b) => a.y - b.y);
    const room = Math.max(0, labels.length * 15);
    for (const [index, label] of labels.entries()) {
      const y = Math.min(Math.max(label.y + 4, lowest + 15), height - 26 - (room - (index + 1) * 15));
      lowest = y;
      const text = this.makeText(`node ${label.node}`, width - right + 10, y, "start");
      text.setAttribute("class", "name");
      text.setAttribute("fill", label.colour);
      chart.append(text);
    }
  }

  makeText(content, x, y, anchor) {
    const text = svg("text", { x, y, "text-anchor": anchor });
    text.textContent = content;
    return text;
  }

  // Attestations and accuracy.

  renderAgreement() {
    const epochs = this.store.history.epochs, needed = epochs.findLast(({ needed }) => needed !== null)?.needed ?? null;
    const box = byId("agreement");
    box.replaceChildren(...epochs.map((row) => this.renderColumn(row)));
    if (needed !== null) {
      const line = element("i", { className: "needed", title: `${formatPercent(needed)} are needed` });
      line.style.bottom = `${needed / 1e4}%`;
      box.append(line);
    }
    box.scrollLeft = box.scrollWidth;
    const settled = epochs.filter(({ is_agreed }) => is_agreed !== null);
    const agreed = settled.filter(({ is_agreed }) => is_agreed).length;
    byId("agreement-note").textContent = settled.length ? `${agreed} of ${settled.length} proposals agreed` : "";
  }

  renderColumn({ epoch, ratio, attested, voters, is_agreed: isAgreed, proposer }) {
    const words = ratio === null ? `epoch ${epoch}: nothing was proposed` : `epoch ${epoch}: node ${proposer} proposed, ${attested} of ${voters} attested${isAgreed === null ? "" : isAgreed ? ", agreed" : ", not agreed"}`;
    const column = element("button", {
      type: "button", className: `column ${ratio === null ? "none" : isAgreed === false ? "refused" : isAgreed === null ? "open" : "agreed"}`, "aria-label": words,
      on: { click: () => this.pickEpoch(epoch), pointerenter: (event) => showTip(words, event.clientX, event.clientY), pointerleave: () => showTip() },
    }, element("i"));
    column.firstChild.style.height = `${ratio === null ? 2 : Math.max(2, ratio / 1e4)}%`;
    return column;
  }

  renderAccuracies() {
    const { history } = this.store, rows = [];
    history.nodes.forEach((node, row) => {
      const known = history.accuracies[row].filter((accuracy) => accuracy !== null);
      if (known.length) rows.push({ node, last: known.at(-1), mean: known.reduce((sum, accuracy) => sum + accuracy, 0) / known.length, count: known.length });
    });
    rows.sort((a, b) => a.last - b.last || a.node - b.node);
    byId("accuracy").style.height = `${Math.min(Math.max(1, rows.length) * 30, 240)}px`;
    byId("accuracy-note").textContent = rows.length ? "share of its scores that are right; the last epoch, and the mean" : "no validator's scores are judged yet";
    this.accuracyList.setItems(rows);
  }

  renderAccuracy({ node, last, mean, count }) {
    const bar = element("span", { className: "meter" }, element("i"), element("em"));
    bar.firstChild.style.width = `${last / 1e4}%`;
    bar.lastChild.style.left = `${mean / 1e4}%`;
    return element("div", { className: "row", role: "listitem", "aria-label": `node ${node}: ${formatPercent(last)} in the last epoch, ${formatPercent(Math.round(mean))} over ${count}` },
      element("b", { text: `node ${node}` }), bar, element("span", { className: "number", text: formatPercent(last) }));
  }
}
