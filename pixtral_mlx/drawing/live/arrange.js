// The first stop: a scene is drawn by lot, or arranged by hand, thing by thing.

import { choice, checkbox, tag } from "./elements.js";
import { draw, NOTHING } from "./scenes.js";
import { said } from "./questions.js";
import { TEXT } from "./text.js";

const SIZES = [1, 2, 3, 4, 5];
const LOOK = 3;   // of a palette's things: one seed, so that they look alike

// RGB of a scene -> a canvas.
export function canvasOf({ width, height, data }) {
  const canvas = tag("canvas", { width, height });
  const pixels = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = data[3 * i + c];
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

// The layout in another size: what fits stays where it is.
export function regrown(layout, rows, columns) {
  const cells = Array.from({ length: rows * columns }, (_, i) => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    return row < layout.rows && column < layout.columns ? layout.cells[row * layout.columns + column] : NOTHING;
  });
  return { ...layout, rows, columns, cells };
}

// The [row, column] of the cell under the middle of a patch. grid: the picture's patches, { rows, columns }.
export const cellOf = (layout, [row, column], grid) =>
  [Math.floor((row + 0.5) * layout.rows / grid.rows), Math.floor((column + 0.5) * layout.columns / grid.columns)];

// The layout with a thing in a cell.
export function placedIn(layout, [row, column], thing) {
  const index = row * layout.columns + column;
  return { ...layout, cells: layout.cells.map((cell, i) => (i === index ? thing : cell)) };
}

// onScene(layout): the picture in front becomes this one; onNew(); onSecond(whether): there are two.
export function arranging({ world, masks, onScene, onNew, onSecond }) {
  let thing = { name: "star", colour: "red" }, layout = null;

  const icon = (cell) => canvasOf(draw({ rows: 1, columns: 1, cells: [cell], look: LOOK }, world, masks));
  const pressed = (button, whether) => button.setAttribute("aria-pressed", String(whether));
  const button = (cell, label) => tag("button", { type: "button", class: "px-thing", "aria-label": label, title: label, onclick: () => put(cell) }, icon(cell));

  const shapes = tag("div", { class: "px-things", role: "group", "aria-label": TEXT.putShape });
  const colours = tag("div", { class: "px-things", role: "group", "aria-label": TEXT.putColour });
  const letters = tag("div", { class: "px-things", role: "group", "aria-label": TEXT.putCharacter },
    ...world.characters.map((name) => button({ name, colour: "" }, said({ name, colour: "" }))), button(NOTHING, TEXT.nothing));
  for (const [name, rgb] of Object.entries(world.colours)) {
    const one = tag("button", { type: "button", class: "px-colour", "aria-label": name, title: name, onclick: () => put({ name: thing.colour ? thing.name : "star", colour: name }) });
    one.style.backgroundColor = `rgb(${rgb})`;
    colours.append(one);
  }

  function put(next) {
    thing = next;
    const colour = thing.colour || "red";
    shapes.replaceChildren(...world.shapes.map((name) => button({ name, colour }, said({ name, colour }))));
    [...shapes.children].forEach((one, i) => pressed(one, thing.colour && world.shapes[i] === thing.name));
    [...colours.children].forEach((one, i) => pressed(one, Object.keys(world.colours)[i] === thing.colour));
    [...letters.children].forEach((one, i) => pressed(one, !thing.colour && (world.characters[i] ?? "") === thing.name));
  }

  const sizes = SIZES.map((n) => [n, String(n)]);
  const resize = (rows, columns) => onScene(regrown(layout, rows, columns));
  const rows = choice({ label: TEXT.rows, options: sizes, value: null, onChoose: (n) => resize(n, layout.columns) });
  const columns = choice({ label: TEXT.columns, options: sizes, value: null, onChoose: (n) => resize(layout.rows, n) });
  const second = checkbox({ label: TEXT.secondPicture, onChange: onSecond });
  put(thing);

  return {
    root: tag("div", {},
      tag("div", { class: "px-row" },
        tag("button", { type: "button", class: "px-strong", onclick: onNew }, TEXT.newScene),
        tag("button", { type: "button", onclick: () => onScene({ ...layout, cells: layout.cells.map(() => NOTHING) }) }, TEXT.clearAll), second.root),
      tag("div", { class: "px-row" }, rows.root, columns.root),
      tag("h3", {}, TEXT.put), shapes, colours, letters),
    show(now, two) { layout = now; rows.set(now.rows); columns.set(now.columns); second.set(two); },
    // The picture in front, with the chosen thing at a patch.
    put: (patch, grid) => onScene(placedIn(layout, cellOf(layout, patch, grid), thing)),
    says(patch, grid) {
      const [r, c] = cellOf(layout, patch, grid);
      return TEXT.cell(r + 1, c + 1, said(layout.cells[r * layout.columns + c]));
    },
  };
}
