// What Studio decides without a browser: which word the stage shows next, what files are.

import assert from "node:assert/strict";
import test from "node:test";

const { htmlIn, promptWords } = await import(`${process.env.STATIC}/studio.js`);
const { sortFiles } = await import(`${process.env.STATIC}/files.js`);
const { between, stepTo } = await import(`${process.env.STATIC}/light.js`);
const { nextStep } = await import(`${process.env.STATIC}/stage.js`);

test("words come one by one, however fast they were written", () => {
  let state = { shown: 0, at: -1, count: 3, running: true, touched: false };
  for (const at of [0, 1, 2]) {
    const next = nextStep(state);
    assert.equal(next.at, at);
    assert.equal(next.shown, at + 1);
    assert.ok(next.wait >= 300);
    state = { ...state, ...next };
  }
  assert.equal(nextStep(state), null);   // the next one is not written yet
});

test("a finished answer is gone through again, until somebody steps by hand", () => {
  const done = { shown: 3, at: 2, count: 3, running: false, touched: false };
  assert.equal(nextStep(done).at, 0);
  assert.equal(nextStep({ ...done, at: 0 }).at, 1);
  assert.ok(nextStep(done).wait > nextStep({ ...done, at: 0 }).wait);
  assert.equal(nextStep({ ...done, touched: true }), null);
  assert.equal(nextStep({ ...done, shown: 0, at: -1, count: 0 }), null);
});

test("it runs for half a minute without being touched", () => {
  let state = { shown: 0, at: -1, count: 5, running: false, touched: false };
  let time = 0;
  for (let step = 0; step < 100 && time < 30000; step++) {
    const next = nextStep(state);
    assert.ok(next.wait < 5000);
    time += next.wait;
    state = { ...state, ...next };
  }
  assert.ok(time >= 30000);
});

test("steps stay among the words", () => {
  assert.equal(stepTo(0, -1, 4), 0);
  assert.equal(stepTo(3, 1, 4), 3);
  assert.equal(stepTo(1, 1, 4), 2);
  assert.equal(stepTo(-1, 1, 0), 0);
});

test("light moves from one map to the next", () => {
  const [from, to] = [Uint8Array.of(0, 200), Uint8Array.of(100, 0)];
  assert.deepEqual([...between(from, to, 0)], [0, 200]);
  assert.deepEqual([...between(from, to, 0.5)], [50, 100]);
  assert.deepEqual([...between(from, to, 1)], [100, 0]);
  assert.equal(between(null, to, 0.2), to);
  assert.equal(between(Uint8Array.of(1), to, 0.2), to);
});

test("files are pictures, PDFs or refused by name", () => {
  const files = [
    { name: "a.png", type: "image/png", size: 10 }, { name: "b.pdf", type: "application/pdf", size: 10 },
    { name: "c.txt", type: "text/plain", size: 10 }, { name: "d.jpg", type: "image/jpeg", size: 1e9 },
  ];
  const { pictures, documents, refused } = sortFiles(files);
  assert.deepEqual(pictures.map(({ name }) => name), ["a.png"]);
  assert.deepEqual(documents.map(({ name }) => name), ["b.pdf"]);
  assert.deepEqual(refused, ["c.txt is neither a picture nor a PDF", "d.jpg is larger than 50 MB"]);
});

test("a prompt says what pictures it has, and when it has lost them", () => {
  assert.equal(promptWords(61, 1, true), "61 tokens with 1 picture");
  assert.equal(promptWords(1200, 2, true), "1,200 tokens with 2 pictures");
  assert.match(promptWords(9, 0, true), /without a picture: this conversation has none/);
  assert.equal(promptWords(9, 0, false), "9 tokens without a picture");
});

test("HTML of the model is found in a block or as a whole", () => {
  assert.equal(htmlIn("```html\n<p>x</p>\n```"), "<p>x</p>\n");
  assert.equal(htmlIn("no page"), null);
});
