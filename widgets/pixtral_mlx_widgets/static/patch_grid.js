// PatchGrid: the picture under its patches, what they cost, and where they stand in the prompt.

import { key } from "./colours.js";
import { choice, slider, tag } from "./elements.js";
import { capital, cellName, count, digits, operations, patchBoth, share, tokenNumber } from "./numbers.js";
import { bitmap, patchCanvas } from "./patches.js";
import { answersPictures, connect, follow, frame, latest, on } from "./shared.js";

const LARGEST = 1536;

// Index in the prompt of a patch; null where the picture is in no prompt.
export function position(image, [row, column]) {
  if (image.start == null) return null;
  return image.start + row * (image.columns + (image.breaks ? 1 : 0)) + column;
}

// What is pointed at, in words.
export function describe(image, patch) {
  const [row, column] = patch;
  const place = position(image, patch);
  return `${capital(patchBoth(patch, image.merge))}: ${cellName(image.merge)} ${count(row * image.columns + column + 1)} of `
    + `${count(image.rows * image.columns)}`
    + (place == null ? "." : `, token ${tokenNumber(place)} of the prompt.`);
}

// The token that ends a row, in words.
export function describeEnd(image, row) {
  const last = row === image.rows - 1;
  const place = position(image, [row, image.columns]);
  return `${last ? "[IMG_END] ends the picture" : `[IMG_BREAK] ends ${cellName(image.merge)} row ${row + 1}`}`
    + (place == null ? "." : `: token ${tokenNumber(place)} of the prompt.`);
}

// What the tokens of a picture show: in a row of the grid, and as a sum.
const of = (size) => size.merge > 1 ? `${size.merge} × ${size.merge} patches` : "patches";
const cells = (size) => size.merge > 1 ? "squares" : "patches";

// The cost of a size, in words: rows of a table.
export function costs(size, context) {
  const seconds = size.seconds < 0.1 ? "less than 0.1 s" : `at least ${digits(size.seconds)} s`;
  return [
    ["size", `${count(size.width)} × ${count(size.height)} px`],
    ["grid", `${size.rows} rows × ${size.columns} columns of ${of(size)}`],
    ["tokens", `${count(size.patches)} ${cells(size)} + ${count(size.rows)} row ends = ${count(size.tokens)}`],
    ["context", `${share(size.context)} of ${count(context)} tokens`],
    ["prefill", `${operations(size.operations)}, ${seconds} on an M4 Max (estimate)`],
  ];
}

export function render({ model, el }) {
  const panel = frame(el, "Patch grid",
    model.page ? "" : "Try: point at a patch or at the end of a row, then drag “longest side”: what does a smaller picture cost?");
  const { ask, has, close } = connect(model, panel);
  const patches = patchCanvas({
    label: "The picture under its patch grid", onHover: say, onEnd: sayEnd,
    onChoose(patch) { model.set("patch", patch); model.save_changes(); },
  });
  const table = tag("table", { class: "px-facts" });
  const size = slider({
    label: "longest side", min: 16, max: LARGEST, step: 16, value: LARGEST,
    words: (side) => `${count(side)} px`,
    onInput(side) { model.set("side", side); model.save_changes(); measure(side); },
  });
  const which = tag("div");
  const own = tag("button", { type: "button", onclick() {
    model.set("side", 0); model.save_changes(); measure(0);
  } }, "its own size");
  const ends = key(["var(--px-break)", "[IMG_BREAK] ends a row"], ["var(--px-end)", "[IMG_END] ends the picture"]);
  panel.body.append(tag("div", { class: "px-picture" }, patches.root, ends),
    tag("div", { class: "px-side" }, which, table, size.root, tag("div", {}, own)));

  let shown = null;   // the size that is shown; its grid is what the canvas has

  const images = () => model.get("facts").images ?? [];
  const measure = latest(
    (side) => ask("size", { image: model.get("image"), side }),
    (answer, side) => {
      shown = answer;
      if (!side) size.set(Math.max(answer.width, answer.height));
      const context = model.get("facts").text.context;
      table.replaceChildren(...costs(answer, context).map(([name, words]) =>
        tag("tr", {}, tag("th", { scope: "row" }, name), tag("td", {}, words))));
      const same = !side || String([answer.rows, answer.columns]) === String(gridOf());
      patches.show({ rows: answer.rows, columns: answer.columns, merge: answer.merge, ends: true, chosen: same ? model.get("patch") : null });
      say(null);
    },
    (error) => panel.fail(error.message),
  );
  const paint = latest(
    async (image) => bitmap(await ask("pixels", { image })),
    (picture) => patches.show({ picture }),
    (error) => panel.fail(error.message),
  );
  const gridOf = () => { const image = images()[model.get("image")]; return [image?.rows, image?.columns]; };

  function say(patch) {
    const image = images()[model.get("image")];
    if (!image || !shown) return;
    const own = String([shown.rows, shown.columns]) === String([image.rows, image.columns]);
    const at = patch ?? (own ? model.get("patch") : null);
    if (at) panel.say(describe(own ? image : { ...shown, start: null }, at));
    else panel.say(`${count(shown.patches)} ${cells(shown)} in ${shown.rows} rows and ${shown.columns} columns: `
      + `${count(shown.tokens)} tokens.`);
  }

  function sayEnd(row) {
    const image = images()[model.get("image")];
    if (row == null || !image || !shown) { say(null); return; }
    const own = String([shown.rows, shown.columns]) === String([image.rows, image.columns]);
    panel.say(describeEnd(own ? image : { ...shown, start: null }, row));
  }

  function update() {
    const all = images();
    panel.root.toggleAttribute("data-ready", all.length > 0);
    panel.body.hidden = all.length === 0;
    if (!all.length) return;
    which.replaceChildren(...(all.length > 1 ? [choice({
      label: "picture", value: model.get("image"),
      options: all.map((_, i) => [i, String(i + 1)]),
      onChoose(image) { model.set("image", image); model.set("patch", null); model.save_changes(); },
    }).root] : []));
    size.root.hidden = own.hidden = !has("size", { image: model.get("image"), side: 16 });
    paint(model.get("image"));
    measure(model.get("side"));
  }

  const stops = [
    follow(model, panel, "Ask a question with a picture, and its patches appear here."),
    on(model, "change:facts", update), on(model, "change:image", update),
    on(model, "change:patch", () => { patches.show({ chosen: model.get("patch") }); say(null); }),
    on(model, "change:side", () => measure(model.get("side"))),
    answersPictures(model, panel.root),
  ];
  update();
  return () => { stops.forEach((stop) => stop()); close(); patches.close(); };
}

export default { render };
