import assert from "node:assert/strict";
import test from "node:test";

const { lit, lightOf } = await import(`${process.env.STATIC}/colours.js`);
const { patchUnder, windowOf, zoomedAt } = await import(`${process.env.STATIC}/patches.js`);

const ALL = { rows: 48, columns: 64, cell: 11, zoom: 1, left: 0, top: 0 };

test("all of the picture is seen at first, patch by patch", () => {
  const view = windowOf(ALL);
  assert.deepEqual(view, { cell: 11, width: 704, height: 528, left: 0, top: 0 });
  assert.deepEqual(patchUnder(view, [0, 0], 48, 64), [0, 0]);
  assert.deepEqual(patchUnder(view, [703, 527], 48, 64), [47, 63]);
  assert.equal(patchUnder(view, [704, 10], 48, 64), null);
  assert.equal(patchUnder(view, [10, -1], 48, 64), null);
});

test("what lies under the pointer stays there while it is zoomed", () => {
  for (const point of [[350, 260], [100, 400], [640, 60]]) {
    const before = windowOf(ALL);
    const view = windowOf({ ...ALL, ...zoomedAt(before, point, 11, 3) });
    assert.equal(view.cell, 33);
    assert.deepEqual([view.width, view.height], [704, 528]);
    assert.deepEqual(patchUnder(view, point, 48, 64), patchUnder(before, point, 48, 64));
  }
});

test("the window never leaves the picture, and zooming out shows all of it again", () => {
  const corner = windowOf({ ...ALL, zoom: 4, left: 1000, top: -5 });
  assert.deepEqual([corner.left, corner.top], [64 - 704 / 44, 0]);
  assert.deepEqual(windowOf({ ...ALL, ...zoomedAt(corner, [700, 3], 11, 1) }), windowOf(ALL));
});

test("light goes from grey to the picture's own colour", () => {
  assert.deepEqual(lit([200, 100, 50], 1), [200, 100, 50]);
  const [r, g, b] = lit([200, 100, 50], 0);
  assert.ok(r === g && g === b && r < 60);
  assert.equal(lightOf(0.25), 0.5);
  assert.deepEqual(lit([10, 20, 200], 0.25), [13, 18, 108]);
});
