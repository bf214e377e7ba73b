import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

const { wordsOf } = await import(`${process.env.STATIC}/grouping.js`);
const { blocksOf, opening, runsOf } = await import(`${process.env.STATIC}/words.js`);
const { blobOf, namesOf, take, newAnswer } = await import(`${process.env.STATIC}/talks.js`);
const { eventsOf } = await import(`${process.env.STATIC}/wire.js`);

test("words are those of Python", () => {
  const samples = JSON.parse(readFileSync(process.env.WORDS, "utf-8"));
  assert.ok(samples.length > 5);
  for (const { pieces, words } of samples) {
    const found = wordsOf(pieces.map((text) => ({ text, p: 1 })));
    assert.deepEqual(found.map(({ text, tokens }) => [text, tokens]), words);
    const whole = pieces.join("");
    for (const { text, start, end } of found) assert.equal(whole.slice(start, end), text);
  }
});

test("a word is as likely as its least likely token", () => {
  const [word] = wordsOf([{ text: "for", p: 0.9 }, { text: "ty", p: 0.2 }]);
  assert.equal(word.p, 0.2);
});

test("an answer opens on the word that leans most on one patch, and on no sign", () => {
  const tokens = [
    { text: "A", p: 1, share: 0.9, map: Uint8Array.of(255, 255, 255, 255) },
    { text: " star", p: 1, share: 0.5, map: Uint8Array.of(255, 0, 0, 0) },
    { text: " -", p: 1, share: 1, map: Uint8Array.of(255, 0, 0, 0) },
  ];
  assert.equal(opening(wordsOf(tokens), tokens), 1);
  assert.equal(opening(wordsOf([{ text: "No", p: 1, map: null }]), [{ map: null }]), -1);
});

const said = (text) => blocksOf(text).map(({ kind, start, end, mark }) =>
  [kind, ...(mark ? [mark] : []), text.slice(start, end)]);

test("Markdown is blocks", () => {
  assert.deepEqual(said("One\ntwo\n\n## Three\n- four\n  1. five\n---\n```py\nx\n\ny\n```\nsix"), [
    ["text", "One\ntwo"], ["heading", "Three"], ["item", "•", "four"], ["item", "1.", "five"],
    ["rule", "---"], ["code", "x\n\ny"], ["text", "six"],
  ]);
  assert.deepEqual(said("```\nnot closed"), [["code", "not closed"]]);
  assert.deepEqual(said("```"), [["code", ""]]);
  assert.deepEqual(said("3.5 is no item\n-5 neither"), [["text", "3.5 is no item\n-5 neither"]]);
});

test("a table is rows of cells", () => {
  const text = "| a | b |\n|---|:-:|\n| 1 | |\n";
  const [{ kind, rows }] = blocksOf(text);
  assert.equal(kind, "table");
  assert.deepEqual(rows.map((row) => row.map(([start, end]) => text.slice(start, end))), [["a", "b"], ["1", ""]]);
});

test("marks of bold, slanted and code are in no run", () => {
  const text = "a **b c** *d* `e*f*` 2 * 3 * 4 __g__ **open";
  const runs = runsOf(text, 0, text.length).map(({ kind, start, end }) => [kind, text.slice(start, end)]);
  assert.deepEqual(runs, [["", "a "], ["b", "b c"], ["", " "], ["em", "d"], ["", " "], ["code", "e*f*"],
    ["", " 2 * 3 * 4 __g__ **open"]]);
});

test("events come whole, however the bytes are cut", async () => {
  const bytes = new TextEncoder().encode(": still here\n\nevent: error\ndata: {\"a\": \"é\"}\n\ndata: [DONE]\n\n");
  for (const size of [1, 2, 7, 1000]) {
    const stream = new ReadableStream({ start(controller) {
      for (let i = 0; i < bytes.length; i += size) controller.enqueue(bytes.slice(i, i + size));
      controller.close();
    } });
    const found = [];
    for await (const { event, data } of eventsOf(stream)) found.push([event, data]);
    assert.deepEqual(found, [["error", "{\"a\": \"é\"}"], ["message", "[DONE]"]]);
  }
});

test("chunks make an answer", () => {
  const answer = newAnswer();
  const trace = [{ token: "Hi", confidence: 0.5, image: 1, share: 0.1, grid: [1, 2], map: btoa("\x00\xff") }];
  assert.ok(take(answer, { choices: [{ delta: { content: "Hi" }, trace }] }));
  assert.ok(!take(answer, { choices: [{ delta: {}, finish_reason: "length" }] }));
  assert.ok(!take(answer, { choices: [], usage: { prompt_tokens: 3 } }));
  assert.deepEqual([answer.text, answer.end, answer.usage.prompt_tokens], ["Hi", "length", 3]);
  assert.deepEqual([...answer.tokens[0].map], [0, 255]);
});

test("pictures are called after their files", () => {
  const [a, b] = [{ name: "a.png", type: "image/png" }, { name: "b.pdf", type: "application/pdf", pages: "" }];
  assert.deepEqual(namesOf([a, b], 3), ["a.png", "b.pdf, page 1", "b.pdf, page 2"]);
  assert.deepEqual(namesOf([a], 1), ["a.png"]);
  assert.deepEqual(namesOf([{ ...b, pages: "2-3,9" }], 3), ["b.pdf, page 2", "b.pdf, page 3", "b.pdf, page 9"]);
  assert.deepEqual(namesOf([b, b], 3), ["picture 1 of the question", "picture 2 of the question", "picture 3 of the question"]);
});

test("what is no picture is refused", () => {
  assert.equal(blobOf("data:image/png;base64,QUJD").size, 3);
  assert.throws(() => blobOf("data:image/svg+xml;base64,QUJD"));
  assert.throws(() => blobOf("https://evil.example/x.png"));
});
