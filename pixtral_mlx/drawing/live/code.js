// The network's own code, line by line: a click shows the tensor that a line made of this picture.

import { choice, tag } from "./elements.js";
import { signed, tensorMap } from "./maps.js";
import { TEXT } from "./text.js";

// Which parts of the model a function is of, as names of tensors begin.
const PARTS = {
  encoder: [""], encoderLayer: ["vision.#."], projector: [""], merge: [""], decoder: [""], decoderLayer: ["text.#."],
  feedForward: ["vision.#.", "text.#."], unembed: [""],
};

// The lines of a source: { text, sites }, sites as `see` spells them with # for the number of a layer.
export function sourceLines(source) {
  let places = [];
  return source.trimEnd().split("\n").map((text) => {
    const named = /^(?:export )?function\*? (\w+)/.exec(text);
    if (named) places = PARTS[named[1]] ?? [];
    const seen = /\bsee\("([\w.]+)"/.exec(text);
    return { text, sites: seen ? places.map((place) => place + seen[1]) : [] };
  });
}

// Which row of a tensor is that of the chosen patch or word; null if there is none.
export function rowFor(site, rows, { patch, position, patches }) {
  if (rows === patches) return patch;
  return site.startsWith("text.") && position != null && position < rows ? position : null;
}

export function codePlace(page, source) {
  const lines = sourceLines(source), at = tag("p", { class: "px-quiet px-small px-readout" });
  const name = tag("h3"), about = tag("p", { class: "px-quiet px-small" });
  let chosen = null, side = 0, layer = 0, tensor = null;
  const map = tensorMap({ label: TEXT.stops.code.says, onHover: (place) => {
    at.textContent = place && tensor ? TEXT.tensorAt(place[0] + 1, place[1] + 1, signed(tensor.data[place[0] * tensor.shape[1] + place[1]])) : "";
  } });
  const most = Math.max(page.config.n_layers, page.config.vision_encoder.num_hidden_layers);
  const which = choice({ label: TEXT.codeLayer, options: [...Array(most).keys()].map((n) => [n, String(n)]), value: 0, onChoose: (n) => { layer = n; page.refresh(); } });
  const parts = choice({ label: "", options: [[0, TEXT.visionLayers], [1, TEXT.textLayers]], value: 0, onChoose: (n) => { side = n; page.refresh(); } });
  const list = tag("ol", { class: "px-code", tabindex: 0, "aria-label": TEXT.stops.code.name }, ...lines.map(({ text, sites }, n) => tag("li", {},
    sites.length ? tag("button", { type: "button", "aria-label": TEXT.codeLine(n + 1, sites[0].replace(".#", "")), onclick: () => { chosen = n; page.refresh(); } }, text || " ") : tag("span", {}, text || " "))));
  const shown = tag("div", { class: "px-seen" }, name, tag("div", { class: "px-row" }, parts.root, which.root), about, map.root, at);
  chosen = lines.findIndex(({ sites }) => sites.includes("projector.out"));

  return { root: tag("div", {}, shown, list), async show() {
    const { sites } = lines[chosen], pattern = sites[Math.min(side, sites.length - 1)];
    const [line, before] = [list.children[chosen].firstChild, list.querySelector("[aria-current]")];
    if (line !== before) {
      before?.removeAttribute("aria-current");
      line.setAttribute("aria-current", "true");
      if (!before) list.scrollTop = list.children[chosen].offsetTop - list.clientHeight / 2;
    }
    parts.root.hidden = sites.length < 2;
    which.root.hidden = !pattern.includes("#");
    const site = pattern.replace("#", layer), mine = chosen;
    const found = await page.model("tensor", { name: page.run().name, site });
    if (mine !== chosen) return;
    tensor = found.tensor;
    map.root.hidden = !tensor;
    name.textContent = tensor ? TEXT.tensor(site, ...tensor.shape) : site;
    about.textContent = tensor ? TEXT.tensorSays(...extent(tensor.data).map(signed)) : TEXT.noTensor;
    if (tensor) map.show({ ...tensor, row: rowFor(site, tensor.shape[0], page.places()) });
  } };
}

// The least, the mean and the greatest number.
export function extent(data) {
  let [low, sum, high] = [Infinity, 0, -Infinity];
  for (const value of data) { low = Math.min(low, value); high = Math.max(high, value); sum += value; }
  return [low, sum / data.length, high];
}
