// Studio: pictures and questions at the left, what is inside at the right, one bar on top.

import { slider, tag } from "./elements.js";
import { count } from "./numbers.js";
import { answersPictures, connect, follow, frame, on } from "./shared.js";

const LARGEST_FILE = 50e6;
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

// Which of the files that a person dropped are pictures, and what to say of the others.
export function sortFiles(files) {
  const pictures = [];
  const refused = [];
  for (const file of files) {
    if (!file.type.startsWith("image/")) refused.push(`${file.name} is not a picture`);
    else if (file.size > LARGEST_FILE) refused.push(`${file.name} is larger than 50 MB`);
    else pictures.push(file);
  }
  return { pictures, refused };
}

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

// Pictures that wait to be sent: dropped, pasted or picked.
function imageWell(refuse) {
  let waiting = [];
  const list = tag("div", { class: "px-waiting" });
  const input = tag("input", { type: "file", accept: "image/*", multiple: true, hidden: true });
  const pick = tag("button", { type: "button", onclick: () => input.click() }, "Pick pictures");
  const root = tag("div", { class: "px-well" }, pick,
    tag("span", { class: "px-quiet" }, " or drop or paste them here"), input, list);
  function add(files) {
    const { pictures, refused } = sortFiles(files);
    waiting = [...waiting, ...pictures];
    refuse(refused.length ? `${refused.join("; ")}: pick a PNG, JPEG, WebP, GIF, BMP or TIFF.` : "");
    show();
  }
  function show() {
    list.replaceChildren(...waiting.map((file) => tag("span", { class: "px-pending" },
      tag("img", { class: "px-thumb", src: URL.createObjectURL(file), alt: file.name }),
      tag("button", { type: "button", "aria-label": `Remove ${file.name}`, onclick() {
        waiting = waiting.filter((other) => other !== file);
        show();
      } }, "×"))));
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
    clear() { waiting = []; show(); },
  };
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

export function render({ model, el, host }) {
  const panel = frame(el, "Studio");
  panel.root.classList.add("px-studio");
  const { act, close } = connect(model, panel);
  const report = (error) => panel.fail(error.message);
  const refused = (text) => panel.fail(text || model.get("problem"));

  const talk = tag("div", { class: "px-talk", tabindex: 0, role: "log", "aria-label": "Conversation" });
  const well = imageWell(refused);
  const question = tag("textarea", {
    class: "px-question", rows: 2, "aria-label": "Your question", placeholder: "Ask about the pictures",
  });
  const on_ = tag("input", { type: "checkbox" });
  const send = tag("button", { type: "button", class: "px-send", onclick: ask }, "Ask");
  const stop = tag("button", { type: "button", hidden: true, onclick: () => act("stop").catch(report) }, "Stop");
  const save = tag("button", { type: "button", onclick: savePage }, "Save as a page");
  const inside = tabs(model, host);
  const left = tag("div", { class: "px-left" }, talk, well.root, question,
    tag("div", { class: "px-row" }, send, stop,
      tag("label", { class: "px-check" }, on_, "go on with this conversation")));
  panel.body.append(bar(), tag("div", { class: "px-columns" }, left, inside.root));

  function bar() {
    const seed = tag("input", { type: "number", class: "px-seed", min: 0, placeholder: "any", "aria-label": "seed" });
    seed.value = model.get("seed") ?? "";
    seed.addEventListener("change", () => set("seed", seed.value === "" ? null : Number(seed.value)));
    const warm = slider({
      label: "temperature", min: 0, max: 2, step: 0.05, value: model.get("temperature"),
      words: (t) => t ? t.toFixed(2) : "0 (greedy)", onInput: (t) => set("temperature", t),
    });
    const top = slider({
      label: "top-p", min: 0.05, max: 1, step: 0.05, value: model.get("top_p"),
      words: (p) => p.toFixed(2), onInput: (p) => set("top_p", p),
    });
    return tag("div", { class: "px-top" }, tag("span", { class: "px-chip" }, model.get("facts").model ?? ""),
      warm.root, top.root, tag("label", { class: "px-check" }, "seed", seed), save);
  }

  function set(name, value) { model.set(name, value); model.save_changes(); }

  async function ask() {
    const text = question.value.trim();
    if (!text) { panel.fail("The question is empty: write one."); question.focus(); return; }
    panel.fail("");
    try {
      const files = await Promise.all(well.files.map((file) => file.arrayBuffer()));
      await act("ask", { text, follow_up: on_.checked }, files);
      question.value = "";
      well.clear();
    } catch (error) { report(error); }
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

  function showTalk() {
    const chat = model.get("chat");
    const writing = model.get("writing");
    const said = chat.map(bubble);
    if (writing) said.push(bubble({ role: "assistant", text: `${writing} ▌` }));
    talk.replaceChildren(...(said.length ? said : empty()));
    talk.scrollTop = talk.scrollHeight;
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
      talk.append(now);
    }
    talk.scrollTop = talk.scrollHeight;
  }

  function update() {
    const running = model.get("state") === "running";
    send.disabled = running || Boolean(model.page);
    save.disabled = running || Boolean(model.page);
    stop.hidden = !running;
    const { tokens, images = [] } = model.get("facts");
    const chat = model.get("chat");
    const answered = chat.length && chat[chat.length - 1].role === "assistant";
    if (running) panel.say("The answer is being written.");
    else if (answered) panel.say(`The answer to a prompt of ${count(tokens ?? 0)} tokens with `
      + `${images.length} ${images.length === 1 ? "picture" : "pictures"}: the tabs show how it came about.`);
  }

  const stops = [
    follow(model, panel, "Drop, paste or pick a picture, write a question and press Enter."),
    on(model, "change:chat", () => { showTalk(); update(); }), on(model, "change:writing", showWriting),
    on(model, "change:samples", showTalk), on(model, "change:state", update), on(model, "change:tab", inside.show),
    answersPictures(model, panel.root),
  ];
  showTalk();
  update();
  return () => { stops.forEach((undo) => undo()); close(); };
}

export default { render };
