// A list that has elements only for the rows that can be seen.

import { onFrame } from "/static/dom.js";

const OVERSCAN = 6;

export class VirtualList {
  /** ``renderRow(item, index)`` returns an element; rows are ``rowHeight`` pixels high. */
  constructor(container, { rowHeight, renderRow, role = "rowgroup" }) {
    this.container = container;
    this.rowHeight = rowHeight;
    this.renderRow = renderRow;
    this.items = [];
    this.spacer = document.createElement("div");
    this.spacer.className = "spacer";
    this.spacer.setAttribute("role", role);
    container.append(this.spacer);
    this.paint = onFrame(() => this.paintNow());
    container.addEventListener("scroll", this.paint, { passive: true });
    new ResizeObserver(this.paint).observe(container);
  }

  setItems(items) {
    this.items = items;
    this.spacer.style.height = `${items.length * this.rowHeight}px`;
    this.paintNow();
  }

  scrollTo(index) {
    const top = index * this.rowHeight;
    const { scrollTop, clientHeight } = this.container;
    if (top < scrollTop) this.container.scrollTop = top;
    else if (top + this.rowHeight > scrollTop + clientHeight) this.container.scrollTop = top + this.rowHeight - clientHeight;
    this.paintNow();
  }

  paintNow() {
    const { scrollTop, clientHeight } = this.container;
    const height = clientHeight || 600;
    const first = Math.max(0, Math.floor(scrollTop / this.rowHeight) - OVERSCAN);
    const last = Math.min(this.items.length, Math.ceil((scrollTop + height) / this.rowHeight) + OVERSCAN);
    const focused = this.spacer.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    const rows = [];
    for (let index = first; index < last; index++) {
      const row = this.renderRow(this.items[index], index);
      row.style.transform = `translateY(${index * this.rowHeight}px)`;
      row.classList.add("virtual");
      rows.push(row);
    }
    this.spacer.replaceChildren(...rows);
    // A row that is drawn anew keeps the keyboard.
    if (focused) this.spacer.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  }
}
