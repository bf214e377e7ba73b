import assert from "node:assert/strict";
import test from "node:test";

const { barEnd, before, facts, lesson, pieces, rate, seconds, settings, verdict } = await import(`${process.env.STATIC}/memory_view.js`);

const GB = 1e9;
const found = {
  weights: 8 * GB, kv: 1 * GB, activations: 0.5 * GB, reserve: 0.25 * GB, memory: 16 * GB, usable: 11 * GB, fits: true, tokens: 4360, context: 131072,
  image_tokens: 4160, grid: [64, 64], kv_per_token: 163840, read: 7.2 * GB, bandwidth: 400 * GB, tokens_per_second: 55.5,
  operations: 106e12, prefill_seconds: 7.4,
};

test("the bar's pieces lie side by side and end where the memory ends", () => {
  const { parts, needed, end, usable } = pieces(found);
  assert.equal(needed, 9.5 * GB);
  assert.equal(end, 16 * GB);
  assert.deepEqual(parts.map(({ from, to }) => [from, to]), [[0, 0.5], [0.5, 0.5625], [0.5625, 0.59375], [0.59375, 0.609375]]);
  assert.equal(usable, 11 / 16);
});

test("too much makes the bar longer than the memory; a small model makes it shorter", () => {
  assert.equal(pieces({ ...found, weights: 30 * GB }).end, 31.75 * GB);
  const small = pieces({ ...found, weights: 4e6, kv: 1e6, activations: 0 });
  assert.equal(small.end, 6.25e6);
  assert.ok(small.usable > 1);
  assert.deepEqual(small.parts.map(({ to }) => to), [0.64, 0.8, 0.8, 1]);
  assert.deepEqual(small.parts.filter(({ cut }) => cut).map(({ name }) => name), ["reserve"]);
});

test("the verdict says what share is taken, and what is too long", () => {
  assert.equal(verdict(found, 16), "It fits: 9.5 GB and a reserve of 250 MB take 89 % of what a 16 GB Mac lets a program use (estimate).");
  assert.equal(verdict({ ...found, weights: 12 * GB, fits: false }, 16),
    "It does not fit: 14 GB and a reserve of 250 MB would take 125 % of what a 16 GB Mac lets a program use (estimate).");
  assert.match(verdict({ ...found, tokens: 200000 }, 16), /^200,000 tokens are more than the context of 131,072\.$/);
});

test("what is about a chip is called an estimate", () => {
  const rows = Object.fromEntries(facts(found, "M3 Max"));
  assert.match(rows.bound, /at most 56 tokens\/s on an M3 Max, 400 GB\/s \(estimate\)/);
  assert.match(rows.prefill, /at least 7\.4 s on an M3 Max \(estimate\)/);
  assert.match(rows.prompt, /4,360 tokens, 4,160 of them per picture \(64 × 64 patches\): 3\.3 % of the context/);
});

test("a run is set beside the prediction and the bound", () => {
  const measured = { device: "Apple M2", tokens_per_second: 50, gigabytes_per_second: 90, peak_bytes: 8e9, prompt_seconds: 2, prompt_tokens: 300, bound: 100 };
  assert.match(lesson(measured, 25), /^Apple M2 wrote 50 tokens\/s after 300 tokens .* reading 90 GB\/s; at its peak it held 8\.0 GB\. Your prediction was 2\.0 times too low\. .*at most 100 tokens\/s \(estimate\): 50 % of that\.$/);
  assert.match(lesson(measured, 200), /4\.0 times too high/);
  assert.match(lesson(measured, 52), /Your prediction was right/);
  assert.match(lesson({ ...measured, bound: null }, null), /its own bound is not known\.$/);
  assert.doesNotMatch(lesson(measured, null), /prediction/);
  assert.equal(rate(1234.5), "1,200 tokens/s");
  assert.equal(seconds(0.0123), "12 ms");
});

test("a Mac's memory is what it is sold as", () => {
  const memory = 64 * 2 ** 30;
  assert.equal(barEnd({ end: memory, memory }), "64 GB");
  assert.equal(barEnd({ end: 1e9, memory }), "1.0 GB; the Mac has 64 GB");
  assert.equal(barEnd({ end: 70e9, memory }), "70 GB");
});

test("a page says what its estimate is of", () => {
  const asked = { chip: "M3 Max", memory_gb: 64, bits: 4, images: 2, side: 1024, text_tokens: 200 };
  assert.deepEqual(settings(asked).map(([, words]) => words),
    ["M3 Max, 64 GB", "in 4 bits", "2 pictures of 1,024 px each and 200 tokens of text"]);
  assert.deepEqual(settings({ ...asked, bits: 0, images: 0 }).map(([, words]) => words),
    ["M3 Max, 64 GB", "as loaded", "200 tokens of text"]);
});

test("a run says how long it will take before it starts", () => {
  assert.equal(before(12.3), "Predict first, then measure: about 12 s on this machine (estimate).");
  assert.equal(before(null), "Predict first, then measure.");
});
