// AnswerLens: an answer while it is written; any word of it shows where it looked and its rivals.

import { eachFrame, slider, tag } from "./elements.js";
import { count, digits, patchName, probability, share } from "./numbers.js";
import { answersPictures, connect, follow, frame, latest, on } from "./shared.js";
import { doubts, lookPanel, meter, tokenShown, visible, wordChips, wordOf } from "./word_view.js";

// Where a word looked, in words.
export function sight(word, p, found, layer, head, pictures, image) {
  const where = [layer == null ? "all layers" : `layer ${layer}`, head == null ? "all heads" : `head ${head}`];
  const mean = layer == null || head == null ? "mean over " : "";
  const on = pictures > 1 ? `picture ${image + 1}` : "the picture";
  return `“${word}” (p ${probability(p)}) gave ${share(found.sum)} of its attention to ${on}, most to `
    + `${patchName(found.peak, found.merge)} (${share(found.top)}): ${mean}${where.join(" and ")}.`;
}

// What the settings do to the distribution, in words.
export function effect(temperature, topP, left) {
  if (temperature < 1e-4) return "Temperature 0: always the likeliest.";
  const tokens = left === 1 ? "1 token is left" : `${count(left)} tokens are left`;
  const heat = temperature === 1 ? "the distribution as it is" : `a ${temperature < 1 ? "sharper" : "flatter"} distribution`;
  return `Drawn from ${heat}${topP > 0 && topP < 1 ? `, cut at top-p ${topP}` : ""}: ${tokens}.`;
}

// Speed and cache, in words.
export function pace(stats, running) {
  if (stats.prompt == null) return "";
  const speed = stats.speed ? `${digits(stats.speed)} tokens/s` : "";
  const known = stats.cached ? `${count(stats.cached)} of ${count(stats.prompt)} prompt tokens known from before` : "";
  const ends = { length: "cut off at the token limit", interrupted: "stopped" };
  return [speed, known, running ? "" : ends[stats.finished]].filter(Boolean).join(", ");
}

function rivals(found, drawn) {
  const head = tag("tr", {}, ...["", "the model", "as sampled"].map((name) => tag("th", { scope: "col" }, name)));
  const row = (label, before, after) => tag("tr", {}, tag("td", {}, label),
    tag("td", {}, meter(before)), tag("td", {}, after == null ? "" : meter(after, probability(after), "px-after")));
  const rows = found.rivals.map((rival, i) => row(
    tag("span", { class: `px-chip${rival.chosen ? " px-chosen" : ""}` }, visible(rival.text)), rival.p, drawn?.after[i]));
  const other = row(tag("span", { class: "px-quiet" }, "other"), found.other, drawn?.other);
  return [tag("thead", {}, head), tag("tbody", {}, ...rows, other)];
}

function layersOf(found) {
  return found.layers.map(({ layer, text, p, same, own }) =>
    tag("div", { class: `px-layer${same ? " px-same" : ""}`,
      title: `after layer ${layer}: ${text} ${probability(p)}; the chosen token ${probability(own)}` },
    tag("span", { class: "px-quiet" }, `L${layer}`), tag("span", { class: "px-chip" }, visible(text)),
    tag("span", { class: "px-number" }, probability(p))));
}

export function render({ model, el }) {
  const panel = frame(el, "Answer lens",
    model.page ? "" : "Try: click a word to see where it looked, then hide that place: does the word depend on it?");
  const wires = connect(model, panel);
  const save = (trait, value) => { model.set(trait, value); model.save_changes(); };
  const failed = (error) => panel.fail(error.message);

  const chips = wordChips({ label: "The words of the answer", onChoose: (word) => save("token", word.tokens[0]) });
  const stop = tag("button", { type: "button", class: "px-stop", onclick: () => wires.act("stop").catch(failed) }, "Stop");
  const newest = tag("button", { type: "button", onclick: () => save("token", null) }, "Follow the newest");
  const paceLine = tag("span", { class: "px-quiet px-number" });
  const parts = tag("span", { class: "px-parts" });
  const doubtLine = tag("p", { class: "px-doubt", hidden: true });
  const top = tag("div", { class: "px-wide px-answer" }, chips.root, doubtLine,
    tag("div", { class: "px-row" }, stop, newest, parts, paceLine));

  const at = () => tokenShown(model);
  const running = () => model.get("state") === "running";
  let shown = null;   // the answer about the token
  let seen = null;    // where it looked
  let drawn = null;   // its distribution after temperature and top-p

  const look = lookPanel(model, wires, panel, { at, onLook(found) { seen = found; say(); } });
  const table = tag("table", { class: "px-rivals" });
  const effectLine = tag("p", { class: "px-quiet" });
  const heat = slider({ label: "temperature", min: 0, max: 2, step: 0.05, value: 0,
    words: (value) => value.toFixed(2), onInput: (value) => save("temperature", value) });
  const nucleus = slider({ label: "top-p", min: 0.05, max: 1, step: 0.05, value: 1,
    words: (value) => value.toFixed(2), onInput: (value) => save("top_p", value) });
  const again = tag("button", { type: "button", onclick: () => wires.act("again").catch(failed) }, "Run again with these");
  const layers = tag("div", { class: "px-layers" });
  const side = tag("div", { class: "px-column" },
    tag("h5", {}, "Its probability and its rivals"), table, heat.root, nucleus.root, effectLine,
    tag("div", {}, again));
  const lens = tag("div", { class: "px-wide" }, tag("h5", {}, "Logit lens: the word after each layer"), layers);
  panel.body.append(top, look.looked, tag("div", { class: "px-side" }, side, look.knock), lens);

  const askToken = latest((token) => wires.ask("token", { token }),
    (found) => { shown = found; drawn = null; bars(); settings(); say(); }, failed);
  const askSampling = latest((args) => wires.ask("sampling", args),
    (found, args) => {
      if (args.token !== at()) return;
      drawn = found;
      effectLine.textContent = effect(args.temperature, args.top_p, found.left);
      bars();
    },
    (error) => { effectLine.textContent = error.message; drawn = null; bars(); });
  const askLens = latest((token) => wires.ask("lens", { token }),
    (found) => layers.replaceChildren(...layersOf(found)), failed);

  function bars() { if (shown) table.replaceChildren(...rivals(shown, drawn)); }
  function settings() {
    heat.set(model.get("temperature"));
    nucleus.set(model.get("top_p") || 1);
    if (at() != null) askSampling({ token: at(), temperature: model.get("temperature"), top_p: model.get("top_p") });
  }
  function say() {
    const word = model.get("words")[wordOf(model.get("words"), at())];
    if (!word || !shown) return;
    const all = model.get("facts").images?.length ?? 0;
    panel.say(seen && all ? sight(shown.text.trim() || shown.text, shown.p, seen, model.get("layer"), model.get("head"), all, model.get("image"))
      : `“${shown.text.trim()}” had the probability ${probability(shown.p)}.`);
  }

  // A word of several tokens: each can be chosen.
  function pieces(word, token) {
    parts.replaceChildren(...(word && word.tokens.length > 1 ? word.tokens.map((one, i) => tag("button", {
      type: "button", class: one === token ? "px-chosen" : "", onclick: () => save("token", one),
    }, `part ${i + 1}`)) : []));
  }

  function update() {
    const words = model.get("words");
    const token = at();
    const chosen = wordOf(words, token);
    chips.show({ words, chosen, running: running() });
    pieces(words[chosen], token);
    doubtLine.textContent = doubts(words);
    doubtLine.hidden = !doubtLine.textContent;
    paceLine.textContent = pace(model.get("stats"), running());
    stop.hidden = !running();
    newest.hidden = model.get("token") == null || !running();
    again.disabled = running();
    again.hidden = heat.root.hidden = nucleus.root.hidden = Boolean(model.page);
    panel.body.hidden = !words.length && !running();
    const empty = token == null;
    for (const part of [side, lens]) part.hidden = empty;
    if (empty) { shown = seen = drawn = null; look.looked.hidden = look.knock.hidden = true; return; }
    askToken(token);
    askLens(token);
    look.update();
  }
  const soon = eachFrame(update);
  const stops = [
    follow(model, panel, "Ask a question, and the words of the answer appear here as they are written."),
    ...["words", "token", "opening", "state", "stats"].map((trait) => on(model, `change:${trait}`, soon)),
    ...["temperature", "top_p"].map((trait) => on(model, `change:${trait}`, settings)),
    answersPictures(model, panel.root),
  ];
  update();
  settings();
  return () => { stops.forEach((stop) => stop()); wires.close(); look.close(); };
}

export default { render };
