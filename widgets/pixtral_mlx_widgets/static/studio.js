// Studio: pictures and questions at the left, what is inside at the right, one bar on top.

import { slider, tag } from "./elements.js";
import { sortFiles } from "./files.js";
import { count } from "./numbers.js";
import { answersPictures, connect, follow, frame, on } from "./shared.js";
import { stage } from "./stage.js";

const MOST_LEAVES = 100;
const QUIET = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
  + "style-src 'unsafe-inline'; img-src data:\">";

// The HTML that a model wrote: a fenced block, or a whole document; null if there is none.
export function htmlIn(text) {
  const fenced = /```html\s*\n([\s\S]*?)(?:```|$)/i.exec(text);
  if (fenced) return fenced[1];
  return /^\s*(<!doctype html|<html[\s>])/i.test(text) ? text : null;
}

// What a preview shows: without scripts, without network.
export const quietPage = (html) => QUIET + html;

function address({ mime, file }) {
  return URL.createObjectURL(new Blob([file], { type: mime }));
}

// One message of the conversation.
function bubble({ role, text, pictures = [] }) {
  const thumbs = pictures.map((picture) =>
    tag("img", { class: "px-thumb", src: address(picture), alt: "a picture of the question" }));
  const root = tag("div", { class: `px-said px-said-${role}` },
    thumbs.length ? tag("div", {}, ...thumbs) : null, tag("div", { class: "px-text" }, text));
  const html = role === "assistant" ? htmlIn(text) : null;
  if (html != null) root.append(preview(html));
  return root;
}

function preview(html) {
  const place = tag("div");
  const button = tag("button", { type: "button", "aria-expanded": "false", onclick() {
    const open = place.childElementCount > 0;
    button.setAttribute("aria-expanded", String(!open));
    button.textContent = open ? "Preview this page" : "Close the preview";
    place.replaceChildren(...(open ? [] : [tag("iframe", {
      class: "px-preview", sandbox: "", title: "Preview of the page that the model wrote",
      srcdoc: quietPage(html),
    })]));
  } }, "Preview this page");
  return tag("div", {}, button, place);
}

// Pictures and pages of PDFs that wait to be sent: dropped, pasted or picked.
function imageWell({ act, refuse, onChange }) {
  let waiting = [];   // files
  let strips = [];    // opened PDFs: { root, name, document, chosen: Set of pages }
  const list = tag("div", { class: "px-waiting" });
  const books = tag("div");
  const input = tag("input", { type: "file", accept: "image/*,application/pdf", multiple: true, hidden: true });
  const pick = tag("button", { type: "button", onclick: () => input.click() }, "Pick files");
  const root = tag("div", { class: "px-well" }, pick,
    tag("span", { class: "px-quiet" }, " or drop or paste pictures and PDFs here"), input, list, books);

  async function add(files) {
    const { pictures, documents, refused } = sortFiles(files);
    waiting = [...waiting, ...pictures];
    refuse(refused.length ? `${refused.join("; ")}: pick a PNG, JPEG, WebP, GIF, BMP, TIFF or PDF.` : "");
    show();
    for (const file of documents) {
      try { strips = [...strips, await pageStrip(act, file, remove, onChange)]; } catch (error) { refuse(`${file.name}: ${error.message}`); }
      show();
    }
  }
  function remove(strip) { strips = strips.filter((other) => other !== strip); show(); }
  function show() {
    list.replaceChildren(...waiting.map((file) => tag("span", { class: "px-pending" },
      tag("img", { class: "px-thumb", src: URL.createObjectURL(file), alt: file.name }),
      tag("button", { type: "button", "aria-label": `Remove ${file.name}`, onclick() {
        waiting = waiting.filter((other) => other !== file);
        show();
      } }, "×"))));
    books.replaceChildren(...strips.map((strip) => strip.root));
    onChange();
  }
  input.addEventListener("change", () => { add([...input.files]); input.value = ""; });
  root.addEventListener("dragover", (event) => { event.preventDefault(); root.classList.add("px-over"); });
  root.addEventListener("dragleave", () => root.classList.remove("px-over"));
  root.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    root.classList.remove("px-over");
    add([...event.dataTransfer.files]);
  });
  return {
    root, add,
    get files() { return waiting; },
    get pages() {
      return strips.flatMap(({ document, chosen }) => [...chosen].sort((a, b) => a - b).map((page) => ({ document, page })));
    },
    // What is there is taken away, and can be put back.
    take() { const taken = { waiting, strips }; waiting = []; strips = []; show(); return taken; },
    restore(taken) { waiting = [...taken.waiting, ...waiting]; strips = [...taken.strips, ...strips]; show(); },
  };
}

// The pages of a PDF in small, the first one chosen; a click chooses or lets go.
async function pageStrip(act, file, onRemove, onChange) {
  const { document, pages } = await act("open", {}, [await file.arrayBuffer()]);
  const chosen = new Set([1]);
  const leaves = Array.from({ length: Math.min(pages, MOST_LEAVES) }, (_, i) => {
    const page = i + 1;
    const button = tag("button", { type: "button", class: "px-leaf", "aria-pressed": String(chosen.has(page)),
      "aria-label": `page ${page} of ${file.name}`, onclick() {
        if (!chosen.delete(page)) chosen.add(page);
        button.setAttribute("aria-pressed", String(chosen.has(page)));
        tell();
      } }, tag("span", {}, String(page)));
    return button;
  });
  const words = tag("span", { class: "px-quiet" });
  const tell = () => {
    words.textContent = ` ${chosen.size} of ${pages} ${pages === 1 ? "page" : "pages"}`;
    onChange();
  };
  const strip = { document, chosen };
  strip.root = tag("div", { class: "px-book" },
    tag("div", {}, file.name, words, " ", tag("button", { type: "button", "aria-label": `Remove ${file.name}`, onclick: () => onRemove(strip) }, "×")),
    tag("div", { class: "px-leaves" }, ...leaves));
  tell();
  drawLeaves(act, document, leaves);
  return strip;
}

async function drawLeaves(act, document, leaves) {
  for (const [i, button] of leaves.entries()) {
    try { button.prepend(tag("img", { class: "px-thumb", src: address(await act("leaf", { document, page: i + 1 })), alt: "" })); }
    catch { return; }   // choosing by number still works, and asking says what is wrong
  }
}

// The tabs; a tab's widgets are drawn when it is first opened.
function tabs(model, host) {
  const bar = tag("div", { class: "px-tabs", role: "tablist", "aria-label": "Look inside" });
  const root = tag("div", { class: "px-inside" }, bar);
  const all = model.get("panes").map(({ title, parts }, i) => {
    const button = tag("button", { type: "button", role: "tab", id: `px-tab-${i}` }, title);
    const pane = tag("div", { role: "tabpanel", "aria-labelledby": `px-tab-${i}`, hidden: true });
    button.addEventListener("click", () => choose(title));
    bar.append(button);
    root.append(pane);
    return { title, parts, button, pane, drawn: false };
  });
  function choose(title) { model.set("tab", title); model.save_changes(); show(); }
  async function show() {
    for (const one of all) {
      const open = one.title === model.get("tab");
      one.button.setAttribute("aria-selected", String(open));
      one.button.tabIndex = open ? 0 : -1;
      one.pane.hidden = !open;
      if (!open || one.drawn) continue;
      one.drawn = true;
      for (const part of one.parts) {
        const place = tag("div", { class: "px-part" });
        one.pane.append(place);
        const child = await host.getWidget(part);
        await child.render({ el: place });
      }
    }
  }
  bar.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = all.findIndex(({ title }) => title === model.get("tab"));
    const next = all[(at + step + all.length) % all.length];
    choose(next.title);
    next.button.focus();
  });
  show();
  return { root, show };
}

// What a prompt holds, in words.
export function promptWords(tokens, images, hadPictures) {
  const without = hadPictures ? "without a picture: this conversation has none" : "without a picture";
  const what = images ? `with ${images} ${images === 1 ? "picture" : "pictures"}` : without;
  return `${count(tokens)} tokens ${what}`;
}

export function render({ model, el, host }) {
  const panel = frame(el, "Studio");
  panel.root.classList.add("px-studio");
  const { act, close } = connect(model, panel);
  const report = (error) => panel.fail(error.message);
  const set = (name, value) => { model.set(name, value); model.save_changes(); };
  let sent = null;          // what the last question was made of, until it is answered
  let hadPictures = false;  // some conversation here has had one

  const talk = tag("div", { class: "px-talk", tabindex: 0, role: "log", "aria-label": "Conversation" });
  const well = imageWell({ act, refuse: (text) => panel.fail(text || model.get("problem")), onChange: hint });
  const joins = tag("p", { class: "px-quiet px-joins", hidden: true });
  const question = tag("textarea", {
    class: "px-question", rows: 2, "aria-label": "Your question", placeholder: "Ask about the pictures",
  });
  const send = tag("button", { type: "button", class: "px-send", onclick: ask }, "Ask");
  const stop = tag("button", { type: "button", hidden: true, onclick: () => act("stop").catch(report) }, "Stop");
  const fresh = tag("button", { type: "button", onclick: begin }, "New conversation");
  const save = tag("button", { type: "button", onclick: savePage }, "Save as a page");
  const toStage = tag("button", { type: "button", onclick: () => set("stage", true) }, "Stage");
  const inside = tabs(model, host);
  const asking = tag("div", { class: "px-asking" }, well.root, joins, question,
    tag("div", { class: "px-row" }, send, stop, fresh));
  asking.hidden = save.hidden = Boolean(model.page);   // nobody would answer
  const left = tag("div", { class: "px-left" }, talk, asking);
  const top = bar();
  const columns = tag("div", { class: "px-columns" }, left, inside.root);
  panel.body.append(top, columns);
  let onStage = null;

  function bar() {
    const seed = tag("input", { type: "number", class: "px-seed", min: 0, placeholder: "any", "aria-label": "seed" });
    seed.value = model.get("seed") ?? "";
    seed.addEventListener("change", () => set("seed", seed.value === "" ? null : Number(seed.value)));
    const warm = slider({
      label: "temperature", min: 0, max: 2, step: 0.05, value: model.get("temperature"),
      words: (t) => t ? t.toFixed(2) : "0 (greedy)", onInput: (t) => set("temperature", t),
    });
    const nucleus = slider({
      label: "top-p", min: 0.05, max: 1, step: 0.05, value: model.get("top_p"),
      words: (p) => p.toFixed(2), onInput: (p) => set("top_p", p),
    });
    const settings = [warm.root, nucleus.root, tag("label", { class: "px-check" }, "seed", seed)];
    for (const setting of settings) setting.hidden = Boolean(model.page);   // of a next question
    const name = tag("span", { class: "px-chip px-model" }, model.get("facts").model ?? "");
    return tag("div", { class: "px-top" }, name, ...settings, toStage, save);
  }

  // Pictures that wait join the conversation, unless a new one is begun.
  function hint() {
    const pending = well.files.length + well.pages.length;
    const going = model.get("chat").length > 0;
    joins.hidden = !pending || !going;
    joins.textContent = `${pending === 1 ? "It joins" : "They join"} this conversation. For a question about `
      + `${pending === 1 ? "it" : "them"} alone, begin a new one first.`;
    talk.scrollTop = talk.scrollHeight;   // there is less room now
  }

  async function ask() {
    const text = question.value.trim();
    if (!text) { panel.fail("The question is empty: write one."); question.focus(); return; }
    panel.fail("");
    const { pages } = well;
    const taken = well.take();
    question.value = "";
    try {
      const files = await Promise.all(taken.waiting.map((file) => file.arrayBuffer()));
      await act("ask", { text, pages }, files);
      sent = { text, taken };
    } catch (error) { report(error); giveBack({ text, taken }); }
  }

  // A question that got no answer is not lost: it stands again where it was written.
  function giveBack({ text, taken }) {
    question.value ||= text;
    well.restore(taken);
  }

  async function begin() {
    try { await act("new"); panel.fail(""); question.focus(); } catch (error) { report(error); }
  }

  async function savePage() {
    try {
      const { html } = await act("page");
      const link = tag("a", { download: "studio.html", href: URL.createObjectURL(new Blob([html], { type: "text/html" })) });
      link.click();
    } catch (error) { report(error); }
  }

  question.addEventListener("keydown", (event) => {
    event.stopPropagation();   // the notebook has commands of its own on these keys
    if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); ask(); }
  });
  panel.root.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) { event.preventDefault(); event.stopPropagation(); well.add(files); }
  });

  function empty() {
    const cards = model.get("samples").map(({ question: words, picture }, i) => tag("button", {
      type: "button", class: "px-sample", onclick: () => act("try", { number: i }).catch(report),
    }, tag("img", { class: "px-thumb", src: address(picture), alt: "" }), tag("span", {}, words)));
    return [tag("p", { class: "px-quiet" }, "Drop a picture and ask, or try one of these:"),
      tag("div", { class: "px-samples" }, ...cards)];
  }

  // A question whose turn has not come, with the ways to hurry it and to take it back.
  function queued(message, number) {
    const root = bubble(message);
    root.classList.add("px-queued");
    root.append(tag("div", { class: "px-row px-quiet" }, "waits for the answer before it",
      tag("button", { type: "button", hidden: model.get("state") === "running", onclick: () => act("next").catch(report) }, "Ask now"),
      tag("button", { type: "button", "aria-label": `Take back “${message.text}”`, onclick: () => act("withdraw", { number }).catch(report) }, "×")));
    return root;
  }

  function showTalk() {
    const chat = model.get("chat");
    const writing = model.get("writing");
    hadPictures ||= chat.some(({ pictures = [] }) => pictures.length);
    const said = chat.map(bubble);
    if (writing) said.push(bubble({ role: "assistant", text: `${writing} ▌` }));
    said.push(...model.get("waiting").map(queued));
    talk.replaceChildren(...(said.length ? said : empty()));
    talk.scrollTop = talk.scrollHeight;
    hint();
  }

  // While an answer is written only its own bubble changes.
  function showWriting() {
    const writing = model.get("writing");
    const last = talk.querySelector(".px-now");
    if (!writing) { showTalk(); return; }
    if (last) last.querySelector(".px-text").textContent = `${writing} ▌`;
    else {
      const now = bubble({ role: "assistant", text: `${writing} ▌` });
      now.classList.add("px-now");
      talk.insertBefore(now, talk.querySelector(".px-queued"));
    }
    talk.scrollTop = talk.scrollHeight;
  }

  function update() {
    const running = model.get("state") === "running";
    send.textContent = running ? "Ask next" : "Ask";
    for (const button of [save, fresh]) button.disabled = running;
    stop.hidden = !running;
    const { tokens = 0, images = [] } = model.get("facts");
    const chat = model.get("chat");
    const answered = chat.length && chat[chat.length - 1].role === "assistant";
    const prompt = promptWords(tokens, images.length, hadPictures);
    if (running) panel.say(tokens ? `Answering ${prompt}.` : "The answer is being written.");
    else if (answered) panel.say(`The answer to ${prompt}: the tabs show how it came about.`);
  }

  function failed() {
    if (model.get("problem") && sent) giveBack(sent);
    if (model.get("problem") || model.get("state") === "ready") sent = null;
  }

  async function showStage() {
    const wanted = model.get("stage");
    panel.root.classList.toggle("px-on-stage", wanted);
    top.hidden = columns.hidden = wanted;
    question.rows = wanted ? 1 : 2;
    if (wanted === Boolean(onStage)) return;
    if (!wanted) {
      onStage.close();
      onStage.root.remove();
      onStage = null;
      left.append(asking);
      return;
    }
    onStage = { root: tag("div"), close() {} };   // two calls make one stage
    const [answer] = model.get("panes").find(({ title }) => title === "Answer").parts;
    const made = stage({
      lens: await host.getModel(answer), fail: (text) => panel.fail(text), onLeave: () => set("stage", false),
      question: () => model.get("chat").findLast(({ role }) => role === "user")?.text ?? "Ask about a picture",
    });
    if (!model.get("stage")) { made.close(); onStage = null; return; }
    onStage = made;
    panel.body.append(made.root);
    made.side.append(asking);
  }

  const stops = [
    follow(model, panel, "Drop, paste or pick a picture, write a question and press Enter."),
    on(model, "change:chat", () => { showTalk(); update(); }), on(model, "change:writing", showWriting),
    on(model, "change:waiting", showTalk), on(model, "change:samples", showTalk),
    on(model, "change:facts", () => { top.querySelector(".px-model").textContent = model.get("facts").model ?? ""; update(); }),
    on(model, "change:state", () => { showTalk(); update(); failed(); }), on(model, "change:problem", failed),
    on(model, "change:stage", showStage), on(model, "change:tab", inside.show),
    answersPictures(model, panel.root),
  ];
  showTalk();
  update();
  showStage();
  return () => { stops.forEach((undo) => undo()); onStage?.close(); close(); };
}

export default { render };
