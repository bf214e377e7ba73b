import assert from "node:assert/strict";
import test from "node:test";

const { describe, linesOf, parted, percent, short, sorted, spread, total } = await import(`${process.env.STATIC}/quantization_view.js`);

const one = (part, layer, kind, error) => ({
  name: `${part}.${layer}.${kind}.weight`, part, layer, kind, error, shape: [64, 128], scheme: "4 bits, groups of 64",
  before: 16384, after: 4608,
});

test("a line a layer, vision first, each matrix under its name, and the layer last", () => {
  const errors = [one("text", 1, "w2", 0.3), one("text", 0, "wq", 0.1), one("vision", 0, "wv", 0.2), one("text", null, "output", 0.05)];
  const layers = [{ part: "text", layer: 1, error: 0.3 }, { part: "text", layer: 0, error: 0.1 }, { part: "vision", layer: 0, error: 0.2 }];
  const lines = linesOf(errors, layers);
  assert.deepEqual(lines.map((line) => line.label), ["v0", "0", "1", ""]);
  assert.equal(lines[1].cells[0].error, 0.1);
  assert.equal(lines[2].cells[5].error, 0.3);
  assert.equal(lines[0].cells[2].error, 0.2);
  assert.equal(lines[2].cells[7].error, 0.3);
  assert.equal(lines[2].cells[0], null);
  assert.deepEqual(lines[3].cells.map((cell) => cell.kind), ["output"]);
});

test("colours run from the least error to the most", () => {
  const scale = spread([{ error: 0.08 }, { error: 0.12 }, { error: 0.10 }]);
  assert.equal(scale.share(0.08), 0);
  assert.equal(scale.share(0.12), 1);
  assert.ok(Math.abs(scale.share(0.1) - 0.5) < 1e-9);
  assert.equal(spread([{ error: 0.1 }]).share(0.1), 1);
});

test("the table is sorted both ways", () => {
  const rows = [{ error: 2, name: "b" }, { error: 3, name: "a" }, { error: 1, name: "c" }];
  assert.deepEqual(sorted(rows, "error", true).map((row) => row.error), [3, 2, 1]);
  assert.deepEqual(sorted(rows, "name", false).map((row) => row.name), ["a", "b", "c"]);
  assert.equal(rows[0].error, 2);
  const layers = [{ name: "layers.10" }, { name: "layers.9" }];
  assert.deepEqual(sorted(layers, "name", false).map((row) => row.name), ["layers.9", "layers.10"]);
  assert.equal(short("decoder.layers.3.feed_forward.w2.weight"), "decoder.layers.3.w2");
});

test("words", () => {
  assert.equal(percent(0.0956).replace("\u00a0", " "), "9.6 %");
  assert.equal(percent(0.4137).replace("\u00a0", " "), "41 %");
  assert.match(describe(one("text", 4, "w2", 0.0956)), /^decoder layer 4, w2 \(64 × 128\), 4 bits, groups of 64: error 9\.6.%, 16 kB become 4\.6 kB\.$/);
  assert.match(describe({ part: "vision", layer: 2, error: 0.1 }), /^vision layer 2, all its matrices together: error/);
  assert.match(total([one("text", 0, "wq", 0.1), one("text", 1, "w2", 0.2)]), /^2 matrices, 33 kB become 9\.2 kB\. Most is lost in text\.1\.w2/);
  const pieces = [["A", " red"], ["A", " blue"]];
  assert.equal(parted({ pieces, parting: 1, kl: [0.1, 2] }), "They part at token 2: “red” became “blue”; the next word's distributions are at most 2.0 nats apart.");
  assert.match(parted({ pieces: [["A"], ["A", "b"]], parting: 1, kl: [] }), /“nothing more” became “b”/);
  assert.match(parted({ pieces: [["A"], ["A"]], parting: null, kl: [0] }), /^Both give the same 1 tokens/);
});
