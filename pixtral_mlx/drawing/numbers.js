// Numbers, sizes and places as a reader wants them.

export const count = (n) => Math.round(n).toLocaleString("en");
// What was measured or estimated, from zero up, in two digits: 0.0031, 8.6, 370, 28,000. A count of
// things stays whole.
export function digits(n) {
  const shown = Number(n.toPrecision(2));
  return shown === 0 || shown >= 100 ? count(shown) : shown < 1e-4 ? "< 0.0001" : shown.toPrecision(2);
}

// A difference in nats without its sign.
export const nats = (value) => digits(Math.abs(value));

export const probability = (p) => p >= 0.9995 ? "1.00" : p > 0 && p < 0.005 ? "< 0.01" : p.toFixed(2);
export const UNCERTAIN = 0.5;   // a word that is less likely than this is marked

export const share = (p) => p >= 0.0995 ? `${(100 * p).toFixed(0)} %` : p >= 0.001 ? `${(100 * p).toFixed(1)} %` : p > 0 ? "< 0.1 %" : "0 %";
export const operations = (n) => n >= 9.95e11 ? `${digits(n / 1e12)} TFLOP` : n >= 9.95e8 ? `${digits(n / 1e9)} GFLOP` : `${digits(n / 1e6)} MFLOP`;
export const bytes = (n) => n >= 9.95e8 ? `${digits(n / 1e9)} GB` : n >= 9.95e5 ? `${digits(n / 1e6)} MB` : `${digits(n / 1e3)} kB`;

// A distance in patches: 0.0, 2.6, 33. A head that looks at its own patch alone looks 0.0 far.
export const patchesFar = (n) => n < 9.95 ? n.toFixed(1) : digits(n);

// Memory as it is sold: a 64 GB Mac holds 64 x 2^30 bytes, and nobody calls it 68.72 GB.
export const sold = (n) => `${count(n / 2 ** 30)} GB`;

// A patch as people count: rows and columns from one.
// merge: side of the square of patches that is one token, where a model makes such squares.
export const cellName = (merge = 1) => (merge > 1 ? "square" : "patch");
export const patchName = ([row, column], merge) => `${cellName(merge)} row ${row + 1}, column ${column + 1}`;

// And as Python counts: what a pointer is told.
export const patchBoth = (patch, merge) => `${patchName(patch, merge)} (in Python: ${patch.join(", ")})`;

// The first letter of a sentence.
export const capital = (text) => text[0].toUpperCase() + text.slice(1);

// A token of a prompt or an answer, whose index is counted from zero, as people count.
export const tokenNumber = (index) => count(index + 1);
