import assert from "node:assert/strict";
import test from "node:test";

const { bytes, digits, nats, operations, patchesFar, share, sold } = await import(`${process.env.STATIC}/numbers.js`);

// A number as it is read, without the zeros that only say how large it is.
const significant = (words) => words.match(/[\d,.]+/)[0].replaceAll(",", "").replace(/^[0.]+/, "").replace(/0+$/, "").replace(".", "").length;

test("what was measured has two digits, and none too many", () => {
  assert.deepEqual([0, 0.0031234, 0.996, 8.64, 9.96, 99.6, 374.4, 27684].map(digits),
    ["0", "0.0031", "1.0", "8.6", "10", "100", "370", "28,000"]);
  assert.equal(digits(1e-12), "< 0.0001");
  assert.equal(nats(-3.217), "3.2");
  assert.equal(nats(0), "0");
});

test("a size has two digits in each unit, and never a thousand of one", () => {
  assert.deepEqual([2621, 332300, 999400, 14.4e6, 996e6, 7.71e9, 51.54e9].map(bytes),
    ["2.6 kB", "330 kB", "1.0 MB", "14 MB", "1.0 GB", "7.7 GB", "52 GB"]);
  for (let n = 1000; n < 1e15; n *= 1.37) {
    for (const words of [bytes(n), operations(n), `${digits(n)} tokens/s`]) assert.ok(significant(words) <= 2, words);
  }
  for (let p = 1; p > 1e-6; p *= 0.83) assert.ok(significant(share(p)) <= (p > 0.995 ? 3 : 2), share(p));
});

test("a distance in patches has one place behind the point, and none from ten on", () => {
  assert.deepEqual([0.00018, 0.31, 2.64, 9.96, 32.6].map(patchesFar), ["0.0", "0.3", "2.6", "10", "33"]);
});

test("a Mac's memory is what it is sold as", () => {
  assert.deepEqual([8, 18, 64, 96, 512].map((size) => sold(size * 2 ** 30)), ["8 GB", "18 GB", "64 GB", "96 GB", "512 GB"]);
});
