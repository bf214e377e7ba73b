// Thumbnails of all heads of a layer on one canvas; a click or the arrow keys choose one.

import { heatCanvas } from "./colours.js";
import { eachFrame, ink, onTheme, OWN_KEYS, sized, tag } from "./elements.js";
import { count, patchesFar } from "./numbers.js";

const GAP = 8;
const WORDS = 15;

// How many thumbnails stand beside one another, and their size, in CSS pixels: at least 40 wide and
// at most 112, and no taller than twice that.
export function arrange(width, heads, rows, columns) {
  const wanted = Math.max(40, Math.min(112, Math.floor((width + GAP) / Math.min(heads, 8)) - GAP));
  const across = Math.max(1, Math.min(heads, Math.floor((width + GAP) / (wanted + GAP))));
  const wide = Math.min(wanted, width);
  const tall = Math.max(12, Math.min(Math.round(wide * rows / columns), 2 * wide));
  const drawn = Math.min(wide, Math.max(6, Math.round(tall * columns / rows)));
  const lines = Math.ceil(heads / across);
  return { across, wide, tall, drawn, lines, step: tall + WORDS + 5 + GAP };
}

// The head at a place in CSS pixels, or null.
export function headAt(at, [x, y], heads) {
  const column = Math.floor(x / (at.wide + GAP));
  const head = Math.floor(y / at.step) * at.across + column;
  return column >= 0 && column < at.across && y >= 0 && head >= 0 && head < heads ? head : null;
}

// onChoose(head). show({ maps, distance, even, heads, rows, columns, patch, chosen }): maps holds them one
// after the other; distance and even are in patches.
export function headStrip({ onChoose }) {
  const canvas = tag("canvas", { class: "px-heads", role: "img", tabindex: 0, ...OWN_KEYS, hidden: true });
  const root = tag("div", { class: "px-wide" }, canvas);
  const now = { maps: null, distance: [], even: 1, heads: 0, rows: 0, columns: 0, patch: null, chosen: null };
  let at = null;

  const redraw = eachFrame(() => {
    canvas.hidden = !now.maps;
    if (!now.maps || !root.clientWidth) return;
    at = arrange(Math.max(root.clientWidth - 8, 60), now.heads, now.rows, now.columns);
    const pen = sized(canvas, at.across * (at.wide + GAP), at.lines * at.step + 4);
    pen.translate(4, 4);
    for (let head = 0; head < now.heads; head++) drawHead(pen, head);
  });

  function drawHead(pen, head) {
    const { maps, rows, columns, distance, even, chosen } = now;
    const [x, y] = [(head % at.across) * (at.wide + GAP), Math.floor(head / at.across) * at.step];
    const map = maps.subarray(head * rows * columns, (head + 1) * rows * columns);
    pen.imageSmoothingEnabled = at.drawn < columns;
    pen.drawImage(heatCanvas(map, rows, columns), x, y, at.drawn, at.tall);
    const cell = [at.drawn / columns, at.tall / rows];
    if (now.patch) {
      pen.strokeStyle = "#ffffff";
      pen.lineWidth = 1;
      pen.strokeRect(x + now.patch[1] * cell[0] - 0.5, y + now.patch[0] * cell[1] - 0.5,
        Math.max(cell[0], 3) + 1, Math.max(cell[1], 3) + 1);
    }
    if (head === chosen) {
      pen.strokeStyle = ink(root, "--px-ring");
      pen.lineWidth = 2;
      pen.strokeRect(x - 2, y - 2, at.drawn + 4, at.tall + 4);
    }
    const bar = y + at.tall + 4;
    pen.fillStyle = ink(root, "--px-line");
    pen.fillRect(x, bar, at.drawn, 3);
    pen.fillStyle = ink(root, "--px-accent");
    pen.fillRect(x, bar, at.drawn * Math.min(distance[head] / even || 0, 1), 3);
    pen.fillStyle = ink(root, head === chosen ? "--px-ink" : "--px-quiet");
    pen.font = `${head === chosen ? "600 " : ""}10px ${getComputedStyle(root).fontFamily}`;
    pen.textBaseline = "top";
    // As much of "head 0, 2.6 patches" as there is room for.
    const far = patchesFar(distance[head]);
    const words = [`head ${head}, ${far} patches`, `${head}: ${far} patches`, `${head}: ${far}`, String(head)];
    pen.fillText(words.find((text) => pen.measureText(text).width <= at.wide + GAP - 2) ?? words[3], x, bar + 5);
  }

  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect();
    const head = at && headAt(at, [event.clientX - box.left - 4, event.clientY - box.top - 4], now.heads);
    if (head != null) onChoose(head);
  });
  canvas.addEventListener("keydown", (event) => {
    if (!at || !now.heads) return;
    const from = now.chosen ?? -1;
    const to = { ArrowRight: from + 1, ArrowLeft: from - 1, ArrowDown: from + at.across,
      ArrowUp: from - at.across, Home: 0, End: now.heads - 1 }[event.key];
    if (to == null) return;
    event.preventDefault();
    event.stopPropagation();
    if (to >= 0 && to < now.heads) onChoose(to);
  });
  const watch = new ResizeObserver(redraw);
  watch.observe(root);
  const stop = onTheme(redraw);

  return {
    root, canvas,
    show(changes) {
      Object.assign(now, changes);
      const { heads, chosen, distance } = now;
      canvas.setAttribute("aria-label", `Small maps of ${count(heads)} heads; ` + (chosen == null
        ? "none is chosen"
        : `head ${chosen} is chosen, looks ${patchesFar(distance[chosen] ?? 0)} patches far`));
      redraw();
    },
    close() { watch.disconnect(); stop(); },
  };
}
