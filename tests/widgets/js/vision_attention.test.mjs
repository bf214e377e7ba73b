import assert from "node:assert/strict";
import test from "node:test";

const { describe, pick, whose } = await import(`${process.env.STATIC}/vision_attention.js`);
const { arrange, headAt } = await import(`${process.env.STATIC}/head_strip.js`);

const maps = Uint8Array.from({ length: 18 }, (_, i) => i);
maps.shape = [3, 2, 3];
const answer = {
  maps, top: [0.1, 0.2, 0.3], sum: [1, 1, 0.6], near: [0.9, 0.2, 0.1], row: [[0, 0.3], [1, 0.7], [1, 0.4]],
  column: [[0, 0.3], [2, 0.6], [2, 0.4]], peak: [[0, 0], [1, 2], [0, 1]], distance: [0.5, 3.14, 2], even: 4,
};

test("a map is picked by its number", () => {
  const map = pick(answer, 1);
  assert.deepEqual([...map.values], [6, 7, 8, 9, 10, 11]);
  assert.equal(map.top, 0.2);
  assert.deepEqual([map.rows, map.columns], [2, 3]);
});

test("the caption says what the numbers say", () => {
  assert.equal(describe("Layer 3, head 2", [4, 7], pick(answer, 1)),
    "Layer 3, head 2: patch row 5, column 8 looks mostly at patch row 2 (70 %): 20 % within two patches, "
    + "3.1 patches away on average (evenly spread: 4.0).");
  assert.match(describe("x", [0, 0], pick(answer, 0)), /mostly near itself: 90 % within two/);
  assert.match(describe("x", [0, 0], pick(answer, 2)), /looks most at patch row 1, column 2 \(30 %\): 10 %.* 40 % goes to other/);
  const column = { ...pick(answer, 1), column: [2, 0.8] };
  assert.match(describe("x", [0, 0], column), /mostly at patch column 3 \(80 %\)/);
});

test("it says whose map it is", () => {
  assert.equal(whose("head", 3, 0), "Layer 3, head 0");
  assert.equal(whose("mean", 3, null), "Layer 3, mean of all heads");
  assert.equal(whose("rollout", 3, 1), "Rollout through all layers");
});

test("each thumbnail is found where it is drawn, at any width and for any grid", () => {
  for (const width of [60, 240, 330, 460, 900]) {
    for (const [heads, rows, columns] of [[4, 8, 10], [16, 64, 64], [16, 64, 3], [1, 3, 64]]) {
      const at = arrange(width, heads, rows, columns);
      assert.ok(at.across * (at.wide + 8) - 8 <= width, `${width}: ${JSON.stringify(at)}`);
      assert.ok(at.across * at.lines >= heads);
      assert.ok(at.tall <= 2 * at.wide && at.drawn <= at.wide);
      for (let head = 0; head < heads; head++) {
        const [x, y] = [(head % at.across) * (at.wide + 8), Math.floor(head / at.across) * at.step];
        assert.equal(headAt(at, [x + 1, y + 1], heads), head);
        assert.equal(headAt(at, [x + at.drawn - 1, y + at.tall - 1], heads), head);
      }
      assert.equal(headAt(at, [1, at.lines * at.step + 1], heads), null);
    }
  }
});
