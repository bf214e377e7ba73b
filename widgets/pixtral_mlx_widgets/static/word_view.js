// What views of an answer share: its words as chips, where one looked, and knock-outs of patches.

import { CHOSEN, HIDDEN, diverging, key, legend } from "./colours.js";
import { choice, eachFrame, slider, tag } from "./elements.js";
import { UNCERTAIN, capital, nats, patchBoth, patchName, probability, share } from "./numbers.js";
import { bitmap, patchCanvas } from "./patches.js";
import { latest, on } from "./shared.js";

export const ALL = -1;   // the slider's place for "all layers" and "all heads"

// A token's text with its space and line ends visible: " four" and "four" are two tokens.
export const visible = (text) => text.replace(/^ +/, (spaces) => "␣".repeat(spaces.length)).replaceAll("\n", "⏎");

// "row 5" or "rows 5 to 7", as people count, from [first, last + 1] counted from zero.
export const span = (name, [first, end]) => end - first === 1 ? `${name} ${end}` : `${name}s ${first + 1} to ${end}`;

// Index of the word that holds a token; the last word if the token stands between two words.
export function wordOf(words, token) {
  const found = words.findIndex((word) => word.tokens.includes(token));
  return found >= 0 || !words.length ? found : words.length - 1;
}

// The token that is shown: the chosen one, or the newest while there is no such.
export function tokenAt(words, token) {
  const newest = words.length ? words[words.length - 1].tokens.at(-1) : null;
  return token != null && newest != null && token <= newest ? token : newest;
}

// The token that a view shows: the chosen one; else the newest while the answer is written, and then
// the one that leans most on the picture.
export const tokenShown = (model) => tokenAt(model.get("words"),
  model.get("token") ?? (model.get("state") === "running" ? null : model.get("opening")?.token));

// What to check, in words; "" if all is certain.
export function doubts(words) {
  const found = words.filter((word) => word.p < UNCERTAIN);
  if (!found.length) return "";
  const named = found.slice(0, 4).map((word) => `“${word.text}” (${probability(word.p)})`).join(", ");
  const more = found.length > 4 ? ` and ${found.length - 4} more` : "";
  return found.length === 1 ? `${named} is uncertain: check it.` : `${named}${more} are uncertain: check them.`;
}

// Side of the blocks that are hidden one after the other: at most about a hundred of them.
export function blockSide(rows, columns) {
  for (const side of [1, 2, 4, 8]) {
    if (Math.ceil(rows / side) * Math.ceil(columns / side) <= 100) return side;
  }
  return 16;
}

// Drops in nats -> 0 to 255 for `signed`, whose middle is no change.
export function signedValues(drops, top) {
  return Uint8Array.from(drops, (drop) => 128 + Math.round(127 * (top > 0 ? drop / top : 0)));
}
export const signed = (value) => diverging((value - 128) / 127);

// How well one map foretells the other, in words.
export function agreement(rho) {
  if (rho == null) return "One of the maps is flat: there is no rank correlation.";
  const how = rho >= 0.7 ? "mostly agree" : rho >= 0.3 ? "agree in part" : rho > -0.3 ? "hardly agree" : "disagree";
  return `Rank correlation ${rho.toFixed(2).replace("-", "−")}: the maps ${how}. Attention is not explanation.`;
}

// What hiding the strongest patches did, in words.
export function knockOut({ rows, columns, share: part, drop, before, after }) {
  return `Hidden: ${span("patch row", rows)}, ${span("column", columns)}, ${share(part)} of its attention on this picture. `
    + `Its log-probability ${drop < 0 ? "rises" : "drops"} by ${nats(drop)} nats `
    + `(p ${probability(before)} → ${probability(after)}).`;
}

// What went wrong: in long work of this view, or in the session.
export const problemOf = (model) => model.get("work").problem || model.get("problem");

// The words of an answer. show({ words, chosen, running }) draws what changed; onChoose(word).
export function wordChips({ label, onChoose, extra }) {
  const root = tag("div", { class: "px-words", role: "listbox", "aria-label": label, tabindex: -1 });
  const cursor = tag("span", { class: "px-cursor", hidden: true, "aria-hidden": "true" }, "…");
  root.append(cursor);
  const chips = [];
  let words = [];

  function chip(index) {
    const button = tag("button", { type: "button", class: "px-word px-chip", role: "option" });
    button.addEventListener("click", () => onChoose(words[index]));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 }[event.key];
      const next = step && chips[Math.min(Math.max(index + step, 0), words.length - 1)];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      next.focus();
      next.click();
    });
    root.insertBefore(button, cursor);
    return button;
  }

  function show({ words: next, chosen, running }) {
    words = next;
    while (chips.length > words.length) chips.pop().remove();
    words.forEach((word, i) => {
      const button = chips[i] ??= chip(i);
      const name = `${word.text} ${word.p}`;
      if (button.dataset.name !== name || extra) {
        button.dataset.name = name;
        const doubtful = word.p < UNCERTAIN ? "px-uncertain" : "";
        button.replaceChildren(tag("span", { class: doubtful }, word.text), ...(extra?.(word, i) ?? []));
        const doubt = word.p < UNCERTAIN ? ", uncertain" : "";
        button.setAttribute("aria-label", `${word.text}, probability ${probability(word.p)}${doubt}`);
      }
      button.classList.toggle("px-chosen", i === chosen);
      button.setAttribute("aria-selected", String(i === chosen));
      button.tabIndex = i === (chosen >= 0 ? chosen : 0) ? 0 : -1;
    });
    cursor.hidden = !running;
  }
  return { root, show };
}

// A bar with its number.
export function meter(p, words = probability(p), kind = "") {
  return tag("span", { class: `px-meter ${kind}` },
    tag("span", { class: "px-track" }, tag("span", { style: `width: ${Math.min(100 * p, 100).toFixed(1)}%` })),
    tag("span", { class: "px-number" }, words));
}

// Long work of a view: its stage, how far it is, and the way to end it.
export function showLongWork(place, { stage, done, total }, onStop) {
  place.hidden = !stage;
  place.replaceChildren(...(stage ? [
    tag("span", {}, stage + (total ? ` ${done} of ${total}` : "")),
    tag("progress", total ? { value: done, max: total } : {}),
    tag("button", { type: "button", onclick: onStop }, "Stop")] : []));
}

function signedLegend() {
  const bar = tag("canvas", { class: "px-bar", width: 128, height: 10, "aria-hidden": "true" });
  const pen = bar.getContext("2d");
  for (let x = 0; x < 128; x++) {
    pen.fillStyle = `rgb(${diverging(x / 63.5 - 1)})`;
    pen.fillRect(x, 0, 1, 10);
  }
  const [low, high] = [tag("span"), tag("span")];
  const root = tag("div", { class: "px-legend", hidden: true }, low, bar, high);
  return { root, set(top) {
    root.hidden = top == null;
    if (top != null) { low.textContent = `−${nats(top)}`; high.textContent = `+${nats(top)} nats`; }
  } };
}

// Where the word at(), a token's number, looked: a map on the picture, layer, head and picture to
// choose, and knock-outs of patches next to it. onLook(answer) is told each map that is shown.
export function lookPanel(model, { ask, act, has }, panel, { at, onLook }) {
  const canvas = patchCanvas({
    label: "Where the chosen word looked", onHover: hover,
    onChoose(patch) { model.set("patch", patch); model.save_changes(); },
  });
  const scale = legend("of its attention", (plain) => { model.set("plain", plain); model.save_changes(); });
  const marks = key([CHOSEN, "chosen"], [HIDDEN, "hidden"]);
  const spot = tag("p", { class: "px-quiet px-spot" });
  const which = tag("div");
  const name = (what) => (value) => value === ALL ? `all ${what}s, mean` : `${what} ${value}`;
  const pick = (trait) => (value) => {
    model.set(trait, value === ALL ? null : value);
    model.save_changes();
  };
  const layer = slider({ label: "layer", min: ALL, max: 0, value: ALL, words: name("layer"), onInput: pick("layer") });
  const head = slider({ label: "head", min: ALL, max: 0, value: ALL, words: name("head"), onInput: pick("head") });
  const looked = tag("div", { class: "px-picture" },
    tag("h5", {}, "Where it looked"), canvas.root, scale.root, marks, spot, which, layer.root, head.root);

  const knocked = tag("p", { class: "px-knocked" }, "");
  const hide = tag("button", { type: "button", onclick: () => measure("knock") }, "Hide what it looked at");
  const map = patchCanvas({ label: "What hiding each block does to the word" });
  const mapScale = signedLegend();
  const rho = tag("p", {}, "");
  const blocks = tag("button", { type: "button", onclick: () => measure("occlude") }, "Hide block by block");
  const work = tag("div", { class: "px-work", hidden: true });
  const buttons = tag("div", { class: "px-row" }, hide, blocks);
  const knock = tag("div", { class: "px-column" }, tag("h5", {}, "Does it matter? Knock-out"),
    buttons, work, knocked, map.root, mapScale.root, rho);

  let answer = null;
  const images = () => model.get("facts").images ?? [];
  const grid = () => images()[model.get("image")];
  const here = () => ({ token: at(), layer: model.get("layer"), head: model.get("head"), image: model.get("image") });

  function hover(patch) {
    const shape = grid();
    if (!answer || !shape) return;
    const [row, column] = patch ?? model.get("patch") ?? answer.peak;
    const value = answer.map[row * shape.columns + column] / 255 * answer.top;
    const name = patch ? patchBoth(patch, shape.merge) : patchName([row, column], shape.merge);
    spot.textContent = `${capital(name)}: ${share(value)} of its attention.`;
  }

  const look = latest(
    (wanted) => ask("look", wanted),
    (found) => {
      answer = found;
      const shape = grid();
      if (!shape || found.map.length !== shape.rows * shape.columns) return;
      canvas.show({ values: found.map, rows: shape.rows, columns: shape.columns, merge: shape.merge, chosen: model.get("patch"), plain: model.get("plain") });
      scale.set(found.top, model.get("plain"));
      pictures(found.shares);
      hover(null);
      panel.fail(problemOf(model));
      onLook?.(found);
    },
    (error) => panel.fail(error.message),
  );
  const paint = latest(
    async (image) => bitmap(await ask("pixels", { image })),
    (picture) => { canvas.show({ picture }); map.show({ picture }); },
    (error) => panel.fail(error.message),
  );

  // One button a picture, with its share; made anew only when their number changes.
  let buttonsFor = 0, picker = null;
  function pictures(shares) {
    if (shares.length !== buttonsFor) {
      buttonsFor = shares.length;
      picker = shares.length > 1 ? choice({
        label: "picture", value: model.get("image"), options: shares.map((_, i) => [i, String(i + 1)]),
        onChoose(image) { model.set("image", image); model.set("patch", null); model.save_changes(); },
      }) : null;
      which.replaceChildren(...(picker ? [picker.root] : []));
    }
    picker?.set(model.get("image"));
    picker?.root.querySelectorAll("button").forEach((button, i) => {
      button.textContent = `${i + 1}: ${share(shares[i])}`;
    });
  }

  function measure(what) {
    const shape = grid();
    const { token, image } = here();
    const args = what === "knock" ? { token, image } : { token, image, block: blockSide(shape.rows, shape.columns) };
    act(what, args).catch((error) => panel.fail(error.message));
  }

  const showKnock = latest(
    (args) => ask("knocked", args),
    (found, args) => {
      if (args.token !== at()) return;
      knocked.textContent = knockOut(found);
      const hidden = new Set();
      for (let r = found.rows[0]; r < found.rows[1]; r++) {
        for (let c = found.columns[0]; c < found.columns[1]; c++) hidden.add(r * grid().columns + c);
      }
      canvas.show({ hidden });
      marks.hidden = false;
    },
    (error) => panel.fail(error.message),
  );
  const showBlocks = latest(
    (args) => ask("occluded", args),
    (found, args) => {
      const shape = grid();
      if (args.token !== at() || !shape) return;
      map.root.hidden = false;
      map.show({ values: signedValues(found.drops, found.top), colour: signed, rows: shape.rows, columns: shape.columns, merge: shape.merge });
      mapScale.set(found.top);
      const size = found.block > 1 ? `blocks of ${found.block} × ${found.block} patches` : "single patches";
      rho.textContent = `Red: hiding it makes the word less likely (${size}). ${agreement(found.rho)}`;
    },
    (error) => panel.fail(error.message),
  );

  // What was measured for this word, or the way to measure it.
  function knockOuts() {
    const { token, image, layer, head } = here();
    const known = model.get("known");
    const shape = grid();
    const block = shape && blockSide(shape.rows, shape.columns);
    const measured = [`knock:${token}:${image}`, `occlude:${token}:${image}:${block}`].map((one) => known.includes(one));
    const busy = model.get("state") === "running" || "stage" in model.get("work");
    hide.hidden = measured[0] || model.page;
    blocks.hidden = measured[1] || model.page;
    hide.disabled = blocks.disabled = busy || token == null;
    if (measured[0]) showKnock({ token, image });
    else {
      knocked.textContent = model.page ? "Not measured for this word before the page was saved: a bright map "
        + "alone does not tell whether the word depends on what is bright."
        : "Hide the patches that it looked at most, and see whether the word becomes less likely.";
      canvas.show({ hidden: null });
      marks.hidden = true;
    }
    if (measured[1]) showBlocks({ token, image, block, layer, head });
    else { map.root.hidden = true; mapScale.set(null); rho.textContent = ""; }
    map.canvas.hidden = !measured[1];
  }

  function working() {
    const now = model.get("work");
    panel.fail(problemOf(model));
    showLongWork(work, now.what === "run" ? {} : now, () => act("stop_work"));
    knockOuts();
  }

  function update() {
    const sizes = model.get("facts").text;
    if (sizes) {
      layer.set(model.get("layer") ?? ALL, { max: sizes.layers - 1 });
      head.set(model.get("head") ?? ALL, { max: sizes.heads - 1 });
    }
    const none = !images().length;
    looked.hidden = knock.hidden = none;
    layer.root.hidden = !has("look", { ...here(), layer: 0 });
    head.root.hidden = !has("look", { ...here(), head: 0 });
    if (none || at() == null) { canvas.show({ values: null }); return; }
    look(here());
    knockOuts();
  }
  const soon = eachFrame(update);
  const repaint = () => { if (images().length) paint(model.get("image")); soon(); };
  const stops = [
    ...["layer", "head", "plain"].map((trait) => on(model, `change:${trait}`, soon)),
    on(model, "change:facts", repaint), on(model, "change:image", repaint),
    on(model, "change:work", working), on(model, "change:known", knockOuts),
    on(model, "change:state", knockOuts),
    on(model, "change:patch", () => { canvas.show({ chosen: model.get("patch") }); hover(null); }),
  ];
  repaint();
  working();
  return { looked, knock, update: soon, close() { stops.forEach((stop) => stop()); canvas.close(); map.close(); } };
}
