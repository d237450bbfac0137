// One answer while it comes: the stream is written into its node, and the page is told to show it.

import { streamAnswer } from "./api.js";
import { ThinkingSplitter } from "./thinking.js";

/** In less time a speed says nothing. */
const MIN_MEASURED_S = 0.2;

export class Run {
  /** `onChange` is called at each event of the stream. */
  constructor(conversation, node, onChange) {
    this.conversation = conversation;
    this.node = node;
    this.onChange = onChange;
    this.controller = new AbortController();
    this.splitter = new ThinkingSplitter();
    this.startMs = performance.now();
    this.firstMs = null;
    this.tokens = 0;
  }

  stop() {
    this.controller.abort();
  }

  /** Returns the error that ended the answer, null if none did. A stopped answer has no error. */
  async read(body) {
    const { node } = this;
    try {
      for await (const event of streamAnswer(body, this.controller.signal, { wantsReceipt: node.wantsReceipt })) {
        this.take(event);
        this.onChange();
      }
      node.state = node.state === "running" ? "done" : node.state;
      return null;
    } catch (error) {
      node.state = error.name === "AbortError" ? "stopped" : "failed";
      if (node.state === "stopped") return null;
      node.problem = error.message;
      return error;
    } finally {
      node.text = this.splitter.finalText;
      delete node.live;
      if (node.mesh && !node.mesh.tokens_per_second) this.keepMeasured();
    }
  }

  take(event) {
    const { node, splitter } = this;
    const [choice] = event.choices ?? [];
    if (event.mesh) node.mesh = { ...event.mesh, receipts: undefined };
    if (event.receipt) node.receipt = event.receipt;
    if (event.usage) node.usage = event.usage;
    if (choice?.delta.content || choice?.delta.reasoning_content) {
      this.measure();
      splitter.feed(choice.delta);
      if (!node.text && splitter.text && splitter.thinking) node.thinkingS = this.elapsedS;
      node.text = splitter.text;
      if (splitter.thinking) node.thinking = splitter.thinking;
    }
    if (choice?.finish_reason === "length") node.state = "length";
  }

  get elapsedS() {
    return (performance.now() - this.startMs) / 1000;
  }

  /** Counts events: the gateway sends one for each step of decoding. */
  measure() {
    const now = performance.now();
    this.firstMs ??= now;
    this.tokens += 1;
    const passed = (now - this.firstMs) / 1000;
    this.node.live = {
      tokens: this.tokens,
      firstTokenS: (this.firstMs - this.startMs) / 1000,
      speed: passed > MIN_MEASURED_S ? (this.tokens - 1) / passed : null,
    };
  }

  /** A stopped answer has no last event with the gateway's own measures. */
  keepMeasured() {
    const passed = (performance.now() - (this.firstMs ?? this.startMs)) / 1000;
    if (this.tokens < 2) return;
    this.node.mesh = {
      ...this.node.mesh,
      tokens_per_second: passed > MIN_MEASURED_S ? (this.tokens - 1) / passed : null,
      first_token_s: (this.firstMs - this.startMs) / 1000,
    };
    this.node.usage ??= null;
  }
}
