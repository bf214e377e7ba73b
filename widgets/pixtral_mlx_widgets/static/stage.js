// The stage: a picture on one half of the screen, large words on the other, and the light follows
// each word as it is written. To be seen from afar.

import { bitmap, patchCanvas } from "./patches.js";
import { tag } from "./elements.js";
import { fader, sight, stepTo } from "./light.js";
import { connect, latest, on } from "./shared.js";
import { tokenShown, wordOf } from "./word_view.js";

const PACE = 450;       // ms between two words at least, so that eyes can follow
const REST = 3500;      // ms at the end of an answer before the light goes through it again
const WALK = 1500;      // ms on each word then

// Which word comes next on the stage, and after how many ms; null: nothing until something changes.
//   shown: words that stand there; at: the one that is lit; count: words that are written;
//   running: more may come; touched: the reader steps by hand.
export function nextStep({ shown, at, count, running, touched }) {
  if (shown < count) return { shown: shown + 1, at: shown, wait: PACE };
  if (running || touched || !count) return null;
  const last = at >= count - 1;
  return { shown, at: last ? 0 : at + 1, wait: last ? REST : WALK };
}

// lens: the model of an AnswerLens on the same session. question(): the text of the last question.
export function stage({ lens, question, onLeave, fail }) {
  const wires = connect(lens);
  const canvas = patchCanvas({ label: "The picture, lit where the word looks" });
  canvas.show({ lines: false });
  const light = fader(canvas);
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
  let timer = null, painted = null;
  const words = () => lens.get("words");
  const running = () => lens.get("state") === "running";

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
    else if (!word) { caption.textContent = ""; canvas.show({ values: null }); light.forget(); }
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
    if (painted !== `${epoch}:${image}`) { light.forget(); painted = `${epoch}:${image}`; }
    canvas.show({ picture: drawn, rows: grid.rows, columns: grid.columns, merge: grid.merge });
    light.to(found.map);
    caption.textContent = sight(word.text, found.peak, found.shares[image], image, found.shares.length, found.merge);
  }, (error) => fail(error.message));

  // A page that was saved opens on the whole answer, lit by the word that leans most on the picture.
  function whole() {
    return { shown: words().length, at: wordOf(words(), tokenShown(lens)) };
  }

  async function showPicture() {
    const [grid] = lens.get("facts").images ?? [];
    if (!grid || now.shown) return;
    try {
      const drawn = await bitmap(await wires.ask("pixels", { image: 0 }));
      if (!now.shown) canvas.show({ picture: drawn, rows: grid.rows, columns: grid.columns, merge: grid.merge, values: null });
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
  return { root, side, close() { clearTimeout(timer); light.forget(); stops.forEach((stop) => stop()); wires.close(); canvas.close(); } };
}
