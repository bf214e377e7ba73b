import assert from "node:assert/strict";
import test from "node:test";

const s = await import(`${process.env.STATIC}/sequence_strip.js`);
const { arrange, describe, lastAtMost, patchAt, placeOf, sameness, summary, tokenAt, written } = s;

// <s> and two rows of three patches, then a word.
const image = { start: 1, rows: 2, columns: 3, breaks: true };
const kinds = Uint8Array.from([0, 1, 1, 1, 2, 1, 1, 1, 3, 0]);
const bare = { ...image, breaks: false };
const bareKinds = Uint8Array.from([0, 1, 1, 1, 1, 1, 1, 3, 0]);

test("places and patches are each other's inverse, with breaks and without", () => {
  for (const [one, all] of [[image, kinds], [bare, bareKinds]]) {
    for (let row = 0; row < 2; row++) {
      for (let column = 0; column < 3; column++) {
        const at = placeOf(one, [row, column]);
        assert.equal(all[at], s.PATCH);
        assert.deepEqual(patchAt([one], at), { image: 0, row, column });
      }
    }
  }
  assert.deepEqual(patchAt([image], 4), { image: 0, row: 0, column: 3 });
  assert.deepEqual(patchAt([image], 8), { image: 0, row: 1, column: 3 });
  assert.deepEqual(patchAt([bare], 7), { image: 0, row: 1, column: 3 });
  assert.equal(patchAt([image], 0), null);
  assert.equal(patchAt([image], 9), null);
  assert.equal(patchAt([bare], 8), null);
  const second = { start: 20, rows: 1, columns: 2, breaks: true };
  assert.equal(patchAt([image, second], 21).image, 1);
});

test("lines wrap where they are full, never, or after each row of a picture", () => {
  const widths = Float32Array.from(kinds, () => 30);
  const give = (mode, room) => arrange({ kinds, widths, images: [image], mode, room, cell: 10 });
  assert.deepEqual(give("line", 50).lines, [0]);
  assert.equal(give("line", 50).width, 30 + 80 + 30);
  assert.deepEqual(give("rows", 50).lines, [0, 3, 8]);
  assert.deepEqual([...give("rows", 50).x], [0, 30, 40, 0, 10, 20, 30, 40, 0, 10]);
  assert.deepEqual(give("grid", 500).lines, [0, 1, 5, 9]);
  const without = arrange({ kinds: bareKinds, widths, images: [bare], mode: "grid", room: 500, cell: 10 });
  assert.deepEqual(without.lines, [0, 1, 4, 8]);
});

test("a point finds its token", () => {
  const place = { x: Float32Array.from([0, 30, 40, 0, 10]), lines: [0, 3], ends: [30, 40, 50, 10, 20], pitch: 20 };
  assert.equal(tokenAt(place, 0, 0), 0);
  assert.equal(tokenAt(place, 29.9, 19), 0);
  assert.equal(tokenAt(place, 30, 0), 1);
  assert.equal(tokenAt(place, 49, 0), 2);
  assert.equal(tokenAt(place, 50, 0), null);
  assert.equal(tokenAt(place, 10, 20), 4);
  assert.equal(tokenAt(place, 10, 40), null);
  assert.equal(tokenAt(place, -1, 0), null);
});

test("bisection agrees with looking through", () => {
  const sorted = [0, 3, 3, 7, 20];
  for (let value = 0; value < 25; value++) {
    assert.equal(lastAtMost(sorted, value), sorted.findLastIndex((one) => one <= value));
  }
});

test("words", () => {
  const sequence = {
    ids: [1, 10, 10, 10, 12, 10, 10, 10, 13, 466], kinds, images: [image],
    labels: { 1: "<s>", 10: "[IMG]", 12: "[IMG_BREAK]", 13: "[IMG_END]", 466: " many\n" },
  };
  assert.equal(describe(sequence, 6), "Token 7: [IMG] (id 10), patch row 2, column 2 (in Python: 1, 1).");
  assert.equal(describe(sequence, 4), "Token 5: [IMG_BREAK] (id 12) ends patch row 1.");
  assert.equal(describe(sequence, 8), "Token 9: [IMG_END] (id 13) ends the picture.");
  const merged = { ...sequence, images: sequence.images.map((image) => ({ ...image, merge: 2 })) };
  assert.equal(describe(merged, 6), "Token 7: [IMG] (id 10), square row 2, column 2 (in Python: 1, 1).");
  assert.match(summary(merged), /6 squares/);
  assert.equal(describe(sequence, 9), "Token 10: ·many↵ (id 466).");
  const two = { ...sequence, images: [image, { start: 50, rows: 1, columns: 1, breaks: true }] };
  assert.equal(describe(two, 8), "Token 9: [IMG_END] (id 13) ends picture 1.");
  assert.equal(summary(sequence), "10 tokens: 2 of text, 6 patches, 1 break, 1 end.");
  assert.equal(summary({ kinds: [0, 0] }), "2 tokens: 2 of text.");
  assert.equal(written(" a\n"), "·a↵");
  assert.equal(sameness({ kinds: [kinds], differ: null }), "identical: the same 10 tokens");
  assert.equal(sameness({ kinds: [kinds], differ: 8 }), "they differ first at token 9");
});

test("thirty thousand tokens are laid out within a frame", () => {
  const many = { start: 10, rows: 500, columns: 64, breaks: true };
  const all = new Uint8Array(10 + 500 * 65);
  for (let i = 10; i < all.length; i++) all[i] = (i - 10) % 65 === 64 ? 2 : 1;
  const widths = new Float32Array(all.length).fill(18);
  const spans = Array.from({ length: 10 }, () => {
    const start = performance.now();
    arrange({ kinds: all, widths, images: [many], mode: "grid", room: 900, cell: 10 });
    return performance.now() - start;
  });
  assert.ok(Math.min(...spans) < 50);   // the machine may be busy with other things in between
});
