// What all widgets share: their frame, questions to Python, a picture of the whole.

import { tag } from "./elements.js";
import { count } from "./numbers.js";

// The frame -----------------------------------------------------------------------------------

// The frame of a widget: a title, a place for its parts, the caption and what went wrong. The
// caption says what is seen; screen readers hear it when it changes.
//   hint: one sentence that says what to try
export function frame(el, title, hint = "") {
  const body = tag("div", { class: "px-body" });
  const caption = tag("p", { class: "px-caption", role: "status", "aria-live": "polite" });
  const problem = tag("p", { class: "px-problem", role: "alert", hidden: true });
  const work = tag("div", { class: "px-work", hidden: true });
  const waiting = tag("p", { class: "px-waiting-for px-quiet", role: "status", hidden: true });
  const root = tag("section", { class: "px-widget", "aria-label": title },
    tag("h4", { class: "px-title" }, title), hint ? tag("p", { class: "px-hint px-quiet" }, hint) : null,
    problem, waiting, work, body, caption);
  // The notebook has shortcuts of its own for arrows, space and Enter: they would never arrive.
  root.addEventListener("keydown", (event) => {
    const shortcut = event.ctrlKey || event.metaKey || event.altKey || (event.shiftKey && event.key === "Enter");
    if (!shortcut) event.stopPropagation();
  });
  el.append(root);
  return {
    root, body,
    say(text) { if (caption.textContent !== text) caption.textContent = text; },
    fail(text) { problem.textContent = text ?? ""; problem.hidden = !text; },
    busy(progress, onStop) { showWork(work, progress, onStop); },
    wait(text) { waiting.textContent = text ?? ""; waiting.hidden = !text; },
  };
}

// The elements stay while the numbers change, so that a click on Stop finds its button.
function showWork(work, progress, onStop) {
  const { stage = "", done = 0, total = 0 } = progress ?? {};
  work.hidden = !stage;
  if (!stage) { work.replaceChildren(); return; }
  if (!work.firstChild) work.append(tag("span"), tag("progress"));
  const [words, bar, stop] = work.children;
  words.textContent = stage + (total ? ` ${count(done)} of ${count(total)}` : "");
  if (total) { bar.max = total; bar.value = done; } else bar.removeAttribute("value");
  if (onStop && !stop) work.append(tag("button", { type: "button", onclick: onStop }, "Stop"));
  if (!onStop && stop) stop.remove();
}

// Keeps the problem, the progress and the empty state of a frame up to date with the model.
export function follow(model, panel, emptyText) {
  function update() {
    const problem = model.get("problem");
    panel.fail(problem);
    const loading = model.get("state") === "loading";
    panel.busy(model.get("progress"));
    if (!problem && model.get("state") === "empty") panel.say(emptyText);
    else if (loading) panel.say("The model is loading.");
  }
  const stops = ["problem", "progress", "state"].map((name) => on(model, `change:${name}`, update));
  update();
  return () => stops.forEach((stop) => stop());
}

// model.on, with the way to undo it as its result.
export function on(model, event, handler) {
  model.on(event, handler);
  return () => model.off(event, handler);
}

// Questions to Python -------------------------------------------------------------------------

const KEPT = 128;
const SOON = 1000;       // ms until a reader is told what is waited for
const PATIENCE = 4000;   // ms until a kernel that is idle is doubted
const TURN = 400;        // ms in which a kernel with nothing to do answers
const WAITING = "Waiting for the kernel: it is busy, and answers when it is idle.";
const SILENT = "Waiting for the kernel. If it was restarted, run the cell again.";
const NO_ANSWER = "No answer from the kernel: what was saved is shown, and this was not saved. "
  + "Run the cell to ask again.";

// Sorted like Python's json.dumps(sort_keys=True), so that both find an answer under one name.
export function nameOf(what, args) {
  const sorted = (value) => Array.isArray(value) ? value.map(sorted)
    : value && typeof value === "object"
      ? Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])]))
      : value;
  return JSON.stringify([what, sorted(args)]);
}

// A buffer of any kind as a typed array: DataView, ArrayBuffer or Uint8Array come in.
export function typed(buffer, type) {
  const kinds = {
    uint8: Uint8Array, uint16: Uint16Array, int32: Int32Array, float32: Float32Array,
    float64: Float64Array, bool: Uint8Array,
  };
  const Kind = kinds[type] ?? Uint8Array;
  const bytes = buffer instanceof ArrayBuffer ? new Uint8Array(buffer)
    : new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength);
  if (bytes.byteOffset % Kind.BYTES_PER_ELEMENT === 0) {
    return new Kind(bytes.buffer, bytes.byteOffset, bytes.byteLength / Kind.BYTES_PER_ELEMENT);
  }
  return new Kind(bytes.slice().buffer);
}

// {"buffer": 0, "shape", "type"} inside an answer become typed arrays with a `shape`.
export function unpacked(data, buffers) {
  if (Array.isArray(data)) return data.map((item) => unpacked(item, buffers));
  if (!data || typeof data !== "object") return data;
  if (Number.isInteger(data.buffer) && data.shape) {
    const array = typed(buffers[data.buffer], data.type);
    array.shape = data.shape;
    return array;
  }
  return Object.fromEntries(
    Object.entries(data).map(([key, value]) => [key, unpacked(value, buffers)]));
}

// What is known of the kernel: "idle", "busy", "gone", or "unknown" where the notebook does not tell.
// Its status is that of its last message, and widgets' messages have a thread of their own in newer
// kernels: "idle" may be said while a cell runs. What stands in line behind the cell tells: `look`
// asks for something that every kernel answers, in its turn.
export function kernelOf(model) {
  const manager = model.widget_manager;
  const kernel = () => manager && "kernel" in manager ? manager.kernel : undefined;
  let asked = null;   // when, while there is no answer
  return {
    look() {
      const now = kernel();
      if (asked !== null || now?.status !== "idle" || !now.requestKernelInfo) return;
      asked = Date.now();
      now.requestKernelInfo().catch(() => {}).then(() => { asked = null; });
    },
    state() {
      const now = kernel();
      if (now === undefined) return "unknown";
      if (now === null || now.isDisposed || now.connectionStatus === "disconnected") return "gone";
      if (now.status === "dead" || now.status === "terminating") return "gone";
      const behind = asked !== null && Date.now() - asked >= TURN;
      return now.status === "idle" && !behind ? "idle" : "busy";
    },
  };
}

// Questions and answers of one view. `ask(what, arguments)` is a promise of the answer; equal
// questions are asked once; a new epoch forgets the answers of the old one. `act(what, arguments,
// buffers)` has Python do something, every time.
// A kernel that is busy is waited for, and the panel says so; only one that is dead, or that is idle
// and answers nothing, is given up.
export function connect(model, panel = null) {
  const kernel = kernelOf(model);
  const answers = new Map();
  const waiting = new Map();
  let number = 0;
  let epoch = model.get("facts")?.epoch;

  function receive(message, buffers = []) {
    if (message?.picture != null) return;
    const question = waiting.get(message?.id);
    if (!question) return;
    waiting.delete(message.id);
    clearTimeout(question.timer);
    tell();
    if (message.problem) question.reject(new Error(message.problem));
    else question.resolve(unpacked(message.data, buffers));
  }

  function saved(name) {
    const found = model.get("saved")?.[name];
    return found && unpacked(found.data, found.buffers);
  }

  function act(what, args = {}, buffers = []) {
    if (model.page) return Promise.reject(new Error("Not saved in this page: this needs the kernel."));
    return new Promise((resolve, reject) => {
      const id = ++number;
      const question = { what, resolve, reject, timer: null, asked: Date.now() };
      waiting.set(id, question);
      expect(id, question);
      setTimeout(() => look(id), SOON - TURN);
      setTimeout(tell, SOON);
      try { model.send({ id, what, arguments: args }, undefined, buffers); }
      catch { giveUp(id, question); }   // the kernel was started again, and knows nothing of this
    });
  }

  // An answer may wait for a long step of the model, or for a cell that runs. A kernel that is idle
  // and lives says so at once; then the question waits on, else nobody will answer it.
  function expect(id, question) {
    setTimeout(() => look(id), PATIENCE - TURN);
    question.timer = setTimeout(() => doubt(id, question), PATIENCE);
  }

  function look(id) { if (waiting.has(id)) kernel.look(); }

  function doubt(id, question) {
    const wait = () => { expect(id, question); tell(); };
    const state = kernel.state();
    if (state === "gone") giveUp(id, question);
    else if (state !== "idle") wait();
    else if (question.what === "alive") giveUp(id, question);
    else act("alive").then(() => { if (waiting.has(id)) wait(); }, () => giveUp(id, question));
  }

  // What is waited for, if that takes a while.
  function tell() {
    const late = [...waiting.values()].some(({ asked }) => Date.now() - asked >= SOON);
    const state = kernel.state();
    const silent = [...waiting.values()].some(({ asked }) => Date.now() - asked >= PATIENCE);
    panel?.wait(late && state === "busy" ? WAITING : silent && state === "unknown" ? SILENT : null);
  }

  function giveUp(id, question) {
    waiting.delete(id);
    clearTimeout(question.timer);
    tell();
    question.reject(new Error(NO_ANSWER));
  }

  function ask(what, args = {}) {
    const name = nameOf(what, args);
    if (answers.has(name)) {
      const answer = answers.get(name);
      answers.delete(name);
      answers.set(name, answer);
      return answer;
    }
    const kept = saved(name);
    const answer = kept ? Promise.resolve(kept) : act(what, args);
    answers.set(name, answer);
    answer.catch(() => answers.delete(name));
    while (answers.size > KEPT) answers.delete(answers.keys().next().value);
    return answer;
  }

  const stops = [
    on(model, "msg:custom", receive),
    on(model, "change:facts", () => {
      if (model.get("facts").epoch !== epoch) {
        epoch = model.get("facts").epoch;
        answers.clear();
      }
    }),
  ];
  // Whether an answer is to be had: of a kernel any, of a page what it holds.
  const has = (what, args) => !model.page || nameOf(what, args) in (model.get("saved") ?? {});

  return { ask, act, has, close() { stops.forEach((stop) => stop()); } };
}

// Calls that come in while one is under way: only the last of them is made, and answers that were
// overtaken are dropped. `run(...args)` gives a promise, `show(answer, ...args)` gets what it kept.
export function latest(run, show, fail) {
  let wanted = null;
  let under = false;
  async function go() {
    under = true;
    while (wanted) {
      const args = wanted;
      wanted = null;
      try {
        const answer = await run(...args);
        if (!wanted) show(answer, ...args);
      } catch (error) {
        if (!wanted) fail(error);
      }
    }
    under = false;
  }
  return (...args) => { wanted = args; if (!under) go(); };
}

// A picture of the whole widget ---------------------------------------------------------------

// Python may ask for one: the widget is drawn as it stands, canvases and all.
export function answersPictures(model, root) {
  async function receive(message) {
    if (message?.picture == null) return;
    let png = "";
    try { png = await pictureOf(root); } catch { /* Python finds another way */ }
    // While a cell runs, the kernel takes no messages: the picture goes straight to Python, if that
    // is on this machine.
    fetch(message.picture, { method: "POST", mode: "no-cors", body: png })
      .catch(() => model.send({ png }));
  }
  if (model.page) { root.picture = () => pictureOf(root); return () => {}; }
  model.send({ shown: true });
  return on(model, "msg:custom", receive);
}

// What of an element can be seen in the boxes around it that scroll: [left, top, right, bottom].
function seenPart(element, root) {
  const { left, top, right, bottom } = element.getBoundingClientRect();
  const part = [left, top, right, bottom];
  for (let box = element.parentElement; box && box !== root; box = box.parentElement) {
    if (getComputedStyle(box).overflow === "visible") continue;
    const edge = box.getBoundingClientRect();
    part[0] = Math.max(part[0], edge.left);
    part[1] = Math.max(part[1], edge.top);
    part[2] = Math.min(part[2], edge.right);
    part[3] = Math.min(part[3], edge.bottom);
  }
  return part;
}

// A copy is not scrolled: what is in its boxes is moved instead.
function scrollCopy(root, copy) {
  const boxes = [...copy.querySelectorAll("*")];
  [...root.querySelectorAll("*")].forEach((box, i) => {
    if (!box.scrollTop && !box.scrollLeft) return;
    for (const child of boxes[i].children) {
      child.style.transform = `translate(${-box.scrollLeft}px, ${-box.scrollTop}px)`;
    }
  });
}

// The text is drawn through an SVG; canvases and pictures, which it cannot load, are drawn over it.
async function pictureOf(root) {
  const copy = root.cloneNode(true);
  scrollCopy(root, copy);
  const drawn = [...root.querySelectorAll("canvas, img")];
  copy.querySelectorAll("canvas, img").forEach((element, i) => {
    const box = drawn[i].getBoundingClientRect();
    const shown = getComputedStyle(drawn[i]).display.replace(/^inline$/, "inline-block");
    element.replaceWith(tag("div", {
      class: element.className, hidden: drawn[i].hidden,
      style: `width: ${box.width}px; height: ${box.height}px; flex: none; display: ${shown}`,
    }));
  });
  const inputs = root.querySelectorAll("input");
  copy.querySelectorAll("input").forEach((input, i) => {
    input.setAttribute("value", inputs[i].value);
    if (inputs[i].checked) input.setAttribute("checked", "");
  });
  const own = getComputedStyle(root);
  for (const name of own) if (name.startsWith("--px-")) copy.style.setProperty(name, own.getPropertyValue(name));
  copy.style.width = `${root.offsetWidth}px`;
  copy.style.fontFamily = own.fontFamily;
  const sheets = [...document.styleSheets].flatMap((sheet) => {
    try { return [...sheet.cssRules].map((rule) => rule.cssText).filter((text) => text.includes(".px-")); } catch { return []; }
  });
  const [width, height] = [Math.ceil(root.offsetWidth), Math.ceil(root.offsetHeight)];
  const inside = new XMLSerializer().serializeToString(copy);
  const style = `<style>${sheets.join("\n").replaceAll("&", "&amp;").replaceAll("<", "&lt;")}</style>`;
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}">`
    + `<foreignObject width="100%" height="100%"><div xmlns="http://www.w3.org/1999/xhtml">${style}${inside}</div></foreignObject></svg>`;
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const page = document.createElement("canvas");
  page.width = 2 * width;
  page.height = 2 * height;
  const pen = page.getContext("2d");
  pen.scale(2, 2);
  pen.drawImage(image, 0, 0);
  const corner = root.getBoundingClientRect();
  for (const element of drawn) {
    const box = element.getBoundingClientRect();
    const [left, top, right, bottom] = seenPart(element, root);
    if (right <= left || bottom <= top || !element.width) continue;
    pen.save();
    pen.beginPath();
    pen.rect(left - corner.left, top - corner.top, right - left, bottom - top);
    pen.clip();
    pen.drawImage(element, box.left - corner.left, box.top - corner.top, box.width, box.height);
    pen.restore();
  }
  return page.toDataURL("image/png");
}
