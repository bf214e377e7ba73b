// What the live page says and places, without a browser.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

const { STATIC } = process.env;
const load = (name) => import(`${STATIC}/${name}.js`);
const { cellOf, placedIn, regrown } = await load("arrange");
const { toggled } = await load("broken");
const { extent, rowFor, sourceLines } = await load("code");
const { bytesOf, signed } = await load("maps");
const { placed } = await load("strip");
const { TEXT } = await load("text");

const star = { name: "star", colour: "red" }, nothing = { name: "", colour: "" };
const layout = { rows: 2, columns: 3, cells: Array(6).fill(nothing), look: 1 };

test("a patch lies in a cell, whatever the grid of the picture is", () => {
  assert.deepEqual(cellOf(layout, [3, 5], { rows: 4, columns: 6 }), [1, 2]);
  assert.deepEqual(cellOf(layout, [1, 2], { rows: 4, columns: 6 }), [0, 1]);
  assert.deepEqual(cellOf(layout, [4, 0], { rows: 5, columns: 5 }), [1, 0]);   // squashed
});

test("a thing is put into one cell, and stays when rows and columns come and go", () => {
  const one = placedIn(layout, [1, 1], star);
  assert.deepEqual(one.cells.map(({ name }) => name), ["", "", "", "", "star", ""]);
  const wide = regrown(one, 2, 5);
  assert.equal(wide.cells.findIndex(({ name }) => name), 6);
  assert.equal(regrown(one, 1, 3).cells.some(({ name }) => name), false);
});

test("every line of the code that sees something knows where in the model it is", () => {
  const source = readFileSync(`${STATIC}/network.js`, "utf8");
  const lines = sourceLines(source);
  const seen = lines.filter(({ text }) => /\bsee\("/.test(text));
  assert.ok(seen.length > 25 && seen.every(({ sites }) => sites.length));
  const sites = new Set(seen.flatMap((line) => line.sites));
  for (const site of ["vision.patches", "vision.#.queries", "text.#.queries", "vision.#.gate", "text.#.gate", "projector.out", "text.logits"]) {
    assert.ok(sites.has(site), site);
  }
  assert.ok(lines.length <= 300, "about 300 lines");
});

test("the row of a tensor is the patch's or the word's", () => {
  const places = { patch: 7, position: 70, patches: 48 };
  assert.equal(rowFor("vision.0.queries", 48, places), 7);
  assert.equal(rowFor("text.0.queries", 72, places), 70);
  assert.equal(rowFor("text.logits", 3, places), null);
});

test("choices come and go", () => {
  assert.deepEqual(toggled([["text", 1, 2]], ["text", 1, 3]), [["text", 1, 2], ["text", 1, 3]]);
  assert.deepEqual(toggled([["text", 1, 2]], ["text", 1, 2]), []);
});

test("a line of tokens is broken where its width ends, and only there", () => {
  const places = placed(["word", "patch", "rowBreak", "patch"], [30, 0, 0, 0], 70);
  assert.deepEqual(places.map(({ x, y }) => [x, y]), [[0, 0], [33, 0], [52, 0], [0, 23]]);
});

test("maps are bytes of the greatest, numbers have two digits", () => {
  assert.deepEqual([...bytesOf([0, 0.5, 1, -3])], [0, 128, 255, 0]);
  assert.equal(signed(-0.6149), "−0.61");
  assert.deepEqual(extent([1, -2, 4]), [-2, 1, 4]);
});

test("what became of the answer is said", () => {
  assert.match(TEXT.verdict(true, true, "2.0"), /the same, and is 2.0 nats less sure/);
  assert.match(TEXT.verdict(true, false, "2.0"), /surer/);
  assert.match(TEXT.verdict(false, true, "11"), /something else: its answer from before is 11 nats less likely/);
  assert.match(TEXT.verdict(false, false, "1.3"), /likelier/);
});

test("every text is said somewhere", () => {
  const read = (file) => readFileSync(`${STATIC}/${file}`, "utf8");
  const said = ["arrange", "broken", "code", "easel", "page", "stops", "tour"].map((name) => read(`${name}.js`)).join("");
  const html = read("live.html"), { shared, ...own } = TEXT;
  assert.deepEqual(Object.keys(own).filter((name) => !said.includes(`TEXT.${name}`) && !html.includes(`{${name}}`)), []);
  const drawn = ["colours", "patches"].map((name) => read(`${name}.js`)).join("");
  assert.deepEqual(Object.keys(shared).filter((name) => !drawn.includes(`LABELS.${name}`)), []);
});
