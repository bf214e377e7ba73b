// What all widgets share: questions to Python, the picture under its patches, controls, colours.

// Colours -------------------------------------------------------------------------------------

// Cividis (Nunez, Anderton and Renslow 2018) by ten of its colours, as pixtral_mlx.interpret.picture has it.
const CIVIDIS = [
  [0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115],
  [138, 134, 120], [165, 156, 116], [195, 179, 105], [225, 204, 85], [254, 232, 56],
];

// How much of the map covers the grey picture.
export const STRENGTH = 0.65;

// A share from 0 to 1 -> [r, g, b] of 0 to 255.
export function cividis(share) {
  const place = Math.min(Math.max(share, 0), 1) * (CIVIDIS.length - 1);
  const below = Math.min(Math.floor(place), CIVIDIS.length - 2);
  return CIVIDIS[below].map((from, i) =>
    Math.round(from + (CIVIDIS[below + 1][i] - from) * (place - below)));
}

const TABLE = Array.from({ length: 256 }, (_, i) => cividis(i / 255));

// Blue through white to vermilion, for numbers of two signs: a share from -1 to 1 -> [r, g, b].
export function diverging(share) {
  const end = share < 0 ? [0, 84, 147] : [190, 70, 0];
  const strength = Math.min(Math.abs(share), 1);
  return end.map((to) => Math.round(245 + (to - 245) * strength));
}

// Elements ------------------------------------------------------------------------------------

// tag("div", { class: "x", onclick }, "text", child, ...)
export function tag(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

// For an element that has uses of its own for keys: JupyterLab's shortcuts leave it alone. Otherwise
// an arrow key on a slider moves to another cell.
export const OWN_KEYS = { "data-lm-suppress-shortcuts": "true" };

let labels = 0;

// A slider with its name and the value in words.
export function slider({ label, min = 0, max, step = 1, value, words = String, onInput }) {
  const id = `px-slider-${++labels}`;
  const input = tag("input", { type: "range", id, min, max, step, value, ...OWN_KEYS });
  const output = tag("output", { for: id }, words(Number(value)));
  input.addEventListener("input", () => {
    output.textContent = words(Number(input.value));
    onInput(Number(input.value));
  });
  const root = tag("div", { class: "px-slider" }, tag("label", { for: id }, label), input, output);
  return {
    root,
    set(next, limits = {}) {
      if (limits.max != null) input.max = limits.max;
      if (limits.min != null) input.min = limits.min;
      input.value = next;
      output.textContent = words(Number(next));
    },
    get value() { return Number(input.value); },
  };
}

// A few named options, one of which holds: options are [value, words].
export function choice({ label, options, value, onChoose }) {
  const buttons = options.map(([option, words]) => {
    const button = tag("button", { type: "button", "aria-pressed": String(option === value) }, words);
    button.addEventListener("click", () => { set(option); onChoose(option); });
    return [option, button];
  });
  function set(next) {
    for (const [option, button] of buttons) {
      button.setAttribute("aria-pressed", String(option === next));
    }
  }
  const root = tag("div", { class: "px-choice", role: "group", "aria-label": label },
    tag("span", { class: "px-label" }, label), ...buttons.map(([, button]) => button));
  return { root, set };
}

export function checkbox({ label, value = false, onChange }) {
  const input = tag("input", { type: "checkbox" });
  input.checked = value;
  input.addEventListener("change", () => onChange(input.checked));
  return { root: tag("label", { class: "px-check" }, input, label), set(next) { input.checked = next; } };
}

// The frame of a widget: a title, a place for its parts, the caption and what went wrong. The
// caption says what is seen; screen readers hear it when it changes.
export function frame(el, title) {
  const body = tag("div", { class: "px-body" });
  const caption = tag("p", { class: "px-caption", role: "status", "aria-live": "polite" });
  const problem = tag("p", { class: "px-problem", role: "alert", hidden: true });
  const work = tag("div", { class: "px-work", hidden: true });
  const root = tag("section", { class: "px-widget", "aria-label": title },
    tag("h4", { class: "px-title" }, title), problem, work, body, caption);
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
const PATIENCE = 4000;
const NO_ANSWER = "No answer from the kernel: what was saved is shown, this was not saved. "
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

// Questions and answers of one view. `ask(what, arguments)` is a promise of the answer; equal
// questions are asked once; a new epoch forgets the answers of the old one. `act(what, arguments,
// buffers)` has Python do something, every time.
export function connect(model) {
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
      const question = { resolve, reject, timer: null };
      question.timer = setTimeout(() => doubt(id, what, question), PATIENCE);
      waiting.set(id, question);
      try { model.send({ id, what, arguments: args }, undefined, buffers); }
      catch { giveUp(id, question); }   // the kernel was started again, and knows nothing of this
    });
  }

  // An answer may wait for a long step of the model. A kernel that lives says so at once: then the
  // question waits on, else nobody will answer it.
  function doubt(id, what, question) {
    const wait = () => { question.timer = setTimeout(() => doubt(id, what, question), PATIENCE); };
    if (what === "alive") giveUp(id, question);
    else act("alive").then(() => { if (waiting.has(id)) wait(); }, () => giveUp(id, question));
  }

  function giveUp(id, question) {
    waiting.delete(id);
    clearTimeout(question.timer);
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
  return { ask, act, close() { stops.forEach((stop) => stop()); } };
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

// At most one call a frame, with the last arguments.
export function eachFrame(draw) {
  let planned = null;
  return (...args) => {
    if (planned == null) requestAnimationFrame(() => { const last = planned; planned = null; draw(...last); });
    planned = args;
  };
}

// Pictures ------------------------------------------------------------------------------------

// {"mime", "file"} -> a promise of something that a canvas can draw.
export async function bitmap({ mime, file }) {
  return createImageBitmap(new Blob([file], { type: mime }));
}

// A copy in grey, once, so that a map can lie on it. (Canvas filters are missing in Safari.)
function greyCopy(picture) {
  const canvas = document.createElement("canvas");
  canvas.width = picture.width;
  canvas.height = picture.height;
  const pen = canvas.getContext("2d");
  pen.drawImage(picture, 0, 0);
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
  const { data } = pixels;
  for (let i = 0; i < data.length; i += 4) {
    const grey = Math.round(0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2]);
    data[i] = data[i + 1] = data[i + 2] = grey;
  }
  pen.putImageData(pixels, 0, 0);
  return canvas;
}

// A map as a small canvas, one pixel a patch: values are 0 to 255.
export function heatCanvas(values, rows, columns, colour = (v) => TABLE[v], alpha = 255) {
  const canvas = document.createElement("canvas");
  canvas.width = columns;
  canvas.height = rows;
  const pixels = new ImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) {
    const [r, g, b] = colour(values[i]);
    pixels.data.set([r, g, b, alpha], 4 * i);
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

export const RING = "#e6007a";

// The picture of the model under its patch grid: the one way in which any widget shows patches.
//   label: what a screen reader calls it; most: longest side in CSS pixels
//   onHover(patch or null), onChoose(patch): patch is [row, column]
//   onPaint(patch): while the pointer is dragged over patches, where that means something
// show({ picture, rows, columns, values, colour, chosen, marked, faded, named, lines }) draws; what is
// left out stays as it was. values: one of 0 to 255 a patch, or null. marked: a Set of row-major
// numbers. named: [[[row, column], "A"], ...] are ringed, their letters beside them.
export function patchCanvas({ label, most = 448, onHover, onChoose, onPaint }) {
  const canvas = tag("canvas", { class: "px-patches", role: "img", tabindex: 0, "aria-label": label, ...OWN_KEYS });
  const root = tag("div", { class: "px-canvas" }, canvas);
  const now = {
    picture: null, rows: 0, columns: 0, values: null, colour: undefined, chosen: null,
    marked: null, faded: null, named: [], lines: true, hovered: null, cell: 0,
  };
  let grey = null;

  const redraw = eachFrame(draw);
  function draw() {
    const { rows, columns } = now;
    if (!rows || !columns) { canvas.hidden = true; return; }
    canvas.hidden = false;
    const ratio = window.devicePixelRatio || 1;
    const room = Math.max(Math.min(root.clientWidth || most, most), 96);
    const cell = Math.max(Math.floor(room * ratio / Math.max(columns, Math.min(rows, columns * 2))), 1);
    now.cell = Math.min(cell, Math.max(Math.floor(most * ratio / Math.max(rows, columns)), 1),
      Math.round(56 * ratio));
    const [width, height] = [columns * now.cell, rows * now.cell];
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    canvas.style.width = `${width / ratio}px`;
    canvas.style.height = `${height / ratio}px`;
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, width, height);
    drawPicture(pen, width, height);
    if (now.lines && now.cell >= 6 * ratio) drawLines(pen, width, height, ratio);
    drawMarks(pen, ratio);
    if (now.hovered) ring(pen, now.hovered, ratio, false);
    if (now.chosen) ring(pen, now.chosen, ratio, true);
    for (const [patch, letter] of now.named) name(pen, patch, letter, ratio);
  }

  // Beside the patch, on the side where there is room.
  function name(pen, [row, column], letter, ratio) {
    const { cell } = now;
    ring(pen, [row, column], ratio, String(now.chosen) === String([row, column]));
    pen.font = `600 ${13 * ratio}px ${getComputedStyle(root).fontFamily}`;
    pen.textBaseline = "middle";
    const left = (column + 1) * cell + 18 * ratio > pen.canvas.width;
    pen.textAlign = left ? "right" : "left";
    const x = left ? column * cell - 4 * ratio : (column + 1) * cell + 4 * ratio;
    const y = Math.min(Math.max((row + 0.5) * cell, 8 * ratio), pen.canvas.height - 8 * ratio);
    pen.lineWidth = 4 * ratio;
    pen.strokeStyle = "rgba(255, 255, 255, 0.95)";
    pen.strokeText(letter, x, y);
    pen.fillStyle = "#222222";
    pen.fillText(letter, x, y);
  }

  function drawPicture(pen, width, height) {
    const { picture, values, rows, columns } = now;
    if (picture) {
      pen.imageSmoothingEnabled = true;
      pen.drawImage(values ? grey ??= greyCopy(picture) : picture, 0, 0, width, height);
    }
    if (!values) return;
    pen.imageSmoothingEnabled = false;
    pen.globalAlpha = picture ? STRENGTH : 1;
    pen.drawImage(heatCanvas(values, rows, columns, now.colour), 0, 0, width, height);
    pen.globalAlpha = 1;
  }

  function drawLines(pen, width, height, ratio) {
    pen.beginPath();
    for (let c = 1; c < now.columns; c++) { pen.moveTo(c * now.cell, 0); pen.lineTo(c * now.cell, height); }
    for (let r = 1; r < now.rows; r++) { pen.moveTo(0, r * now.cell); pen.lineTo(width, r * now.cell); }
    // Dark under light: visible on any picture.
    for (const [colour, wide] of [["rgba(0, 0, 0, 0.30)", 2], ["rgba(255, 255, 255, 0.75)", 1]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = wide * ratio;
      pen.stroke();
    }
  }

  function drawMarks(pen, ratio) {
    const { marked, faded, columns, cell } = now;
    pen.fillStyle = "rgba(128, 128, 128, 0.92)";
    for (const patch of faded ?? []) {
      pen.fillRect((patch % columns) * cell, Math.floor(patch / columns) * cell, cell, cell);
    }
    pen.strokeStyle = RING;
    pen.lineWidth = Math.max(2 * ratio, cell / 12);
    for (const patch of marked ?? []) {
      const inset = pen.lineWidth / 2;
      pen.strokeRect((patch % columns) * cell + inset, Math.floor(patch / columns) * cell + inset,
        cell - 2 * inset, cell - 2 * inset);
    }
  }

  function ring(pen, [row, column], ratio, strong) {
    const { cell } = now;
    const [x, y] = [column * cell, row * cell];
    pen.lineWidth = 3 * ratio;
    pen.strokeStyle = "rgba(255, 255, 255, 0.95)";
    pen.strokeRect(x - ratio, y - ratio, cell + 2 * ratio, cell + 2 * ratio);
    pen.lineWidth = (strong ? 2 : 1) * ratio;
    pen.strokeStyle = strong ? RING : "#222222";
    pen.strokeRect(x - ratio, y - ratio, cell + 2 * ratio, cell + 2 * ratio);
  }

  function patchAt(event) {
    const box = canvas.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top) / box.height * now.rows);
    const column = Math.floor((event.clientX - box.left) / box.width * now.columns);
    const inside = row >= 0 && row < now.rows && column >= 0 && column < now.columns;
    return inside ? [row, column] : null;
  }

  function hover(patch) {
    if (String(patch) === String(now.hovered)) return;
    now.hovered = patch;
    redraw();
    onHover?.(patch);
  }

  canvas.addEventListener("pointermove", (event) => {
    const patch = patchAt(event);
    hover(patch);
    if (onPaint && patch && event.buttons === 1) onPaint(patch);
  });
  canvas.addEventListener("pointerleave", () => hover(null));
  canvas.addEventListener("pointerdown", (event) => {
    const patch = patchAt(event);
    if (onPaint && patch) { event.preventDefault(); canvas.focus(); onPaint(patch, true); }
  });
  canvas.addEventListener("click", (event) => {
    const patch = patchAt(event);
    if (patch && onChoose) onChoose(patch);
  });
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    const from = onPaint ? now.hovered : now.chosen;
    if (onPaint && from && (event.key === " " || event.key === "Enter")) {
      event.preventDefault();
      onPaint(from, true);
    }
    if (!step || !now.rows) return;
    event.preventDefault();
    event.stopPropagation();
    const [row, column] = from ?? [0, 0];
    const next = from ? [
      Math.min(Math.max(row + step[0], 0), now.rows - 1),
      Math.min(Math.max(column + step[1], 0), now.columns - 1),
    ] : [0, 0];
    if (onPaint) hover(next); else onChoose?.(next);
  });
  const watch = new ResizeObserver(redraw);
  watch.observe(root);

  return {
    root, canvas,
    show(changes) {
      if ("picture" in changes && changes.picture !== now.picture) grey = null;
      Object.assign(now, changes);
      redraw();
    },
    describe(text) { canvas.setAttribute("aria-label", text); },
    close() { watch.disconnect(); },
  };
}

// The legend of a map: its colours, and the numbers at both ends.
export function legend(unit = "of the attention") {
  const bar = tag("canvas", { class: "px-bar", width: 128, height: 10, "aria-hidden": "true" });
  const pen = bar.getContext("2d");
  for (let x = 0; x < 128; x++) {
    pen.fillStyle = `rgb(${cividis(x / 127)})`;
    pen.fillRect(x, 0, 1, 10);
  }
  const top = tag("span", {}, "");
  const root = tag("div", { class: "px-legend", hidden: true },
    tag("span", {}, "0"), bar, top, tag("span", { class: "px-quiet" }, unit));
  return { root, set(value) { root.hidden = value == null; top.textContent = value == null ? "" : share(value); } };
}

// Numbers as a reader wants them.
export const count = (n) => Math.round(n).toLocaleString("en");
export const share = (p) => p >= 0.0995 ? `${(100 * p).toFixed(0)} %` : p >= 0.001 ? `${(100 * p).toFixed(1)} %` : p > 0 ? "< 0.1 %" : "0 %";
export const operations = (n) => n >= 1e12 ? `${(n / 1e12).toPrecision(3)} TFLOP` : n >= 1e9 ? `${(n / 1e9).toPrecision(3)} GFLOP` : `${(n / 1e6).toPrecision(3)} MFLOP`;
export const bytes = (n) => n >= 1e9 ? `${(n / 1e9).toFixed(2)} GB` : n >= 1e6 ? `${(n / 1e6).toFixed(1)} MB` : `${(n / 1e3).toFixed(1)} kB`;

// Calls `redraw` when the notebook, or the system, goes from light to dark or back; twice, since
// JupyterLab hides the page for a moment while the style sheet of the new theme is loaded.
export function onTheme(redraw) {
  const watch = new MutationObserver(() => { redraw(); setTimeout(redraw, 300); });
  watch.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "class"] });
  const system = matchMedia("(prefers-color-scheme: dark)");
  system.addEventListener("change", redraw);
  return () => { watch.disconnect(); system.removeEventListener("change", redraw); };
}

// The value of a CSS variable of the widgets, such as "--px-ink", at an element.
export const ink = (element, name) => getComputedStyle(element).getPropertyValue(name).trim();

// A canvas of the wanted size in CSS pixels, sharp on any screen: its pen, in CSS pixels.
export function sized(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  return pen;
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
