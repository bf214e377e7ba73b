// The line of tokens that the decoder reads, on one canvas: patches, breaks and words.

import { cividis, lightOf } from "./colours.js";
import { OWN_KEYS, eachFrame, ink, onTheme, sized, tag } from "./elements.js";

const TALL = 20, PATCH = 16, GAP = 3, PAD = 6;

// Where each token stands, in a width: [{ x, y, wide }], broken into lines wherever the width ends.
export function placed(kinds, widths, width) {
  let [x, y] = [0, 0];
  return kinds.map((kind, n) => {
    const wide = kind === "word" ? widths[n] : PATCH;
    if (x + wide > width && x > 0) [x, y] = [0, y + TALL + GAP];
    const place = { x, y, wide };
    x += wide + GAP;
    return place;
  });
}

// show({ tokens: [{ kind: "patch" | "rowBreak" | "end" | "word", name }], shares, chosen }); shares are the
// attention on each token, or null; chosen is a number of a token. onHover(number or null), onChoose(number).
export function tokenStrip({ label, onHover, onChoose }) {
  const canvas = tag("canvas", { class: "px-line", role: "img", tabindex: 0, "aria-label": label, ...OWN_KEYS });
  const root = tag("div", { class: "px-wide" }, canvas);
  const now = { tokens: [], shares: null, chosen: null };
  let places = [];

  const redraw = eachFrame(() => {
    const width = root.clientWidth;
    if (!width || !now.tokens.length) return;
    const font = `12px ${getComputedStyle(root).fontFamily}`;
    const measure = canvas.getContext("2d");
    measure.font = font;
    const widths = now.tokens.map(({ name }) => Math.max(measure.measureText(name).width + 2 * PAD, PATCH));
    places = placed(now.tokens.map(({ kind }) => kind), widths, width);
    const pen = sized(canvas, width, places.at(-1).y + TALL + 2);
    const most = now.shares ? Math.max(...now.shares) : 1;
    const colours = { patch: "--px-patch", rowBreak: "--px-break", end: "--px-end", word: "--px-chip" };
    pen.font = font;
    pen.textBaseline = "middle";
    places.forEach(({ x, y, wide }, n) => {
      const { kind, name } = now.tokens[n];
      const lit = now.shares && lightOf((now.shares[n] ?? 0) / most);
      const fill = now.shares ? cividis(lit) : null;
      pen.fillStyle = fill ? `rgb(${fill})` : ink(root, colours[kind]);
      pen.fillRect(x, y, wide, TALL);
      if (kind === "word") {
        pen.fillStyle = fill ? (lit > 0.55 ? "#000000" : "#ffffff") : ink(root, "--px-ink");
        pen.fillText(name, x + PAD, y + TALL / 2 + 1);
      } else if (fill && kind !== "patch") {
        pen.fillStyle = ink(root, colours[kind]);
        pen.fillRect(x, y + TALL - 5, wide, 5);
      }
      if (n === now.chosen) {
        pen.strokeStyle = ink(root, "--px-ring");
        pen.lineWidth = 2;
        pen.strokeRect(x + 1, y + 1, wide - 2, TALL - 2);
      }
    });
  });

  function tokenAt(event) {
    const box = canvas.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    const found = places.findIndex(({ x, y, wide }) => px >= x && px < x + wide + GAP && py >= y && py < y + TALL + GAP);
    return found < 0 ? null : found;
  }
  canvas.addEventListener("pointermove", (event) => onHover?.(tokenAt(event)));
  canvas.addEventListener("pointerleave", () => onHover?.(null));
  canvas.addEventListener("click", (event) => { const n = tokenAt(event); if (n != null) onChoose?.(n); });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    onChoose?.(Math.min(Math.max((now.chosen ?? -1) + step, 0), now.tokens.length - 1));
  });
  new ResizeObserver(redraw).observe(root);
  onTheme(redraw);
  return { root, canvas, show(changes) { Object.assign(now, changes); redraw(); }, describe(text) { canvas.setAttribute("aria-label", text); } };
}
