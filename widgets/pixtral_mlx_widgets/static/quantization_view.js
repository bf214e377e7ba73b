// QuantizationView: the error of every matrix, layer by layer, and where two answers part.

import { CHOSEN, cividis } from "./colours.js";
import { checkbox, choice, eachFrame, ink, onTheme, sized, tag } from "./elements.js";
import { bytes, count, digits, nats, tokenNumber } from "./numbers.js";
import { answersPictures, connect, follow, frame, on } from "./shared.js";

export const KINDS = ["wq", "wk", "wv", "wo", "w1", "w2", "w3"];
const OUTSIDE = ["tok_embeddings", "output", "w_in", "w_out"];
const PARTS = { vision: "vision", projector: "projector", text: "decoder" };
const HEAD = 18;
const WIDTH = 54;

// An error as a reader wants it: two digits, as a share of the weights.
export const percent = (error) => `${digits(100 * error)}\u00a0%`;

// Lines of the map: { label, cells }, a cell of which is a matrix, a whole layer, or null.
export function linesOf(errors, layers) {
  const lines = [];
  for (const part of ["vision", "text"]) {
    for (const whole of layers.filter((one) => one.part === part).sort((a, b) => a.layer - b.layer)) {
      const here = errors.filter((one) => one.part === part && one.layer === whole.layer);
      const cells = KINDS.map((kind) => here.find((one) => one.kind === kind) ?? null);
      lines.push({ label: `${part === "vision" ? "v" : ""}${whole.layer}`, part, layer: whole.layer, cells: [...cells, whole] });
    }
  }
  const outside = OUTSIDE.map((kind) => errors.find((one) => one.layer == null && one.kind === kind)).filter(Boolean);
  if (outside.length) lines.push({ label: "", outside: true, cells: outside });
  return lines;
}

// A share from 0 to 1 of an error between the least and the most: what the colours show.
export function spread(errors) {
  const values = errors.map((one) => one.error);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return { low, high, share: (error) => high > low ? (error - low) / (high - low) : 1 };
}

// Rows of the table in the order of one of their columns.
export function sorted(rows, column, down) {
  const sign = down ? -1 : 1;
  const order = (a, b) => typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
  return [...rows].sort((a, b) => sign * order(a[column], b[column]));
}

// A matrix by the shortest name that tells it from the others.
export const short = (name) => name.replace(/\.weight$/, "").replace("attention.", "").replace("feed_forward.", "");

export function describe(one) {
  const where = one.layer == null ? PARTS[one.part] : `${PARTS[one.part]} layer ${one.layer}`;
  if (!one.kind) return `${where}, all its matrices together: error ${percent(one.error)}.`;
  return `${where}, ${one.kind} (${one.shape.join(" × ")}), ${one.scheme}: error ${percent(one.error)}, `
    + `${bytes(one.before)} become ${bytes(one.after)}.`;
}

export function total(errors) {
  const [before, after] = ["before", "after"].map((name) => errors.reduce((sum, one) => sum + one[name], 0));
  const worst = errors.reduce((most, one) => one.error > most.error ? one : most);
  return `${count(errors.length)} matrices, ${bytes(before)} become ${bytes(after)}. Most is lost in `
    + `${worst.name.replace(".weight", "")}: ${percent(worst.error)}.`;
}

// In words: where two answers part.
export function parted({ pieces, parting, kl }) {
  const most = kl.length ? Math.max(...kl) : 0;
  const apart = `the next word's distributions are at most ${nats(most)} nats apart`;
  if (parting == null) return `Both give the same ${count(pieces[0].length)} tokens; ${apart}.`;
  const [one, other] = pieces.map((all) => all[parting]?.trim() || "nothing more");
  return `They part at token ${tokenNumber(parting)}: “${one}” became “${other}”; ${apart}.`;
}

// The map of layers and kinds -----------------------------------------------------------------

function errorMap({ onHover, onChoose }) {
  const canvas = tag("canvas", { role: "img", tabindex: 0, "aria-label": "Error of every matrix, a line for each layer" });
  const root = tag("div", { class: "px-errors" }, canvas);
  const now = { lines: [], scale: null, tensor: "", worst: "", hovered: null };
  let tall = 18;
  let wide = WIDTH;

  const topOf = (line) => HEAD + line * tall + (now.lines[line].outside ? 8 + HEAD : 0);

  function draw() {
    if (!now.lines.length) return;
    const layers = now.lines.filter((line) => !line.outside).length;
    tall = Math.min(Math.max(Math.floor(460 / Math.max(layers, 1)), 9), 20);
    wide = Math.min(Math.max(Math.floor((root.clientWidth - 30) / 8), 28), WIDTH);
    const last = now.lines.length - 1;
    const pen = sized(canvas, 30 + 8 * wide, topOf(last) + Math.max(tall, 16) + 4);
    const [dark, quiet] = [ink(root, "--px-ink"), ink(root, "--px-quiet")];
    pen.font = `11px ${getComputedStyle(root).fontFamily}`;
    pen.textBaseline = "middle";
    pen.textAlign = "center";
    pen.fillStyle = quiet;
    if (layers) [...KINDS, "layer"].forEach((kind, i) => pen.fillText(kind, 30 + (i + 0.5) * wide, HEAD / 2));
    now.lines.forEach((line, i) => drawLine(pen, line, i, quiet));
    const worst = boxOf((cell) => cell?.name === now.worst);
    if (worst) dashed(pen, worst);
    const chosen = now.tensor && boxOf((cell) => cell?.name === now.tensor);
    if (chosen) outline(pen, chosen, CHOSEN, 2);
    if (now.hovered) outline(pen, place(...now.hovered), dark, 1);
  }

  function drawLine(pen, line, i, quiet) {
    const top = topOf(i);
    pen.fillStyle = quiet;
    pen.textAlign = "right";
    if (tall >= 12 || i % 4 === 0) pen.fillText(line.label, 25, top + tall / 2);
    pen.textAlign = "center";
    line.cells.forEach((cell, column) => {
      if (!cell) return;
      const [left, , width, height] = place(i, column);
      const share = now.scale.share(cell.error);
      pen.fillStyle = `rgb(${cividis(Math.min(Math.max(share, 0), 1))})`;
      pen.fillRect(left, top, width, height);
      if (line.outside) {
        pen.fillStyle = quiet;
        pen.fillText(cell.kind === "tok_embeddings" ? "embeddings" : cell.kind, left + width / 2, top - HEAD / 2);
      }
      if (height < 13) return;
      pen.fillStyle = share > 0.55 ? "#1a1a1a" : "#ffffff";
      if (width > 40) pen.fillText(percent(cell.error), left + width / 2, top + height / 2 + 1);
    });
  }

  function place(line, column) {
    const outside = now.lines[line].outside;
    const width = outside ? 1.5 * wide : wide;
    return [30 + column * width + (column === KINDS.length && !outside ? 4 : 0), topOf(line), width - (outside ? 4 : column === KINDS.length ? 5 : 1), (outside ? Math.max(tall, 16) : tall) - 1];
  }

  function boxOf(test) {
    for (let line = 0; line < now.lines.length; line++) {
      const column = now.lines[line].cells.findIndex(test);
      if (column >= 0) return place(line, column);
    }
    return null;
  }

  function outline(pen, [left, top, width, height], colour, thick) {
    pen.setLineDash([]);
    pen.lineWidth = thick + 2;
    pen.strokeStyle = "rgba(255, 255, 255, 0.95)";
    pen.strokeRect(left - 1, top - 1, width + 2, height + 2);
    pen.lineWidth = thick;
    pen.strokeStyle = colour;
    pen.strokeRect(left - 1, top - 1, width + 2, height + 2);
  }

  function dashed(pen, box) {
    outline(pen, box, "#1a1a1a", 1.5);
    pen.setLineDash([4, 3]);
    pen.strokeStyle = "#ffffff";
    pen.strokeRect(box[0] - 1, box[1] - 1, box[2] + 2, box[3] + 2);
    pen.setLineDash([]);
  }

  function under(event) {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    for (let line = 0; line < now.lines.length; line++) {
      for (let column = 0; column < now.lines[line].cells.length; column++) {
        const [left, top, width, height] = place(line, column);
        const inside = x >= left && x <= left + width && y >= top && y <= top + height + 1;
        if (inside && now.lines[line].cells[column]) return [line, column];
      }
    }
    return null;
  }

  const redraw = eachFrame(draw);
  const cellOf = (at) => at && now.lines[at[0]].cells[at[1]];
  function hover(at) {
    if (String(at) === String(now.hovered)) return;
    now.hovered = at;
    redraw();
    onHover(cellOf(at));
  }
  canvas.addEventListener("pointermove", (event) => hover(under(event)));
  canvas.addEventListener("pointerleave", () => hover(null));
  canvas.addEventListener("click", (event) => { const cell = cellOf(under(event)); if (cell) onChoose(cell); });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if ((event.key === "Enter" || event.key === " ") && now.hovered) { event.preventDefault(); onChoose(cellOf(now.hovered)); }
    if (!step || !now.lines.length) return;
    event.preventDefault();
    event.stopPropagation();
    const [line, column] = now.hovered ?? [0, -step[1]];
    const next = Math.min(Math.max(line + step[0], 0), now.lines.length - 1);
    const most = now.lines[next].cells.length - 1;
    hover([next, Math.min(Math.max(column + step[1], 0), most)]);
  });
  const watch = new ResizeObserver(redraw);
  watch.observe(root);
  const untheme = onTheme(redraw);
  return {
    root, canvas,
    show(changes) { Object.assign(now, changes); if ("lines" in changes) now.hovered = null; redraw(); },
    close() { watch.disconnect(); untheme(); },
  };
}

function scaleBar() {
  const bar = tag("canvas", { class: "px-bar", width: 128, height: 10, "aria-hidden": "true" });
  const pen = bar.getContext("2d");
  for (let x = 0; x < 128; x++) { pen.fillStyle = `rgb(${cividis(x / 127)})`; pen.fillRect(x, 0, 1, 10); }
  const [low, high] = [tag("span"), tag("span")];
  const root = tag("div", { class: "px-legend" }, low, bar, high, tag("span", { class: "px-quiet" }, "relative error; dashed: the worst"));
  return { root, set(scale) { low.textContent = percent(scale.low); high.textContent = percent(scale.high); } };
}

// The worst matrices --------------------------------------------------------------------------

const COLUMNS = [["short", "matrix"], ["error", "error"], ["before", "before"], ["after", "after"]];

function worstTable(onChoose) {
  const body = tag("tbody");
  let [rows, column, down, chosen] = [[], "error", true, ""];
  const heads = COLUMNS.map(([name, words]) => {
    const button = tag("button", { type: "button", class: "px-sort", onclick() {
      down = column === name ? !down : name !== "short";
      column = name;
      fill();
    } }, words);
    return [name, button, tag("th", { scope: "col" }, button)];
  });
  function fill() {
    for (const [name, button, head] of heads) {
      const way = name !== column ? "none" : down ? "descending" : "ascending";
      head.setAttribute("aria-sort", way);
      button.textContent = COLUMNS.find(([one]) => one === name)[1] + (way === "none" ? "" : down ? " ↓" : " ↑");
    }
    body.replaceChildren(...sorted(rows, column, down).map((row) => {
      return tag("tr", { class: row.name === chosen ? "px-chosen" : null },
        tag("td", {}, tag("button", { type: "button", class: "px-link", onclick: () => onChoose(row) }, row.short)),
        tag("td", {}, percent(row.error)), tag("td", {}, bytes(row.before)), tag("td", {}, bytes(row.after)));
    }));
  }
  const root = tag("table", { class: "px-worst" }, tag("caption", { class: "px-quiet" }, "the worst ten"),
    tag("thead", {}, tag("tr", {}, heads.map(([, , head]) => head))), body);
  return { root, show(next, tensor) { rows = next.map((row) => ({ ...row, short: short(row.name) })); chosen = tensor; fill(); } };
}

// Two answers ---------------------------------------------------------------------------------

function answers({ pieces, parting, kl }, names) {
  const most = Math.max(...kl, 1e-6);
  return pieces.map((all, number) => tag("div", { class: "px-reply" },
    tag("div", { class: "px-quiet" }, names[number]),
    tag("div", { class: "px-pieces" }, all.map((piece, i) => tag("span", {
      class: "px-piece", title: number ? null : `KL ${nats(kl[i] ?? 0)} nats`,
    },
    number ? null : tag("span", { class: "px-apart" }, tag("span", { style: `height: ${Math.round(100 * (kl[i] ?? 0) / most)}%` })),
    tag("span", { class: i === parting ? "px-chip px-differs" : parting != null && i > parting ? "px-chip px-later" : "px-chip" },
      piece.replaceAll(" ", "·").replaceAll("\n", "↵")))),
    number === 1 && parting === all.length ? tag("span", { class: "px-quiet" }, " ended here") : null)));
}

// The widget ----------------------------------------------------------------------------------

export function render({ model, el }) {
  const panel = frame(el, "What fewer bits do",
    model.page ? "" : "Try: 2 bits instead of 4. Which matrices lose most, and does the answer stay?");
  const { act, close } = connect(model, panel);
  const set = (changes) => { for (const [name, value] of Object.entries(changes)) model.set(name, value); model.save_changes(); };
  const begin = (what) => act(what).then(() => panel.fail(null), (error) => panel.fail(error.message));
  const choices = tag("div", { class: "px-wide px-row" });
  const measure = tag("button", { type: "button", onclick: () => begin("measure") }, "Measure every matrix");
  const compare = tag("button", { type: "button", onclick: () => begin("compare") }, "Compare answers");
  const choose = (one) => set({ tensor: one.kind ? one.name : "", layer: one.part === "text" ? one.layer : null });
  const map = errorMap({ onHover: say, onChoose: choose });
  const scale = scaleBar();
  const worst = worstTable(choose);
  const found = tag("div", { class: "px-wide px-found" }, tag("div", { class: "px-error-map" }, map.root, scale.root), tag("div", { class: "px-side" }, worst.root));
  const both = tag("div", { class: "px-wide px-both" });
  panel.body.append(choices, tag("div", { class: "px-wide px-row", hidden: Boolean(model.page) }, measure, compare), found, both);

  const scheme = () => model.get("given") ? "the quantized version"
    : model.get("mode") === "affine" ? `${model.get("bits")} bits, groups of ${model.get("group_size")}`
      : `${model.get("mode")}: ${model.get("bits")} bits, groups of ${model.get("group_size")}`;

  // What was measured belongs to the choices: without a kernel, which would forget it, both stay.
  const chooseScheme = (changes) => act("alive").then(() => set(changes), (error) => { panel.fail(error.message); showChoices(); });

  function showChoices() {
    choices.hidden = model.get("given") || Boolean(model.page);
    if (choices.hidden) return;
    const all = model.get("choices");
    if (!all.mode) return;
    const fixed = all.fixed[model.get("mode")];
    const option = (name, label, options) => choice({
      label, value: model.get(name), options: options.map((one) => [one, String(one)]),
      onChoose: (value) => chooseScheme({ [name]: value }),
    }).root;
    choices.replaceChildren(
      option("mode", "mode", all.mode),
      option("bits", "bits", fixed ? [fixed[0]] : all.bits),
      option("group_size", "group", fixed ? [fixed[1]] : all.group_size),
      checkbox({ label: "the vision encoder too", value: model.get("vision"), onChange: (vision) => chooseScheme({ vision }) }).root);
  }

  function say(one) {
    const errors = model.get("errors");
    const chosen = one ?? errors.find((other) => other.name === model.get("tensor"));
    const comparison = model.get("comparison");
    if (chosen) panel.say(describe(chosen));
    else if (comparison.pieces) panel.say(parted(comparison));
    else if (errors.length) panel.say(total(errors));
    else if (model.page) panel.say("Nothing had been measured when this page was saved.");
    else if (model.get("state") !== "loading") panel.say(`Press “Measure every matrix” to see what ${scheme()} lose.`);
  }

  function showErrors() {
    const errors = model.get("errors");
    found.hidden = !errors.length;
    if (errors.length) {
      const range = spread(errors);
      const names = model.get("worst").map(([name]) => name);
      map.show({ lines: linesOf(errors, model.get("layers")), scale: range, worst: names[0], tensor: model.get("tensor") });
      scale.set(range);
      worst.show(errors.filter((one) => names.includes(one.name)), model.get("tensor"));
    }
    say(null);
  }

  function showAnswers() {
    const comparison = model.get("comparison");
    both.hidden = !comparison.pieces;
    if (comparison.pieces) {
      both.replaceChildren(...answers(comparison, ["as it is, with the KL of each next word (bars)", `with ${scheme()}`]));
    }
    say(null);
  }

  function showWork() {
    const work = model.get("work");
    const under = Boolean(work.stage);
    measure.disabled = compare.disabled = under;
    panel.busy(under ? work : model.get("progress"), under ? () => act("stop") : null);
  }

  // A small model is measured at once, and again after each other choice.
  let measured = null;
  function measureSmall() {
    const choice = String(["mode", "bits", "group_size", "vision"].map((name) => model.get(name)));
    if (!model.get("facts").small || model.page || model.get("state") === "loading" || choice === measured) return;
    const there = measured == null && (model.get("errors").length || model.get("work").stage);
    measured = choice;
    if (!there) act("measure").catch(() => {});   // what was saved is shown as it is
  }

  const redraw = eachFrame(showErrors);
  const stops = [
    follow(model, panel, ""),
    ...["choices", "mode", "bits", "group_size", "vision"].map((name) => on(model, `change:${name}`, showChoices)),
    ...["errors", "layers", "worst", "tensor"].map((name) => on(model, `change:${name}`, redraw)),
    on(model, "change:comparison", showAnswers), on(model, "change:work", showWork),
    on(model, "change:state", () => { say(null); measureSmall(); }), on(model, "change:facts", measureSmall),
    ...["bits", "group_size", "mode", "vision"].map((name) => on(model, `change:${name}`, measureSmall)),
    answersPictures(model, panel.root),
  ];
  panel.root.setAttribute("data-ready", "");
  showChoices(); showErrors(); showAnswers(); showWork(); measureSmall();
  return () => { stops.forEach((stop) => stop()); close(); map.close(); };
}

export default { render };
