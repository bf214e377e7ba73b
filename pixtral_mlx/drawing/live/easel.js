// The picture and its light, the question, and the answer word by word.

import { legend } from "./colours.js";
import { tag } from "./elements.js";
import { fader, stepTo } from "./light.js";
import { UNCERTAIN, probability, share } from "./numbers.js";
import { bytesOf } from "./maps.js";
import { patchCanvas } from "./patches.js";
import { TEXT } from "./text.js";

// onPatch([row, column]), onPut(), onWord(number or null), onPicture(number), onEnd(row or null), onAsk(text).
export function easel({ onPatch, onPut, onWord, onPicture, onEnd, onAsk }) {
  const canvas = patchCanvas({ label: TEXT.pictureLabel, most: 560, tallest: () => Math.max(innerHeight * 0.45, 200), onChoose: (patch) => onPatch(patch), onEnd: (row) => onEnd(row) });
  const light = fader(canvas);
  let plain = false;
  const scale = legend(TEXT.ofAttention, (now) => { plain = now; canvas.show({ plain }); });
  const unit = scale.root.querySelector(".px-quiet");
  const clear = tag("button", { type: "button", class: "px-link", hidden: true, onclick: () => onWord(null) }, TEXT.wholePicture);
  const caption = tag("p", { class: "px-sight", role: "status", "aria-live": "polite" });
  const thumbs = tag("div", { class: "px-strip", role: "group", hidden: true });
  const ground = tag("section", { class: "px-look", "aria-label": TEXT.pictureLabel }, thumbs, canvas.root, caption,
    tag("div", { class: "px-row px-under" }, scale.root, clear));

  const box = tag("input", { type: "text", class: "px-question", "aria-label": TEXT.askLabel, autocomplete: "off", spellcheck: "false", maxlength: 300 });
  const send = tag("button", { type: "submit", class: "px-send" }, TEXT.ask);
  const form = tag("form", { class: "px-row px-ask", onsubmit: (event) => { event.preventDefault(); onAsk(box.value); } }, box, send);
  const chips = tag("div", { class: "px-chips", role: "group", "aria-label": TEXT.another });
  const words = tag("p", { class: "px-answer", "aria-live": "polite" });
  const verdict = tag("p", { class: "px-quiet px-small px-verdict" });
  const talk = tag("section", { class: "px-talk", "aria-label": TEXT.talk }, form, words, verdict);

  // A click, or Enter and the space bar, put something into the cell of the patch.
  canvas.canvas.addEventListener("click", () => onPut());
  canvas.canvas.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); onPut(); }
  });
  words.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const at = [...words.children].indexOf(document.activeElement);
    if (!step || at < 0) return;
    event.preventDefault();
    const next = stepTo(at, step, words.children.length);
    onWord(next);
    words.children[next].focus();
  });

  let shown = [];   // texts of the words that stand there
  return {
    root: tag("div", { class: "px-easel-side" }, talk, ground, chips), canvas, box,

    // pictures: [{ canvas, rows, columns }]; image: which of them; changes: more of what `patchCanvas` shows.
    picture(pictures, image, changes) {
      const { canvas: picture, rows, columns } = pictures[image];
      light.forget();
      canvas.show({ picture, rows, columns, values: null, plain, ...changes });
      thumbs.hidden = pictures.length < 2;
      thumbs.replaceChildren(...pictures.map((each, i) => {
        const copy = tag("canvas", { width: each.canvas.width, height: each.canvas.height, class: "px-thumb" });
        copy.getContext("2d").drawImage(each.canvas, 0, 0);
        return tag("button", { type: "button", "aria-pressed": String(i === image), "aria-label": TEXT.pictureName(i + 1), onclick: () => onPicture(i) }, copy, String(i + 1));
      }));
    },

    // values: one a patch, or null; top: what the greatest of them is, in `of`; passing: it changes by itself.
    light(values, says, { of = TEXT.ofAttention, passing = false, chosen = null } = {}) {
      caption.setAttribute("aria-live", passing ? "off" : "polite");
      caption.textContent = says;
      canvas.describe(says);
      canvas.show({ chosen });
      clear.hidden = !values;
      if (!values) { light.forget(); canvas.show({ values: null }); scale.set(null); return; }
      light.to(bytesOf(values));
      scale.set(values.reduce((a, b) => Math.max(a, b), 0), plain);
      unit.textContent = of;
    },

    // words: [{ text, p }], as many as there are so far; chosen: the number of one.
    answer(found, chosen, { writing = false } = {}) {
      const texts = found.map(({ text }) => text);
      if (shown.length > texts.length || shown.some((text, i) => text !== texts[i])) { words.replaceChildren(); shown = []; }
      for (let i = shown.length; i < texts.length; i++) {
        words.append(tag("button", { type: "button", class: "px-w", onclick: () => onWord(i) }, texts[i]));
      }
      shown = texts;
      [...words.children].forEach((button, i) => {
        button.setAttribute("aria-pressed", String(i === chosen));
        button.classList.toggle("px-uncertain", found[i].p < UNCERTAIN);
        button.title = probability(found[i].p);
      });
      words.classList.toggle("px-writing", writing);
      words.dataset.empty = writing ? TEXT.thinking : TEXT.emptyAnswer;
    },

    // In the place of what the light says, for as long as the pointer is there.
    says(text) { caption.textContent = text; },
    verdict(text, right) { verdict.textContent = text; verdict.classList.toggle("px-right", right === true); },
    question(text) { box.value = text; },
    chips(found) {
      chips.replaceChildren(...found.map((one) =>
        tag("button", { type: "button", class: "px-chip", onclick: () => onAsk(one.text, one) }, one.text)));
    },
    busy(whether) { send.disabled = whether; },
  };
}

// What is said of a word and the map of picture number `image`.
export function wordSight({ text, p }, map, columns, image, pictures) {
  const on = map.reduce((a, b) => a + b, 0), most = map.indexOf(Math.max(...map));
  const says = TEXT.wordSight(text, Math.floor(most / columns) + 1, most % columns + 1, share(on), pictures, image + 1);
  return p < UNCERTAIN ? says + TEXT.uncertain(probability(p)) : says;
}
