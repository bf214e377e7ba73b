// Small maps of numbers: all heads at once, a tensor, a patch enlarged, the hands of its pairs.

import { cividis, diverging, heatCanvas, lightOf } from "./colours.js";
import { OWN_KEYS, eachFrame, ink, onTheme, sized, tag } from "./elements.js";
import { digits } from "./numbers.js";

// Shares -> bytes of a map, the greatest 255; those below zero are 0.
export function bytesOf(values) {
  const most = values.reduce((a, b) => Math.max(a, b), 0) || 1;
  return Uint8Array.from(values, (value) => Math.round(255 * Math.max(value, 0) / most));
}

// A number in two digits, with its sign.
export const signed = (value) => (value < 0 ? "−" : "") + digits(Math.abs(value));

// One row of a tensor, as a tensor.
export const rowOf = ({ shape: [, width], data }, n) => ({ shape: [1, width], data: data.subarray(n * width, (n + 1) * width) });

function drawing(label, draw, attributes = {}) {
  const canvas = tag("canvas", { role: "img", "aria-label": label, ...attributes });
  const root = tag("div", { class: "px-wide" }, canvas);
  const redraw = eachFrame(() => { if (root.clientWidth) draw(canvas, root.clientWidth, root); });
  new ResizeObserver(redraw).observe(root);
  onTheme(redraw);
  return { root, canvas, redraw };
}

// Every head of every layer as a thumbnail: a line for each layer. show({ maps: [layer][head] of bytes,
// rows, columns, chosen: [layer, head] or null }); a click or an arrow key chooses one.
export function headTable({ label, onChoose }) {
  const now = { maps: [], rows: 1, columns: 1, chosen: null };
  let at = { step: [1, 1] };
  const { root, canvas, redraw } = drawing(label, (own, width) => {
    const heads = now.maps[0]?.length ?? 0;
    if (!heads) return;
    const gap = 6, wide = Math.min(Math.floor((width - 4) / heads) - gap, 84);
    const tall = Math.max(Math.round(wide * Math.min(now.rows / now.columns, 1.2)), 12);
    at = { step: [wide + gap, tall + gap] };
    const pen = sized(own, heads * at.step[0] + 4, now.maps.length * at.step[1] + 4);
    pen.imageSmoothingEnabled = false;
    now.maps.forEach((layer, l) => layer.forEach((map, h) => {
      const [x, y] = [2 + h * at.step[0], 2 + l * at.step[1]];
      const fit = Math.min(wide / now.columns, tall / now.rows);
      const [w, t] = [now.columns * fit, now.rows * fit];
      pen.drawImage(heatCanvas(map.map((byte) => Math.round(255 * lightOf(byte / 255))), now.rows, now.columns),
        x + (wide - w) / 2, y + (tall - t) / 2, w, t);
      if (String(now.chosen) === String([l, h])) {
        pen.strokeStyle = ink(root, "--px-ring");
        pen.lineWidth = 2;
        pen.strokeRect(x - 1, y - 1, wide + 2, tall + 2);
      }
    }));
  }, { tabindex: 0, class: "px-pick", ...OWN_KEYS });
  const choose = (layer, head) => {
    if (layer >= 0 && layer < now.maps.length && head >= 0 && head < now.maps[0].length) onChoose(layer, head);
  };
  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect();
    choose(Math.floor((event.clientY - box.top) / at.step[1]), Math.floor((event.clientX - box.left) / at.step[0]));
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const [layer, head] = now.chosen ?? [0, -step[1]];
    choose(layer + step[0], head + step[1]);
  });
  return { root, canvas, show(changes) { Object.assign(now, changes); redraw(); } };
}

// A tensor, a row for each patch or token: blue below zero, red above, white at zero.
// show({ shape, data, row }); row is ringed. onHover([row, column] or null).
export function tensorMap({ label, onHover }) {
  let now = null, cell = [1, 1];
  const { root, canvas, redraw } = drawing(label, (own, width) => {
    if (!now) return;
    const [rows, columns] = now.shape;
    const tall = Math.min(Math.max(Math.floor(260 / rows), 2), 24);
    cell = [width / columns, rows === 1 ? 24 : tall];
    const pen = sized(own, width, rows * cell[1]);
    pen.imageSmoothingEnabled = cell[0] < 1;
    const most = now.data.reduce((a, b) => Math.max(a, Math.abs(b)), 0) || 1;
    pen.drawImage(heatCanvas(now.data, rows, columns, (value) => diverging(Math.sign(value) * Math.sqrt(Math.abs(value) / most))),
      0, 0, width, rows * cell[1]);
    if (now.row != null && now.row < rows && rows > 1) {
      pen.strokeStyle = ink(root, "--px-ring");
      pen.lineWidth = 2;
      pen.strokeRect(1, now.row * cell[1] - 1, width - 2, cell[1] + 2);
    }
  }, { class: "px-tensor" });
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const [row, column] = [Math.floor((event.clientY - box.top) / cell[1]), Math.floor((event.clientX - box.left) / cell[0])];
    if (now && row >= 0 && row < now.shape[0] && column >= 0 && column < now.shape[1]) onHover?.([row, column]);
  });
  canvas.addEventListener("pointerleave", () => onHover?.(null));
  return { root, canvas, show(tensor) { now = tensor; redraw(); } };
}

// One patch of a picture, enlarged. show({ picture, patch: [row, column], side }).
export function enlargedPatch(label) {
  const canvas = tag("canvas", { class: "px-enlarged", role: "img", "aria-label": label });
  return { root: canvas, canvas, show({ picture, patch: [row, column], side, rows, columns }) {
    const pen = sized(canvas, 160, 160);
    const [wide, tall] = [picture.width / columns, picture.height / rows];
    pen.imageSmoothingEnabled = false;
    pen.drawImage(picture, column * wide, row * tall, wide, tall, 0, 0, 160, 160);
    pen.strokeStyle = "rgba(128, 128, 128, 0.25)";
    pen.beginPath();
    for (let i = 1; i < side; i++) {
      pen.moveTo(i * 160 / side, 0); pen.lineTo(i * 160 / side, 160);
      pen.moveTo(0, i * 160 / side); pen.lineTo(160, i * 160 / side);
    }
    pen.stroke();
  } };
}

// The pairs of a head as hands of clocks: those of the row, then those of the column.
// show({ angles }): half of them are of the row; before: those of the patch chosen before, drawn pale.
export function hands(label) {
  let now = null;
  const { root, canvas, redraw } = drawing(label, (own, width, of) => {
    if (!now) return;
    const { angles, before } = now, half = angles.length / 2;
    const across = half, side = Math.min(Math.floor((Math.min(width, 620) - 20) / angles.length), 44);
    const two = side < 30, step = two ? Math.min(Math.floor(width / across), 44) : side;
    const pen = sized(own, two ? across * step : angles.length * step + 20, (two ? 2 : 1) * step + (two ? 10 : 0));
    angles.forEach((angle, i) => {
      const column = i >= half;
      const x = (two ? i % half : i) * step + step / 2 + (column && !two ? 20 : 0);
      const y = step / 2 + (two && column ? step + 10 : 0), r = step / 2 - 3;
      pen.strokeStyle = ink(of, "--px-line");
      pen.lineWidth = 1;
      pen.beginPath(); pen.arc(x, y, r, 0, 2 * Math.PI); pen.stroke();
      for (const [turn, colour, wide] of [[before?.[i], ink(of, "--px-line"), 3], [angle, ink(of, column ? "--px-column" : "--px-row"), 2.5]]) {
        if (turn == null) continue;
        pen.strokeStyle = colour;
        pen.lineWidth = wide;
        pen.beginPath(); pen.moveTo(x, y); pen.lineTo(x + r * Math.sin(turn), y - r * Math.cos(turn)); pen.stroke();
      }
    });
  });
  return { root, canvas, show(changes) { now = changes; redraw(); } };
}

// A probability as a bar, for lists of them.
export function bar(share) {
  const canvas = tag("canvas", { class: "px-share", width: 120, height: 12, "aria-hidden": "true" });
  const pen = canvas.getContext("2d");
  pen.fillStyle = `rgb(${cividis(0.35)})`;
  pen.fillRect(0, 0, Math.max(Math.round(120 * share), 1), 12);
  return canvas;
}
