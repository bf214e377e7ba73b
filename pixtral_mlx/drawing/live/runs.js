// A run of the network that can be looked into and changed: what was seen on the way, and rows of
// attention, each computed when somebody asks for it.

import { attentionRow, rows, stack, write } from "./network.js";
import { shuffled, twister } from "./scenes.js";
import { rounded } from "./weights.js";

// What can be changed, and what it is when nothing is:
//   breaks: see `imageTokens`; mask: whether pictures are encoded without seeing one another;
//   heads: [[where, layer, head]] that give nothing; layers: [[where, layer]] that are passed by, where
//   "vision" or "text"; hidden: [[picture, patch]] that become the mean of their picture; shuffle: a
//   seed by which the patches of each picture are dealt out anew, or null; bits: of the matrices of
//   projector and decoder, or null.
export const UNCHANGED = {
  breaks: "kept", mask: true, heads: [], layers: [], hidden: [], shuffle: null, bits: null,
};

const ROUNDED = /^(projector|decoder)\..*weight$/;

// The model with its projector and decoder rounded, as `pixtral-mlx convert` does it.
export function roundedModel({ config, weights }, bits) {
  const few = Object.entries(weights).map(([name, tensor]) =>
    [name, ROUNDED.test(name) && tensor.shape[0] > 1 ? rounded(tensor, bits) : tensor]);
  return { config, weights: Object.fromEntries(few) };
}

// A question, ready to be run. pictures: [{ rows, columns, pixels }] as `prepared` gives them.
export function prompted(tokenizer, imageToken, text, pictures, { breaks } = UNCHANGED) {
  const tokens = tokenizer.prompt(text, pictures.map(({ rows: r, columns }) => [r, columns]), breaks);
  return { tokens, pictures, imageToken };
}

// A run: go() writes the answer, token by token, as `write` yields them; everything else asks about
// what was seen so far. end: the id that ends an answer; forced: an answer to be read, not written.
export function newRun(model, prompt, { end, changes = UNCHANGED, forced = null, most = 64 }) {
  const seen = {}, { config } = model, vision = config.vision_encoder;
  const change = changer(config, changes, prompt.pictures);
  const see = (name, tensor, before) => {
    const used = change(name, tensor, before);
    (seen[name] ??= []).push(used);
    return used;
  };
  const lengths = prompt.pictures.map(({ rows: r, columns }) => r * columns);
  const starts = lengths.map((_, i) => lengths.slice(0, i).reduce((a, b) => a + b, 0));
  const places = [...prompt.tokens.keys()].filter((n) => prompt.tokens[n] === prompt.imageToken);
  const all = places.length;

  // A tensor by its name, the rows of all tokens so far; null if there is none of the name.
  function tensor(name) {
    if (!seen[name]) return null;
    seen[name] = [stack(seen[name])];
    return seen[name][0];
  }

  // The attention of one patch on the patches that it may see: from number `from` of all pictures' on.
  function visionRow(layer, head, picture, patch) {
    const [q, k] = [tensor(`vision.${layer}.queries`), tensor(`vision.${layer}.keys`)];
    const [from, to] = changes.mask ? [starts[picture], starts[picture] + lengths[picture]] : [0, all];
    const H = vision.num_attention_heads;
    const row = (each) => attentionRow(q, k, starts[picture] + patch, each, H, H, [from, to]);
    return { from, row: head == null ? mean(range(H).map(row)) : row(head) };
  }

  // The attention of the token at a position on itself and all before it.
  function textRow(layer, head, position) {
    const { n_heads: H, n_kv_heads: K, n_layers } = config;
    if (layer == null) return mean(range(n_layers).map((each) => textRow(each, head, position)));
    const [q, k] = [tensor(`text.${layer}.queries`), tensor(`text.${layer}.keys`)];
    const row = (each) => attentionRow(q, k, position, each, H, K, [0, position + 1]);
    return head == null ? mean(range(H).map(row)) : row(head);
  }

  // What of that falls on the patches of a picture, for the query that chose word number `token`.
  function imageRow(token, layer, head, picture) {
    const row = textRow(layer, head, prompt.tokens.length - 1 + token);
    return patchPlaces(picture).map((place) => row[place]);
  }

  const patchPlaces = (picture) => places.slice(starts[picture], starts[picture] + lengths[picture]);

  // How alike one row of a tensor is to all rows: the cosine of what they have beside their mean.
  function alike(name, row) {
    const x = tensor(name), every = range(x.shape[0]).map((n) => [...rows(x, n, n + 1).data]);
    const middle = mean(every), own = every.map((line) => line.map((value, i) => value - middle[i]));
    const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
    return Float64Array.from(own, (other) => dot(own[row], other) / Math.sqrt(dot(own[row], own[row]) * dot(other, other) || 1));
  }

  const go = () => write(model, prompt, { end, most, forced, see, mask: changes.mask });
  return { prompt, go, tensor, visionRow, textRow, imageRow, patchPlaces, alike, names: () => Object.keys(seen) };
}

const range = (n) => [...Array(n).keys()];
const mean = (lines) => lines[0].map((_, i) => lines.reduce((sum, line) => sum + line[i], 0) / lines.length);

// see() of what is changed, without what is only looked at.
function changer(config, { heads, layers, hidden, shuffle }, pictures) {
  const count = { vision: config.vision_encoder.num_attention_heads, text: config.n_heads };
  return (name, tensor, before) => {
    const [where, layer, what] = name.split(".");
    const here = ([place, number]) => place === where && String(number) === layer;
    if (what === "out" && layers.some(here)) return before;
    if (what === "heads") {
      return heads.filter(here).reduce((all, [, , head]) => without(all, head, count[where]), tensor);
    }
    return name === "projector.out" ? dealt(tensor, pictures, hidden, shuffle) : tensor;
  };
}

// The outputs of all heads lie side by side; one of them becomes zero.
function without({ shape: [N, width], data }, head, count) {
  const out = data.slice(), dim = width / count;
  for (let n = 0; n < N; n++) out.fill(0, n * width + head * dim, n * width + (head + 1) * dim);
  return { shape: [N, width], data: out };
}

// Features of the patches of each picture in another order, and the mean of their picture for hidden ones.
function dealt(features, pictures, hidden, shuffle) {
  const parts = [];
  let start = 0;
  pictures.forEach(({ rows: r, columns }, picture) => {
    const own = rows(features, start, start += r * columns);
    const order = range(r * columns);
    const dealt = shuffle == null ? order : shuffled(twister(shuffle), order);
    const gone = new Set(hidden.filter(([of]) => of === picture).map(([, patch]) => patch));
    const all = { shape: [1, own.shape[1]], data: mean(order.map((n) => rows(own, n, n + 1).data)) };
    // What is hidden is a place of the line, whatever was dealt to it.
    parts.push(...order.map((n) => (gone.has(n) ? all : rows(own, dealt[n], dealt[n] + 1))));
  });
  return stack(parts);
}
