// The stops from patches to answer: what each shows of the run in front.

import { choice, tag } from "./elements.js";
import { bar, bytesOf, enlargedPatch, hands, headTable, rowOf, signed, tensorMap } from "./maps.js";
import { digits, probability, share } from "./numbers.js";
import { tokenStrip } from "./strip.js";
import { TEXT } from "./text.js";

// Each stop is { root, show() }: show() is called while it is in front, whenever something else is to be
// seen. page: { state, model, light, run(), picture(), change(changes), chooseWord(n) }, see page.js.

const text = (...words) => tag("p", {}, ...words);
const quiet = () => tag("p", { class: "px-quiet px-small" });
const range = (n) => [...Array(n).keys()];

// Drops what comes after something newer was asked.
function newest() {
  let last = 0;
  return async (promise) => {
    const mine = ++last, found = await promise;
    return mine === last ? found : new Promise(() => {});
  };
}

// The number of the chosen patch among those of all pictures, and in its own.
function chosenPatch(page) {
  const { patch, image } = page.state, { columns } = page.picture();
  if (!patch) return null;
  const own = patch[0] * columns + patch[1];
  const before = page.state.pictures.slice(0, image).reduce((sum, each) => sum + each.rows * each.columns, 0);
  return { own, all: before + own, row: patch[0] + 1, column: patch[1] + 1 };
}

export function patchesStop(page) {
  const keep = newest(), sizes = text(), about = text(TEXT.choosePatch), name = quiet(), vectorName = quiet();
  const large = enlargedPatch(TEXT.patchNumbers), at = quiet();
  const vector = tensorMap({ label: TEXT.stops.patches.look, onHover: (place) => { at.textContent = place ? TEXT.tensorAt(1, place[1] + 1, signed(vector.value(place[1]))) : ""; } });
  const detail = tag("div", { hidden: true }, name, large.root, vectorName, vector.root, at);
  return { root: tag("div", {}, sizes, about, detail), async show() {
    const { canvas, rows, columns } = page.picture(), chosen = chosenPatch(page);
    sizes.textContent = TEXT.sizes(canvas.width, canvas.height, rows, columns, rows * (columns + 1));
    about.textContent = chosen ? TEXT.patchIs(chosen.row, chosen.column, chosen.own + 1, rows * columns) : TEXT.choosePatch;
    detail.hidden = !chosen;
    if (!chosen) return;
    name.textContent = TEXT.patchNumbers;
    large.show({ picture: canvas, patch: page.state.patch, side: page.patchSide, rows, columns });
    const { tensor } = await keep(page.model("tensor", { name: page.run().name, site: "vision.patch_conv" }));
    if (!tensor) return;
    const own = rowOf(tensor, chosen.all);
    vectorName.textContent = TEXT.vector(own.shape[1]);
    vector.value = (i) => own.data[i];
    vector.show(own);
  } };
}

export function ropeStop(page) {
  const keep = newest(), about = text(TEXT.choosePatch), name = quiet(), own = hands(TEXT.stops.rope.look);
  return { root: tag("div", {}, about, name, own.root), lit: true, async show() {
    const chosen = chosenPatch(page), { rows, columns } = page.picture();
    own.root.hidden = !chosen;
    if (!chosen) { page.light(null, TEXT.choosePatch); return; }
    const { tensor } = await keep(page.model("tensor", { name: page.run().name, site: "vision.angles" }));
    if (!tensor) return;
    const first = chosen.all - chosen.own, of = (patch) => rowOf(tensor, first + patch).data;
    const mine = of(chosen.own), { last } = page.state;
    name.textContent = TEXT.hands(mine.length / 2);
    about.textContent = TEXT.patchIs(chosen.row, chosen.column, chosen.own + 1, rows * columns);
    own.show({ angles: [...mine], before: last ? [...of(last[0] * columns + last[1])] : null });
    // The score of two heads that are alike in all but their places: the mean cosine of the differences.
    const match = range(rows * columns).map((patch) => of(patch).reduce((sum, angle, i) => sum + Math.cos(angle - mine[i]), 0) / mine.length);
    const low = Math.min(...match);
    page.light(match.map((value) => (value - low) / (1 - low || 1)), `${TEXT.match}: ${about.textContent}`, { of: TEXT.matchLegend });
  } };
}

export function attentionStop(page) {
  const keep = newest(), about = text(TEXT.choosePatch), under = quiet();
  under.textContent = TEXT.everyHead;
  const table = headTable({ label: TEXT.everyHead, onChoose: (layer, head) => { page.state.vision = [layer, head]; page.refresh(); } });
  return { root: tag("div", {}, about, under, table.root), lit: true, async show() {
    const chosen = chosenPatch(page), { rows, columns } = page.picture();
    table.root.hidden = under.hidden = !chosen;
    if (!chosen) { page.light(null, TEXT.choosePatch); about.textContent = TEXT.choosePatch; return; }
    const { num_hidden_layers: layers, num_attention_heads: heads } = page.config.vision_encoder;
    const asked = { name: page.run().name, picture: page.state.image, patch: chosen.own };
    const found = await keep(Promise.all(range(layers).map((layer) =>
      Promise.all(range(heads).map((head) => page.model("patch", { ...asked, layer, head }))))));
    const own = ({ from, row }) => row.slice(chosen.all - chosen.own - from).subarray(0, rows * columns);
    const [layer, head] = page.state.vision, row = own(found[layer][head]);
    const most = row.indexOf(Math.max(...row));
    about.textContent = TEXT.attentionAt(chosen.row, chosen.column, layer, head, TEXT.patchAt(Math.floor(most / columns) + 1, most % columns + 1));
    table.show({ maps: found.map((line) => line.map((one) => bytesOf(own(one)))), rows, columns, chosen: [layer, head] });
    page.light(row, about.textContent);
  } };
}

export function projectorStop(page) {
  const keep = newest(), about = text(TEXT.choosePatch);
  let where = "after";
  const sites = { before: () => `vision.${page.config.vision_encoder.num_hidden_layers - 1}.out`, after: () => "projector.out" };
  const which = choice({ label: TEXT.alikeLabel, options: [["before", TEXT.alikeBefore], ["after", TEXT.alikeAfter]], value: where, onChoose: (next) => { where = next; page.refresh(); } });
  const vectors = { before: tensorMap({ label: TEXT.alikeBefore }), after: tensorMap({ label: TEXT.alikeAfter }) };
  const detail = tag("div", {}, tag("p", { class: "px-quiet px-small" }, TEXT.alikeBefore), vectors.before.root,
    tag("p", { class: "px-quiet px-small" }, TEXT.alikeAfter), vectors.after.root);
  return { root: tag("div", {}, which.root, about, detail), lit: true, async show() {
    const chosen = chosenPatch(page), { rows, columns } = page.picture(), name = page.run().name;
    detail.hidden = !chosen;
    if (!chosen) { page.light(null, TEXT.choosePatch); about.textContent = TEXT.choosePatch; return; }
    const [{ row }, before, after] = await keep(Promise.all([
      page.model("alike", { name, site: sites[where](), row: chosen.all }),
      page.model("tensor", { name, site: sites.before() }), page.model("tensor", { name, site: sites.after() }),
    ]));
    vectors.before.show(rowOf(before.tensor, chosen.all));
    vectors.after.show(rowOf(after.tensor, chosen.all));
    const own = row.slice(chosen.all - chosen.own).subarray(0, rows * columns);
    const others = own.map((value, i) => (i === chosen.own ? -Infinity : value));
    const most = others.indexOf(Math.max(...others));
    about.textContent = TEXT.alike(chosen.row, chosen.column, where, TEXT.patchAt(Math.floor(most / columns) + 1, most % columns + 1), signed(own[most] ?? 1));
    page.light(own, about.textContent, { of: TEXT.alikeLegend });
  } };
}

// The line of the run in front, for two stops.
function lineOf(page) {
  const at = quiet(), said = text();
  const say = (n) => { at.textContent = n == null ? "" : TEXT.lineToken(n + 1, page.run().prompt.names[n]); };
  const strip = tokenStrip({ label: TEXT.stops.breaks.says, onHover: say, onChoose(n) { say(n); strip.show({ chosen: n }); } });
  return { strip, nodes: [said, strip.root, at], show(shares = null) {
    const { prompt } = page.run();
    if (!prompt) return;
    const { image, rowBreak, end } = page.template;
    const kind = (id) => (id === image ? "patch" : id === rowBreak ? "rowBreak" : id === end ? "end" : "word");
    const all = prompt.tokens.map((id, n) => ({ kind: kind(id), name: prompt.names[n].replace(/\n/g, "↵") }));
    said.textContent = TEXT.line(all.length, all.filter((token) => token.kind === "rowBreak" || token.kind === "end").length);
    strip.describe(said.textContent);
    strip.show({ tokens: all, shares, chosen: null });
  } };
}

const swatch = (kind) => tag("span", { class: "px-key-item" }, tag("span", { class: `px-mark px-mark-${kind}` }), TEXT.lineKeys[kind]);

export function breaksStop(page) {
  const line = lineOf(page);
  const which = choice({ label: TEXT.breaks, options: Object.entries(TEXT.breakChoices), value: "kept", onChoose: (breaks) => page.change({ breaks }) });
  const ask = tag("button", { type: "button", onclick: () => page.ask(TEXT.shapeQuestion) }, TEXT.askShape);
  const keys = tag("p", { class: "px-small px-row" }, ...["patch", "rowBreak", "end", "word"].map(swatch));
  const result = tag("div");
  return { root: tag("div", {}, tag("div", { class: "px-row" }, which.root, ask), result, ...line.nodes, keys), show() {
    which.set(page.state.changes.breaks);
    result.replaceChildren(page.comparison());
    line.show();
  } };
}

export function decoderStop(page) {
  const keep = newest(), line = lineOf(page), about = text(TEXT.chooseWord), cache = quiet();
  const { n_layers: layers, n_heads: heads } = page.config;
  const options = (n) => [[null, TEXT.all], ...range(n).map((each) => [each, String(each)])];
  const set = (place) => (value) => { page.state.decoder[place] = value; page.refresh(); };
  const layer = choice({ label: TEXT.layer, options: options(layers), value: null, onChoose: set(0) });
  const head = choice({ label: TEXT.head, options: options(heads), value: null, onChoose: set(1) });
  return { root: tag("div", {}, layer.root, head.root, about, ...line.nodes, cache), lit: true, async show() {
    const run = page.run(), { word, image } = page.state;
    const numbers = 2 * layers * page.config.n_kv_heads * page.config.head_dim;
    cache.textContent = run.prompt ? TEXT.cache(run.prompt.tokens.length, (numbers * run.prompt.tokens.length).toLocaleString("en")) : "";
    if (word == null || !run.words[word]) { line.show(); about.textContent = TEXT.chooseWord; page.lightWord(); return; }
    const { text: said, tokens: [token] } = run.words[word], [l, h] = page.state.decoder;
    const position = run.prompt.tokens.length - 1 + token;
    const [{ row }, map] = await keep(Promise.all([
      page.model("token", { name: run.name, layer: l, head: h, position }),
      page.model("word", { name: run.name, token, layer: l, head: h, picture: image }),
    ]));
    const shares = row.slice(0, run.prompt.tokens.length);
    const most = shares.indexOf(Math.max(...shares));
    const onPicture = shares.reduce((sum, value, n) => sum + (run.prompt.tokens[n] === page.template.image ? value : 0), 0);
    about.textContent = TEXT.wordAt(said, share(onPicture), most + 1, run.prompt.names[most], share(shares[most]));
    line.show(shares);
    page.light(Float64Array.from(map.row), about.textContent);
  } };
}

export function answerStop(page) {
  const about = text(TEXT.chooseWord), list = tag("div", { class: "px-table" }), whole = quiet(), result = tag("div");
  const hide = tag("button", { type: "button", onclick: () => page.hideLit() }, TEXT.hideLit);
  const mend = tag("button", { type: "button", onclick: () => page.mend() }, TEXT.repair);
  const needed = tag("div", {}, text(TEXT.needed), tag("div", { class: "px-row" }, hide, mend), result);
  return { root: tag("div", {}, about, list, whole, needed), show() {
    hide.disabled = page.state.word == null;
    mend.hidden = !page.isBroken();
    result.replaceChildren(...page.isBroken() ? [page.comparison()] : []);
    const run = page.run(), { word } = page.state, sum = (run.logprobs ?? []).reduce((a, b) => a + b, 0);
    whole.textContent = run.logprobs ? TEXT.weigh(probability(Math.exp(sum)), digits(-sum)) : "";
    about.textContent = word == null || !run.words[word] ? TEXT.chooseWord : TEXT.candidates(run.words[word].text);
    const tokens = word == null || !run.words[word] ? [] : run.words[word].tokens;
    list.replaceChildren(...tokens.map((token) => tag("table", {}, tag("tbody", {}, ...run.pieces[token].others.map(({ text: said, p }) =>
      tag("tr", {}, tag("td", {}, said.trim() ? said.replaceAll(" ", "␣") : TEXT.end), tag("td", {}, bar(p)), tag("td", { class: "px-number" }, share(p))))))));
  } };
}
