// A picture under its patches: lit where attention is, with a loupe, and to zoom into.

import { CHOSEN, DIM, HIDDEN, STRENGTH, greyOf, heatCanvas, lightCanvas } from "./colours.js";
import { OWN_KEYS, eachFrame, tag } from "./elements.js";
import { LABELS } from "./labels.js";

const TALLEST_PICTURE = 720;       // CSS pixels: a page fits on a screen, with the words beside it
const LARGEST_CELL = 96;   // of a patch, in CSS pixels
const LINES_FROM = 10;     // narrower patches have no lines between them: letters stay legible
const LOUPE = { side: 184, cell: 32 };
const MOST_ZOOM = 8;
const ZOOM_BELOW = 24;     // CSS pixels of a patch: there are buttons for zooming

// {"mime", "file"} -> a promise of something that a canvas can draw.
export async function bitmap({ mime, file }) {
  return createImageBitmap(new Blob([file], { type: mime }));
}

// What can be seen ------------------------------------------------------------------------------

// A window onto the patches is { left, top, cell, width, height }: its corner in patches, the side
// of a patch and its own size in pixels of the canvas.

// The window when everything is enlarged `zoom` times: as near to `left` and `top` as the edges allow.
export function windowOf({ rows, columns, cell, zoom, left, top }) {
  const large = Math.round(cell * zoom);
  const [width, height] = [columns * cell, rows * cell];
  const inside = (at, all, seen) => Math.min(Math.max(at, 0), all - seen / large);
  return {
    cell: large, width, height, left: inside(left, columns, width), top: inside(top, rows, height),
  };
}

// The patch at a place in pixels of the canvas; null beside the picture.
export function patchUnder({ left, top, cell }, [x, y], rows, columns) {
  const [row, column] = [Math.floor(top + y / cell), Math.floor(left + x / cell)];
  return row >= 0 && row < rows && column >= 0 && column < columns ? [row, column] : null;
}

// Zoomed to `zoom` so that what lies under a point of the window stays there.
export function zoomedAt(view, [x, y], cell, zoom) {
  const large = Math.round(cell * zoom);
  return { zoom, left: view.left + x / view.cell - x / large, top: view.top + y / view.cell - y / large };
}

// Layers ----------------------------------------------------------------------------------------

// A copy in grey, once, for a map to lie on or as what is left where no light falls. (Canvas filters
// are missing in Safari.)
function greyCopy(picture, brightness) {
  const canvas = document.createElement("canvas");
  canvas.width = picture.width;
  canvas.height = picture.height;
  const pen = canvas.getContext("2d");
  pen.drawImage(picture, 0, 0);
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
  const { data } = pixels;
  for (let i = 0; i < data.length; i += 4) {
    data[i] = data[i + 1] = data[i + 2] = Math.round(brightness * greyOf(data[i], data[i + 1], data[i + 2]));
  }
  pen.putImageData(pixels, 0, 0);
  return canvas;
}

// Draws what a window shows of `now` (see `patchCanvas`), without what the pointer does.
function painter() {
  const scratch = document.createElement("canvas");
  let copies = { of: null };

  function copy(picture, name, brightness) {
    if (copies.of !== picture) copies = { of: picture };
    return copies[name] ??= greyCopy(picture, brightness);
  }

  // The part of a source, whatever its size, that the window shows.
  function part(pen, source, { rows, columns }, { left, top, cell, width, height }) {
    const [x, y] = [source.width / columns, source.height / rows];
    pen.drawImage(source, left * x, top * y, width / cell * x, height / cell * y, 0, 0, width, height);
  }

  // The picture in its own colours, as strong as the light that falls on each patch.
  function lightPart(now, view) {
    if (scratch.width !== view.width || scratch.height !== view.height) {
      [scratch.width, scratch.height] = [view.width, view.height];
    }
    const pen = scratch.getContext("2d");
    pen.globalCompositeOperation = "copy";
    pen.imageSmoothingEnabled = false;
    part(pen, lightCanvas(now.values, now.rows, now.columns), now, view);
    pen.globalCompositeOperation = "source-in";
    pen.imageSmoothingEnabled = true;
    part(pen, now.picture, now, view);
    return scratch;
  }

  function drawPicture(pen, now, view) {
    const { picture, values, rows, columns } = now;
    pen.imageSmoothingEnabled = true;
    if (picture && !values) { part(pen, picture, now, view); return; }
    if (isSpotlit(now)) {
      part(pen, copy(picture, "dim", DIM), now, view);
      pen.drawImage(lightPart(now, view), 0, 0);
      return;
    }
    if (picture) part(pen, copy(picture, "grey", 1), now, view);
    if (!values) return;
    pen.imageSmoothingEnabled = false;
    pen.globalAlpha = picture ? STRENGTH : 1;
    part(pen, heatCanvas(values, rows, columns, now.colour), now, view);
    pen.globalAlpha = 1;
  }

  // Between the cells; of merged ones also between the patches inside, where there is room.
  function drawLines(pen, now, view, ratio) {
    const { merge, rows, columns } = now;
    const inner = view.cell / merge;
    if (merge > 1 && inner > LINES_FROM * ratio) {
      const [left, top] = [view.left * merge, view.top * merge];
      ruled(pen, { ...view, left, top, cell: inner }, rows * merge, columns * merge);
      stroked(pen, inner, now, ratio, 0.35);
    }
    ruled(pen, view, rows, columns);
    stroked(pen, view.cell, now, ratio, 1);
  }

  function ruled(pen, { left, top, cell, width, height }, rows, columns) {
    pen.beginPath();
    for (let c = Math.max(Math.ceil(left), 1); c < columns; c++) {
      const x = Math.round((c - left) * cell);
      pen.moveTo(x, 0);
      pen.lineTo(x, height);
    }
    for (let r = Math.max(Math.ceil(top), 1); r < rows; r++) {
      const y = Math.round((r - top) * cell);
      pen.moveTo(0, y);
      pen.lineTo(width, y);
    }
  }

  function stroked(pen, cell, now, ratio, strength) {
    // Dark under light is visible on any picture; finer where patches are small or light falls.
    const fine = strength * (cell < 22 * ratio ? 0.4 : 1) * (isSpotlit(now) ? 0.4 : 1);
    for (const [colour, wide] of [["0, 0, 0, 0.3", 2], ["255, 255, 255, 0.75", 1]]) {
      pen.strokeStyle = `rgba(${colour})`;
      pen.globalAlpha = fine;
      pen.lineWidth = wide * ratio;
      pen.stroke();
    }
    pen.globalAlpha = 1;
  }

  // Hidden patches are hatched: what is under them can still be made out.
  function drawHidden(pen, { hidden, columns }, { left, top, cell }, ratio) {
    pen.strokeStyle = HIDDEN;
    for (const patch of hidden ?? []) {
      const [x, y] = [(patch % columns - left) * cell, (Math.floor(patch / columns) - top) * cell];
      pen.fillStyle = "rgba(128, 128, 128, 0.6)";
      pen.fillRect(x, y, cell, cell);
      pen.save();
      pen.beginPath();
      pen.rect(x, y, cell, cell);
      pen.clip();
      pen.beginPath();
      const step = Math.max(cell / 4, 3 * ratio);
      for (let from = -cell; from < cell; from += step) {
        pen.moveTo(x + from, y);
        pen.lineTo(x + from + cell, y + cell);
      }
      pen.lineWidth = Math.max(1.5 * ratio, cell / 24);
      pen.stroke();
      pen.lineWidth = Math.max(4 * ratio, cell / 8);   // half of it is cut off
      pen.strokeRect(x, y, cell, cell);
      pen.restore();
    }
  }

  return (pen, now, view, ratio) => {
    pen.clearRect(0, 0, view.width, view.height);
    drawPicture(pen, now, view);
    if (now.lines && view.cell > LINES_FROM * ratio) drawLines(pen, now, view, ratio);
    drawHidden(pen, now, view, ratio);
  };
}

const isSpotlit = ({ picture, values, colour, plain }) => Boolean(picture && values && !colour && !plain);

function ring(pen, [row, column], { left, top, cell }, ratio, strong) {
  const [x, y] = [(column - left) * cell, (row - top) * cell];
  pen.lineWidth = 3 * ratio;
  pen.strokeStyle = "rgba(255, 255, 255, 0.95)";
  pen.strokeRect(x - ratio, y - ratio, cell + 2 * ratio, cell + 2 * ratio);
  pen.lineWidth = (strong ? 2 : 1) * ratio;
  pen.strokeStyle = strong ? CHOSEN : "#222222";
  pen.strokeRect(x - ratio, y - ratio, cell + 2 * ratio, cell + 2 * ratio);
}

// Beside the patch, on the side where there is room.
function letterAt(pen, [row, column], letter, { left, top, cell }, ratio, family) {
  pen.font = `600 ${13 * ratio}px ${family}`;
  pen.textBaseline = "middle";
  const right = (column + 1 - left) * cell;
  const over = right + 18 * ratio > pen.canvas.width;
  pen.textAlign = over ? "right" : "left";
  const x = over ? (column - left) * cell - 4 * ratio : right + 4 * ratio;
  const y = Math.min(Math.max((row + 0.5 - top) * cell, 8 * ratio), pen.canvas.height - 8 * ratio);
  pen.lineWidth = 4 * ratio;
  pen.strokeStyle = "rgba(255, 255, 255, 0.95)";
  pen.strokeText(letter, x, y);
  pen.fillStyle = "#222222";
  pen.fillText(letter, x, y);
}

// The row ends ----------------------------------------------------------------------------------

const BREAK_COLOUR = "#e69f00";   // the same wherever these tokens appear
const END_COLOUR = "#d55e00";

// [IMG_BREAK] after each row of patches and [IMG_END] after the last, beside the picture.
function drawEnds(canvas, rows, { top, cell, height }, ratio, wide) {
  [canvas.width, canvas.height] = [wide, height];
  canvas.style.width = `${wide / ratio}px`;
  canvas.style.height = `${height / ratio}px`;
  const pen = canvas.getContext("2d");
  const gap = cell > 6 * ratio ? ratio : 0;
  for (let row = 0; row < rows; row++) {
    pen.fillStyle = row === rows - 1 ? END_COLOUR : BREAK_COLOUR;
    pen.fillRect(0, Math.round((row - top) * cell), wide, Math.max(Math.round(cell - gap), 1));
  }
}

// The whole -------------------------------------------------------------------------------------

// The picture of the model under its patch grid: the one way in which any page shows patches.
//   label: what a screen reader calls it; most: longest side in CSS pixels; tallest(): most height
//   onHover(patch or null), onChoose(patch): patch is [row, column]
//   onPaint(patch): while the pointer is dragged over patches, where that means something
//   onEnd(row or null): the pointer is at the end of a row, where row ends are drawn
// show({ picture, rows, columns, values, colour, plain, chosen, hidden, named, lines, ends }) draws;
// what is left out stays as it was. values: one of 0 to 255 a patch, or null: how much light falls on
// it. plain: they are colours of cividis instead; colour: of another map. hidden: a Set of row-major
// numbers. named: [[[row, column], "A"], ...] are ringed, their letters beside them. ends: whether
// the tokens at the row ends are drawn. merge: where the model makes one token of a square of patches,
// the side of that square: each "patch" of the grid is one, which is said, and its patches are drawn.
export function patchCanvas({ label, most = 1200, tallest = () => TALLEST_PICTURE, onHover, onChoose, onPaint, onEnd }) {
  const canvas = tag("canvas", { class: "px-patches", role: "img", tabindex: 0, "aria-label": label, ...OWN_KEYS });
  const ends = tag("canvas", { class: "px-ends", hidden: true, "aria-hidden": "true" });
  const loupe = tag("canvas", { class: "px-loupe", hidden: true, "aria-hidden": "true" });
  const nearer = tag("button", { type: "button", "aria-label": LABELS.nearer, onclick: () => zoomBy(2) }, "+");
  const farther = tag("button", { type: "button", "aria-label": LABELS.farther, onclick: () => zoomBy(0.5) }, "−");
  const zooming = tag("div", { class: "px-zoom", hidden: true }, farther, nearer,
    tag("span", { class: "px-quiet px-small" }, LABELS.zooming));
  const merged = tag("div", { class: "px-quiet px-small px-merged", hidden: true });
  const root = tag("div", { class: "px-canvas" }, tag("div", { class: "px-easel" }, canvas, ends, loupe), zooming, merged);
  const now = {
    picture: null, rows: 0, columns: 0, values: null, colour: undefined, plain: false, chosen: null,
    hidden: null, named: [], lines: true, ends: false, merge: 1, hovered: null,
  };
  const at = { zoom: 1, left: 0, top: 0 };   // what of it is seen
  const paint = painter();
  const base = document.createElement("canvas");
  let cell = 1;          // of a patch when all of it is seen, in pixels of the canvas
  let stale = true;      // whether `base` is to be drawn anew
  let pointer = null;    // where in the canvas, in its pixels; null if elsewhere
  const ratioNow = () => window.devicePixelRatio || 1;
  const seen = () => windowOf({ ...now, cell, ...at });

  const redraw = eachFrame(draw);
  function draw() {
    const { rows, columns } = now;
    canvas.hidden = !rows || !columns;
    ends.hidden = canvas.hidden || !now.ends;
    if (canvas.hidden) return;
    const ratio = ratioNow();
    const before = cell;
    fit(ratio);
    const view = seen();
    if (canvas.width !== view.width || canvas.height !== view.height || cell !== before) {
      [canvas.width, canvas.height] = [base.width, base.height] = [view.width, view.height];
      stale = true;
    }
    canvas.style.width = `${view.width / ratio}px`;
    canvas.style.height = `${view.height / ratio}px`;
    if (stale) paint(base.getContext("2d"), now, view, ratio);
    if (stale && now.ends) drawEnds(ends, rows, view, ratio, endsWide(ratio));
    stale = false;
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, view.width, view.height);
    pen.drawImage(base, 0, 0);
    if (now.hovered) ring(pen, now.hovered, view, ratio, false);
    if (now.chosen) ring(pen, now.chosen, view, ratio, true);
    const family = getComputedStyle(root).fontFamily;
    for (const [patch, letter] of now.named) {
      ring(pen, patch, view, ratio, String(now.chosen) === String(patch));
      letterAt(pen, patch, letter, view, ratio, family);
    }
    merged.hidden = !(now.merge > 1);
    merged.textContent = LABELS.merged(now.merge);
    zooming.hidden = !now.picture || (cell >= ZOOM_BELOW * ratio && at.zoom === 1);
    farther.disabled = at.zoom <= 1;
    drawLoupe(view, ratio);
  }

  // The side of a patch: as wide as there is room, and no taller than a screen.
  function fit(ratio) {
    const { rows, columns } = now;
    const room = Math.max((root.clientWidth || most) * ratio - (now.ends ? endsWide(ratio) + 4 * ratio : 0), 96 * ratio);
    cell = Math.max(Math.floor(Math.min(room / columns, most * ratio / Math.max(rows, columns),
      tallest() * ratio / rows, LARGEST_CELL * ratio)), 1);
  }

  const endsWide = (ratio) => Math.round(Math.min(Math.max(cell, 6 * ratio), 14 * ratio));

  // What is under the pointer, enlarged, while patches are small.
  function drawLoupe(view, ratio) {
    loupe.hidden = !pointer || !now.hovered || !now.picture || view.cell >= 0.85 * LOUPE.cell * ratio;
    if (loupe.hidden) return;
    const side = Math.round(LOUPE.side * ratio);
    const large = Math.round(LOUPE.cell * ratio);
    const near = {
      cell: large, width: side, height: side,
      left: view.left + pointer[0] / view.cell - side / large / 2,
      top: view.top + pointer[1] / view.cell - side / large / 2,
    };
    if (loupe.width !== side) [loupe.width, loupe.height] = [side, side];
    loupe.style.width = loupe.style.height = `${LOUPE.side}px`;
    const [x, y] = pointer.map((place) => place / ratio);
    const right = x < view.width / ratio / 2;
    loupe.style.left = `${right ? x + 24 : x - 24 - LOUPE.side}px`;
    loupe.style.top = `${Math.min(Math.max(y - LOUPE.side / 2, 0), Math.max(view.height / ratio - LOUPE.side, 0))}px`;
    const pen = loupe.getContext("2d");
    paint(pen, now, near, ratio);
    ring(pen, now.hovered, near, ratio, false);
    if (now.chosen) ring(pen, now.chosen, near, ratio, true);
  }

  function change() { stale = true; redraw(); }

  function zoomTo(zoom, point) {
    const wanted = Math.min(Math.max(zoom, 1), MOST_ZOOM);
    Object.assign(at, zoomedAt(seen(), point, cell, wanted));
    const { left, top } = seen();
    Object.assign(at, { left, top });
    change();
  }
  // Around what is chosen, if that is seen; else around the middle.
  function zoomBy(times) {
    const view = seen();
    const [row, column] = now.chosen ?? now.hovered ?? [view.top + view.height / view.cell / 2, view.left + view.width / view.cell / 2];
    const inside = (place, all) => Math.min(Math.max(place, 0), all);
    zoomTo(at.zoom * times, [inside((column + 0.5 - view.left) * view.cell, view.width),
      inside((row + 0.5 - view.top) * view.cell, view.height)]);
  }

  function placeOf(event) {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width * canvas.width,
      (event.clientY - box.top) / box.height * canvas.height];
  }
  const patchAt = (event) => patchUnder(seen(), placeOf(event), now.rows, now.columns);

  function hover(patch) {
    if (String(patch) === String(now.hovered)) return;
    now.hovered = patch;
    redraw();
    onHover?.(patch);
  }

  // Dragging moves what is enlarged, or paints; a click is what did not move.
  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    const patch = patchAt(event);
    drag = { from: [event.clientX, event.clientY], left: at.left, top: at.top, moved: false };
    if (onPaint && patch) { event.preventDefault(); canvas.focus(); onPaint(patch, true); }
  });
  canvas.addEventListener("pointermove", (event) => {
    pointer = event.pointerType === "touch" ? null : placeOf(event);
    if (event.buttons === 1 && drag && !onPaint && at.zoom > 1) {
      const ratio = ratioNow();
      const [x, y] = [event.clientX - drag.from[0], event.clientY - drag.from[1]];
      drag.moved ||= Math.hypot(x, y) > 4;
      const { cell: large } = seen();
      Object.assign(at, { left: drag.left - x * ratio / large, top: drag.top - y * ratio / large });
      const { left, top } = seen();
      Object.assign(at, { left, top });
      change();
    }
    const patch = patchAt(event);
    hover(patch);
    if (pointer && !loupe.hidden) redraw();
    if (onPaint && patch && event.buttons === 1) onPaint(patch);
  });
  canvas.addEventListener("pointerleave", () => { pointer = null; hover(null); redraw(); });
  canvas.addEventListener("click", (event) => {
    const patch = patchAt(event);
    if (patch && onChoose && !drag?.moved) onChoose(patch);
  });
  canvas.addEventListener("dblclick", (event) => {
    event.preventDefault();
    if (!onPaint) zoomTo(at.zoom > 1 ? 1 : 3, placeOf(event));
  });
  // A notebook is scrolled with the wheel: it zooms with Ctrl or ⌘, which a pinch sends too, and in a
  // picture that was clicked.
  canvas.addEventListener("wheel", (event) => {
    const meant = event.ctrlKey || event.metaKey || document.activeElement === canvas;
    const further = event.deltaY > 0;
    if (!meant || (further && at.zoom <= 1)) return;
    event.preventDefault();
    zoomTo(at.zoom * Math.exp(-Math.sign(event.deltaY) * Math.min(Math.abs(event.deltaY), 100) / 300), placeOf(event));
  }, { passive: false });
  ends.addEventListener("pointermove", (event) => {
    const box = ends.getBoundingClientRect();
    const view = seen();
    const row = Math.floor(view.top + (event.clientY - box.top) / box.height * view.height / view.cell);
    onEnd?.(row >= 0 && row < now.rows ? row : null);
  });
  ends.addEventListener("pointerleave", () => onEnd?.(null));

  canvas.addEventListener("keydown", (event) => {
    const zoom = { "+": 2, "=": 2, "-": 0.5, 0: 1 / MOST_ZOOM }[event.key];
    if (zoom && !event.ctrlKey && !event.metaKey) { event.preventDefault(); zoomBy(zoom); return; }
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
      const other = "rows" in changes && (changes.rows !== now.rows || changes.columns !== now.columns);
      if (other || ("picture" in changes && changes.picture !== now.picture)) Object.assign(at, { zoom: 1, left: 0, top: 0 });
      const light = Object.keys(changes).every((name) => name === "hovered" || name === "chosen");
      Object.assign(now, changes);
      if (light) redraw(); else change();
    },
    describe(text) { canvas.setAttribute("aria-label", text); },
    close() { watch.disconnect(); },
  };
}
