// MemoryView: weights, KV cache and activations against a Mac's memory; the bandwidth's bound.

import { choice, eachFrame, ink, onTheme, sized, slider, tag } from "./elements.js";
import { bytes, cellName, count, digits, operations, share, sold } from "./numbers.js";
import { answersPictures, connect, follow, frame, latest, on } from "./shared.js";

// Three colours that the colour-blind tell apart too, on light and on dark.
const PARTS = [["weights", "#0072b2"], ["kv", "#56b4e9"], ["activations", "#009e73"]];
const RESERVE = ["reserve", "#999999"];
const NAMES = { reserve: "reserve for buffers, Python and the tokenizer (estimate)", weights: "weights", kv: "KV cache", activations: "activations (estimate)" };

export const rate = (n) => `${digits(n)} tokens/s`;
export const seconds = (n) => n < 0.0995 ? `${digits(1e3 * n)} ms` : `${digits(n)} s`;

// Pieces of the bar, as shares of its width: { name, colour, from, to, cut }, and where it ends. A small
// model would not be seen on a large Mac: the bar then ends sooner, inside the reserve.
export function pieces(found) {
  const needed = PARTS.reduce((sum, [name]) => sum + found[name], 0);
  const end = needed < found.memory / 50 ? 1.25 * needed : Math.max(found.memory, needed + found.reserve);
  let at = 0;
  const parts = [...PARTS, RESERVE].map(([name, colour]) => {
    const piece = { name, colour, from: at / end, to: Math.min((at + found[name]) / end, 1), cut: at + found[name] > end };
    at += found[name];
    return piece;
  });
  return { parts, needed, end, usable: found.usable / end };
}

export const barEnd = ({ end, memory }) => end < memory / 2 ? `${bytes(end)}; the Mac has ${sold(memory)}` : end === memory ? sold(end) : bytes(end);

export const before = (seconds_) => `Predict first, then measure${seconds_ ? `: about ${seconds(seconds_)} on this machine (estimate)` : ""}.`;

export function verdict(found, memory) {
  const { needed } = pieces(found);
  if (found.tokens > found.context) {
    return `${count(found.tokens)} tokens are more than the context of ${count(found.context)}.`;
  }
  // A share, not a difference: what is needed counts in 10^9 bytes, and Macs are sold in 2^30.
  const part = share((needed + found.reserve) / found.usable);
  const allowed = `${part} of what a ${memory} GB Mac lets a program use (estimate)`;
  return found.fits ? `It fits: ${bytes(needed)} and a reserve of ${bytes(found.reserve)} take ${allowed}.`
    : `It does not fit: ${bytes(needed)} and a reserve of ${bytes(found.reserve)} would take ${allowed}.`;
}

export function facts(found, chip) {
  const image = found.grid ? `, ${count(found.image_tokens)} of them per picture (${found.grid.join(" × ")} ${cellName(found.merge)}${found.merge > 1 ? "s" : "es"})` : "";
  return [
    ["prompt", `${count(found.tokens)} tokens${image}: ${share(found.tokens / found.context)} of the context`],
    ["KV cache", `${bytes(found.kv_per_token)} per token`],
    ["a decode step", `reads ${bytes(found.read)}`],
    ["bound", `at most ${rate(found.tokens_per_second)} on an ${chip}, ${count(found.bandwidth / 1e9)} GB/s (estimate)`],
    ["prefill", `${operations(found.operations)}, at least ${seconds(found.prefill_seconds)} on an ${chip} (estimate)`],
  ];
}

// What an estimate is of.
export function settings({ chip, memory_gb, bits, images, side, text_tokens }) {
  const pictures = images === 1 ? `1 picture of ${count(side)} px` : `${count(images)} pictures of ${count(side)} px each`;
  return [["Mac", `${chip}, ${memory_gb} GB`], ["weights", bits ? `in ${bits} bits` : "as loaded"],
    ["asked", `${images ? `${pictures} and ` : ""}${count(text_tokens)} tokens of text`]];
}

// What a run showed, beside what was expected of it.
export function lesson(measured, prediction) {
  const said = [`${measured.device} wrote ${rate(measured.tokens_per_second)} after ${count(measured.prompt_tokens)} tokens`
    + ` (first token after ${seconds(measured.prompt_seconds)}), reading ${digits(measured.gigabytes_per_second)} GB/s;`
    + ` at its peak it held ${bytes(measured.peak_bytes)}.`];
  if (prediction) {
    const ratio = measured.tokens_per_second / prediction;
    const far = ratio >= 1 ? ratio : 1 / ratio;
    said.push(far < 1.15 ? "Your prediction was right."
      : `Your prediction was ${digits(far)} times too ${ratio > 1 ? "low" : "high"}.`);
  }
  said.push(measured.bound
    ? `Its bandwidth allows at most ${rate(measured.bound)} (estimate): ${share(measured.tokens_per_second / measured.bound)} of that.`
    : "Its bandwidth is not in the table, so its own bound is not known.");
  return said.join(" ");
}

function bar() {
  const canvas = tag("canvas", { class: "px-memory", role: "img" });
  const root = tag("div", { class: "px-wide" }, canvas);
  let found = null;
  const redraw = eachFrame(draw);
  function draw() {
    if (!found || !root.clientWidth) return;
    const width = root.clientWidth;
    const pen = sized(canvas, width, 52);
    const { parts, usable, end } = pieces(found);
    pen.fillStyle = ink(root, "--px-chip");
    pen.fillRect(0, 4, width, 26);
    for (const { from, to, colour } of parts) {
      pen.fillStyle = colour;
      pen.fillRect(from * width, 4, Math.max((to - from) * width, 1), 26);
    }
    pen.fillStyle = ink(root, "--px-ink");
    pen.font = `11px ${getComputedStyle(root).fontFamily}`;
    pen.textBaseline = "top";
    pen.fillText("0", 0, 36);
    pen.textAlign = "right";
    pen.fillText(barEnd({ end, memory: found.memory }), width, 36);
    if (usable <= 1) {
      pen.fillRect(usable * width - 1, 0, 2, 34);
      const words = `usable: about ${digits(found.usable / 2 ** 30)} of ${sold(found.memory)}`;
      const half = pen.measureText(words).width / 2;
      pen.textAlign = "center";
      pen.fillText(words, Math.min(Math.max(usable * width, half + 20), width - half - 60), 36);
    }
    pen.textAlign = "left";
  }
  const watch = new ResizeObserver(redraw);
  watch.observe(root);
  const untheme = onTheme(redraw);
  return {
    root, canvas,
    show(next) { found = next; redraw(); },
    close() { watch.disconnect(); untheme(); },
  };
}

function select(label, onChoose) {
  const box = tag("select", { class: "px-select" });
  box.addEventListener("change", () => onChoose(box.value));
  const root = tag("label", { class: "px-check" }, tag("span", { class: "px-quiet" }, label), box);
  return {
    root,
    show(options, value) {
      box.replaceChildren(...options.map(([one, words]) => tag("option", { value: one, selected: String(one) === String(value) }, words)));
    },
  };
}

export function render({ model, el }) {
  const panel = frame(el, "Memory and speed",
    model.page ? "" : "Try: choose a Mac, and predict the tokens per second before you measure them.");
  const { ask, act, close } = connect(model, panel);
  const set = (changes) => { for (const [name, value] of Object.entries(changes)) model.set(name, value); model.save_changes(); };
  const chip = select("chip", (value) => set({ chip: value }));
  const memory = select("memory", (value) => set({ memory_gb: Number(value) }));
  const bits = tag("div");
  const sliders = {
    images: slider({ label: "pictures", max: 16, value: 1, words: String, onInput: (images) => set({ images }) }),
    side: slider({ label: "their side", min: 16, max: 1024, step: 16, value: 1024, words: (n) => `${count(n)} px`, onInput: (side) => set({ side }) }),
    text_tokens: slider({ label: "text", max: 8192, step: 16, value: 200, words: (n) => `${count(n)} tokens`, onInput: (text_tokens) => set({ text_tokens }) }),
  };
  const stack = bar();
  const legend = tag("div", { class: "px-wide px-row" });
  const table = tag("table", { class: "px-facts" });
  const guess = tag("input", { type: "number", class: "px-guess", min: 0, step: "any", "aria-label": "Predicted tokens per second" });
  const go = tag("button", { type: "button", onclick: () => act("measure").then(() => panel.fail(null), (error) => panel.fail(error.message)) }, "Measure");
  const outcome = tag("p", { class: "px-outcome", "aria-live": "polite" });
  const trial = tag("div", { class: "px-wide px-trial" },
    tag("div", { class: "px-row" }, tag("label", { class: "px-check" }, "I predict", guess, "tokens/s on this machine, for this prompt"), go), outcome);
  // A page has the one estimate that was saved: what it is of stands in the table.
  panel.body.append(tag("div", { class: "px-wide px-row", hidden: Boolean(model.page) }, chip.root, memory.root, bits),
    tag("div", { class: "px-sliders", hidden: Boolean(model.page) }, ...Object.values(sliders).map(({ root }) => root)),
    tag("div", { class: "px-side" }, table), stack.root, legend, trial);

  guess.addEventListener("input", () => {
    const value = Number.parseFloat(guess.value);
    set({ prediction: value > 0 ? value : null });
  });

  let trialSeconds = null;
  const names = ["chip", "memory_gb", "bits", "images", "side", "text_tokens"];
  const estimate = latest(
    (args) => ask("estimate", args),
    (found, args) => {
      if (!model.get("problem")) panel.fail(null);
      stack.show(found);
      trialSeconds = found.trial_seconds;
      showTrial();
      stack.canvas.setAttribute("aria-label", verdict(found, args.memory_gb));
      legend.replaceChildren(...pieces(found).parts.map(({ name, colour, cut }) => tag("span", { class: "px-part-of" },
        tag("span", { class: "px-swatch", style: `background: ${colour}` }),
        `${NAMES[name]} ${bytes(found[name])}${cut ? ", more than the bar has room for" : ""}`)));
      table.replaceChildren(...[...model.page ? settings(args) : [], ...facts(found, args.chip)].map(([name, words]) =>
        tag("tr", {}, tag("th", { scope: "row" }, name), tag("td", {}, words))));
      panel.say(verdict(found, args.memory_gb));
    },
    (error) => panel.fail(error.message),
  );

  function update() {
    const all = model.get("choices");
    panel.body.hidden = !all.chips;
    if (!all.chips) return;
    const loading = model.get("state") === "loading";
    panel.root.toggleAttribute("data-ready", !loading);
    chip.show(all.chips.map(([name]) => [name, name]), model.get("chip"));
    memory.show(Object.fromEntries(all.chips)[model.get("chip")].map((size) => [size, `${size} GB`]), model.get("memory_gb"));
    bits.replaceChildren(choice({
      label: "weights", value: model.get("bits"),
      options: all.bits.map((one) => [one, one === 0 ? "as loaded" : `${one} bits`]), onChoose: (one) => set({ bits: one }),
    }).root);
    for (const [name, one] of Object.entries(sliders)) one.set(model.get(name), { max: Math.max(all.most[name], model.get(name)) });
    if (document.activeElement !== guess) guess.value = model.get("prediction") ?? "";
    trial.hidden = !all.can_measure || Boolean(model.page);
    if (!loading) estimate(Object.fromEntries(names.map((name) => [name, model.get(name)])));
  }

  function showTrial() {
    const work = model.get("work");
    const under = Boolean(work.stage);
    go.disabled = under || !(model.get("prediction") > 0);
    panel.busy(under ? work : model.get("progress"), under ? () => act("stop") : null);
    const { measured, prediction } = { measured: model.get("measured"), prediction: model.get("prediction") };
    outcome.textContent = measured.device ? lesson(measured, prediction) : before(trialSeconds);
  }

  const stops = [
    follow(model, panel, ""),
    ...[...names, "choices", "state", "facts"].map((name) => on(model, `change:${name}`, update)),
    ...["work", "measured", "prediction"].map((name) => on(model, `change:${name}`, showTrial)),
    answersPictures(model, panel.root),
  ];
  update(); showTrial();
  return () => { stops.forEach((stop) => stop()); close(); stack.close(); };
}

export default { render };
