// Ablation: one question, answered with everything and without what the reader takes away.

import { CHOSEN, DIFFERENT, HIDDEN, key } from "./colours.js";
import { checkbox, choice, eachFrame, slider, tag } from "./elements.js";
import { nats, probability } from "./numbers.js";
import { bitmap, patchCanvas } from "./patches.js";
import { answersPictures, connect, follow, frame, latest, on } from "./shared.js";
import { lookPanel, meter, showLongWork, tokenShown, wordChips, wordOf } from "./word_view.js";

const ordinal = (n) => `${n}${n % 100 >= 11 && n % 100 <= 13 ? "th" : ["th", "st", "nd", "rd"][n % 10] ?? "th"}`;

// What changed, in words.
export function changes(result) {
  const { first_difference: at, words, kl } = result;
  const total = kl.reduce((sum, value) => sum + value, 0);
  const most = kl.indexOf(Math.max(...kl));
  const differ = at == null ? "The answers are the same."
    : `The ${ordinal(at + 1)} word is the first that differs.`;
  const drop = result.first_logprob - result.second_logprob;
  return `${differ} The first answer's log-probability ${drop < 0 ? "rises" : "drops"} by ${nats(drop)} nats `
    + `(p ${probability(Math.exp(result.first_logprob))} → ${probability(Math.exp(result.second_logprob))}). `
    + `Divergence of the two runs along it: ${nats(total)} nats in all, most at “${words[most].text}” (${nats(kl[most])}).`;
}

// Patches after a stroke: [image, row, column] is put in or taken out.
export function painted(patches, place, erase) {
  const rest = patches.filter((one) => String(one) !== String(place));
  return erase ? rest : [...rest, place];
}

// A list with or without an item.
export function toggled(list, item) {
  const without = list.filter((one) => String(one) !== String(item));
  return without.length < list.length ? without : [...list, item];
}

export function render({ model, el }) {
  const panel = frame(el, "Ablation",
    model.page ? "" : "Try: hide what a word looked at, run without it, and see which words change.");
  const wires = connect(model, panel);
  const save = (trait, value) => { model.set(trait, value); model.save_changes(); };
  const failed = (error) => panel.fail(error.message);
  const choices = () => ({ heads: [], layers: [], shuffle: [], ...model.get("choices") });
  const choose = (changed) => save("choices", { ...choices(), ...changed });
  const images = () => model.get("facts").images ?? [];
  const at = () => tokenShown(model);
  const fresh = () => model.get("result").words && String(model.get("result").names) === String(model.get("names"));

  // The two answers.
  const first = wordChips({
    label: "The answer with everything", onChoose: (word) => save("token", word.tokens[0]),
    extra: (word, i) => {
      const row = model.get("result").words?.[i];
      const top = Math.max(...(model.get("result").kl ?? []), 0.01);
      return row ? [meter(row.kl / top, nats(row.kl), "px-kl")] : [];
    },
  });
  const second = wordChips({
    label: "The second answer", onChoose() {},
  });
  const without = tag("h5", {}, "");
  const note = tag("p", { class: "px-quiet" }, "");
  const then = tag("div", {}, without, second.root);
  const marks = key([CHOSEN, "chosen"], [DIFFERENT, "different from the first answer"]);
  const answers = tag("div", { class: "px-wide px-pair" },
    tag("div", {}, tag("h5", {}, "With everything"), first.root), then, note, marks);

  // What is taken away.
  let erasing = false;
  const paint = patchCanvas({
    label: "Patches to hide: drag over them, or go with the arrow keys and press space",
    onPaint([row, column], start) {
      const place = [model.get("image"), row, column];
      const there = model.get("patches").some((one) => String(one) === String(place));
      if (start) erasing = there;
      if (there === erasing) save("patches", painted(model.get("patches"), place, erasing));
    },
  });
  const which = tag("div");
  const wipe = tag("button", { type: "button", onclick: () => save("patches",
    model.get("patches").filter(([image]) => image !== model.get("image"))) }, "Show all patches");
  // What holds at least half of the greatest attention, of the word that is shown.
  const cover = tag("button", { type: "button", onclick() {
    const [image, { columns }] = [model.get("image"), images()[model.get("image")]];
    const strong = [...seen.map.keys()].filter((patch) => seen.map[patch] >= 128);
    const others = model.get("patches").filter(([other]) => other !== image);
    save("patches", [...others, ...strong.map((patch) => [image, Math.floor(patch / columns), patch % columns])]);
  } });
  const easel = tag("div", { class: "px-column" }, tag("h5", {}, model.page ? "Hidden patches" : "Paint over patches to hide them"),
    paint.root, key([HIDDEN, "hidden"]), which, tag("div", { class: "px-row" }, cover, wipe));
  const breaks = checkbox({ label: "take the break tokens away", onChange: (on) => choose({ breaks: on }) });
  const mask = checkbox({ label: "let the pictures see one another", onChange: (on) => choose({ mask: on }) });
  const shuffle = checkbox({ label: "shuffle this picture's patches",
    onChange: () => choose({ shuffle: toggled(choices().shuffle, model.get("image")) }) });
  let where = "vision";
  let layer = 0;
  const part = choice({ label: "part", options: [["vision", "encoder"], ["text", "decoder"]], value: where,
    onChoose(next) { where = next; layer = 0; controls(); } });
  const depth = slider({ label: "layer", min: 0, max: 0, value: 0, onInput(next) { layer = next; controls(); } });
  const skip = checkbox({ label: "skip this layer", onChange: () => choose({ layers: toggled(choices().layers, [where, layer]) }) });
  const heads = tag("div", { class: "px-choice px-heads", role: "group", "aria-label": "heads to knock out" });
  const run = tag("button", { type: "button", class: "px-main", onclick: () => wires.act("run").catch(failed) }, "Run without them");
  const clear = tag("button", { type: "button", onclick: () => { save("patches", []); save("choices", {}); } }, "Clear");
  const work = tag("div", { class: "px-work", hidden: true });
  const taken = tag("p", {}, "");
  const menu = tag("div", { class: "px-column" }, tag("h5", {}, "Take away"),
    breaks.root, mask.root, shuffle.root, part.root, depth.root, heads, skip.root, taken,
    tag("div", { class: "px-row" }, run, clear), work);
  let seen = null;   // where the shown word looked
  const look = lookPanel(model, wires, panel, { at, onLook(found) { seen = found; controls(); say(); } });
  // A page shows what was taken away, and offers nothing that only a kernel could run.
  const bench = tag("div", { class: "px-half" }, easel, menu);
  menu.hidden = Boolean(model.page);
  panel.body.append(answers, bench, tag("div", { class: "px-half" }, look.looked, look.knock));

  function controls() {
    const facts = model.get("facts");
    const sizes = facts[where] ?? facts.text;
    if (!sizes) return;
    const now = choices();
    breaks.set(Boolean(now.breaks));
    mask.set(Boolean(now.mask));
    mask.root.hidden = images().length < 2;
    shuffle.set(now.shuffle.includes(model.get("image")));
    part.set(where);
    depth.set(layer, { max: sizes.layers - 1 });
    skip.set(now.layers.some((one) => String(one) === String([where, layer])));
    heads.replaceChildren(tag("span", { class: "px-label" }, "heads off"), ...Array.from({ length: sizes.heads }, (_, head) => {
      const off = now.heads.some((one) => String(one) === String([where, layer, head]));
      return tag("button", { type: "button", "aria-pressed": String(off),
        onclick() { choose({ heads: toggled(choices().heads, [where, layer, head]) }); heads.querySelectorAll("button")[head]?.focus(); } }, String(head));
    }));
    const names = model.get("names");
    taken.textContent = names.length ? `Without ${names.join("; ")}.` : "Nothing is taken away yet.";
    const busy = model.get("state") === "running" || "stage" in model.get("work");
    run.disabled = busy || !names.length;
    const word = model.get("words")[wordOf(model.get("words"), at())];
    cover.textContent = `Hide what “${word?.text ?? ""}” looked at`;
    wipe.hidden = Boolean(model.page);
    cover.hidden = Boolean(model.page) || !seen || !word;
    clear.disabled = !names.length;
    showLongWork(work, model.get("work").what === "run" ? model.get("work") : {}, () => wires.act("stop_work"));
  }

  const picture = latest(async (image) => bitmap(await wires.ask("pixels", { image })),
    (found) => paint.show({ picture: found }), failed);

  function canvases() {
    const shape = images()[model.get("image")];
    const own = model.get("patches").filter(([image]) => image === model.get("image"));
    easel.hidden = !shape || (Boolean(model.page) && !own.length);
    bench.hidden = easel.hidden && menu.hidden;
    if (easel.hidden) return;
    paint.show({ rows: shape.rows, columns: shape.columns, merge: shape.merge,
      hidden: new Set(own.map(([, row, column]) => row * shape.columns + column)) });
    wipe.disabled = !own.length;
    which.replaceChildren(...(images().length > 1 ? [choice({
      label: "picture", value: model.get("image"), options: images().map((_, i) => [i, String(i + 1)]),
      onChoose: (image) => save("image", image) }).root] : []));
    picture(model.get("image"));
  }

  function say() {
    const result = model.get("result");
    if (fresh()) panel.say(changes(result));
    else if (model.page) panel.say("Nothing had been taken away when this page was saved.");
    else if (model.get("words").length) panel.say(model.get("names").length
      ? `Run without ${model.get("names").join("; ")} to see what changes.`
      : "Take something away, then run again: does the answer stay?");
  }

  function update() {
    const [words, result] = [model.get("words"), model.get("result")];
    const running = model.get("work").what === "run";
    panel.body.hidden = !words.length;
    if (!words.length) return;
    first.show({ words, chosen: wordOf(words, at()), running: model.get("state") === "running" });
    const names = running || !result.names ? model.get("names") : result.names;
    then.hidden = !running && !result.second_words;
    marks.lastChild.hidden = then.hidden;
    without.textContent = names.length ? `Without ${names.join("; ")}` : "Without …";
    second.show({ words: running ? model.get("second") : result.second_words ?? [], chosen: -1, running });
    const differs = running ? null : result.first_difference;
    second.root.querySelectorAll(".px-word").forEach((chip, i) => chip.classList.toggle("px-differs", differs != null && i >= differs));
    note.textContent = !running && result.words && !fresh() ? "This is the last run; the choice has changed since: run again."
      : result.words ? "Under each word: how far the two runs part there, in nats (KL divergence), along the first answer."
        : "";
    controls();
    look.update();
    say();
  }
  const soon = eachFrame(update);
  const stops = [
    follow(model, panel, "Ask a question first; then take parts of the model away and see whether the answer stays."),
    ...["words", "token", "opening", "state", "result", "second", "names", "work", "choices"].map((trait) => on(model, `change:${trait}`, soon)),
    ...["facts", "image", "patches"].map((trait) => on(model, `change:${trait}`, () => { canvases(); soon(); })),
    answersPictures(model, panel.root),
  ];
  canvases();
  update();
  return () => { stops.forEach((stop) => stop()); wires.close(); look.close(); paint.close(); };
}

export default { render };
