// The picture, large, and the light of the word that was chosen.

import { legend } from "./colours.js";
import { OWN_KEYS, tag } from "./elements.js";
import { fader, sight } from "./light.js";
import { UNCERTAIN, probability } from "./numbers.js";
import { bitmap, patchCanvas } from "./patches.js";

const LONGEST = 1024, PATCH = 16;   // as Pixtral 12B prepares a picture that no answer has told of yet

// Rows and columns of about the shape of a picture, until the server says which there are.
export function about(width, height) {
  const ratio = Math.max(width, height, LONGEST) / LONGEST;
  return [height, width].map((side) => Math.max(Math.ceil(side / ratio / PATCH), 1));
}

// tallest(above): the most that the picture may take of the page's height, in CSS pixels, when there
// is something above it.
// onStep(1 or -1): to the next word or the one before.
export function lookSide({ tallest, onPicture, onClear, onStep }) {
  const canvas = patchCanvas({ label: "The picture", tallest: () => tallest(strip.hidden ? 0 : strip.offsetHeight) });
  canvas.show({ lines: false });
  const light = fader(canvas);
  let plain = false;
  const scale = legend("of its attention", (now) => { plain = now; canvas.show({ plain }); });
  const clear = tag("button", { type: "button", class: "px-clear", hidden: true, "aria-label": "Show the whole picture", onclick: () => onClear() },
    tag("span", { class: "px-long" }, "Show the whole picture"), tag("span", { class: "px-short" }, "×"));
  const caption = tag("p", { class: "px-sight", role: "status", "aria-live": "polite" });
  const strip = tag("div", { class: "px-strip", role: "group", "aria-label": "Pictures of this conversation", hidden: true });
  const root = tag("section", { class: "px-look", "aria-label": "The picture", ...OWN_KEYS, hidden: true },
    strip, canvas.root, caption, tag("div", { class: "px-row" }, scale.root, clear));
  let shown = null;    // { picture, image, look } that are to be seen
  const bitmaps = new WeakMap();

  async function drawn(blob) {
    if (!bitmaps.has(blob)) bitmaps.set(blob, bitmap({ mime: blob.type, file: blob }));
    return bitmaps.get(blob);
  }

  function showStrip(pictures, image) {
    strip.hidden = pictures.length < 2;
    if (strip.childElementCount !== pictures.length || strip.blobs?.some((blob, i) => blob !== pictures[i].blob)) {
      strip.blobs = pictures.map(({ blob }) => blob);
      strip.replaceChildren(...pictures.map(({ blob, name }, i) => {
        const img = tag("img", { class: "px-thumb", alt: "" });
        img.addEventListener("load", () => URL.revokeObjectURL(img.src), { once: true });
        img.src = URL.createObjectURL(blob);
        return tag("button", { type: "button", title: name, "aria-label": `Picture ${i + 1}: ${name}`, onclick: () => onPicture(i) }, img, String(i + 1));
      }));
    }
    [...strip.children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === image)));
    if (!strip.hidden) strip.children[image]?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  // pictures: [{ blob, name, rows, columns, merge }]; image: which of them; word and look ({ map, share }):
  // what is lit, or null; passing: it changes by itself, and nobody wants to hear of each.
  async function show({ pictures, image, word = null, look = null, hint = "", passing = false }) {
    root.hidden = !pictures.length;
    caption.setAttribute("aria-live", passing ? "off" : "polite");
    const mine = shown = { image, look };
    if (root.hidden) { light.forget(); return; }
    showStrip(pictures, image);
    const { blob, rows, columns, merge, name } = pictures[image];
    let picture;
    try { picture = await drawn(blob); } catch { picture = null; }
    if (shown !== mine) return;   // something else was chosen meanwhile
    if (!picture) { caption.textContent = `${name} cannot be drawn here${rows ? "" : " before it is asked about"}.`; canvas.root.hidden = true; return; }
    canvas.root.hidden = false;
    const [r, c] = rows ? [rows, columns] : about(picture.width, picture.height);
    if (canvas.picture !== picture) { light.forget(); canvas.picture = picture; }
    canvas.show({ picture, rows: r, columns: c, merge, plain, ...(look ? {} : { values: null }) });
    clear.hidden = !look;
    if (!look) {
      light.forget();
      scale.set(null);
      caption.textContent = hint;
      canvas.describe(name);
      return;
    }
    light.to(look.map);
    const at = look.map.indexOf(255);
    const sum = look.map.reduce((all, value) => all + value, 0);
    scale.set(look.share * 255 / sum, plain);
    const said = sight(word.text, [Math.floor(at / c), at % c], look.share, image, pictures.length, merge);
    caption.textContent = word.p < UNCERTAIN ? `${said} The word is uncertain: its probability is ${probability(word.p)}.` : said;
    canvas.describe(said);
  }

  // The picture has arrow keys of its own, to choose patches with: here they go through the words.
  root.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey || event.target.type === "checkbox") return;
    event.preventDefault();
    event.stopPropagation();
    onStep(step);
  }, true);
  window.addEventListener("resize", () => canvas.show({}));
  return { root, show };
}
