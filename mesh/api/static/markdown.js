// Blocks of markdown as language models write it, as plain data. HTML in the text stays text.
//
// parseBlocks returns { kind, source, start, ... }: `source` is what the block was read from, `start`
// where that begins in the text. Kinds: paragraph, heading, rule, code, table, quote, list. A later line
// can change the last block and join it with the one before, never an earlier one: render.js relies on it.

const MAX_DEPTH = 8;
const MAX_COLUMNS = 64;
const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(\S.*)$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^([ \t]*)([-*+]|\d{1,9}[.)])([ \t]+)(.*)$/;
const INTERRUPTING_ITEM = /^[ \t]*(?:[-*+]|\d{1,3}[.)])[ \t]+\S/;
const TASK = /^\[([ xX])\][ \t]+/;
const LANGUAGE = /^[\w+#.-]{1,24}$/;
const NESTED_COLUMNS = 2;
const TAB_COLUMNS = 4;

export function parseBlocks(text, depth = 0) {
  const lines = text.split("\n");
  const blocks = [];
  let place = 0;
  let start = 0;
  while (place < lines.length) {
    const next = isBlank(lines[place]) ? place + 1 : readBlock(lines, place, depth, blocks);
    const length = lines.slice(place, next).reduce((sum, line) => sum + line.length + 1, 0);
    if (!isBlank(lines[place])) {
      blocks.at(-1).start = start;
      blocks.at(-1).source = text.slice(start, start + length - 1);
    }
    start += length;
    place = next;
  }
  return blocks;
}

/** Adds the block that begins in a line and returns the line after it. */
function readBlock(lines, place, depth, blocks) {
  const isDeep = depth >= MAX_DEPTH;
  const read =
    readFence(lines, place) ??
    readOneLine(lines, place) ??
    readTable(lines, place) ??
    (isDeep ? null : (readQuote(lines, place, depth) ?? readList(lines, place, depth))) ??
    readParagraph(lines, place, isDeep);
  blocks.push(read.block);
  return read.next;
}

function readFence(lines, place) {
  const found = FENCE.exec(lines[place]);
  if (!found) return null;
  const [, fence, info] = found;
  const indent = countColumns(lines[place]);
  let end = place + 1;
  while (end < lines.length && !isClosing(lines[end], fence)) end += 1;
  const code = lines.slice(place + 1, end).map((line) => stripColumns(line, indent));
  const language = info.trim().split(/\s+/, 1)[0];
  const block = {
    kind: "code", text: code.join("\n"),
    language: LANGUAGE.test(language) ? language : "", isOpen: end === lines.length,
  };
  return { block, next: Math.min(end + 1, lines.length) };
}

function isClosing(line, fence) {
  const text = line.trim();
  return text.length >= fence.length && text === fence[0].repeat(text.length);
}

function readOneLine(lines, place) {
  const heading = HEADING.exec(lines[place]);
  if (heading) {
    const text = heading[2].replace(/[ \t]#+[ \t]*$/, "").trimEnd();
    return { block: { kind: "heading", level: heading[1].length, text }, next: place + 1 };
  }
  return RULE.test(lines[place]) ? { block: { kind: "rule" }, next: place + 1 } : null;
}

function readTable(lines, place) {
  if (!isTable(lines, place)) return null;
  const header = splitRow(lines[place]);
  const align = splitRow(lines[place + 1]).map((cell) =>
    !cell.endsWith(":") ? "" : cell.startsWith(":") ? "center" : "right",
  );
  const rows = [];
  let next = place + 2;
  for (; next < lines.length && lines[next].includes("|") && !isBlank(lines[next]); next += 1) {
    const cells = splitRow(lines[next]);
    rows.push({ source: lines[next], cells: header.map((_, column) => cells[column] ?? "") });
  }
  return { block: { kind: "table", header, align, rows, head: lines[place] + lines[place + 1] }, next };
}

function isTable(lines, place) {
  const below = lines[place + 1];
  if (!below?.includes("-") || !below.includes("|") || !lines[place].includes("|")) return false;
  const marks = splitRow(below);
  if (marks.length > MAX_COLUMNS || !marks.every((cell) => /^:?-+:?$/.test(cell))) return false;
  return splitRow(lines[place]).length === marks.length;
}

function splitRow(line) {
  const text = line.trim().replace(/^\|/, "").replace(/([^\\]|^)\|$/, "$1");
  return text.split(/(?<!\\)\|/, MAX_COLUMNS + 1).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function readQuote(lines, place, depth) {
  let next = place;
  while (next < lines.length && QUOTE.test(lines[next])) next += 1;
  if (next === place) return null;
  const inner = lines.slice(place, next).map((line) => line.replace(QUOTE, "")).join("\n");
  return { block: { kind: "quote", blocks: parseBlocks(inner, depth + 1) }, next };
}

function readList(lines, place, depth) {
  const first = ITEM.exec(lines[place]);
  if (!first) return null;
  const base = countColumns(lines[place]);
  const isOrdered = /\d/.test(first[2]);
  const items = [];
  let next = place;
  let isAfterBlank = false;
  while (next < lines.length) {
    const line = lines[next];
    if (isBlank(line)) {
      isAfterBlank = true;
      next += 1;
      continue;
    }
    const item = countColumns(line) < base + NESTED_COLUMNS && !RULE.test(line) ? ITEM.exec(line) : null;
    if (item && /\d/.test(item[2]) === isOrdered) items.push(beginItem(item));
    else if (item || !continuesItem(line, base, isAfterBlank)) break;
    else items.at(-1).lines.push(...(isAfterBlank ? [""] : []), stripColumns(line, items.at(-1).columns));
    isAfterBlank = false;
    next += 1;
  }
  const number = isOrdered ? Number.parseInt(first[2], 10) : null;
  return { block: { kind: "list", number, items: items.map((item) => finishItem(item, depth)) }, next };
}

function beginItem([, indent, marker, space, rest]) {
  return { columns: countColumns(indent) + marker.length + Math.min(space.length, TAB_COLUMNS), lines: [rest] };
}

function continuesItem(line, base, isAfterBlank) {
  if (countColumns(line) >= base + NESTED_COLUMNS) return true;
  return !isAfterBlank && !interruptsParagraph(line);
}

function finishItem({ lines }, depth) {
  const task = TASK.exec(lines[0]);
  if (task) lines[0] = lines[0].slice(task[0].length);
  const source = lines.join("\n");
  return { source: (task?.[0] ?? "") + source, isDone: task ? task[1] !== " " : null, blocks: parseBlocks(source, depth + 1) };
}

function readParagraph(lines, place, isDeep) {
  let next = place + 1;
  while (
    next < lines.length && !isBlank(lines[next]) &&
    (isDeep || !(interruptsParagraph(lines[next]) || isTable(lines, next)))
  ) next += 1;
  const text = lines.slice(place, next).map((line) => line.trim()).join("\n");
  return { block: { kind: "paragraph", text }, next };
}

function interruptsParagraph(line) {
  return [FENCE, HEADING, RULE, QUOTE, INTERRUPTING_ITEM].some((pattern) => pattern.test(line));
}

const isBlank = (line) => line.trim() === "";

/** Returns how many columns of white space a line begins with. */
function countColumns(line) {
  let columns = 0;
  for (const character of line) {
    if (character === " ") columns += 1;
    else if (character === "\t") columns += TAB_COLUMNS;
    else break;
  }
  return columns;
}

function stripColumns(line, columns) {
  let place = 0;
  for (let left = columns; left > 0 && /[ \t]/.test(line[place] ?? ""); place += 1) {
    left -= line[place] === "\t" ? TAB_COLUMNS : 1;
  }
  return line.slice(place);
}
