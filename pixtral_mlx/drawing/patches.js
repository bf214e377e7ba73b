// A picture under its patches.

import { STRENGTH, heatCanvas } from "./colours.js";
import { OWN_KEYS, eachFrame, tag } from "./elements.js";

// {"mime", "file"} -> a promise of something that a canvas can draw.
export async function bitmap({ mime, file }) {
  return createImageBitmap(new Blob([file], { type: mime }));
}

// A copy in grey, once, so that a map can lie on it. (Canvas filters are missing in Safari.)
function greyCopy(picture) {
  const canvas = document.createElement("canvas");
  canvas.width = picture.width;
  canvas.height = picture.height;
  const pen = canvas.getContext("2d");
  pen.drawImage(picture, 0, 0);
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
  const { data } = pixels;
  for (let i = 0; i < data.length; i += 4) {
    const grey = Math.round(0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2]);
    data[i] = data[i + 1] = data[i + 2] = grey;
  }
  pen.putImageData(pixels, 0, 0);
  return canvas;
}

export const RING = "#e6007a";

// The picture of the model under its patch grid: the one way in which any widget shows patches.
//   label: what a screen reader calls it; most: longest side in CSS pixels
//   onHover(patch or null), onChoose(patch): patch is [row, column]
//   onPaint(patch): while the pointer is dragged over patches, where that means something
// show({ picture, rows, columns, values, colour, chosen, marked, faded, named, lines }) draws; what is
// left out stays as it was. values: one of 0 to 255 a patch, or null. marked: a Set of row-major
// numbers. named: [[[row, column], "A"], ...] are ringed, their letters beside them.
export function patchCanvas({ label, most = 448, onHover, onChoose, onPaint }) {
  const canvas = tag("canvas", { class: "px-patches", role: "img", tabindex: 0, "aria-label": label, ...OWN_KEYS });
  const root = tag("div", { class: "px-canvas" }, canvas);
  const now = {
    picture: null, rows: 0, columns: 0, values: null, colour: undefined, chosen: null,
    marked: null, faded: null, named: [], lines: true, hovered: null, cell: 0,
  };
  let grey = null;

  const redraw = eachFrame(draw);
  function draw() {
    const { rows, columns } = now;
    if (!rows || !columns) { canvas.hidden = true; return; }
    canvas.hidden = false;
    const ratio = window.devicePixelRatio || 1;
    const room = Math.max(Math.min(root.clientWidth || most, most), 96);
    const cell = Math.max(Math.floor(room * ratio / Math.max(columns, Math.min(rows, columns * 2))), 1);
    now.cell = Math.min(cell, Math.max(Math.floor(most * ratio / Math.max(rows, columns)), 1),
      Math.round(56 * ratio));
    const [width, height] = [columns * now.cell, rows * now.cell];
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    canvas.style.width = `${width / ratio}px`;
    canvas.style.height = `${height / ratio}px`;
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, width, height);
    drawPicture(pen, width, height);
    if (now.lines && now.cell >= 6 * ratio) drawLines(pen, width, height, ratio);
    drawMarks(pen, ratio);
    if (now.hovered) ring(pen, now.hovered, ratio, false);
    if (now.chosen) ring(pen, now.chosen, ratio, true);
    for (const [patch, letter] of now.named) name(pen, patch, letter, ratio);
  }

  // Beside the patch, on the side where there is room.
  function name(pen, [row, column], letter, ratio) {
    const { cell } = now;
    ring(pen, [row, column], ratio, String(now.chosen) === String([row, column]));
    pen.font = `600 ${13 * ratio}px ${getComputedStyle(root).fontFamily}`;
    pen.textBaseline = "middle";
    const left = (column + 1) * cell + 18 * ratio > pen.canvas.width;
    pen.textAlign = left ? "right" : "left";
    const x = left ? column * cell - 4 * ratio : (column + 1) * cell + 4 * ratio;
    const y = Math.min(Math.max((row + 0.5) * cell, 8 * ratio), pen.canvas.height - 8 * ratio);
    pen.lineWidth = 4 * ratio;
    pen.strokeStyle = "rgba(255, 255, 255, 0.95)";
    pen.strokeText(letter, x, y);
    pen.fillStyle = "#222222";
    pen.fillText(letter, x, y);
  }

  function drawPicture(pen, width, height) {
    const { picture, values, rows, columns } = now;
    if (picture) {
      pen.imageSmoothingEnabled = true;
      pen.drawImage(values ? grey ??= greyCopy(picture) : picture, 0, 0, width, height);
    }
    if (!values) return;
    pen.imageSmoothingEnabled = false;
    pen.globalAlpha = picture ? STRENGTH : 1;
    pen.drawImage(heatCanvas(values, rows, columns, now.colour), 0, 0, width, height);
    pen.globalAlpha = 1;
  }

  function drawLines(pen, width, height, ratio) {
    pen.beginPath();
    for (let c = 1; c < now.columns; c++) { pen.moveTo(c * now.cell, 0); pen.lineTo(c * now.cell, height); }
    for (let r = 1; r < now.rows; r++) { pen.moveTo(0, r * now.cell); pen.lineTo(width, r * now.cell); }
    // Dark under light: visible on any picture.
    for (const [colour, wide] of [["rgba(0, 0, 0, 0.30)", 2], ["rgba(255, 255, 255, 0.75)", 1]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = wide * ratio;
      pen.stroke();
    }
  }

  function drawMarks(pen, ratio) {
    const { marked, faded, columns, cell } = now;
    pen.fillStyle = "rgba(128, 128, 128, 0.92)";
    for (const patch of faded ?? []) {
      pen.fillRect((patch % columns) * cell, Math.floor(patch / columns) * cell, cell, cell);
    }
    pen.strokeStyle = RING;
    pen.lineWidth = Math.max(2 * ratio, cell / 12);
    for (const patch of marked ?? []) {
      const inset = pen.lineWidth / 2;
      pen.strokeRect((patch % columns) * cell + inset, Math.floor(patch / columns) * cell + inset,
        cell - 2 * inset, cell - 2 * inset);
    }
  }

  function ring(pen, [row, column], ratio, strong) {
    const { cell } = now;
    const [x, y] = [column * cell, row * cell];
    pen.lineWidth = 3 * ratio;
    pen.strokeStyle = "rgba(255, 255, 255, 0.95)";
    pen.strokeRect(x - ratio, y - ratio, cell + 2 * ratio, cell + 2 * ratio);
    pen.lineWidth = (strong ? 2 : 1) * ratio;
    pen.strokeStyle = strong ? RING : "#222222";
    pen.strokeRect(x - ratio, y - ratio, cell + 2 * ratio, cell + 2 * ratio);
  }

  function patchAt(event) {
    const box = canvas.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top) / box.height * now.rows);
    const column = Math.floor((event.clientX - box.left) / box.width * now.columns);
    const inside = row >= 0 && row < now.rows && column >= 0 && column < now.columns;
    return inside ? [row, column] : null;
  }

  function hover(patch) {
    if (String(patch) === String(now.hovered)) return;
    now.hovered = patch;
    redraw();
    onHover?.(patch);
  }

  canvas.addEventListener("pointermove", (event) => {
    const patch = patchAt(event);
    hover(patch);
    if (onPaint && patch && event.buttons === 1) onPaint(patch);
  });
  canvas.addEventListener("pointerleave", () => hover(null));
  canvas.addEventListener("pointerdown", (event) => {
    const patch = patchAt(event);
    if (onPaint && patch) { event.preventDefault(); canvas.focus(); onPaint(patch, true); }
  });
  canvas.addEventListener("click", (event) => {
    const patch = patchAt(event);
    if (patch && onChoose) onChoose(patch);
  });
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    const from = onPaint ? now.hovered : now.chosen;
    if (onPaint && from && (event.key === " " || event.key === "Enter")) {
      event.preventDefault();
      onPaint(from, true);
    }
    if (!step || !now.rows) return;
    event.preventDefault();
    event.stopPropagation();
    const [row, column] = from ?? [0, 0];
    const next = from ? [
      Math.min(Math.max(row + step[0], 0), now.rows - 1),
      Math.min(Math.max(column + step[1], 0), now.columns - 1),
    ] : [0, 0];
    if (onPaint) hover(next); else onChoose?.(next);
  });
  const watch = new ResizeObserver(redraw);
  watch.observe(root);

  return {
    root, canvas,
    show(changes) {
      if ("picture" in changes && changes.picture !== now.picture) grey = null;
      Object.assign(now, changes);
      redraw();
    },
    describe(text) { canvas.setAttribute("aria-label", text); },
    close() { watch.disconnect(); },
  };
}
