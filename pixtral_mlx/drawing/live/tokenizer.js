// Text to token ids and back, as Tekken has them: bytes, merged pair by pair in the order of their ranks.

// pattern: cuts a text into words (Python's and Rust's \s is Unicode's white space, JavaScript's is not);
// pieces: strings with a character a byte, by rank; first: the id of the first of them, after the
// special tokens; before, between, after: the ids around pictures and question in the model's template.
export function tokenizer({ pattern, pieces, first, template }) {
  const cut = new RegExp(pattern.replaceAll("\\s", "\\p{White_Space}").replaceAll("\\S", "\\P{White_Space}"), "gu");
  const ranks = new Map(pieces.map((piece, rank) => [piece, rank]));
  const utf8 = new TextEncoder();

  // Of one word: the pair of the lowest rank becomes one, the leftmost first, until no pair is a piece.
  function merged(word) {
    if (ranks.has(word)) return [ranks.get(word)];
    const parts = [...word];
    for (;;) {
      let best = Infinity, at = -1;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = ranks.get(parts[i] + parts[i + 1]) ?? Infinity;
        if (rank < best) [best, at] = [rank, i];
      }
      if (at < 0) return parts.map((part) => ranks.get(part));
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
  }

  const encode = (text) => (text.match(cut) ?? []).flatMap((word) =>
    merged(String.fromCharCode(...utf8.encode(word)))).map((rank) => rank + first);

  const bytes = (id) => Uint8Array.from(pieces[id - first] ?? "", (letter) => letter.charCodeAt(0));

  // The line of one question: pictures stand before the text. grids: [rows, columns] of each; breaks:
  // see `imageTokens`.
  function prompt(text, grids, breaks = "kept") {
    const shown = grids.flatMap(([rows, columns]) => imageTokens(rows, columns, template, breaks));
    return [...template.before, ...shown, ...encode(text), ...template.after];
  }

  return { encode, bytes, prompt };
}

// ([IMG] x columns + [IMG_BREAK]) x rows, the last token replaced by [IMG_END]. breaks: "kept"; "none",
// rows run into one another; "swapped", they end where those of the transposed picture do.
export function imageTokens(rows, columns, { image, rowBreak, end }, breaks = "kept") {
  if (breaks === "swapped") return imageTokens(columns, rows, { image, rowBreak, end });
  if (breaks === "none") return [...Array(rows * columns).fill(image), end];
  const line = [...Array(columns).fill(image), rowBreak];
  const tokens = Array.from({ length: rows }, () => line).flat();
  tokens[tokens.length - 1] = end;
  return tokens;
}

// Whole characters from ids that come one by one; what is not a character yet is kept back.
export function speaker({ bytes }) {
  const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  return { add: (id) => utf8.decode(bytes(id), { stream: true }), end: () => utf8.decode() };
}
