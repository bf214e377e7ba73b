// The page: what is drawn, asked and chosen, and what each place shows of it.

import { arranging, canvasOf } from "./arrange.js";
import { brokenPlace, comparison } from "./broken.js";
import { client } from "./client.js";
import { codePlace } from "./code.js";
import { easel, wordSight } from "./easel.js";
import { tag } from "./elements.js";
import { wordsOf } from "./grouping.js";
import { ask, said } from "./questions.js";
import { draw, makeLayout, openMasks, prepared, resized, shuffled, twister } from "./scenes.js";
import { answerStop, attentionStop, breaksStop, decoderStop, patchesStop, projectorStop, ropeStop } from "./stops.js";
import { TEXT } from "./text.js";
import { touring } from "./tour.js";

const held = (id) => document.getElementById(id).textContent;
const root = document.getElementById("page");
const FIRST = { seed: 149, rows: 3, columns: 4, cell: [1, 1] };   // what is asked about when the page opens
const SUGGESTED = ["at", "where", "colour", "shape", "count", "next", "read", "rows", "wide", "describe"];
const SOME = 4;   // questions to choose from
const WHOLE = { breaks: "kept", mask: true, heads: [], layers: [], hidden: [], shuffle: null, bits: null, squash: false };
const LIT = 0.5;  // of the greatest attention: what is more counts as looked at
const PACE = 180; // ms from word to word: the model is faster than the eye
const CALM = matchMedia("(prefers-reduced-motion: reduce)");
const UNLIT = ["picture", "patches"];   // stops where the picture has its own colours until a word is clicked

async function start() {
  const data = JSON.parse(held("model")), { world } = data;
  const model = client(held("worker"));
  const masks = openMasks(world.masks);
  const patchSide = data.config.vision_encoder.patch_size;
  const state = {
    scenes: [], pictures: [], image: 0, text: "", expected: null, patch: null, last: null, word: null,
    vision: [0, 0], decoder: [null, null], changes: { ...WHOLE }, runs: {}, place: "picture",
  };
  let asking = 0;

  // Scenes and pictures -------------------------------------------------------------------------

  // As the model receives it: squashed, if that is wished, to a square of about as many patches.
  function pictureOf(layout, squash) {
    const drawn = draw(layout, world, masks);
    const patches = Math.ceil(drawn.width / patchSide) * Math.ceil(drawn.height / patchSide);
    const side = Math.max(1, Math.round(Math.sqrt(patches))) * patchSide;
    const shown = squash ? resized(drawn, side, side) : drawn;
    return { ...prepared(shown, data.config.vision_encoder), canvas: canvasOf(shown) };
  }

  function setScenes(scenes) {
    state.scenes = scenes;
    state.pictures = scenes.map((layout) => pictureOf(layout, state.changes.squash));
    state.image = Math.min(state.image, scenes.length - 1);
    Object.assign(state, { patch: null, last: null, word: null });
    state.changes.hidden = [];
    showPicture();
    arranged.show(scenes[state.image], scenes.length > 1);
    suggest();
  }

  // The picture in front, as it is changed.
  function showPicture() {
    const { pictures, image, changes } = state;
    const hidden = changes.hidden.filter(([of]) => of === image).map(([, patch]) => patch);
    front.picture(pictures, image, { ends: changes.breaks === "kept", hidden: new Set(hidden) });
  }

  function suggest() {
    const random = twister(Math.floor(Math.random() * 2 ** 32)), [layout, other] = state.scenes;
    const kinds = other ? ["which", ...SUGGESTED] : SUGGESTED;
    const found = kinds.map((kind) => ask(kind, layout, random, world, other)).filter(Boolean);
    const first = other ? 1 : 0;   // the question that two pictures are for
    front.chips([...found.slice(0, first), ...shuffled(random, found.slice(first))].slice(0, SOME));
    return found;
  }

  const page = {
    state, model, config: data.config, template: data.words.template, patchSide,
    picture: () => state.pictures[state.image],
    run: () => state.runs[page.isBroken() ? "broken" : "whole"] ?? { name: "whole", words: [], pieces: [] },
    isBroken: () => JSON.stringify(state.changes) !== JSON.stringify(WHOLE),
    light: (values, says, options) => front.light(values, says, { chosen: state.patch, ...options }),
    lightWord, refresh, change, mend, hideLit, ask: askNow,
    second: (whether) => setScenes(whether ? [state.scenes[0], state.scenes[1] ?? another(state.scenes[0])] : [state.scenes[0]]),
    comparison() {
      const { whole, broken } = state.runs, of = (run) => run && run.text;
      const lost = broken?.scored && whole?.logprobs ? total(whole.logprobs) - total(broken.scored) : null;
      return comparison({ before: of(whole), now: broken?.done ? of(broken) : null, nats: lost, broken: page.isBroken() });
    },
    // Where the chosen patch and word stand among all patches and tokens.
    places() {
      const { patch, image, pictures, word } = state, run = page.run();
      const start = pictures.slice(0, image).reduce((sum, each) => sum + each.rows * each.columns, 0);
      return {
        patches: pictures.reduce((sum, each) => sum + each.rows * each.columns, 0),
        patch: patch ? start + patch[0] * pictures[image].columns + patch[1] : null,
        position: word != null && run.words[word] ? run.prompt.tokens.length - 1 + run.words[word].tokens[0] : null,
      };
    },
  };
  const total = (logprobs) => logprobs.reduce((a, b) => a + b, 0);

  function another(layout) {
    const random = twister(Math.floor(Math.random() * 2 ** 32));
    let other = layout;
    while (other.rows === layout.rows && other.columns === layout.columns) other = makeLayout(random, world);
    return other;
  }

  // Questions and answers -----------------------------------------------------------------------

  function askNow(text, expected) {
    asked(text, expected).catch((error) => front.verdict(TEXT.unanswered(error.message)));
  }

  // The whole model is asked first, then the broken one, whose run is compared with it.
  async function asked(text = state.text, expected = null) {
    if (!text.trim()) return;
    const mine = ++asking;
    if (text !== state.text) state.expected = expected;
    Object.assign(state, { text, word: null });
    front.question(text);
    front.verdict("");
    const key = JSON.stringify([text, state.scenes]);
    if (state.runs.whole?.key !== key || !state.runs.whole.done) {
      delete state.runs.broken;
      if (!await run("whole", key, mine, WHOLE)) return;
    }
    delete state.runs.broken;
    if (page.isBroken() && !await run("broken", key, mine, state.changes, state.runs.whole.tokens)) return;
    refresh();
    await stream(page.run(), mine);
    if (mine === asking) finished();
  }

  // Writes an answer into state.runs; false if another question came meanwhile.
  async function run(name, key, mine, changes, score = null) {
    const own = { name, key, pieces: [], words: [], text: "", done: false, prompt: null };
    state.runs[name] = own;
    const pictures = changes === WHOLE && state.changes.squash ? state.scenes.map((layout) => pictureOf(layout, false)) : state.pictures;
    const sent = pictures.map(({ rows, columns, pixels }) => ({ rows, columns, pixels }));
    const told = { name, text: state.text, pictures: sent, changes, score };
    const seen = () => page.run() === own && mine === asking;
    if (seen()) { front.answer([], null, { writing: true }); refresh(); }
    const end = await model("ask", told, ({ prompt, piece }) => {
      if (mine !== asking) return;
      if (prompt) { own.prompt = prompt; return; }
      own.pieces.push({ ...piece, p: Math.exp(piece.logprob) });
      if (piece.last) return;
      own.text += piece.text;
      own.words = wordsOf(own.pieces);
      if (seen() && CALM.matches) front.answer(own.words, own.words.length - 1, { writing: true });
    });
    if (mine !== asking || end.stopped) return false;
    Object.assign(own, { done: true, tokens: end.tokens, logprobs: end.logprobs, scored: end.scored, ms: end.ms });
    return true;
  }

  // The light goes through the words of an answer, one after the other; a click ends it.
  async function stream(own, mine) {
    for (let n = 1; n <= own.words.length && !CALM.matches; n++) {
      if (mine !== asking || page.run() !== own || state.word != null) return;
      front.answer(own.words.slice(0, n), n - 1, { writing: true });
      if (!touchesPicture()) showWord(own.words[n - 1], true);
      await new Promise((resolve) => { setTimeout(resolve, PACE); });
    }
  }

  // The answer stands there: the word that leans most on one patch is lit.
  function finished() {
    const now = page.run();
    const peak = ({ tokens: [first] }) => Math.max(...now.pieces[first].maps[state.image]);
    const peaks = now.words.map(peak);
    state.word ??= peaks.length ? peaks.indexOf(Math.max(...peaks)) : null;
    front.answer(now.words, state.word);
    const { expected } = state, whole = state.runs.whole;
    const about = TEXT.speed(now.prompt.tokens.length, Math.round(now.ms.first), Math.round(now.ms.all));
    const judged = expected == null || page.isBroken() ? "" : expected === whole.text ? `${TEXT.right} ` : `${TEXT.wrong(expected)} `;
    front.verdict(judged + about, expected === whole.text);
    root.dataset.answered = String(Number(root.dataset.answered ?? 0) + 1);
    if (!touchesPicture()) lightWord();
    refresh();
  }

  // What is lit ---------------------------------------------------------------------------------

  const touchesPicture = () => places[state.place].lit && state.patch != null && state.place !== "decoder";

  function showWord(word, passing = false) {
    const { columns } = page.picture(), map = page.run().pieces[word.tokens[0]].maps[state.image];
    if (map.length !== page.picture().rows * columns) return;
    page.light(map, wordSight(word, map, columns, state.image, state.pictures.length), { passing });
  }

  function lightWord(clicked = false) {
    const word = page.run().words[state.word];
    const says = state.place === "picture" && state.patch ? arranged.says(state.patch, page.picture()) : TEXT.hint;
    if (word && (clicked || !UNLIT.includes(state.place))) showWord(word); else front.light(null, says, { chosen: state.patch });
  }

  function hideLit() {
    const word = page.run().words[state.word];
    if (!word) return;
    const map = page.run().pieces[word.tokens[0]].maps[state.image], most = Math.max(...map);
    const hidden = [...map.keys()].filter((patch) => map[patch] >= LIT * most).map((patch) => [state.image, patch]);
    const old = state.changes.hidden.filter((each) => !hidden.some((one) => String(one) === String(each)));
    change({ hidden: [...old, ...hidden] });
  }

  function change(changes) {
    const squashed = "squash" in changes && changes.squash !== state.changes.squash;
    Object.assign(state.changes, changes);
    if (squashed) {
      state.pictures = state.scenes.map((layout) => pictureOf(layout, state.changes.squash));
      Object.assign(state, { patch: null, last: null });
      state.changes.hidden = [];
    }
    showPicture();
    tour.did("change");
    askNow();
  }

  function mend() { change({ ...WHOLE, heads: [], layers: [], hidden: [] }); }

  // The places of the page ----------------------------------------------------------------------

  const front = easel({
    onPatch(patch) {
      state.last = state.patch;
      state.patch = patch;
      front.canvas.show({ chosen: patch });
      if (state.place === "picture") front.light(null, arranged.says(patch, page.picture()), { chosen: patch });
      else if (!places[state.place].lit || state.place === "decoder") lightWord();
      tour.did("patch");
      refresh();
    },
    onPut() {
      if (state.place !== "picture" || !state.patch) return;
      arranged.put(state.patch, page.picture());
      tour.did("put");
    },
    onWord(word) {
      state.word = word;
      if (word == null || places[state.place].lit) state.patch = null;
      front.answer(page.run().words, word, { writing: !page.run().done });
      lightWord(true);
      if (word != null) tour.did("word");
      refresh();
    },
    onEnd(row) {
      const { rows } = page.picture();
      if (row == null) lightWord(); else front.says(TEXT.rowEnd(row + 1, row === rows - 1));
    },
    onPicture(image) {
      Object.assign(state, { image, patch: null, last: null });
      showPicture();
      arranged.show(state.scenes[image], state.scenes.length > 1);
      lightWord();
      refresh();
    },
    onAsk(text, chip = null) { askNow(text, chip?.answer ?? null); tour.did("ask"); },
  });

  const arranged = arranging({
    world, masks,
    onScene(layout) {
      const patch = state.patch;
      setScenes(state.scenes.map((each, i) => (i === state.image ? layout : each)));
      if (patch && patch[0] < page.picture().rows && patch[1] < page.picture().columns) state.patch = patch;
      state.expected = null;
      askNow();
    },
    onNew() {
      const random = twister(Math.floor(Math.random() * 2 ** 32)), layout = makeLayout(random, world);
      state.image = 0;
      setScenes(state.scenes.length > 1 ? [layout, another(layout)] : [layout]);
      const found = suggest(), one = found[Math.floor(random() * found.length)];
      state.expected = one.answer;
      state.text = one.text;
      askNow();
    },
    onSecond(whether) { page.second(whether); state.expected = null; askNow(whether ? suggest()[0].text : state.text); },
  });

  const places = {
    picture: { root: arranged.root, show() {} }, patches: patchesStop(page), rope: ropeStop(page), attention: attentionStop(page),
    projector: projectorStop(page), breaks: breaksStop(page), decoder: decoderStop(page), answer: answerStop(page),
    broken: brokenPlace(page), code: codePlace(page, held("network")),
  };

  function refresh() {
    if (page.run().done || state.place === "broken" || state.place === "breaks") places[state.place].show();
  }

  function go(place) {
    state.place = place;
    stage.replaceChildren(places[place].root);
    if (!touchesPicture()) lightWord();
    refresh();
  }

  const stage = tag("section", { class: "px-stage" });
  const tour = touring({ onPlace: go });
  const weights = Object.values(data.weights).reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b), 0);
  root.replaceChildren(
    tag("header", { class: "px-head" }, tag("h1", {}, TEXT.title), tag("span", { class: "px-model" }, TEXT.model(data.name, weights.toLocaleString("en"))), tour.toggle),
    tag("p", { class: "px-lede px-quiet" }, TEXT.lede),
    tour.nav, tag("div", { class: "px-both" }, tour.card, front.root, stage),
  );
  root.model = model;

  const random = twister(FIRST.seed);
  const layout = makeLayout(random, world, FIRST.rows, FIRST.columns);
  setScenes([layout]);
  await model("open", { data: { words: data.words, config: data.config, weights: data.weights }, weights: held("weights") });
  tour.begin();
  const [row, column] = FIRST.cell;
  await asked(TEXT.firstQuestion(row + 1, column + 1), said(layout.cells[row * FIRST.columns + column]));
  root.dataset.ready = String(Math.round(performance.now()));
}

start().catch((error) => { root.textContent = TEXT.failed(error.message); throw error; });
