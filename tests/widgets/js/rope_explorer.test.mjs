import assert from "node:assert/strict";
import test from "node:test";

const { describe, describePair, far, moved, pairAt, scoreOf } = await import(`${process.env.STATIC}/rope_explorer.js`);

test("both patches move, or neither", () => {
  assert.deepEqual(moved([1, 2], [3, 0], [1, 1], 8, 8), [[2, 3], [4, 1]]);
  assert.equal(moved([1, 2], [3, 0], [0, -1], 8, 8), null);
  assert.equal(moved([1, 2], [3, 0], [1, 0], 4, 8), null);
  assert.equal(moved([0, 2], [3, 0], [-1, 0], 8, 8), null);
  assert.equal(moved([0, 7], [3, 0], [0, 1], 8, 8), null);
});

test("the caption gives the score in two digits and says whether it changed", () => {
  const answer = { score: 0.68426001 };
  assert.equal(describe([4, 4], [6, 1], answer, null), "B is 2 down and 3 left of A: their score is 0.68.");
  assert.match(describe([4, 4], [3, 9], answer, 0.68426002), /^B is 1 up and 5 right.*0\.68, as before both moved\.$/);
  assert.match(describe([4, 4], [3, 9], answer, 0.684263), /0\.68, as before both moved, but for float32's rounding/);
});

test("a pair says what it turns with, and how slowly", () => {
  const pairs = { axis: ["row", "column"], wavelength: [6.283, 35332.1] };
  assert.equal(describePair(pairs, 0), "Pair 0 turns with the row: once every 6.3 patches.");
  assert.equal(describePair(pairs, 1), "Pair 1 turns with the column: once every 35,000 patches.");
  assert.equal(far(254.4), "250");
});

test("pairs are found where they stand, and bytes are scores again", () => {
  assert.equal(pairAt(0, 32), 0);
  assert.equal(pairAt(0.999, 32), 31);
  assert.equal(pairAt(1, 32), 31);
  assert.equal(pairAt(-0.1, 32), 0);
  assert.equal(scoreOf({ low: -0.5, high: 1 }, 255), 1);
  assert.equal(scoreOf({ low: -0.5, high: 1 }, 0), -0.5);
});
