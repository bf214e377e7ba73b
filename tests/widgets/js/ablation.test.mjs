import assert from "node:assert/strict";
import test from "node:test";

const { changes, painted, toggled } = await import(`${process.env.STATIC}/ablation.js`);

test("a stroke puts patches in once and takes them out", () => {
  const one = painted([[0, 1, 2]], [0, 3, 4], false);
  assert.deepEqual(one, [[0, 1, 2], [0, 3, 4]]);
  assert.deepEqual(painted(one, [0, 1, 2], false).length, 2);
  assert.deepEqual(painted(one, [0, 1, 2], true), [[0, 3, 4]]);
  assert.deepEqual(painted(one, [1, 1, 2], true), one);
});

test("a choice is put in or taken out", () => {
  assert.deepEqual(toggled([["text", 1, 2]], ["text", 1, 3]), [["text", 1, 2], ["text", 1, 3]]);
  assert.deepEqual(toggled([["text", 1, 2]], ["text", 1, 2]), []);
});

const result = {
  words: [{ text: "A" }, { text: "wide" }], kl: [0.5, 2], first_difference: 1,
  first_logprob: -0.2, second_logprob: -3.2,
};

test("what changed is said in words", () => {
  assert.equal(changes(result), "The 2nd word is the first that differs. The first answer's log-probability drops by "
    + "3.0 nats (p 0.82 → 0.04). Divergence of the two runs along it: 2.5 nats in all, most at “wide” (2.0).");
  assert.match(changes({ ...result, first_difference: null }), /^The answers are the same\. /);
  assert.match(changes({ ...result, first_difference: 10 }), /^The 11th word/);
  assert.match(changes({ ...result, second_logprob: -0.1 }), /rises by 0\.10/);
});
