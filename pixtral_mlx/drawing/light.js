// The light that goes from word to word over a picture, and what is said of it.

import { patchName, share } from "./numbers.js";

const FADE = 260;       // ms from one word's light to the next one's

// A map on its way from one to another: part is 0 to 1.
export function between(from, to, part) {
  if (!from || from.length !== to.length) return to;
  return Uint8Array.from(to, (value, i) => Math.round(from[i] + (value - from[i]) * part));
}

// Shows maps on a `patchCanvas`, each fading into the next; at once for who wants no motion.
export function fader(canvas) {
  const calm = window.matchMedia?.("(prefers-reduced-motion: reduce)").matches;
  let lit = null, frame = null;
  return {
    // No map is on the picture, or it is another picture.
    forget() { cancelAnimationFrame(frame); lit = null; },
    to(map) {
      cancelAnimationFrame(frame);
      const from = lit;
      const start = performance.now();
      const draw = (time) => {
        const part = calm ? 1 : Math.min(Math.max((time - start) / FADE, 0), 1);
        lit = between(from, map, part);
        canvas.show({ values: lit });
        if (part < 1) frame = requestAnimationFrame(draw);
      };
      draw(start + (from ? 0 : FADE));
    },
  };
}

// What is said of a lit word: text; the patch [row, column] that it looks at most; how much of its
// attention is on that picture, which is number `image` of `pictures`; merge: as for `patchName`.
export const sight = (text, patch, part, image, pictures, merge) => {
  const [where, which] = pictures > 1 ? [` of picture ${image + 1}`, "that picture"] : ["", "the picture"];
  return `“${text}” looks most at ${patchName(patch, merge)}${where}; ${share(part)} of its attention is on ${which}.`;
};

// A step of the reader among the words that stand there.
export const stepTo = (at, step, shown) => Math.min(Math.max(at + step, 0), Math.max(shown - 1, 0));
