// Emphasis, code spans and links of one piece of text, as plain data. HTML stays text.
//
// parseInline returns a list of strings and of { kind, children | text | href }. Kinds: code, strong,
// em, del, link, break. The time is linear in the text: each attempt looks ahead a bounded distance.

const MAX_DEPTH = 12;
const MAX_BACKTICKS = 8;
const SPECIAL = /[\\`*_~[!<\nh]/g;
const LINK = /\[((?:[^[\]\\\n]|\\.){0,1000})\]\([ ]{0,9}<?([^\s<>()]{1,2000}(?:\([^\s<>()]{0,200}\)[^\s<>()]{0,200}){0,4})>?(?:[ ]{1,9}"[^"\n]{0,300}")?[ ]{0,9}\)/y;
const BARE_URL = /https?:\/\/[^\s<>"`]{1,2000}/y;
const ANGLE_URL = /<(https?:\/\/[^\s<>"`]{1,2000})>/y;
const AFTER_URL = /[.,;:!?'"*_~]+$/;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const WORD = /[\p{L}\p{N}_]/u;

/** Returns the address of a link that may be followed, null for any scheme but http and https. */
export function checkLink(address) {
  try {
    const { protocol, href } = new URL(address);
    return protocol === "http:" || protocol === "https:" ? href : null;
  } catch {
    return null;
  }
}

export function parseInline(text, { links = true } = {}) {
  return new InlineParser(text, links).run();
}

class InlineParser {
  constructor(text, links) {
    this.text = text;
    this.links = links;
    this.place = 0;
    /** Open emphasis, the outermost first; each frame collects what it holds. */
    this.frames = [{ marker: "", kind: "", children: [] }];
    /** Lengths of backtick runs that are known to have no end in the rest of the text. */
    this.unclosed = new Set();
  }

  run() {
    const { text } = this;
    while (this.place < text.length) {
      SPECIAL.lastIndex = this.place;
      const found = SPECIAL.exec(text);
      const end = found ? found.index : text.length;
      this.add(text.slice(this.place, end));
      this.place = end;
      if (found) this.readSpecial(found[0]);
    }
    while (this.frames.length > 1) this.unwind();
    return this.frames[0].children;
  }

  add(...parts) {
    const { children } = this.frames.at(-1);
    for (const part of parts) {
      if (part === "") continue;
      if (typeof part === "string" && typeof children.at(-1) === "string") children[children.length - 1] += part;
      else children.push(part);
    }
  }

  /** Makes the innermost open emphasis text again. */
  unwind() {
    const { marker, children } = this.frames.pop();
    this.add(marker, ...children);
  }

  take(length, ...parts) {
    this.add(...parts);
    this.place += length;
  }

  readSpecial(character) {
    const { text, place } = this;
    if (character === "\n") this.take(1, { kind: "break" });
    else if (character === "\\") this.readEscape();
    else if (character === "`") this.readCode();
    else if (character === "[" || character === "!") this.readLink(character === "!" ? 1 : 0);
    else if (character === "<") this.readUrl(ANGLE_URL);
    else if (character === "h") this.readUrl(WORD.test(text[place - 1] ?? "") ? null : BARE_URL);
    else this.readEmphasis(character);
  }

  readEscape() {
    const next = this.text[this.place + 1] ?? "";
    if (next === "\n") this.take(2, { kind: "break" });
    else if (ESCAPABLE.test(next)) this.take(2, next);
    else this.take(1, "\\");
  }

  readCode() {
    const run = countRun(this.text, this.place, "`");
    const start = this.place + run;
    const end = run > MAX_BACKTICKS || this.unclosed.has(run) ? -1 : findRun(this.text, start, run);
    if (end < 0) {
      this.unclosed.add(run);
      this.take(run, this.text.slice(this.place, start));
      return;
    }
    const inner = this.text.slice(start, end).replaceAll("\n", " ");
    const isPadded = inner.length > 2 && inner.startsWith(" ") && inner.endsWith(" ") && inner.trim();
    this.take(end + run - this.place, { kind: "code", text: isPadded ? inner.slice(1, -1) : inner });
  }

  /** An image is a link to it: nothing is loaded from elsewhere. */
  readLink(skipped) {
    LINK.lastIndex = this.place + skipped;
    const found = this.links ? LINK.exec(this.text) : null;
    const href = found && checkLink(found[2]);
    if (!href) {
      this.take(1, this.text[this.place]);
      return;
    }
    const children = parseInline(found[1] || found[2], { links: false });
    this.take(skipped + found[0].length, { kind: "link", href, children });
  }

  readUrl(pattern) {
    let found = null;
    if (pattern && this.links) {
      pattern.lastIndex = this.place;
      found = pattern.exec(this.text);
    }
    let address = found?.[1] ?? found?.[0] ?? "";
    if (pattern === BARE_URL) {
      address = address.replace(AFTER_URL, "");
      if (address.endsWith(")") && !address.includes("(")) address = address.slice(0, -1);
    }
    const href = address && checkLink(address);
    if (!href) this.take(1, this.text[this.place]);
    else this.take(pattern === BARE_URL ? address.length : found[0].length, { kind: "link", href, children: [address] });
  }

  readEmphasis(character) {
    const run = countRun(this.text, this.place, character);
    const before = this.text[this.place - 1] ?? " ";
    const after = this.text[this.place + run] ?? " ";
    // An underscore within a word is part of it: snake_case.
    const isInWord = character === "_" && WORD.test(before) && WORD.test(after);
    const isStrike = character === "~";
    if (run > 3 || isInWord || (isStrike && run !== 2)) {
      this.take(run, character.repeat(run));
      return;
    }
    let left = run;
    if (!/\s/.test(before)) left = this.close(character, left);
    if (left && !/\s/.test(after)) left = this.open(character, left);
    this.add(character.repeat(left));
    this.place += run;
  }

  close(character, left) {
    for (;;) {
      const depth = this.frames.findLastIndex(
        ({ marker }) => marker[0] === character && marker.length <= left,
      );
      if (depth < 1 || (depth === this.frames.length - 1 && !this.frames[depth].children.length)) return left;
      while (this.frames.length - 1 > depth) this.unwind();
      const { marker, kind, children } = this.frames.pop();
      this.add({ kind, children });
      left -= marker.length;
    }
  }

  open(character, left) {
    while (left && this.frames.length <= MAX_DEPTH) {
      const length = Math.min(left, 2);
      const kind = character === "~" ? "del" : length === 2 ? "strong" : "em";
      this.frames.push({ marker: character.repeat(length), kind, children: [] });
      left -= length;
    }
    return left;
  }
}

function countRun(text, place, character) {
  let end = place;
  while (text[end] === character) end += 1;
  return end - place;
}

/** Returns where a run of exactly `length` backticks begins, -1 if there is none. */
function findRun(text, from, length) {
  for (let place = text.indexOf("`", from); place >= 0; ) {
    const run = countRun(text, place, "`");
    if (run === length) return place;
    place = text.indexOf("`", place + run);
  }
  return -1;
}
