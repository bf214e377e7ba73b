// Break it: what can be taken away, and what the answer becomes.

import { checkbox, choice, tag } from "./elements.js";
import { signed } from "./maps.js";
import { nats } from "./numbers.js";
import { TEXT } from "./text.js";

const ALIKE = 0.005;   // nats: what is less is not seen

// Before, now, and how much less likely the answer of before is.
export function comparison({ before, now, nats: lost, broken }) {
  if (!broken) return tag("p", { class: "px-quiet" }, TEXT.wholeRun);
  const same = before != null && before === now;
  const verdict = lost == null ? "" : same && Math.abs(lost) < ALIKE ? TEXT.asBefore : TEXT.verdict(same, lost > 0, nats(lost));
  const line = (name, value, kind = "") => tag("tr", {}, tag("th", { scope: "row" }, name), tag("td", { class: kind }, value));
  return tag("div", { class: "px-compare", role: "status" },
    tag("table", {}, tag("tbody", {}, line(TEXT.before, before || TEXT.emptyAnswer),
      line(TEXT.now, now == null ? TEXT.thinking : now || TEXT.emptyAnswer, same ? "" : "px-changed"),
      line(TEXT.difference, lost == null ? "" : TEXT.nats(signed(lost))))),
    tag("p", {}, verdict));
}

const same = (a) => (b) => String(a) === String(b);
export const toggled = (list, one) => (list.some(same(one)) ? list.filter((each) => !same(one)(each)) : [...list, one]);

export function brokenPlace(page) {
  const { state, config } = page, result = tag("div");
  const breaks = choice({ label: TEXT.breaks, options: Object.entries(TEXT.breakChoices), value: "kept", onChoose: (value) => page.change({ breaks: value }) });
  const bits = choice({ label: TEXT.bits, options: [[null, TEXT.bitsWords.stored], ...[4, 3, 2].map((n) => [n, TEXT.bitsWords[n]])], value: null, onChoose: (value) => page.change({ bits: value }) });
  const shuffle = checkbox({ label: TEXT.shuffle, onChange: (on) => page.change({ shuffle: on ? Math.floor(Math.random() * 2 ** 32) : null }) });
  const mask = checkbox({ label: TEXT.noMask, onChange: (on) => { if (on) page.second(true); page.change({ mask: !on }); } });
  const squash = checkbox({ label: TEXT.squash, onChange: (on) => page.change({ squash: on }) });
  const hide = tag("button", { type: "button", onclick: () => page.hideLit() }, TEXT.hideLit);
  const hidden = tag("span", { class: "px-quiet" });
  const mend = tag("button", { type: "button", class: "px-strong", onclick: () => page.mend() }, TEXT.repair);

  // A button for each layer, and for each head of it.
  const switches = [];
  function off(list, one, label, words) {
    const button = tag("button", { type: "button", class: "px-off", "aria-label": words, title: words, onclick: () => page.change({ [list]: toggled(state.changes[list], one) }) }, label);
    switches.push(() => button.setAttribute("aria-pressed", String(state.changes[list].some(same(one)))));
    return button;
  }
  const part = (where, name, layers, heads) => tag("div", { class: "px-part" }, tag("h3", {}, name),
    ...[...Array(layers).keys()].map((layer) => tag("div", { class: "px-row px-layer" },
      off("layers", [where, layer], `${TEXT.layer} ${layer}`, TEXT.layerOff(name, layer)),
      ...[...Array(heads).keys()].map((head) => off("heads", [where, layer, head], String(head), TEXT.headOff(name, layer, head))))));
  const { num_hidden_layers, num_attention_heads } = config.vision_encoder;
  const heads = tag("details", {}, tag("summary", {}, TEXT.headsOff), tag("div", { class: "px-parts" },
    part("vision", TEXT.visionLayers, num_hidden_layers, num_attention_heads), part("text", TEXT.textLayers, config.n_layers, config.n_heads)));

  return { root: tag("div", {}, result, breaks.root, bits.root,
    tag("div", { class: "px-row" }, shuffle.root, squash.root, mask.root), tag("div", { class: "px-row" }, hide, hidden), heads,
    tag("div", { class: "px-row" }, mend)), show() {
    const { changes } = state;
    result.replaceChildren(page.comparison());
    breaks.set(changes.breaks);
    bits.set(changes.bits);
    shuffle.set(changes.shuffle != null);
    mask.set(!changes.mask);
    squash.set(changes.squash);
    hidden.textContent = changes.hidden.length ? TEXT.hidden(changes.hidden.length) : "";
    hide.disabled = state.word == null;
    mend.disabled = !page.isBroken();
    switches.forEach((set) => set());
  } };
}
