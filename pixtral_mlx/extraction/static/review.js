// The page on which a person checks what was read from a document. All text is set as text.
import { tag } from "./elements.js";

const held = JSON.parse(document.getElementById("document").textContent);
const pointers = Object.keys(held.fields);
const place = `pixtral-mlx review ${held.source} ${pointers.length} ${hash(JSON.stringify(held.fields))}`;
const decisions = recalled();
let chosen = null, zoomed = true, saved = JSON.stringify(decisions);

function hash(text) {
  let found = 5381;
  for (let i = 0; i < text.length; i++) found = (found * 33 + text.charCodeAt(i)) | 0;
  return found >>> 0;
}

// Decisions stay in the browser until they are downloaded, and after.
function recalled() {
  try { return JSON.parse(localStorage.getItem(place)) ?? {}; } catch { return {}; }
}

function remember() {
  try { localStorage.setItem(place, JSON.stringify(decisions)); } catch { /* a browser that keeps nothing */ }
}

const words = (value) => value === null ? "nothing" : typeof value === "string" ? value : JSON.stringify(value);
const valueOf = (pointer) => decisions[pointer]?.value ?? (decisions[pointer] ? null : held.fields[pointer].value);
const state = (pointer) => decisions[pointer] ? "decided" : held.fields[pointer].needs_review ? "needed" : "fine";

// "/lines/0/amount" as a person reads it: "lines 1 · amount".
function name(pointer) {
  const parts = pointer.slice(1).split("/").map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
  return parts.reduce((text, part) => /^\d+$/.test(part) ? `${text} ${Number(part) + 1}`
    : text ? `${text} · ${part.replaceAll("_", " ")}` : part.replaceAll("_", " "), "");
}

// The pages, with a box for each field ---------------------------------------------------------

const boxes = new Map();
const sheets = new Map(held.pages.map((page) => {
  const picture = tag("img", { src: page.url, width: page.size[0], height: page.size[1],
    alt: `page ${page.number} of ${held.source}`, draggable: "false" });
  const sheet = tag("div", { class: "sheet" }, picture);
  return [page.number, { page, sheet, root: tag("figure", { class: "page", "data-page": page.number },
    tag("figcaption", {}, `Page ${page.number}`), tag("div", { class: "frame" }, sheet)) }];
}));
for (const pointer of pointers) {
  const { page, box } = held.fields[pointer];
  if (!sheets.has(page) || !box) continue;
  const mark = tag("button", { type: "button", class: "box", tabindex: "-1", title: name(pointer),
    "aria-label": `where ${name(pointer)} stands`, onclick: () => choose(pointer) });
  const [left, top, width, height] = box.map((side) => `${100 * side}%`);
  Object.assign(mark.style, { left, top, width, height });
  sheets.get(page).sheet.append(mark);
  boxes.set(pointer, mark);
}

// Brings the box of the chosen field to a size at which it can be read.
function zoom() {
  for (const { sheet } of sheets.values()) {
    sheet.style.transform = "";
    sheet.style.removeProperty("--scale");
  }
  const field = chosen && held.fields[chosen];
  const shown = field && sheets.get(field.page);
  if (!shown) return;
  const frame = shown.root.querySelector(".frame");
  const [x, y, width, height] = field.box;
  const wide = shown.sheet.clientWidth, high = shown.sheet.clientHeight;
  if (zoomed && width * height < 0.5) {
    const scale = Math.max(1, Math.min(5, 0.6 / width, 0.35 / height));
    const across = Math.min(0, Math.max(wide * (1 - scale), wide / 2 - scale * wide * (x + width / 2)));
    const down = Math.min(0, Math.max(high * (1 - scale), high / 2 - scale * high * (y + height / 2)));
    shown.sheet.style.setProperty("--scale", scale);
    shown.sheet.style.transform = `translate(${across}px, ${down}px) scale(${scale})`;
  }
  const spot = frame.getBoundingClientRect(), view = left.getBoundingClientRect();
  const middle = zoomed ? spot.top + spot.height / 2 : spot.top + spot.height * (y + height / 2);
  if (zoomed || middle < view.top + 40 || middle > view.bottom - 40) {
    left.scrollTop += middle - (view.top + view.height / 2);
  }
}

// The fields ------------------------------------------------------------------------------------

const rows = new Map(pointers.map((pointer) => [pointer, fieldRow(pointer)]));

function fieldRow(pointer) {
  const field = held.fields[pointer];
  const value = tag("span", { class: "value" });
  const input = tag("input", { class: "edit", hidden: true, "aria-label": `the right value of ${name(pointer)}` });
  const was = tag("div", { class: "was px-quiet" });
  const button = (text, key, act) => tag("button", { type: "button", title: `key ${key}`,
    onclick: (event) => { event.stopPropagation(); choose(pointer); act(pointer); } }, text);
  const facts = [
    field.page === null ? "on no page" : `page ${field.page}`,
    `confidence ${Math.floor(100 * field.confidence)} %`,
    field.present === null ? null : field.present ? "found when asked" : "not found when asked",
    field.agrees === null ? null : field.agrees ? "said twice" : `the second time: ${words(field.second)}`,
    field.text === null ? null : `the page says “${field.text}”`,
  ].filter(Boolean);
  input.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Enter") { correct(pointer, input.value); root.focus(); }
    if (event.key === "Escape") { input.hidden = true; value.hidden = false; root.focus(); }
  });
  input.addEventListener("blur", () => {
    if (!input.hidden) correct(pointer, input.value);
  });
  const root = tag("li", { class: "field", id: `field${pointer}`, tabindex: "-1", "data-pointer": pointer,
    onclick: () => choose(pointer) },
    tag("div", { class: "head" }, tag("span", { class: "name" }, name(pointer)), value, input),
    was,
    tag("div", { class: "more" },
      tag("div", { class: "facts px-quiet" }, facts.join(" · ")),
      field.reasons.length ? tag("ul", { class: "reasons" }, field.reasons.map((reason) => tag("li", {}, reason))) : null,
      tag("div", { class: "acts" }, button("Accept", "Enter", accept), button("Correct", "E", edit),
        button("Nothing there", "Delete", nothing), button("Undo", "U", undo))));
  return { root, value, input, was };
}

function draw(pointer) {
  const { root, value, was } = rows.get(pointer), field = held.fields[pointer], decided = decisions[pointer];
  const now = valueOf(pointer);
  root.dataset.state = state(pointer);
  value.textContent = words(now);
  value.classList.toggle("nothing", now === null);
  const said = { accept: "accepted", correct: "corrected", null: "nothing there" }[decided?.decision];
  const before = decided && words(now) !== words(field.value) ? `, was ${words(field.value)}` : "";
  was.textContent = decided ? said + before : "";
  const box = boxes.get(pointer);
  if (box) box.dataset.state = state(pointer);
}

// Decisions -------------------------------------------------------------------------------------

function decide(pointer, decision, value) {
  decisions[pointer] = { decision, value, original: held.fields[pointer].value };
  remember();
  draw(pointer);
  count();
}

function accept(pointer) { decide(pointer, "accept", held.fields[pointer].value); next(pointer); }
function nothing(pointer) { decide(pointer, "null", null); next(pointer); }
function undo(pointer) { delete decisions[pointer]; remember(); draw(pointer); count(); }

function edit(pointer) {
  const { input, value } = rows.get(pointer);
  input.value = valueOf(pointer) === null ? "" : words(valueOf(pointer));
  input.hidden = false;
  value.hidden = true;
  input.focus();
  input.select();
}

// A corrected value has the type of what was read: a number stays a number.
function correct(pointer, text) {
  const { input, value } = rows.get(pointer), field = held.fields[pointer];
  const known = field.value ?? field.first ?? field.second;
  let right = text;
  if (typeof known === "number" || typeof known === "boolean") {
    try { right = JSON.parse(text.trim()); } catch { right = text; }
    if (typeof right !== typeof known) {
      input.setCustomValidity(typeof known === "number" ? "a number, such as 1234.5" : "true or false");
      input.reportValidity();
      return;
    }
  }
  input.setCustomValidity("");
  input.hidden = true;
  value.hidden = false;
  decide(pointer, right === held.fields[pointer].value ? "accept" : "correct", right);
  next(pointer);
}

function next(pointer) {
  const after = pointers.indexOf(pointer) + 1;
  const waiting = [...pointers.slice(after), ...pointers.slice(0, after)].find((one) => state(one) === "needed");
  if (waiting) choose(waiting);
}

function choose(pointer) {
  if (pointer === chosen) return;
  chosen = pointer;
  for (const [one, { root }] of rows) root.classList.toggle("chosen", one === pointer);
  for (const [one, box] of boxes) box.classList.toggle("chosen", one === pointer);
  const { root } = rows.get(pointer);
  root.focus({ preventScroll: true });
  root.scrollIntoView({ block: "nearest" });
  zoom();
}

function move(step) {
  const at = pointers.indexOf(chosen) + step;
  choose(pointers[Math.max(0, Math.min(pointers.length - 1, at))]);
}

const keys = {
  ArrowDown: () => move(1), ArrowUp: () => move(-1), j: () => move(1), k: () => move(-1),
  ArrowRight: () => next(chosen), Enter: () => accept(chosen), e: () => edit(chosen),
  Delete: () => nothing(chosen), Backspace: () => nothing(chosen), u: () => undo(chosen),
  z: () => { zoomed = !zoomed; zoom(); },
};
document.addEventListener("keydown", (event) => {
  const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  const inButton = event.target.closest?.("button, input");
  if (!act || !chosen || event.ctrlKey || event.metaKey || event.altKey || (inButton && event.key === "Enter")) return;
  event.preventDefault();
  act();
});

// Saving ----------------------------------------------------------------------------------------

function download() {
  const text = JSON.stringify({ source: held.source, decisions }, null, 2);
  const file = held.source.split(/[\\/]/).pop().replace(/[^\w.-]+/g, "-") || "document";
  const link = tag("a", { href: `data:application/json;charset=utf-8,${encodeURIComponent(text)}`,
    download: `${file}.corrections.json` });
  document.body.append(link);
  link.click();
  link.remove();
  saved = JSON.stringify(decisions);
  count();
}

window.addEventListener("beforeunload", (event) => {
  if (JSON.stringify(decisions) !== saved) event.preventDefault();
});

const left = tag("section", { class: "pages", "aria-label": "the document" }, [...sheets.values()].map((one) => one.root));
const counted = tag("span", { class: "counted", role: "status" });
const save = tag("button", { type: "button", class: "save", onclick: download }, "Save decisions");
const right = tag("section", { class: "fields", "aria-label": "what was read" },
  tag("header", {},
    tag("h1", {}, held.source),
    held.reasons.length ? tag("ul", { class: "reasons" }, held.reasons.map((reason) => tag("li", {}, reason))) : null,
    tag("div", { class: "bar" }, counted, save)),
  tag("ol", {}, [...rows.values()].map((row) => row.root)),
  tag("footer", { class: "px-quiet" },
    "↑ ↓ choose · → next to review · Enter accept · E correct · Delete nothing there · U undo · Z zoom"));

function count() {
  const needed = pointers.filter((one) => state(one) === "needed").length;
  const decided = Object.keys(decisions).length;
  counted.textContent = `${needed} of ${pointers.length} to review, ${decided} decided`;
  save.disabled = decided === 0;
  save.classList.toggle("due", JSON.stringify(decisions) !== saved);
}

document.getElementById("review").append(left, right);
for (const pointer of pointers) draw(pointer);
count();
new ResizeObserver(zoom).observe(left);
if (pointers.length) choose(pointers.find((one) => state(one) === "needed") ?? pointers[0]);
