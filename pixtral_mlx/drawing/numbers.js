// Numbers, sizes and places as a reader wants them.

export const count = (n) => Math.round(n).toLocaleString("en");
export const share = (p) => p >= 0.0995 ? `${(100 * p).toFixed(0)} %` : p >= 0.001 ? `${(100 * p).toFixed(1)} %` : p > 0 ? "< 0.1 %" : "0 %";
export const operations = (n) => n >= 1e12 ? `${(n / 1e12).toPrecision(3)} TFLOP` : n >= 1e9 ? `${(n / 1e9).toPrecision(3)} GFLOP` : `${(n / 1e6).toPrecision(3)} MFLOP`;
export const bytes = (n) => n >= 1e9 ? `${(n / 1e9).toFixed(2)} GB` : n >= 1e6 ? `${(n / 1e6).toFixed(1)} MB` : `${(n / 1e3).toFixed(1)} kB`;

// A patch as people count: rows and columns from one.
export const patchName = ([row, column]) => `patch row ${row + 1}, column ${column + 1}`;

// And as Python counts: what a pointer is told.
export const patchBoth = (patch) => `${patchName(patch)} (in Python: ${patch.join(", ")})`;

// The first letter of a sentence.
export const capital = (text) => text[0].toUpperCase() + text.slice(1);

// A token of a prompt or an answer, whose index is counted from zero, as people count.
export const tokenNumber = (index) => count(index + 1);
