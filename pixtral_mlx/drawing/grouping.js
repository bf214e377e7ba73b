// Which tokens of an answer are a word, as pixtral_mlx.interpret.words has it.

// Scripts without blanks between words.
const UNSPACED = /[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\u{20000}-\u{3ffff}]/u;

// Whether a piece begins a word behind the text of the last one.
function begins(piece, before) {
  const [first, last] = [[...piece][0], [...before].at(-1)];
  if (/\s/.test(first)) return true;
  if (!before.trim()) return false;
  if (/\s/.test(last)) return true;
  return !/[\p{M}\p{P}]/u.test(first) && (UNSPACED.test(first) || UNSPACED.test(last));
}

// Tokens [{ text, p }] grouped into words as pixtral_mlx.interpret.words_of does: each { text, tokens
// (their numbers), p (of the least likely one), start, end (in the whole text) }.
export function wordsOf(tokens) {
  const words = [];
  let begun = [];   // tokens of a character that is not complete yet
  let at = 0;
  tokens.forEach(({ text, p }, number) => {
    begun.push({ number, p });
    if (!text) return;
    if (!words.length || begins(text, words.at(-1).text)) words.push({ text: "", tokens: [], p: 1, start: at });
    const word = words.at(-1);
    word.text += text;
    at += text.length;
    for (const one of begun) { word.tokens.push(one.number); word.p = Math.min(word.p, one.p); }
    begun = [];
  });
  if (words.length) words.at(-1).tokens.push(...begun.map(({ number }) => number));
  return words.filter(({ text }) => text.trim()).map(({ text, start, ...rest }) => {
    const from = start + text.length - text.trimStart().length;
    return { ...rest, text: text.trim(), start: from, end: from + text.trim().length };
  });
}
