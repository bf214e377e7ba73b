// The way through the page: eight stops with something to do at each, and two places to play.

import { tag } from "./elements.js";
import { TEXT } from "./text.js";

const STOPS = ["picture", "patches", "rope", "attention", "projector", "breaks", "decoder", "answer"];
const PLACES = [...STOPS, "broken", "code"];
const DOES = {   // what is to be done at each
  picture: ["put"], patches: ["patch"], rope: ["patch", "patch"], attention: ["patch"], projector: ["patch"],
  breaks: ["change", "change"], decoder: ["word"], answer: ["word", "word"],
};

// onPlace(name): this one comes to the front.
export function touring({ onPlace }) {
  let at = 0, free = false, left = [];
  const buttons = PLACES.map((place, n) => tag("button", { type: "button", onclick: () => go(n) },
    n < STOPS.length ? tag("span", { class: "px-n" }, String(n + 1)) : null, TEXT.stops[place].name));
  const nav = tag("nav", { class: "px-stops", "aria-label": TEXT.tour }, ...buttons);
  const toggle = tag("button", { type: "button", class: "px-link", onclick: () => { free = !free; go(Math.min(at, free ? at : STOPS.length - 1)); } });
  const step = tag("span", { class: "px-quiet px-small" }), name = tag("h2"), says = tag("p", { class: "px-says" });
  const todo = tag("p", { class: "px-todo" }), look = tag("p", { class: "px-look-for" });
  const back = tag("button", { type: "button", onclick: () => go(at - 1) }, TEXT.back);
  const next = tag("button", { type: "button", class: "px-strong", onclick: () => { if (at + 1 < STOPS.length) go(at + 1); else { free = true; go(STOPS.length); } } });
  const steps = tag("div", { class: "px-row" }, back, next, step);
  const card = tag("div", { class: "px-card" }, name, says, todo, look, steps);

  function line(node, label, words) {
    node.replaceChildren(tag("b", {}, label), ` ${words}`);
  }

  function show() {
    const place = PLACES[at], { name: title, says: sentence, todo: thing, look: sight } = TEXT.stops[place];
    const stop = at < STOPS.length;
    name.textContent = title;
    says.hidden = !sentence;
    says.textContent = sentence ?? "";
    todo.hidden = look.hidden = steps.hidden = free || !stop;
    if (stop) { line(todo, TEXT.does, thing); line(look, TEXT.sees, sight); }
    back.disabled = at === 0;
    next.textContent = at + 1 < STOPS.length ? TEXT.next : TEXT.finish;
    step.textContent = TEXT.step(at + 1, STOPS.length);
    toggle.textContent = free ? TEXT.tour : TEXT.free;
    buttons.forEach((button, n) => button.setAttribute("aria-current", n === at ? "step" : "false"));
  }

  function go(n) {
    at = n;
    left = [...DOES[PLACES[n]] ?? []];
    show();
    onPlace(PLACES[n]);
    buttons[n].scrollIntoView({ block: "nearest", inline: "center" });
  }

  return { nav, card, toggle, begin: () => go(0),
    // The reader did something; what is to be done gets its mark when all of it is done.
    did(what) {
      if (left[0] === what) left.shift();
      if (left.length || !DOES[PLACES[at]] || todo.querySelector(".px-done")) return;
      todo.append(" ", tag("span", { class: "px-done", role: "img", "aria-label": TEXT.done }, "✓"));
    },
  };
}
