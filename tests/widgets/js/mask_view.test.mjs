import assert from "node:assert/strict";
import test from "node:test";

const {
  bands, blocks, describeDecoder, describeEncoder, patchOf, placed, placeOf, summary, tokenAt,
} = await import(`${process.env.STATIC}/mask_view.js`);

const images = [
  { rows: 2, columns: 3, start: 2, breaks: true },
  { rows: 1, columns: 2, start: 10, breaks: true },
];
const words = {
  ids: [1, 3, 10, 10, 12, 10, 10, 12, 10, 13, 10, 10, 13, 70, 71],
  labels: { 1: "<s>", 3: "[INST]", 10: "[IMG]", 12: "[IMG_BREAK]", 13: "[IMG_END]", 70: "What", 71: "\n" },
};

test("every patch is in the block of its image", () => {
  const all = blocks(images);
  assert.deepEqual(all.map(({ start, length }) => [start, length]), [[0, 6], [6, 2]]);
  assert.deepEqual(patchOf(all, 5), { image: 0, row: 1, column: 2 });
  assert.deepEqual(patchOf(all, 6), { image: 1, row: 0, column: 0 });
});

test("the bands are the prompt, token by token", () => {
  const found = bands(images, 15);
  assert.deepEqual(found.map(({ kind, start, length }) => [kind, start, length]), [
    ["text", 0, 2], ["row", 2, 3], ["break", 5, 1], ["row", 6, 3], ["end", 9, 1],
    ["row", 10, 2], ["end", 12, 1], ["text", 13, 2],
  ]);
  const without = bands([{ rows: 2, columns: 3, start: 2, breaks: false }], 10);
  assert.deepEqual(without.map(({ kind }) => kind), ["text", "row", "row", "end", "text"]);
});

test("each token is found where it stands, also when runs are pressed together", () => {
  const large = [{ rows: 64, columns: 64, start: 3, breaks: true }, { rows: 64, columns: 64, start: 4163, breaks: true }];
  for (const [list, tokens, side] of [[images, 15, 328], [large, 8340, 328], [large, 8340, 200]]) {
    const all = placed(bands(list, tokens), side);
    assert.ok(Math.abs(all.at(-1).to - side) < 1e-6);
    for (let token = 0; token < tokens; token += tokens > 100 ? 37 : 1) {
      assert.equal(tokenAt(all, placeOf(all, token)).token, token);
    }
    assert.equal(tokenAt(all, side).token, tokens - 1);
  }
});

test("who sees whom is said in words", () => {
  const all = placed(bands(images, 15), 300);
  const at = (token) => tokenAt(all, placeOf(all, token));
  assert.equal(describeDecoder(at(5), at(2), words),
    "Token 6 ([IMG_BREAK] after picture 1, patch row 1) sees token 3 (picture 1, patch row 1, column 1). It sees 6 in all.");
  assert.match(describeDecoder(at(9), at(13), words), /^Token 10 \(\[IMG_END\] of picture 1\) does not see token 14 \(“What”\)/);
  assert.match(describeDecoder(at(14), at(14), words), /^Token 15 \(“⏎”\) sees itself\. It sees 15/);
  const [one, two] = [patchOf(blocks(images), 5), patchOf(blocks(images), 6)];
  assert.match(describeEncoder(one, one, false), /sees patch row 2, column 3 of picture 1: it is the same/);
  assert.match(describeEncoder(one, two, false), /^Patch row 2, column 3 of picture 1 does not see patch row 1, column 1 of picture 2/);
  assert.match(describeEncoder(one, two, true), /sees patch row 1, column 1 of picture 2, another picture: the mask is broken/);
});

test("the caption counts the pairs and reports the leak", () => {
  assert.match(summary(images, 15, false, {}), /^2 pictures, 8 patches: .*40 of 64 pairs \(63 %\)/);
  const leak = { features: [0.02, 0.3], kl: 0.0512 };
  assert.match(summary(images, 15, true, leak), /picture 2 change by 30 % \(RMS\).*0\.051 nats/);
  assert.match(summary(images.slice(0, 1), 15, true, { features: [0], kl: 0 }), /one picture, so nothing can leak.* 0 %/);
  assert.match(summary([], 15, false, {}), /no picture/);
  const faint = summary(images, 15, true, { features: [0, 2e-6], kl: 3e-12 });
  assert.match(faint, /change by < 0\.1 % \(RMS\).*< 0\.0001 nats/);
});
