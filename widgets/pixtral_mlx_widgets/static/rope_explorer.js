// RopeExplorer: the pairs that turn with the row and with the column, and how alike patches are.

import { cividis } from "./colours.js";
import { choice, eachFrame, ink, onTheme, OWN_KEYS, sized, slider, tag } from "./elements.js";
import { capital, count, digits, patchBoth, patchName } from "./numbers.js";
import { patchCanvas } from "./patches.js";
import { answersPictures, connect, follow, frame, latest, on } from "./shared.js";

const MOST = 96;

// The score that travels as a byte of a map.
export const scoreOf = ({ low, high }, byte) => low + (high - low) * byte / 255;

// Two patches moved together; null if either would leave the grid.
export function moved(patch, probe, [down, right], rows, columns) {
  const next = [patch, probe].map(([row, column]) => [row + down, column + right]);
  const fits = ([row, column]) => row >= 0 && row < rows && column >= 0 && column < columns;
  return next.every(fits) ? next : null;
}

// A length in patches, in words.
export const far = (patches) => digits(patches);

export function describePair(pairs, index) {
  return `Pair ${index} turns with the ${pairs.axis[index]}: once every `
    + `${far(pairs.wavelength[index])} patches.`;
}

// Which pair stands at a share of the canvas's width.
export const pairAt = (share, count) => Math.min(Math.max(Math.floor(share * count), 0), count - 1);

const steps = (n, one, other) => `${Math.abs(n)} ${n < 0 ? one : other}`;

export function describe(patch, probe, answer, before) {
  const [down, right] = [probe[0] - patch[0], probe[1] - patch[1]];
  const start = `B is ${steps(down, "up", "down")} and ${steps(right, "left", "right")} of A: `
    + `their score is ${answer.score.toFixed(2)}`;
  if (before == null) return `${start}.`;
  const change = Math.abs(answer.score - before);
  return `${start}, as before both moved${change < 5e-7 ? "" : ", but for float32's rounding of large angles"}.`;
}

function pairsCanvas(onHover) {
  const canvas = tag("canvas", {
    tabindex: 0, ...OWN_KEYS, role: "img", "aria-label": "Wavelength of every pair",
  });
  const title = tag("p", { class: "px-quiet px-small" });
  const root = tag("div", { class: "px-wide" }, title, canvas);
  const now = { pairs: null, at: null, rows: 1, columns: 1 };
  const HEIGHT = 120;
  const redraw = eachFrame(() => {
    if (!now.pairs || !root.clientWidth) return;
    const width = Math.max(Math.min(root.clientWidth, 460), 120);
    const pen = sized(canvas, width, HEIGHT + 34);
    const { wavelength, axis } = now.pairs;
    title.textContent = `Patches per turn of each pair: ${far(Math.min(...wavelength))} to `
      + `${far(Math.max(...wavelength))} (logarithmic)`;
    const top = Math.log10(Math.max(...wavelength) * 1.3);
    const y = (patches) => 6 + HEIGHT * (1 - Math.log10(patches) / top);
    const wide = width / wavelength.length;
    wavelength.forEach((length, i) => {
      pen.fillStyle = ink(root, axis[i] === "row" ? "--px-row-axis" : "--px-column-axis");
      pen.globalAlpha = now.at == null || now.at === i ? 1 : 0.55;
      pen.fillRect(i * wide + 0.5, y(length), Math.max(wide - 1, 1), 6 + HEIGHT - y(length));
    });
    pen.globalAlpha = 1;
    pen.font = `11px ${getComputedStyle(root).fontFamily}`;
    drawGrid(pen, width, y);
    pen.fillStyle = ink(root, "--px-ink");
    const half = axis.filter((name) => name === axis[0]).length * wide;
    pen.textBaseline = "top";
    pen.textAlign = "center";
    pen.fillText(`turn with the ${axis[0]}`, half / 2, HEIGHT + 10);
    pen.fillText(`turn with the ${axis.at(-1)}`, (half + width) / 2, HEIGHT + 10);
  });

  function drawGrid(pen, width, y) {
    const size = Math.max(now.rows, now.columns);
    pen.strokeStyle = pen.fillStyle = ink(root, "--px-ink");
    pen.lineWidth = 1;
    pen.setLineDash([4, 3]);
    pen.beginPath();
    pen.moveTo(0, y(size));
    pen.lineTo(width, y(size));
    pen.stroke();
    pen.setLineDash([]);
    pen.textAlign = "left";
    pen.textBaseline = "bottom";
    pen.strokeStyle = ink(root, "--px-paper");
    pen.lineWidth = 3;
    pen.strokeText(`${size} patches`, 2, y(size) - 2);
    pen.fillText(`${size} patches`, 2, y(size) - 2);
  }

  function hover(at) {
    if (at === now.at) return;
    now.at = at;
    redraw();
    onHover(at);
  }
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    hover(now.pairs ? pairAt((event.clientX - box.left) / box.width, now.pairs.axis.length) : null);
  });
  canvas.addEventListener("pointerleave", () => hover(null));
  canvas.addEventListener("blur", () => hover(null));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !now.pairs) return;
    event.preventDefault();
    event.stopPropagation();
    hover(pairAt(((now.at ?? -step) + step + 0.5) / now.pairs.axis.length, now.pairs.axis.length));
  });
  const watch = new ResizeObserver(redraw);
  watch.observe(root);
  const stop = onTheme(redraw);
  return {
    root, canvas, close() { watch.disconnect(); stop(); },
    show(changes) { Object.assign(now, changes); redraw(); },
  };
}

function scoreLegend() {
  const bar = tag("canvas", { class: "px-bar", width: 128, height: 10, "aria-hidden": "true" });
  const pen = bar.getContext("2d");
  for (let x = 0; x < 128; x++) {
    pen.fillStyle = `rgb(${cividis(x / 127)})`;
    pen.fillRect(x, 0, 1, 10);
  }
  const [low, high] = [tag("span"), tag("span")];
  const root = tag("div", { class: "px-legend", hidden: true }, low, bar, high,
    tag("span", { class: "px-quiet" }, "score with A, for equal content"));
  return { root, set(answer) {
    root.hidden = !answer;
    if (answer) [low.textContent, high.textContent] = [answer.low.toFixed(2), answer.high.toFixed(2)];
  } };
}

export function render({ model, el }) {
  const panel = frame(el, "RoPE-2D: how position turns queries and keys",
    model.page ? "" : "Try: move A and B together. Their score stays, since only their difference counts.");
  const { ask, close } = connect(model, panel);
  const set = (changes) => {
    for (const [name, value] of Object.entries(changes)) model.set(name, value);
    model.save_changes();
  };
  let click = "patch";
  let before = null;      // the score from before both were moved
  let shown = null;
  let pairs = null;
  const patches = patchCanvas({
    label: "How alike every patch is to patch A", most: 560, onHover: hover,
    onChoose: (place) => { before = null; set({ [click]: place }); },
  });
  const bars = pairsCanvas((at) => at == null ? say() : panel.say(describePair(pairs, at)));
  const bar = scoreLegend();
  const which = choice({
    label: "a click places", value: click, options: [["patch", "A"], ["probe", "B"]],
    onChoose: (name) => { click = name; show(); },
  });
  const size = (name) => slider({
    label: name, min: 1, max: MOST, value: model.get(name),
    onInput(value) {
      const inside = (place) => place && (name === "rows" ? [Math.min(place[0], value - 1), place[1]]
        : [place[0], Math.min(place[1], value - 1)]);
      before = null;
      set({ [name]: value, patch: inside(model.get("patch")), probe: inside(model.get("probe")) });
    },
  });
  const [rows, columns] = [size("rows"), size("columns")];
  const arrows = [
    ["←", "left", [0, -1]], ["↑", "up", [-1, 0]], ["↓", "down", [1, 0]], ["→", "right", [0, 1]],
  ].map(([sign, words, step]) => [step, tag("button", {
    type: "button", title: `both ${words}`, "aria-label": `move both ${words}`, onclick: () => move(step),
  }, sign)]);
  rows.root.hidden = columns.root.hidden = which.root.hidden = Boolean(model.page);
  for (const [, button] of arrows) button.hidden = Boolean(model.page);
  const number = tag("output", { class: "px-score px-number" });
  const together = tag("div", { class: "px-choice", role: "group", "aria-label": "move both together" },
    tag("span", { class: "px-label", hidden: Boolean(model.page) }, "move both"), ...arrows.map(([, button]) => button), number);
  const note = tag("p", { class: "px-quiet px-small" });
  panel.body.append(tag("div", { class: "px-picture" }, patches.root, bar.root),
    tag("div", { class: "px-side" }, rows.root, columns.root, which.root, together, bars.root, note));

  function move(step) {
    const [patch, probe] = [model.get("patch"), model.get("probe")];
    const next = patch && probe && moved(patch, probe, step, model.get("rows"), model.get("columns"));
    if (!next || !shown?.pair) return;
    before ??= shown.pair.score;
    set({ patch: next[0], probe: next[1] });
  }

  const look = latest(
    async (rows, columns, patch, probe) => ({
      patch, probe, alike: patch && await ask("alike", { rows, columns, patch }),
      pair: patch && probe && await ask("score", { rows, columns, patch, probe }),
    }),
    (answer) => { shown = answer; panel.fail(model.get("problem")); show(); },
    (error) => { shown = null; patches.show({ values: null }); panel.fail(error.message); },
  );
  const known = latest(
    () => ask("pairs"), (answer) => { pairs = answer; bars.show({ pairs }); say(); },
    (error) => panel.fail(error.message),
  );

  function show() {
    const [patch, probe] = [model.get("patch"), model.get("probe")];
    const blank = new Uint8Array(model.get("rows") * model.get("columns"));
    const fits = shown?.alike?.map.length === blank.length;
    bar.set(fits ? shown.alike : null);
    patches.show({
      rows: model.get("rows"), columns: model.get("columns"), lines: false,
      values: fits ? shown.alike.map : blank, chosen: model.get(click),
      named: [[patch, "A"], [probe, "B"]].filter(([place]) => place),
    });
    number.textContent = shown?.pair && patch && probe ? `score ${shown.pair.score.toFixed(2)}` : "";
    const size = [model.get("rows"), model.get("columns")];
    for (const [step, button] of arrows) {
      button.disabled = !(patch && probe && moved(patch, probe, step, ...size));
    }
    say();
  }

  function say() {
    const [patch, probe, facts] = [model.get("patch"), model.get("probe"), model.get("facts")];
    if (!facts.pairs) return;
    const large = Math.max(model.get("rows"), model.get("columns")) > facts.made_for;
    note.textContent = `${facts.model}: ${facts.pairs} pairs per head, base ${count(facts.theta)}. Pairs `
      + "below the dashed line turn more than once across this grid."
      + (large ? ` The encoder was made for ${facts.made_for} × ${facts.made_for}: beyond that come `
        + "angles that it never saw." : "");
    if (!patch) {
      panel.say("Choose patch A, with a click or the arrow keys: the map shows how alike the others are.");
    } else if (!probe || !shown?.pair) {
      panel.say(`A is ${patchName(patch)}. Let a click place B, and compare the two.`);
    } else panel.say(describe(patch, probe, shown.pair, before));
  }

  function hover(place) {
    if (!place || !shown?.alike) { say(); return; }
    const value = scoreOf(shown.alike, shown.alike.map[place[0] * model.get("columns") + place[1]]);
    panel.say(`${capital(patchBoth(place))} has a score of ${value.toFixed(2)} with A.`);
  }

  function update() {
    const facts = model.get("facts");
    panel.body.hidden = !facts.pairs;
    if (!facts.pairs) return;
    rows.set(model.get("rows"));
    columns.set(model.get("columns"));
    bars.show({ rows: model.get("rows"), columns: model.get("columns") });
    show();
    known();
    look(model.get("rows"), model.get("columns"), model.get("patch"), model.get("probe"));
  }

  const stops = [
    follow(model, panel, ""), answersPictures(model, panel.root),
    ...["facts", "rows", "columns", "patch", "probe"].map((name) => on(model, `change:${name}`, update)),
  ];
  update();
  return () => { stops.forEach((stop) => stop()); close(); patches.close(); bars.close(); };
}

export default { render };
