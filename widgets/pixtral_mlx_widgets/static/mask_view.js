// MaskView: who may see whom, in the encoder and in the decoder.

import { key } from "./colours.js";
import { eachFrame, ink, onTheme, OWN_KEYS, sized, tag } from "./elements.js";
import { capital, count, nats, patchName, share, tokenNumber } from "./numbers.js";
import { answersPictures, connect, follow, frame, on } from "./shared.js";

const SIDE = 560;
const AXIS = 12;

// The encoder's blocks: where each image's patches stand among all.
export function blocks(images) {
  let start = 0;
  return images.map(({ rows, columns }, image) => {
    const block = { image, start, length: rows * columns, columns };
    start += block.length;
    return block;
  });
}

// Which image and which patch of it a patch among all is.
export function patchOf(all, patch) {
  const block = all.find((one) => patch < one.start + one.length) ?? all.at(-1);
  const inside = patch - block.start;
  return { image: block.image, row: Math.floor(inside / block.columns), column: inside % block.columns };
}

// The prompt in runs of tokens of a kind: "text", "row" (patches), "break", "end".
export function bands(images, tokens) {
  const found = [];
  let at = 0;
  const add = (kind, length, more = {}) => {
    if (length > 0) found.push({ kind, start: at, length, ...more });
    at += length;
  };
  images.forEach(({ start, rows, columns, breaks }, image) => {
    add("text", start - at);
    for (let row = 0; row < rows; row++) {
      add("row", columns, { image, row });
      if (row === rows - 1) add("end", 1, { image, row });
      else if (breaks) add("break", 1, { image, row });
    }
  });
  add("text", tokens - at);
  return found;
}

// Where the bands stand on a side of so many pixels: token by token where there is room for two
// pixels each, else long runs are pressed together so that row ends stay visible.
export function placed(all, side) {
  const tokens = all.reduce((sum, band) => sum + band.length, 0);
  const weight = tokens * 2 <= side ? (band) => band.length : (band) => Math.min(band.length, 4);
  const total = all.reduce((sum, band) => sum + weight(band), 0);
  let at = 0;
  return all.map((band) => {
    const from = at;
    at += weight(band) / total * side;
    return { ...band, from, to: at };
  });
}

// The token at a place, and back.
export function tokenAt(all, place) {
  const band = all.find((one) => place < one.to) ?? all.at(-1);
  const inside = Math.floor((place - band.from) / (band.to - band.from) * band.length);
  return { band, token: band.start + Math.min(Math.max(inside, 0), band.length - 1) };
}
export function placeOf(all, token) {
  const band = all.find((one) => token < one.start + one.length) ?? all.at(-1);
  return band.from + (token - band.start + 0.5) / band.length * (band.to - band.from);
}

export function nameToken({ band, token }, words) {
  const of = band.image == null ? "" : `picture ${band.image + 1}, patch row ${band.row + 1}`;
  if (band.kind === "row") return `token ${tokenNumber(token)} (${of}, column ${token - band.start + 1})`;
  if (band.kind === "break") return `token ${tokenNumber(token)} ([IMG_BREAK] after ${of})`;
  if (band.kind === "end") return `token ${tokenNumber(token)} ([IMG_END] of picture ${band.image + 1})`;
  const word = words?.labels[words.ids[token]];
  return `token ${tokenNumber(token)}` + (word == null ? "" : ` (“${word.replaceAll("\n", "⏎")}”)`);
}

export function describeDecoder(query, key, words) {
  const sees = key.token === query.token ? "sees itself" : key.token < query.token
    ? `sees ${nameToken(key, words)}` : `does not see ${nameToken(key, words)}, which comes later`;
  return `${capital(nameToken(query, words))} ${sees}. It sees ${count(query.token + 1)} in all.`;
}

export function describeEncoder(query, key, broken) {
  const name = ({ image, row, column }) => `${patchName([row, column])} of picture ${image + 1}`;
  const own = query.image === key.image;
  if (own) return `${capital(name(query))} sees ${name(key)}: it is the same picture.`;
  return broken ? `${capital(name(query))} sees ${name(key)}, another picture: the mask is broken.`
    : `${capital(name(query))} does not see ${name(key)}: each picture is encoded as if it were alone.`;
}

export function summary(images, tokens, broken, leak) {
  const all = blocks(images);
  const patches = all.reduce((sum, block) => sum + block.length, 0);
  const seen = all.reduce((sum, block) => sum + block.length ** 2, 0);
  if (!images.length) return `${count(tokens)} tokens and no picture: only the decoder has a mask.`;
  if (broken && leak.features) {
    if (images.length === 1) {
      return "There is one picture, so nothing can leak: its features change by "
        + `${share(leak.features[0])}. Add a picture.`;
    }
    const worst = leak.features.indexOf(Math.max(...leak.features));
    return `Without the mask the pictures leak into one another: the features of picture ${worst + 1} `
      + `change by ${share(leak.features[worst])} (RMS), the next word's distribution by `
      + `${nats(leak.kl)} nats (KL).`;
  }
  const part = broken ? "every patch sees every other" : `every patch sees those of its own picture, `
    + `${count(seen)} of ${count(patches ** 2)} pairs (${share(seen / patches ** 2)})`;
  const name = images.length === 1 ? "One picture" : `${images.length} pictures`;
  return `${name}, ${count(patches)} patches: ${part}; `
    + `each of the ${count(tokens)} tokens sees those before it.`;
}

// A square with a cross where the pointer is. paint(pen, side), onPoint([x, y] or null) in pixels.
function square({ label, paint, onPoint, step }) {
  const canvas = tag("canvas", {
    class: "px-mask", role: "img", tabindex: 0, ...OWN_KEYS, "aria-label": label,
  });
  const root = tag("figure", { class: "px-figure" },
    tag("figcaption", { class: "px-quiet" }, label), canvas);
  let at = null;
  let side = 0;
  const redraw = eachFrame(() => {
    if (!root.clientWidth) return;
    side = Math.max(Math.min(root.clientWidth, SIDE) - AXIS, 80);
    const pen = sized(canvas, side + AXIS, side + AXIS);
    pen.translate(AXIS, AXIS);
    paint(pen, side);
    if (!at) return;
    pen.strokeStyle = ink(root, "--px-ring");
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(0, at[1]);
    pen.lineTo(side, at[1]);
    pen.moveTo(at[0], 0);
    pen.lineTo(at[0], side);
    pen.stroke();
  });
  function point(next) { at = next; redraw(); onPoint(at, side); }
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left - AXIS, event.clientY - box.top - AXIS];
    point(x >= 0 && y >= 0 && x < side && y < side ? [x, y] : null);
  });
  canvas.addEventListener("pointerleave", () => point(null));
  canvas.addEventListener("blur", () => point(null));
  canvas.addEventListener("keydown", (event) => {
    const way = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    if (!way) return;
    event.preventDefault();
    event.stopPropagation();
    const from = at ?? [side / 2, side / 2];
    const to = from.map((place, i) => way[i] ? step(place, way[i], side) : place);
    point(to.map((place) => Math.min(Math.max(place, 0.5), side - 0.5)));
  });
  const watch = new ResizeObserver(redraw);
  watch.observe(root);
  const stop = onTheme(redraw);
  return { root, canvas, redraw, close() { watch.disconnect(); stop(); } };
}

export function render({ model, el }) {
  const panel = frame(el, "Who sees whom",
    model.page ? "" : "Try: break the mask, and see how much the pictures leak into one another.");
  const { ask, act, close } = connect(model, panel);
  const fail = (error) => panel.fail(error.message);
  const images = () => model.get("facts").images ?? [];
  const tokens = () => model.get("facts").tokens ?? 0;
  let words = null;

  const encoder = square({
    label: "Encoder: each row is a patch that looks, each column one that is seen", paint: paintEncoder,
    step: (place, way, side) => place + way * side / 32,
    onPoint(at, side) {
      if (!at || !images().length) { say(); return; }
      const all = blocks(images());
      const total = all.at(-1).start + all.at(-1).length;
      const [key, query] = at.map((place) => patchOf(all, Math.floor(place / side * total)));
      panel.say(describeEncoder(query, key, model.get("broken")));
    },
  });
  const decoder = square({
    label: "Decoder: each row is a token that looks, each column one that is seen", paint: paintDecoder,
    step(place, way, side) {
      const all = placed(bands(images(), tokens()), side);
      return placeOf(all, tokenAt(all, place).token + way);
    },
    onPoint(at, side) {
      if (!at || !tokens()) { say(); return; }
      const all = placed(bands(images(), tokens()), side);
      const [key, query] = at.map((place) => tokenAt(all, place));
      panel.say(describeDecoder(query, key, words));
    },
  });

  function paintEncoder(pen, side) {
    const all = blocks(images());
    pen.fillStyle = ink(encoder.root, model.get("broken") ? "--px-leak" : "--px-chip");
    pen.fillRect(0, 0, side, side);
    const total = all.length ? all.at(-1).start + all.at(-1).length : 1;
    for (const block of all) {
      const [from, wide] = [block.start / total * side, block.length / total * side];
      pen.fillStyle = ink(encoder.root, "--px-sees");
      pen.fillRect(from, from, Math.max(wide, 1), Math.max(wide, 1));
      pen.strokeStyle = ink(encoder.root, "--px-paper");
      pen.lineWidth = 1;
      pen.strokeRect(from, from, wide, wide);
      pen.font = `11px ${getComputedStyle(encoder.root).fontFamily}`;
      pen.textAlign = "center";
      pen.textBaseline = "middle";
      pen.fillStyle = "#ffffff";
      const name = wide > 52 ? `picture ${block.image + 1}` : String(block.image + 1);
      if (wide > 14) pen.fillText(name, from + wide / 2, from + wide / 2);
    }
  }

  const colours = { text: "--px-quiet", row: "--px-sees", break: "--px-break", end: "--px-end" };
  function paintDecoder(pen, side) {
    pen.fillStyle = ink(decoder.root, "--px-chip");
    pen.fillRect(0, 0, side, side);
    if (!tokens()) return;
    const all = placed(bands(images(), tokens()), side);
    const shades = Object.fromEntries(
      Object.entries(colours).map(([kind, name]) => [kind, ink(decoder.root, name)]));
    for (const { kind, from, to, length } of all) {
      pen.fillStyle = shades[kind];
      pen.fillRect(from, -AXIS, Math.max(to - from, 0.5), AXIS - 3);
      pen.fillRect(-AXIS, from, AXIS - 3, Math.max(to - from, 0.5));
      // What is seen: everything below the diagonal, and the diagonal itself.
      const steps = (to - from) / length >= 2 ? length : 1;
      pen.beginPath();
      pen.moveTo(from, side);
      pen.lineTo(from, from);
      for (let i = 1; i <= steps; i++) {
        const [before, x] = [from + (to - from) * (i - 1) / steps, from + (to - from) * i / steps];
        if (steps > 1 || length === 1) pen.lineTo(x, before);
        pen.lineTo(x, x);
      }
      pen.lineTo(to, side);
      pen.fill();
    }
  }

  const seeds = () => model.get("facts").epoch + 100 * model.get("added");
  const breaker = tag("button", { type: "button", onclick() {
    model.set("broken", !model.get("broken"));
    model.save_changes();
    act("alive").catch(fail);   // without a kernel nothing is measured
  } });
  const doing = (words, run) => tag("button", { type: "button", onclick: () => run().catch(fail) }, words);
  const adder = doing("add a picture", () => act("add", { number: seeds() }));
  const taker = doing("take added pictures away", () => act("reset"));
  const table = tag("table", { class: "px-facts" });
  const seen = key(...[[colours.text, "text"], [colours.row, "patches"], [colours.break, "[IMG_BREAK]"],
    [colours.end, "[IMG_END]"], ["--px-chip", "not seen"], ["--px-leak", "leak"]]
    .map(([name, words]) => [`var(${name})`, words]));
  const leaking = seen.lastChild;
  panel.body.append(encoder.root, decoder.root, tag("div", { class: "px-wide px-masks" },
    seen, tag("div", { class: "px-choice", hidden: Boolean(model.page) }, breaker, adder, taker), table));

  const line = (name, words) => tag("tr", {}, tag("th", { scope: "row" }, name), tag("td", {}, words));
  function showLeak() {
    const leak = model.get("leak");
    const shown = model.get("broken") && leak.features;
    table.hidden = !shown;
    if (!shown) return;
    const [[proper, p], [other, q]] = leak.words;
    table.replaceChildren(
      ...leak.features.map((x, i) => line(`picture ${i + 1}`, `features change by ${share(x)} (RMS)`)),
      line("next word", `“${proper}” ${share(p)} → “${other}” ${share(q)}; KL ${nats(leak.kl)} nats`));
  }

  function say() { panel.say(summary(images(), tokens(), model.get("broken"), model.get("leak"))); }

  // One image has nobody to see: another one is put behind it, once.
  let company = null;
  function keepCompany() {
    const { epoch, images: all = [] } = model.get("facts");
    if (model.page || all.length !== 1 || model.get("added") || company === epoch || model.get("state") !== "ready") return;
    company = epoch;
    act("add", { number: epoch }).catch(() => {});   // what is saved is shown as it is
  }

  function update() {
    keepCompany();
    const there = tokens() > 0;
    panel.body.hidden = !there;
    if (!there) return;
    breaker.textContent = model.get("broken") ? "mend the mask" : "break the mask";
    breaker.setAttribute("aria-pressed", String(model.get("broken")));
    leaking.hidden = !model.get("broken");
    breaker.disabled = !images().length;
    taker.hidden = !model.get("added");
    encoder.root.hidden = !images().length;
    showLeak();
    encoder.redraw();
    decoder.redraw();
    say();
    ask("words", { tokens: tokens() }).then((answer) => { words = answer; }, () => { words = null; });
  }

  const work = () => {
    const own = model.get("work");
    panel.busy(own.stage ? own : model.get("progress"),
      own.stage ? () => act("stop").catch(fail) : undefined);
  };
  const stops = [
    follow(model, panel, "Ask a question with a picture, and see here who sees whom."),
    ...["facts", "state", "broken", "leak", "added"].map((name) => on(model, `change:${name}`, update)),
    on(model, "change:work", work), on(model, "change:progress", work),
    answersPictures(model, panel.root),
  ];
  update();
  work();
  return () => { stops.forEach((stop) => stop()); close(); encoder.close(); decoder.close(); };
}

export default { render };
