// The words of an answer: on which it opens, and how its Markdown is laid out.

// The word that leans most on one patch: on it an answer opens. -1 if none looks anywhere.
export function opening(words, tokens) {
  let [best, most] = [-1, 0];
  words.forEach(({ text, tokens: [first] }, i) => {
    const { map, share } = tokens[first];
    if (!map || !/[\p{L}\p{N}]/u.test(text)) return;
    const peak = share * 255 / map.reduce((sum, value) => sum + value, 0);
    if (peak > most) [best, most] = [i, peak];
  });
  return best;
}

// Markdown --------------------------------------------------------------------------------------

const KINDS = [
  ["heading", /^(#{1,6}) +/],
  ["item", /^(\s*)([-*+•]|\d{1,3}[.)]) +/],
  ["table", /^\s*\|/],
  ["rule", /^\s*([-*_])(?:\s*\1){2,}\s*$/],
];

// Blocks of a text, each { kind, start, end }: "text", "heading" (level), "item" (depth, mark),
// "code", "rule", or "table" (rows of cells, each [start, end]). What a block says stands between
// start and end; its marks do not.
export function blocksOf(text) {
  const blocks = [];
  let at = 0, open = null;   // a block that the next line may join
  for (const line of text.split("\n")) {
    const [start, end] = [at, at + line.length];
    at = end + 1;
    if (/^\s*```/.test(line)) {
      if (open?.kind === "code") { open = null; continue; }
      blocks.push(open = { kind: "code", start: Math.min(at, text.length), end: Math.min(at, text.length) });
      continue;
    }
    if (open?.kind === "code") { open.end = end; continue; }
    if (!line.trim()) { open = null; continue; }
    const [kind = "text", pattern] = KINDS.find(([name, look]) => look.test(line)
      && !(name === "item" && KINDS[3][1].test(line))) ?? [];
    if (open && open.kind === kind && (kind === "text" || kind === "table")) {
      open.end = end;
    } else if (kind === "heading" || kind === "item") {
      const [all, first, mark] = pattern.exec(line);
      const own = kind === "heading" ? { level: first.length } : { depth: first.length, mark: /\d/.test(mark) ? mark : "•" };
      blocks.push({ kind, ...own, start: start + all.length, end });
      open = null;
    } else {
      blocks.push(open = { kind, start, end });
    }
    if (kind === "table") (open.rows ??= []).push(...cellsOf(line, start));
  }
  return blocks;
}

// The cells of a line of a table, in one row; none of a line that only divides.
function cellsOf(line, start) {
  if (/^[\s|:-]+$/.test(line)) return [];
  const cells = [];
  let at = line.indexOf("|") + 1;
  while (line.slice(at).trim()) {
    const bar = line.indexOf("|", at);
    const cell = line.slice(at, bar < 0 ? undefined : bar);
    const from = start + at + cell.length - cell.trimStart().length;
    cells.push([from, from + cell.trim().length]);
    at += cell.length + 1;
  }
  return [cells];
}

const INLINE = /\*\*(?=\S)([^\n]+?)(?<=\S)\*\*|(?<![*\w])\*(?=[^\s*])([^*\n]+?)(?<=\S)\*(?![*\w])|`([^`\n]+)`/g;

// A stretch of a text as runs, each { kind ("", "b", "em" or "code"), start, end }; marks are in none.
export function runsOf(text, start, end) {
  const runs = [];
  let at = start;
  for (const found of text.slice(start, end).matchAll(INLINE)) {
    const number = [1, 2, 3].find((i) => found[i] != null);
    const from = start + found.index;
    const inner = from + (number === 1 ? 2 : 1);
    if (from > at) runs.push({ kind: "", start: at, end: from });
    runs.push({ kind: ["b", "em", "code"][number - 1], start: inner, end: inner + found[number].length });
    at = from + found[0].length;
  }
  if (at < end) runs.push({ kind: "", start: at, end });
  return runs;
}
