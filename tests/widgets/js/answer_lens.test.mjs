import assert from "node:assert/strict";
import test from "node:test";

const { effect, pace, sight } = await import(`${process.env.STATIC}/answer_lens.js`);
const {
  agreement, blockSide, doubts, knockOut, signed, signedValues, span, tokenAt, visible, wordOf,
} = await import(`${process.env.STATIC}/word_view.js`);
const { probability } = await import(`${process.env.STATIC}/numbers.js`);

const words = [
  { text: "about", tokens: [0], p: 0.9 },
  { text: "42", tokens: [1, 2], p: 0.44 },
  { text: "cats", tokens: [4], p: 0.2 },
];

test("the word of a token is found, also between two words", () => {
  assert.equal(wordOf(words, 0), 0);
  assert.equal(wordOf(words, 2), 1);
  assert.equal(wordOf(words, 3), 2);
  assert.equal(wordOf([], 0), -1);
});

test("without a choice the newest token is shown", () => {
  assert.equal(tokenAt(words, null), 4);
  assert.equal(tokenAt(words, 1), 1);
  assert.equal(tokenAt(words, 9), 4);
  assert.equal(tokenAt([], 1), null);
});

test("what is uncertain is said", () => {
  assert.equal(doubts(words.slice(0, 2)), "“42” (0.44) is uncertain: check it.");
  assert.equal(doubts(words), "“42” (0.44), “cats” (0.20) are uncertain: check them.");
  assert.equal(doubts(words.slice(0, 1)), "");
  assert.match(doubts(Array(6).fill(words[1])), / and 2 more are uncertain/);
});

test("numbers are not said to be more than they are", () => {
  assert.equal(probability(0.9999), "1.00");
  assert.equal(probability(0.001), "< 0.01");
  assert.equal(probability(0), "0.00");
});

test("blocks number about a hundred at most", () => {
  assert.deepEqual([[8, 10], [9, 12], [32, 32], [64, 64], [200, 200]].map(([r, c]) => blockSide(r, c)), [1, 2, 4, 8, 16]);
});

test("drops of two signs lie around the middle", () => {
  assert.deepEqual([...signedValues([0, 2, -2, 1], 2)], [128, 255, 1, 192]);
  assert.deepEqual([...signedValues([0, 0], 0)], [128, 128]);
  const [red, , blue] = signed(255);
  assert.ok(red > blue);
  assert.deepEqual(signed(128), [245, 245, 245]);
});

test("a knock-out is told with its sign", () => {
  const found = { rows: [2, 3], columns: [4, 7], share: 0.23, drop: 3.2, before: 0.81, after: 0.033 };
  assert.equal(knockOut(found), "Hidden: patch row 3, columns 5 to 7, 23 % of its attention on this picture. "
    + "Its log-probability drops by 3.2 nats (p 0.81 → 0.03).");
  assert.match(knockOut({ ...found, drop: -1 }), /rises by 1\.0 nats/);
  assert.equal(span("row", [0, 2]), "rows 1 to 2");
});

test("agreement has a sign and words", () => {
  assert.match(agreement(0.71), /0\.71: the maps mostly agree/);
  assert.match(agreement(-0.5), /−0\.50: the maps disagree/);
  assert.match(agreement(null), /flat/);
});

test("where a word looked is said with layer, head and picture", () => {
  const found = { sum: 0.41, top: 0.05, peak: [2, 3] };
  assert.equal(sight("five", 0.98, found, null, null, 1, 0), "“five” (p 0.98) gave 41 % of its attention to the "
    + "picture, most to patch row 3, column 4 (5.0 %): mean over all layers and all heads.");
  assert.match(sight("five", 0.98, found, 3, 2, 2, 1), /to picture 2, .*: layer 3 and head 2\.$/);
});

test("settings, speed and spaces are told", () => {
  assert.equal(effect(0, 1, 1), "Temperature 0: always the likeliest.");
  assert.match(effect(1.3, 0.9, 2), /a flatter distribution, cut at top-p 0.9: 2 tokens are left/);
  assert.match(effect(0.5, 1, 1), /a sharper distribution: 1 token is left/);
  assert.equal(pace({ speed: 18.3, prompt: 433, cached: 412, finished: "stop" }, false), "18 tokens/s, 412 of 433 prompt tokens known from before");
  assert.match(pace({ speed: 1, prompt: 4, cached: 0, finished: "length" }, false), /^1\.0 tokens\/s, cut off at the token limit/);
  assert.equal(visible(" four\n"), "␣four⏎");
});
