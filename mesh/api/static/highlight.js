// Colours for code: comments, strings, numbers and keywords of the languages that answers show most.

const MAX_LENGTH = 20_000;
const SLASHES = String.raw`\/\/[^\n]*|\/\*[\s\S]*?\*\/`;
const HASH = String.raw`#[^\n]*`;
const DASHES = String.raw`--[^\n]*`;
const STRINGS = String.raw`"""[\s\S]*?"""|'''[\s\S]*?'''|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|` + "`(?:[^`\\\\]|\\\\.)*`";
const REST = String.raw`\b(?:0x[\da-f_]+|\d[\d_]*(?:\.\d+)?(?:e[+-]?\d+)?)\b|[a-z_$][\w$]*`;

const SCRIPT =
  "async await break case catch class const continue default delete do else export extends false finally " +
  "for from function if import in instanceof interface let new null of return static super switch this " +
  "throw true try type typeof undefined var void while yield";
const C_LIKE =
  "auto bool boolean break case catch char class const continue default defer do double else enum extends " +
  "extern final float fn for func go goto if impl implements import in int interface let long loop match " +
  "mod mut namespace new nil null package private protected pub public range return self short signed " +
  "static str string struct super switch template this throw trait true false try type typedef unsafe " +
  "unsigned use using var virtual void where while";
const PYTHON =
  "and as assert async await break case class continue def del elif else except False finally for from " +
  "global if import in is lambda match None nonlocal not or pass raise return self True try while with " +
  "yield";
const SHELL =
  "case cd do done echo elif else esac exit export fi for function if in local return set source sudo then " +
  "unset until while";
const SQL =
  "add alter and as asc between by case create delete desc distinct drop else end exists from group having " +
  "in index inner insert into is join key left like limit not null on or order outer primary references " +
  "right select set table then union unique update values view when where with";
const DATA = "true false null yes no";

const FAMILIES = [
  ["js javascript jsx ts typescript tsx json mjs", SLASHES, SCRIPT],
  ["c cpp c++ h cs csharp go java kotlin rust rs swift scala php dart", SLASHES, C_LIKE],
  ["py python python3", HASH, PYTHON],
  ["sh bash shell zsh console", HASH, SHELL],
  ["ruby rb", HASH, PYTHON + " begin end module require unless do then puts nil true false"],
  ["yaml yml toml ini dockerfile makefile", HASH, DATA],
  ["sql lua", DASHES, SQL + " local function end then"],
];
const GRAMMARS = new Map(
  FAMILIES.flatMap(([names, comment, words]) => {
    const grammar = { comment, words: new Set(words.split(" ")), isUpper: names.startsWith("sql") };
    return names.split(" ").map((name) => [name, grammar]);
  }),
);

/** Returns [class, text] pairs that make up the code; the class is empty for plain text. */
export function splitCode(code, language) {
  const grammar = GRAMMARS.get(language.toLowerCase());
  if (!grammar || code.length > MAX_LENGTH) return [["", code]];
  const pattern = new RegExp(`(${grammar.comment})|(${STRINGS})|${REST}`, "gi");
  const parts = [];
  let end = 0;
  for (const found of code.matchAll(pattern)) {
    const name = nameToken(found, grammar);
    if (!name) continue;
    if (found.index > end) parts.push(["", code.slice(end, found.index)]);
    parts.push([name, found[0]]);
    end = found.index + found[0].length;
  }
  parts.push(["", code.slice(end)]);
  return parts;
}

function nameToken([text, comment, string], { words, isUpper }) {
  if (comment) return "comment";
  if (string) return "string";
  if (/^\d/.test(text)) return "digits";
  return words.has(isUpper ? text.toLowerCase() : text) ? "keyword" : "";
}
