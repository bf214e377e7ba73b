// The page that `pixtral-mlx serve` shows: ask about pictures, and see where each word looked.

import { eachFrame, tag } from "./elements.js";
import { composer } from "./composer.js";
import { newId } from "./kept.js";
import { stepTo } from "./light.js";
import { lookSide } from "./look.js";
import { shelf } from "./past.js";
import { blobOf, bytesOf, namesOf, newAnswer, newTalk, requestOf, take } from "./talks.js";
import { turnView } from "./talk.js";
import { Problem, server } from "./wire.js";
import { opening } from "./words.js";

const KEY = "pixtral-mlx key";
const FOLLOW = 300;   // ms at least between two words that the light follows while they are written
const RETRY = 3;      // s until a server that does not answer is asked again
const NARROW = window.matchMedia("(max-width: 899px)");   // the picture stands above the conversation
const CALM = window.matchMedia("(prefers-reduced-motion: reduce)").matches;

const LOST = new Blob();   // a picture that this browser has not kept

const blobs = new Map();
const http = server(() => sessionStorage.getItem(KEY) ?? "");
let talk = newTalk();
let views = [];         // of the turns
let writing = null;     // { stop: AbortController, touched: whether the reader chose a word }
let editing = null;     // number of the question that is asked anew
let chosen = null;      // { turn, word }, or { image } alone

// The parts -------------------------------------------------------------------------------------

const model = tag("span", { class: "px-chip px-model" }, "…");
const another = tag("button", { type: "button", "aria-label": "New conversation", onclick: () => begin() },
  tag("span", { class: "px-long" }, "New conversation"), tag("span", { class: "px-short" }, "New"));
const past = shelf({ blobs, current: () => talk, onOpen: (found) => openTalk(found), onDelete: () => begin(), tell });
const problem = tag("p", { class: "px-problem", role: "alert", hidden: true });
const notice = tag("p", { class: "px-notice", role: "status", hidden: true });
const keyField = tag("input", { type: "password", autocomplete: "off", "aria-label": "Key of this server", placeholder: "Key", required: true });
const keyForm = tag("form", { class: "px-key-form", hidden: true },
  tag("label", {}, "This server asks for its key: ", keyField), tag("button", { type: "submit", class: "px-send" }, "Open"));
const look = lookSide({
  tallest: (above) => NARROW.matches ? 0.36 * window.innerHeight - 90 : Math.max(window.innerHeight - 250 - above, 200),
  onPicture(image) { if (writing) writing.touched = true; chosen = { image }; show(); },
  onClear() { if (writing) writing.touched = true; chosen = { image: imageShown() }; show(); },
  onStep(step) {
    const turn = chosen?.word != null ? chosen.turn : views.length - 1;
    const { words = [] } = views[turn]?.answer ?? {};
    if (!words.length) return;
    if (writing) writing.touched = true;
    choose(turn, stepTo(chosen?.word ?? -1, step, words.length));
  },
});
const SAMPLE = JSON.parse(document.getElementById("sample").textContent);   // { picture, alt, question }
const mini = tag("p", { class: "px-small", hidden: true }, "pixtral-mini knows only scenes like this one; for photographs and documents, serve a 12B.");
const hello = tag("div", { class: "px-hello" },
  tag("h2", {}, "Ask about a picture"),
  tag("p", {}, "Drop a picture or a PDF anywhere on this page, ask about it, and click a word of the answer to see where it looked."),
  tag("button", { type: "button", class: "px-sample", onclick: trySample },
    tag("img", { src: SAMPLE.picture, alt: SAMPLE.alt }), tag("span", {}, "No picture at hand? Ask about this one: ", tag("q", {}, SAMPLE.question))),
  mini);
const line = tag("div", { class: "px-talk", role: "log", "aria-label": "Conversation", tabindex: -1 });
const box = composer({
  blobs, refuse: fail,
  onChange(more) { if (more && !writing) chosen = null; show(); },   // the picture that came is seen
  onAsk: (asked) => ask(asked),
  onStop: () => writing?.stop.abort(),
  onCancel() { editing = null; box.take(); show(); box.focus(); },
});
const root = document.getElementById("page");
root.append(
  tag("header", { class: "px-head" }, tag("h1", {}, "Pixtral"), model, tag("span", { class: "px-gap" }), past.root, another),
  tag("div", { class: "px-both" }, look.root,
    tag("div", { class: "px-side" }, tag("div", { class: "px-scroll" }, hello, line),
      tag("div", { class: "px-below" }, notice, problem, keyForm, box.root))));
const scroll = line.parentElement;

function fail(text) { problem.textContent = text ?? ""; problem.hidden = !text; }
function tell(text) { notice.textContent = text ?? ""; notice.hidden = !text; }

// What is seen ----------------------------------------------------------------------------------

// All pictures of the conversation, and those that wait to be sent.
function pictures() {
  const names = talk.turns.flatMap(({ files, pictures: n }) => namesOf(files, n ?? 0));
  const known = talk.pictures.map(({ id, rows, columns, merge }, i) => ({ blob: blobs.get(id) ?? LOST, rows, columns, merge, name: names[i] ?? `picture ${i + 1}` }));
  const asked = talk.turns.filter((turn) => turn.pictures == null).flatMap(({ files }) => files);
  const fresh = box.files.filter(({ id }) => !talk.turns.some(({ files }) => files.some((file) => file.id === id)));
  const waiting = [...asked, ...fresh].filter(({ id, type }) => type.startsWith("image/") && blobs.has(id));
  return [...known, ...waiting.map(({ id, name }) => ({ blob: blobs.get(id), name }))];
}

const answerAt = (turn) => talk.turns[turn]?.answer;

function imageShown() {
  if (chosen?.image != null) return chosen.image;
  const word = chosen && views[chosen.turn]?.answer.words[chosen.word];
  return word ? answerAt(chosen.turn).tokens[word.tokens[0]].image : pictures().length - 1;
}

const show = eachFrame(draw);
function draw() {
  while (views.length > talk.turns.length) views.pop().root.remove();
  talk.turns.forEach((turn, i) => {
    if (views[i]?.turn !== turn) {
      const view = turnView(turn, {
        blobs, onEdit: () => edit(i),
        onChoose(word) { if (writing) writing.touched = true; choose(i, word); },
      });
      view.turn = turn;
      if (views[i]) views[i].root.replaceWith(view.root); else line.append(view.root);
      views[i] = view;
    }
    const now = Boolean(writing) && i === talk.turns.length - 1;
    const { root: element, answer, edit: button } = views[i];
    answer.show(turn.answer, { writing: now, chosen: chosen?.turn === i ? chosen.word ?? -1 : -1, waiting: now ? writing.waiting : "" });
    button.hidden = Boolean(writing);
    element.classList.toggle("px-past-edit", editing != null && i > editing);
  });
  line.setAttribute("aria-busy", String(Boolean(writing)));
  hello.hidden = talk.turns.length + box.files.length > 0;
  box.set({ busy: Boolean(writing), editing: editing != null, placeholder: talk.turns.length ? "Ask on" : "Ask about a picture" });
  another.disabled = Boolean(writing) || !talk.turns.length;
  past.lock(Boolean(writing));
  drawLook();
}

function drawLook() {
  const all = pictures();
  root.classList.toggle("px-pictured", all.length > 0);
  root.classList.toggle("px-new", !all.length && !talk.turns.length);
  const image = Math.min(Math.max(imageShown(), 0), all.length - 1);
  const view = chosen?.word != null ? views[chosen.turn]?.answer : null;
  const word = view?.words[chosen.word] ?? null;
  const found = word && answerAt(chosen.turn).tokens[word.tokens[0]];
  const words = views.some(({ answer }) => answer.words.length);
  const hint = words ? "Click a word of the answer to see where it looked; ← and → go from word to word." : "";
  look.show({ pictures: all, image, word, look: found?.map ? found : null, hint, passing: Boolean(writing && !writing.touched) });
}

function choose(turn, word, reveal = true) {
  chosen = { turn, word };
  if (reveal) views[turn].answer.reveal(word);
  show();
}

// The word that leans most on the picture is lit until the reader chooses.
function openOn(turn) {
  const word = opening(views[turn].answer.words, answerAt(turn).tokens);
  if (word >= 0) choose(turn, word, false);
}

// Where a reader goes on who is nowhere else.
function rest() { if (document.activeElement === document.body) box.focus(); }

const atEnd = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 80;
const toEnd = () => requestAnimationFrame(() => requestAnimationFrame(() => { scroll.scrollTop = scroll.scrollHeight; }));

// Asking ----------------------------------------------------------------------------------------

async function ask(asked) {
  const before = { turns: talk.turns, pictures: talk.pictures, chosen };
  const from = editing ?? talk.turns.length;
  const turns = talk.turns.slice(0, from);
  const turn = { ...asked, pictures: asked.files.length ? null : 0, answer: newAnswer() };
  talk.turns = [...turns, turn];
  talk.pictures = talk.pictures.slice(0, turns.reduce((sum, { pictures: n }) => sum + n, 0));
  talk.draft = null;
  writing = { stop: new AbortController(), touched: false, waiting: "" };
  editing = chosen = null;
  fail("");
  draw();
  toEnd();
  const again = from < before.turns.length ? from : null;
  past.keep({ turns: before.turns, pictures: before.pictures, draft: { ...asked, editing: again } });
  let trouble = null;
  try {
    await answerTo(turn);
  } catch (error) {
    trouble = error.name === "AbortError" ? "" : error.message;
    if (turn.answer.text) turn.answer.end = trouble ? "broken" : "stopped";
    if (error.status === 401 || error.status === 0) greet();   // which asks for the key, or waits
  }
  const end = atEnd();
  writing = null;
  if (turn.answer.text) {
    if (!chosen) openOn(talk.turns.length - 1);
  } else {   // a question without an answer is not lost: it stands again where it was written
    Object.assign(talk, { turns: before.turns, pictures: before.pictures });
    chosen = before.chosen;
    editing = again;
    box.put(asked);
    trouble ??= "The model said nothing: ask in other words.";
  }
  fail(trouble);
  show();
  if (end) toEnd();
  past.keep({ draft: drafting() });
  rest();
}

async function answerTo(turn) {
  const { answer } = turn;
  const began = performance.now();
  const seconds = () => (performance.now() - began) / 1000;
  const body = await requestOf(talk.turns.map((one) => one === turn ? { ...one, answer: null } : one), talk.pictures.length, blobs);
  const reading = turn.files.length ? "Reading the picture" : "Reading";
  const clock = setInterval(() => {
    writing.waiting = answer.text ? "" : writing.until ? writing.until() : `${reading} … ${Math.round(seconds())} s`;
    show();
  }, 500);
  let followed = 0;
  try {
    for await (const chunk of patiently(body)) {
      if (chunk.pictures) learn(turn, chunk.pictures);
      const end = atEnd();
      if (!take(answer, chunk)) continue;
      answer.first ||= seconds();
      writing.waiting = "";
      const { words } = views.at(-1).answer;
      if (!CALM && !writing.touched && words.length > 1 && performance.now() - followed > FOLLOW) {
        followed = performance.now();
        chosen = { turn: talk.turns.length - 1, word: words.length - 2 };   // the last one may grow
      }
      show();
      if (end) toEnd();
    }
    if (!writing.touched) chosen = null;
  } finally {
    clearInterval(clock);
    answer.seconds = Math.max(seconds() - answer.first, 0.001);
    draw();   // so that all of its words are there
  }
}

// The answer's chunks; while the server is loading or has no place, it is asked again.
async function* patiently(body) {
  for (;;) {
    try {
      yield* http.answer(body, writing.stop.signal);
      return;
    } catch (error) {
      if (!(error instanceof Problem) || !error.wait) throw error;
      const again = performance.now() + error.wait * 1000;
      const why = error.status === 429 ? "All places are taken" : "The model is being opened";
      writing.until = () => `${why}: asking again in ${Math.max(Math.ceil((again - performance.now()) / 1000), 0)} s`;
      await pause(error.wait, writing.stop.signal);
      writing.until = null;
    }
  }
}

const pause = (seconds, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, seconds * 1000);
  signal?.addEventListener("abort", () => { clearTimeout(timer); reject(new DOMException("stopped", "AbortError")); }, { once: true });
});

// The pictures as the model sees them; those of earlier turns are known.
function learn(turn, all) {
  const added = all.slice(talk.pictures.length).map(({ url, grid: [rows, columns], merge }) => {
    const blob = blobOf(url);
    const id = newId();
    blobs.set(id, blob);
    return { id, type: blob.type, size: blob.size, rows, columns, merge };
  });
  turn.pictures = added.length;
  talk.pictures = [...talk.pictures, ...added];
  show();
}

function edit(i) {
  if (box.draft() && editing == null) { fail("There is a question in the box: ask it or clear it first."); box.focus(); return; }
  box.take();
  editing = i;
  const { text, files } = talk.turns[i];
  box.put({ text, files: files.map((file) => ({ ...file })) });
  show();
  box.focus();
}

async function trySample() {
  const [type, base64] = /^data:(.*);base64,(.*)$/.exec(SAMPLE.picture).slice(1);
  const blob = new Blob([bytesOf(base64)], { type });
  box.add([new File([blob], "sample.png", { type })]);
  const { files } = box.take();
  ask({ text: SAMPLE.question, files });
}

// Keeping ---------------------------------------------------------------------------------------

// Whoever leaves in the middle of an answer, or of a question, finds what there was of it.
let drafted = "null";
const drafting = () => box.draft() && { ...box.draft(), editing };
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState !== "hidden") return;
  const draft = drafting();
  if (writing ? !talk.turns.at(-1).answer.text : JSON.stringify(draft) === drafted) return;
  drafted = JSON.stringify(draft);
  past.keep({ draft });
});

// A conversation that was kept is gone on with; what stands in the box stays with the other one.
function openTalk(found) {
  if (box.draft()) past.keep({ draft: drafting() });
  const { draft } = found;
  talk = { ...found, draft: null };
  for (const { answer } of talk.turns) answer.end ??= "stopped";
  editing = draft?.editing ?? null;
  chosen = null;
  box.take();
  if (draft) box.put(draft);
  drafted = JSON.stringify(draft);
  fail("");
  draw();
  const last = talk.turns.length - 1;
  if (last >= 0) openOn(last);
  toEnd();
  box.focus();
}

function begin() {
  talk = newTalk();
  editing = chosen = null;
  past.leave();
  fail("");
  show();
  box.focus();
}

// The server ------------------------------------------------------------------------------------

function lock(locked) {
  keyForm.hidden = !locked;
  root.classList.toggle("px-locked", locked);
}

function askForKey() {
  lock(true);
  model.textContent = "locked";
  if (sessionStorage.getItem(KEY)) fail("That is not the key of this server.");
  sessionStorage.removeItem(KEY);
  keyField.value = "";
  keyField.focus();
}

keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, keyField.value.trim());
  fail("");
  greet();
});

let greeting = false;
// Who is there: asked until somebody is.
async function greet() {
  if (greeting) return;
  greeting = true;
  try { await meet(); } finally { greeting = false; }
}

async function meet() {
  for (let missed = false; ; missed = true) {
    try {
      const { id, capabilities } = await http.model();
      model.textContent = id;
      if (!capabilities.vision) model.textContent += ", reads text alone";
      mini.hidden = id !== "pixtral-mini";
      lock(false);
      if (missed) fail("");
      rest();
      return;
    } catch (error) {
      if (error.status === 401) { askForKey(); return; }
      model.textContent = error.status === 503 ? "opening the model …" : "no server";
      if (error.status && !error.wait) { fail(error.message); return; }
      await pause(error.wait || RETRY);
    }
  }
}

for (const type of ["dragenter", "dragover"]) {
  root.addEventListener(type, (event) => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    root.classList.add("px-over");
  });
}
root.addEventListener("dragleave", (event) => { if (!root.contains(event.relatedTarget)) root.classList.remove("px-over"); });
root.addEventListener("drop", (event) => {
  root.classList.remove("px-over");
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  box.add([...event.dataTransfer.files]);
});
document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  if (files.length) { event.preventDefault(); box.add(files); }
});

show();
greet();
past.start(() => talk.turns.length > 0 || box.draft());
