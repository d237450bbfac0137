// Splits what a model thinks from what it answers: `<think>…</think>` at the beginning of its text. A gateway
// that splits them itself sends `reasoning_content`.

const OPEN = "<think>";
const CLOSE = "</think>";

export class ThinkingSplitter {
  constructor() {
    this.raw = "";
    this.told = "";
    this.end = -1;
  }

  /** Takes a delta of a stream. */
  feed({ content, reasoning_content: told }) {
    if (told) this.told += told;
    if (!content) return;
    // What is searched already is not searched again.
    const from = Math.max(0, this.raw.length - CLOSE.length);
    this.raw += content;
    if (this.end < 0 && this.isTagged) this.end = this.raw.indexOf(CLOSE, from);
  }

  get isTagged() {
    return this.raw.trimStart().startsWith(OPEN);
  }

  get thinking() {
    if (!this.isTagged) return this.told;
    const start = this.raw.indexOf(OPEN) + OPEN.length;
    return (this.told + this.raw.slice(start, this.end < 0 ? undefined : this.end)).trim();
  }

  get text() {
    if (this.isTagged) return this.end < 0 ? "" : this.raw.slice(this.end + CLOSE.length).trimStart();
    // The beginning of a tag is not shown as text.
    return this.raw && OPEN.startsWith(this.raw.trimStart()) ? "" : this.raw;
  }

  /** Returns what is left when the stream is over: a cut tag is text after all. */
  get finalText() {
    return this.isTagged ? this.text : this.raw;
  }
}
