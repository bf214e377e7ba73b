// The live page's modules against what Python computes: see test_live.py, which writes the cases.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

const { CASES, STATIC } = process.env;
const load = (name) => import(`${STATIC}/${name}.js`);
const { patches, rope2d } = await load("network");
const { newRun, prompted, roundedModel, UNCHANGED } = await load("runs");
const { ofBase64, opened, rounded } = await load("weights");
const { imageTokens, speaker, tokenizer } = await load("tokenizer");
const { draw, makeLayout, openMasks, prepared, resized, twister } = await load("scenes");
const { ask } = await load("questions");

const read = (name) => JSON.parse(readFileSync(`${CASES}/${name}.json`));
// Base64 of float32.
const floats = (text) => new Float32Array(ofBase64(text).buffer);
const apart = (found, wanted) => {
  assert.equal(found.length, wanted.length);
  return found.reduce((most, value, i) => Math.max(most, Math.abs(value - wanted[i])), 0);
};

// The answer of a run: { tokens, logprobs }.
function written(run) {
  const pieces = [...run.go()];
  return { tokens: pieces.map(({ token }) => token), logprobs: pieces.map(({ logprob }) => logprob) };
}

const models = read("models").map(({ data, weights, cases, ...rest }) => ({
  ...rest, data, words: tokenizer(data.words),
  model: { config: data.config, weights: opened(data.weights, ofBase64(weights)) },
  cases: cases.map(({ pictures, ...one }) =>
    ({ ...one, pictures: pictures.map(({ pixels, ...grid }) => ({ ...grid, pixels: floats(pixels) })) })),
}));
const [{ model: mini, words: miniWords, data: { words: { end, template } }, cases: [first] }] = models;
const asked = prompted(miniWords, template.image, first.text, first.pictures);

for (const { name, data, words, model, cases } of models) {
  for (const { text, changes, pictures, ...wanted } of cases) {
    test(`${name}: ${text} ${JSON.stringify(changes)}`, () => {
      const used = { ...UNCHANGED, ...changes };
      const prompt = prompted(words, data.words.template.image, text, pictures, used);
      assert.deepEqual(prompt.tokens, wanted.prompt);
      const run = newRun(model, prompt, { end: data.words.end, changes: used, most: wanted.most });
      const { tokens, logprobs } = written(run);
      assert.deepEqual(tokens, wanted.tokens);
      assert.ok(apart(logprobs.slice(0, wanted.logprobs.length), wanted.logprobs) < 1e-4, "log-probabilities");
      for (const { layer, head, picture, patch, row } of wanted.vision) {
        const found = run.visionRow(layer, head, picture, patch);
        assert.ok(apart(found.row, floats(row)) < 1e-5, `vision ${layer}.${head}, patch ${patch}`);
      }
      for (const { token, layer, head, row } of wanted.words) {
        const found = run.textRow(layer, head, prompt.tokens.length - 1 + token);
        assert.ok(apart(found, floats(row)) < 1e-5, `text ${layer}.${head}, word ${token}`);
      }
      for (const { token, picture, map } of wanted.maps) {
        assert.ok(apart(run.imageRow(token, null, null, picture), floats(map)) < 1e-5, "map");
      }
      for (const [site, state] of Object.entries(wanted.states)) {
        const numbers = floats(state), largest = Math.max(...numbers.map(Math.abs));
        assert.ok(apart(run.tensor(site).data, numbers) < 2e-5 * largest, `${site}, of up to ${largest}`);
      }
    });
  }
}

test("an answer that is read has the log-probabilities of one that is written", () => {
  const { tokens, logprobs } = written(newRun(mini, asked, { end }));
  const again = written(newRun(mini, asked, { forced: tokens }));
  assert.deepEqual(again, { tokens, logprobs });
  const other = [...newRun(mini, asked, { forced: [tokens[0], tokens[0]] }).go()];
  assert.deepEqual(other.map(({ token }) => token), [tokens[0], tokens[0]]);
});

test("patches are cut row by row, their colours side by side", () => {
  const pixels = Float32Array.from({ length: 4 * 6 * 3 }, (_, i) => i);   // 2 x 3 patches of 2 x 2
  const cut = patches({ rows: 2, columns: 3, pixels }, 2);
  assert.deepEqual(cut.shape, [6, 12]);
  assert.deepEqual([...cut.data.subarray(4 * 12, 5 * 12)], [42, 43, 44, 45, 46, 47, 60, 61, 62, 63, 64, 65]);
});

test("rows turn the first half of the pairs, columns the other", () => {
  const { shape, data } = rope2d(3, 4, 8, 100);
  assert.deepEqual(shape, [12, 4]);
  const wanted = [2, 2 * 100 ** -0.5, 3 * 100 ** -0.25, 3 * 100 ** -0.75];   // row 2, column 3
  assert.ok(apart(data.subarray(11 * 4), wanted) < 1e-6);
});

test("shuffled patches are the same ones in another order, hidden ones the mean", () => {
  const out = (changes) => {
    const run = newRun(mini, asked, { changes: { ...UNCHANGED, ...changes }, most: 1 });
    written(run);
    const { shape: [N, D], data: x } = run.tensor("projector.out");
    return Array.from({ length: N }, (_, n) => [...x.subarray(n * D, (n + 1) * D)].join());
  };
  const [plain, dealt] = [out({}), out({ shuffle: 7 })];
  assert.notDeepEqual(dealt, plain);
  assert.deepEqual([...dealt].sort(), [...plain].sort());
  assert.deepEqual(out({ shuffle: 7 }), dealt);
  assert.notDeepEqual(out({ shuffle: 8 }), dealt);
});

test("every type of weights is opened", () => {
  for (const { header, bytes, wanted } of read("weights")) {
    const { w } = opened({ w: header }, ofBase64(bytes));
    assert.ok(apart(w.data, floats(wanted)) < 1e-6, JSON.stringify(header));
  }
});

test("matrices are rounded as MLX rounds them", () => {
  for (const { bits, shape, from, to } of read("rounded")) {
    assert.ok(apart(rounded({ shape, data: floats(from) }, bits).data, floats(to)) < 1e-6, `${bits} bits`);
  }
  const few = roundedModel(mini, 2).weights;
  const changed = Object.keys(few).filter((name) => few[name] !== mini.weights[name]);
  assert.ok(changed.every((name) => /^(projector|decoder)/.test(name) && !/norm|bias/.test(name)));
  assert.equal(changed.length, 2 + 7 * mini.config.n_layers + 2);
});

test("any text is cut into the tokens of mistral-common", () => {
  for (const { words, texts } of read("texts")) {
    const { encode, bytes } = tokenizer(words);
    for (const [text, tokens] of texts) {
      assert.deepEqual(encode(text), tokens, JSON.stringify(text));
      const said = speaker({ bytes });
      assert.equal(tokens.map(said.add).join("") + said.end(), text);
    }
  }
});

test("a character that is not whole is kept back", () => {
  const { bytes, encode } = miniWords;
  const said = speaker({ bytes });
  const tokens = encode("é");
  assert.equal(tokens.length, 2);
  assert.deepEqual(tokens.map(said.add), ["", "é"]);
  said.add(tokens[0]);
  assert.equal(said.end(), "\ufffd");
});

test("breaks stand after rows, or not at all, or where the columns would end", () => {
  const ids = { image: 10, rowBreak: 12, end: 13 };
  assert.deepEqual(imageTokens(2, 3, ids), [10, 10, 10, 12, 10, 10, 10, 13]);
  assert.deepEqual(imageTokens(2, 3, ids, "none"), [10, 10, 10, 10, 10, 10, 13]);
  assert.deepEqual(imageTokens(2, 3, ids, "swapped"), [10, 10, 12, 10, 10, 12, 10, 10, 13]);
});

test("scenes, questions and pixels are Python's own", () => {
  const { world, scenes } = read("scenes");
  const masks = openMasks(world.masks);
  for (const { seed, layouts, asked, pixels, sizes, numbers } of scenes) {
    const random = twister(seed);
    const [layout, other] = [makeLayout(random, world), makeLayout(random, world)];
    assert.deepEqual([layout, other], layouts, `seed ${seed}`);
    const found = Object.keys(world.phrasings).map((kind) => ask(kind, layout, random, world, other));
    assert.deepEqual(found.map((one) => one && [one.text, one.answer]), asked, `seed ${seed}`);
    const picture = draw(layout, world, masks);
    assert.ok(Buffer.from(picture.data).equals(Buffer.from(pixels, "base64")), `pixels of seed ${seed}`);
    const ready = prepared(picture, sizes);
    assert.ok(apart(ready.pixels, floats(numbers)) < 1e-5, `numbers of seed ${seed}`);
    assert.equal(ready.pixels.length, ready.rows * ready.columns * sizes.patch_size ** 2 * 3);
  }
  const sized = makeLayout(twister(1), world, 2, 4);
  assert.deepEqual([sized.rows, sized.columns, sized.cells.length], [2, 4, 8]);
});

test("a picture that has its size stays as it is", () => {
  const picture = { width: 2, height: 1, data: [0, 1, 2, 3, 4, 5] };
  assert.equal(resized(picture, 2, 1).data, picture.data);
});
