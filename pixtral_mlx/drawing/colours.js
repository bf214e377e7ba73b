// Maps of colours and their legends.

import { checkbox, tag } from "./elements.js";
import { share } from "./numbers.js";
import { LABELS } from "./labels.js";

// Cividis (Nunez, Anderton and Renslow 2018) by ten of its colours, as pixtral_mlx.interpret.picture has it.
const CIVIDIS = [
  [0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115],
  [138, 134, 120], [165, 156, 116], [195, 179, 105], [225, 204, 85], [254, 232, 56],
];

// What was chosen, what is hidden from the model, and where two answers differ: the same everywhere.
export const CHOSEN = "#e6007a";
export const HIDDEN = "#00a3c4";
export const DIFFERENT = "#8558f0";

// What colours stand for: [colour, words] each.
export const key = (...pairs) => tag("p", { class: "px-key px-quiet px-small" },
  ...pairs.map(([colour, words]) => tag("span", {}, tag("span", { class: "px-swatch", style: `background: ${colour}` }), words)));

// How much of a map of colours covers the grey picture.
export const STRENGTH = 0.65;

// How bright a picture stays where no attention is: grey, at this share of its brightness. Where
// attention is, it keeps its own colours: as pixtral_mlx.interpret.picture has it.
export const DIM = 0.4;

export const greyOf = (r, g, b) => Math.round(0.299 * r + 0.587 * g + 0.114 * b);

// How much light a share of the greatest attention, 0 to 1, is: its root, so that a tenth is seen.
export const lightOf = (share) => Math.sqrt(Math.min(Math.max(share, 0), 1));

// A colour of the picture where a share of the greatest attention falls.
export function lit(colour, share) {
  const dim = DIM * greyOf(...colour);
  return colour.map((own) => Math.round(dim + (own - dim) * lightOf(share)));
}

// A share from 0 to 1 -> [r, g, b] of 0 to 255.
export function cividis(share) {
  const place = Math.min(Math.max(share, 0), 1) * (CIVIDIS.length - 1);
  const below = Math.min(Math.floor(place), CIVIDIS.length - 2);
  return CIVIDIS[below].map((from, i) =>
    Math.round(from + (CIVIDIS[below + 1][i] - from) * (place - below)));
}

const TABLE = Array.from({ length: 256 }, (_, i) => cividis(i / 255));

// Blue through white to vermilion, for numbers of two signs: a share from -1 to 1 -> [r, g, b].
export function diverging(share) {
  const end = share < 0 ? [0, 84, 147] : [190, 70, 0];
  const strength = Math.min(Math.abs(share), 1);
  return end.map((to) => Math.round(245 + (to - 245) * strength));
}

// A map as a small canvas, one pixel a patch: values are 0 to 255.
export function heatCanvas(values, rows, columns, colour = (v) => TABLE[v], alpha = 255) {
  const canvas = document.createElement("canvas");
  canvas.width = columns;
  canvas.height = rows;
  const pixels = new ImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) {
    const [r, g, b] = colour(values[i]);
    pixels.data.set([r, g, b, alpha], 4 * i);
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

// Light as a small canvas, one pixel a patch: values are 0 to 255, the more the more opaque.
export function lightCanvas(values, rows, columns) {
  const canvas = document.createElement("canvas");
  canvas.width = columns;
  canvas.height = rows;
  const pixels = new ImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) pixels.data[4 * i + 3] = Math.round(255 * lightOf(values[i] / 255));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

const LIGHT = [255, 200, 40];   // what the legend of a spotlight shows in more and more of it

// The legend of attention: how it is drawn, and the numbers at both ends. With onPlain(whether) the
// reader can change from the spotlight to the map of colours and back.
export function legend(unit = "of the attention", onPlain = null) {
  const bar = tag("canvas", { class: "px-bar", width: 128, height: 10, "aria-hidden": "true" });
  const top = tag("span", {}, "");
  const plainly = checkbox({ label: LABELS.plain, onChange: (plain) => { draw(plain); onPlain?.(plain); } });
  const root = tag("div", { class: "px-legend", hidden: true },
    tag("span", {}, "0"), bar, top, tag("span", { class: "px-quiet" }, unit), onPlain ? plainly.root : null);
  function draw(plain) {
    const pen = bar.getContext("2d");
    for (let x = 0; x < 128; x++) {
      pen.fillStyle = `rgb(${plain ? cividis(x / 127) : lit(LIGHT, x / 127)})`;
      pen.fillRect(x, 0, 1, 10);
    }
  }
  return { root, set(value, plain = false) {
    root.hidden = value == null;
    top.textContent = value == null ? "" : share(value);
    plainly.set(plain);
    draw(plain);
  } };
}
