// The stage: a picture on one half of the screen, large words on the other, and the light follows
// each word as it is written. To be seen from afar.

import { bitmap, patchCanvas } from "./patches.js";
import { tag } from "./elements.js";
import { patchName, share } from "./numbers.js";
import { connect, latest, on } from "./shared.js";
import { tokenShown, wordOf } from "./word_view.js";

const PACE = 450;       // ms between two words at least, so that eyes can follow
const REST = 3500;      // ms at the end of an answer before the light goes through it again
const WALK = 1500;      // ms on each word then
const FADE = 260;       // ms from one word's light to the next one's

// Which word comes next on the stage, and after how many ms; null: nothing until something changes.
//   shown: words that stand there; at: the one that is lit; count: words that are written;
//   running: more may come; touched: the reader steps by hand.
export function nextStep({ shown, at, count, running, touched }) {
  if (shown < count) return { shown: shown + 1, at: shown, wait: PACE };
  if (running || touched || !count) return null;
  const last = at >= count - 1;
  return { shown, at: last ? 0 : at + 1, wait: last ? REST : WALK };
}

// A step of the reader among the words that stand there.
export const stepTo = (at, step, shown) => Math.min(Math.max(at + step, 0), Math.max(shown - 1, 0));

// A map on its way from one to another: part is 0 to 1.
export function between(from, to, part) {
  if (!from || from.length !== to.length) return to;
  return Uint8Array.from(to, (value, i) => Math.round(from[i] + (value - from[i]) * part));
}

// What is said of a lit word.
export const sight = (word, { peak, shares }, image) => {
  const where = shares.length > 1 ? ` of picture ${image + 1}` : "";
  return `“${word.text}” looks most at ${patchName(peak)}${where}; ${share(shares[image])} of its attention is on ${shares.length > 1 ? "that picture" : "the picture"}.`;
};

// lens: the model of an AnswerLens on the same session. question(): the text of the last question.
export function stage({ lens, question, onLeave, fail }) {
  const wires = connect(lens);
  const canvas = patchCanvas({ label: "The picture, lit where the word looks" });
  canvas.show({ lines: false });
  const asked = tag("p", { class: "px-stage-question" });
  const line = tag("div", { class: "px-stage-words", role: "group", "aria-label": "The answer, word by word" });
  const caption = tag("p", { class: "px-stage-caption" });
  const replay = tag("button", { type: "button", onclick: again }, "Replay");
  const full = tag("button", { type: "button", onclick: fullScreen }, "Full screen");
  const leave = tag("button", { type: "button", onclick: onLeave }, "Leave the stage");
  const picture = tag("div", { class: "px-stage-picture" }, canvas.root);
  const side = tag("div", { class: "px-stage-side" }, asked, line, caption,
    tag("div", { class: "px-row px-stage-buttons" }, replay, full, leave,
      tag("span", { class: "px-quiet" }, "← → step through the words")));
  const root = tag("div", { class: "px-stage", tabindex: -1 }, picture, side);

  const now = { shown: 0, at: -1, touched: false, epoch: null };
  let timer = null, lit = null, frame = null, painted = null;
  const words = () => lens.get("words");
  const running = () => lens.get("state") === "running";
  const calm = window.matchMedia?.("(prefers-reduced-motion: reduce)").matches;

  function schedule() {
    if (timer != null) return;
    const next = nextStep({ ...now, count: words().length, running: running() });
    if (next) timer = setTimeout(() => { timer = null; Object.assign(now, { shown: next.shown, at: next.at }); show(); schedule(); }, next.wait);
  }

  function again() {
    clearTimeout(timer);
    timer = null;
    Object.assign(now, { shown: 0, at: -1, touched: false });
    show();
    schedule();
  }

  function choose(at) {
    clearTimeout(timer);
    timer = null;
    Object.assign(now, { at, touched: true });
    show();
    schedule();   // what is still being written goes on
  }

  function fullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else (root.closest(".px-widget") ?? root).requestFullscreen?.().catch((error) => fail(error.message));
  }

  function show() {
    const all = words();
    while (line.childElementCount > now.shown) line.lastChild.remove();
    for (let i = line.childElementCount; i < now.shown; i++) {
      line.append(tag("button", { type: "button", class: "px-stage-word", onclick: () => choose(i) }));
    }
    [...line.children].forEach((button, i) => {
      if (button.textContent !== all[i].text) button.textContent = all[i].text;
      button.classList.toggle("px-chosen", i === now.at);
      button.setAttribute("aria-pressed", String(i === now.at));
    });
    asked.textContent = question();
    root.classList.toggle("px-stage-writing", running() || now.shown < all.length);
    const word = all[now.at];
    const images = lens.get("facts").images ?? [];
    picture.hidden = !images.length;
    if (word && images.length) look(word, now.epoch);
    else if (!word) { caption.textContent = ""; canvas.show({ values: null }); lit = null; }
    else caption.textContent = "This question has no picture.";
  }

  // The picture that the word looks at most, and where on it.
  const look = latest(async (word) => {
    const at = { token: word.tokens[0], layer: null, head: null };
    let image = lens.get("image");
    let found = await wires.ask("look", { ...at, image });
    const best = found.shares.indexOf(Math.max(...found.shares));
    if (best !== image) { image = best; found = await wires.ask("look", { ...at, image }); }
    return { found, image, drawn: await bitmap(await wires.ask("pixels", { image })) };
  }, ({ found, image, drawn }, word, epoch) => {
    if (epoch !== now.epoch || words()[now.at]?.tokens[0] !== word.tokens[0]) return;
    const grid = lens.get("facts").images[image];
    if (!grid) return;
    if (painted !== `${epoch}:${image}`) { lit = null; painted = `${epoch}:${image}`; }
    canvas.show({ picture: drawn, rows: grid.rows, columns: grid.columns });
    fade(found.map);
    caption.textContent = sight(word, found, image);
  }, (error) => fail(error.message));

  function fade(to) {
    cancelAnimationFrame(frame);
    const from = lit;
    const start = performance.now();
    const draw = (time) => {
      const part = calm ? 1 : Math.min(Math.max((time - start) / FADE, 0), 1);
      lit = between(from, to, part);
      canvas.show({ values: lit });
      if (part < 1) frame = requestAnimationFrame(draw);
    };
    draw(start + (from ? 0 : FADE));
  }

  // A page that was saved opens on the whole answer, lit by the word that leans most on the picture.
  function whole() {
    return { shown: words().length, at: wordOf(words(), tokenShown(lens)) };
  }

  async function showPicture() {
    const [grid] = lens.get("facts").images ?? [];
    if (!grid || now.shown) return;
    try {
      const drawn = await bitmap(await wires.ask("pixels", { image: 0 }));
      if (!now.shown) canvas.show({ picture: drawn, rows: grid.rows, columns: grid.columns, values: null });
    } catch { /* the next word asks again */ }
  }

  function update() {
    const { epoch } = lens.get("facts");
    if (epoch !== now.epoch) {
      Object.assign(now, { shown: 0, at: -1, touched: false, epoch });
      if (lens.page) Object.assign(now, whole());
      clearTimeout(timer);
      timer = null;
      showPicture();
    }
    show();
    schedule();
  }

  root.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape" && !document.fullscreenElement) onLeave();
    if (!step || event.target instanceof HTMLTextAreaElement) return;
    event.preventDefault();
    event.stopPropagation();
    choose(stepTo(now.at, step, now.shown));
    line.children[now.at]?.focus({ preventScroll: true });
  }, true);
  const stops = ["words", "state", "facts"].map((name) => on(lens, `change:${name}`, update));
  update();
  return { root, side, close() { clearTimeout(timer); cancelAnimationFrame(frame); stops.forEach((stop) => stop()); wires.close(); canvas.close(); } };
}
