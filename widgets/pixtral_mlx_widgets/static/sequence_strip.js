// SequenceStrip: the prompt as the model receives it, token after token, on one canvas.

import { CHOSEN, DIFFERENT, key } from "./colours.js";
import { checkbox, choice, eachFrame, ink, onTheme, sized, tag } from "./elements.js";
import { cellName, count, patchBoth, tokenNumber } from "./numbers.js";
import { bitmap, patchCanvas } from "./patches.js";
import { answersPictures, connect, follow, frame, latest, on } from "./shared.js";

export const [TEXT, PATCH, ROW_BREAK, END] = [0, 1, 2, 3];
const GUTTER = 44;
const TALLEST = 380;

// Where things stand --------------------------------------------------------------------------

// The image and patch that a place in the prompt is: { image, row, column }; column === columns is
// the break after a row, or the end. null for text.
export function patchAt(images, position) {
  for (let number = 0; number < images.length; number++) {
    const { start, rows, columns, breaks } = images[number];
    const stop = start + rows * (columns + (breaks ? 1 : 0)) + (breaks ? 0 : 1);
    if (position < start || position >= stop) continue;
    if (position === stop - 1) return { image: number, row: rows - 1, column: columns };
    const wide = columns + (breaks ? 1 : 0);
    return { image: number, row: Math.floor((position - start) / wide), column: (position - start) % wide };
  }
  return null;
}

// Index in the prompt of a patch.
export function placeOf(image, [row, column]) {
  return image.start + row * (image.columns + (image.breaks ? 1 : 0)) + column;
}

// Tokens into lines. widths: CSS pixels of each text token; cell: of a patch, break or end; room:
// of a line. mode: "rows" wraps where the line is full, "line" never, "grid" after each row of an
// image. Gives { x: of each token, lines: first token of each line, and the whole, width }.
export function arrange({ kinds, widths, images, mode, room, cell }) {
  const x = new Float32Array(kinds.length);
  const lines = [0];
  const begins = new Set();
  if (mode === "grid") {
    for (const image of images) {
      for (let row = 0; row < image.rows; row++) begins.add(placeOf(image, [row, 0]));
      begins.add(placeOf(image, [image.rows - 1, image.columns]) + 1);
    }
  }
  let [at, width] = [0, 0];
  for (let i = 0; i < kinds.length; i++) {
    const wide = kinds[i] === TEXT ? widths[i] : cell;
    if (i && (begins.has(i) || (mode !== "line" && at + wide > room))) { lines.push(i); at = 0; }
    x[i] = at;
    at += wide;
    width = Math.max(width, at);
  }
  return { x, lines, width };
}

// The last index of a sorted array whose value is at most `value`.
export function lastAtMost(sorted, value, from = 0, to = sorted.length) {
  let [low, high] = [from, to];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (sorted[middle] <= value) low = middle; else high = middle;
  }
  return low;
}

// The token under a point, in pixels of the whole; null beside all of them.
export function tokenAt({ x, lines, ends, pitch }, left, top) {
  const line = Math.floor(top / pitch);
  if (line < 0 || line >= lines.length || left < 0) return null;
  const stop = lines[line + 1] ?? x.length;
  const token = lastAtMost(x, left, lines[line], stop);
  return left < ends[token] ? token : null;
}

// Words ---------------------------------------------------------------------------------------

// A token as it is written on its chip: spaces and line ends can be seen.
export const written = (label) => label.replaceAll(" ", "·").replaceAll("\n", "↵").replaceAll("\t", "→");

export function describe(sequence, position) {
  const { ids, kinds, labels, images } = sequence;
  const name = `Token ${tokenNumber(position)}: ${written(labels[ids[position]])} (id ${ids[position]})`;
  const at = patchAt(images, position);
  if (!at || kinds[position] === TEXT) return `${name}.`;
  const which = images.length > 1 ? ` of picture ${at.image + 1}` : "";
  const { merge } = images[at.image];
  if (kinds[position] === ROW_BREAK) return `${name} ends ${cellName(merge)} row ${at.row + 1}${which}.`;
  if (kinds[position] === END) return `${name} ends ${which ? `picture ${at.image + 1}` : "the picture"}.`;
  return `${name}, ${patchBoth([at.row, at.column], merge)}${which}.`;
}

export function summary({ kinds, images = [] }) {
  const number = [0, 0, 0, 0];
  for (const kind of kinds) number[kind]++;
  const merged = images[0]?.merge > 1;
  const parts = [[PATCH, ...merged ? ["square", "squares"] : ["patch", "patches"]], [ROW_BREAK, "break", "breaks"], [END, "end", "ends"]]
    .filter(([kind]) => number[kind]).map(([kind, one, many]) => `${count(number[kind])} ${number[kind] === 1 ? one : many}`);
  const words = `${count(kinds.length)} tokens: ${count(number[TEXT])} of text`;
  return parts.length ? `${words}, ${parts.join(", ")}.` : `${words}.`;
}

// What two shapes of as many patches have in common.
export function sameness({ kinds, differ }) {
  return differ == null ? `identical: the same ${count(kinds[0].length)} tokens`
    : `they differ first at token ${tokenNumber(differ)}`;
}

// The strip -----------------------------------------------------------------------------------

function strip({ onHover, onChoose }) {
  const canvas = tag("canvas", { role: "img", tabindex: 0, "aria-label": "The prompt, token after token" });
  const size = tag("div", { class: "px-strip-size" }, canvas);
  const scroller = tag("div", { class: "px-strip" }, size);
  const overview = tag("canvas", { class: "px-overview", "aria-hidden": "true", hidden: true });
  const root = tag("div", {}, scroller, overview);
  const now = { sequence: null, pictures: [], mode: "rows", position: null, hovered: null };
  let place = null;

  function layOut() {
    const { sequence, mode } = now;
    const room = Math.max(scroller.clientWidth, 160);
    const gutter = mode === "line" ? 0 : GUTTER;
    const most = Math.max(...sequence.images.map((image) => image.columns), 1);
    const cell = mode === "line" ? 22 : mode === "rows" ? 18
      : Math.min(Math.max(Math.floor((room - gutter) / (most + 1)), 5), 18);
    const pen = canvas.getContext("2d");
    pen.font = font();
    const known = new Map();
    const measure = (id) => {
      if (!known.has(id)) known.set(id, Math.ceil(pen.measureText(written(sequence.labels[id])).width) + 13);
      return known.get(id);
    };
    const widths = Float32Array.from(sequence.ids, (id, i) => sequence.kinds[i] === TEXT ? measure(id) : cell);
    const found = arrange({ ...sequence, widths, mode, cell, room: room - gutter });
    const ends = found.x.map((left, i) => left + widths[i]);
    const tall = Math.max(cell, 20);
    place = { ...found, ends, cell, gutter, room, tall, pitch: mode === "grid" ? cell + 1 : tall + 4 };
    if (mode === "grid") spread();
  }

  // The rows of a picture stand close, and make a picture again; each line has its own top.
  function spread() {
    place.tops = [];
    let top = 0;
    place.lines.forEach((first) => {
      place.tops.push(top);
      top += now.sequence.kinds[first] === TEXT ? 26 : place.cell + 1;
    });
    place.height = top;
  }

  const font = () => `12px ${ink(scroller, "--jp-code-font-family") || "ui-monospace, monospace"}`;
  const topOf = (line) => place.tops ? place.tops[line] : line * place.pitch;
  const lineAt = (top) => place.tops ? lastAtMost(place.tops, top) : Math.floor(top / place.pitch);
  const heightOf = () => place.height ?? place.lines.length * place.pitch;

  function draw() {
    if (!now.sequence || !place || !scroller.clientWidth) return;
    const line = now.mode === "line";
    const tall = line ? place.tall + 8 : Math.min(heightOf() + 4, TALLEST);
    scroller.style.height = `${tall + (line ? 16 : 2)}px`;
    size.style.width = line ? `${place.width + 8}px` : "100%";
    size.style.height = `${line ? tall : heightOf() + 4}px`;
    const pen = sized(canvas, place.room, tall);
    pen.clearRect(0, 0, place.room, tall);
    pen.font = font();
    pen.textBaseline = "middle";
    const [left, top] = [scroller.scrollLeft, scroller.scrollTop];
    pen.translate(place.gutter + 2 - left, 2 - top);
    const colours = Object.fromEntries(["ink", "quiet", "chip", "line", "accent", "break", "end", "paper"]
      .map((name) => [name, ink(scroller, `--px-${name}`)]));
    const first = line ? 0 : Math.max(lineAt(top), 0);
    const last = line ? 0 : Math.min(lineAt(top + tall), place.lines.length - 1);
    for (let row = first; row <= last; row++) drawLine(pen, row, colours, left);
    for (const [token, strong] of [[now.hovered, false], [now.position, true]]) {
      if (token != null && token < now.sequence.kinds.length) ring(pen, token, strong);
    }
    overview.hidden = !line;
    if (line) drawOverview(colours);
  }

  function drawLine(pen, row, colours, left) {
    const { kinds } = now.sequence;
    const y = topOf(row);
    let token = place.lines[row];
    const stop = place.lines[row + 1] ?? kinds.length;
    if (place.gutter && (place.cell >= 12 || kinds[token] === TEXT || row % 4 === 0)) {
      pen.fillStyle = colours.quiet;
      pen.textAlign = "right";
      pen.fillText(tokenNumber(token), -8, y + (kinds[token] === TEXT ? place.tall : place.cell) / 2 + 1);
      pen.textAlign = "left";
    }
    if (now.mode === "line") token = lastAtMost(place.x, left, token, stop);
    while (token < stop && place.x[token] < left + place.room) {
      if (kinds[token] === TEXT) chip(pen, token++, y, colours);
      else if (kinds[token] === PATCH) token = patches(pen, token, stop, y, colours);
      else mark(pen, token++, y, colours);
    }
  }

  function chip(pen, token, y, colours) {
    const { ids, labels, control } = now.sequence;
    const [left, wide] = [place.x[token] + 1, place.ends[token] - place.x[token] - 3];
    pen.fillStyle = colours.chip;
    pen.strokeStyle = control.includes(ids[token]) ? colours.accent : colours.line;
    pen.lineWidth = 1;
    pen.beginPath();
    pen.roundRect(left + 0.5, y + 0.5, wide, place.tall - 1, 3);
    pen.fill();
    pen.stroke();
    pen.fillStyle = colours.ink;
    pen.fillText(written(labels[ids[token]]), left + 5, y + place.tall / 2 + 1);
  }

  // Neighbours of one row are one piece of the picture, cut apart by lines.
  function patches(pen, token, stop, y, colours) {
    const { kinds, images } = now.sequence;
    const at = patchAt(images, token);
    const image = images[at.image];
    let many = 1;
    while (token + many < stop && kinds[token + many] === PATCH && at.column + many < image.columns) many++;
    const [left, cell] = [place.x[token], place.cell];
    const picture = now.pictures[at.image];
    if (picture) {
      const side = picture.width / image.columns;
      pen.drawImage(picture, at.column * side, at.row * side, many * side, side, left, y, many * cell, cell);
    } else {
      pen.fillStyle = colours.line;
      pen.fillRect(left, y, many * cell, cell);
    }
    if (cell >= 9) {
      pen.fillStyle = colours.paper;
      for (let i = 1; i <= many; i++) pen.fillRect(left + i * cell - 1, y, 1, cell);
    }
    return token + many;
  }

  function mark(pen, token, y, colours) {
    const end = now.sequence.kinds[token] === END;
    const { cell } = place;
    pen.fillStyle = end ? colours.end : colours.break;
    pen.fillRect(place.x[token], y, cell - (cell >= 9 ? 1 : 0), cell);
    if (cell < 14) return;
    pen.fillStyle = end ? "#ffffff" : "#1a1a1a";
    pen.textAlign = "center";
    pen.fillText(end ? "■" : "⏎", place.x[token] + (cell - 1) / 2, y + cell / 2 + 1);
    pen.textAlign = "left";
  }

  const boxOf = (token) => {
    const line = lastAtMost(place.lines, token);
    const tall = now.sequence.kinds[token] === TEXT ? place.tall : place.cell;
    return [place.x[token], topOf(line), place.ends[token] - place.x[token], tall];
  };

  function ring(pen, token, strong) {
    const [left, top, wide, tall] = boxOf(token);
    pen.lineWidth = 3;
    pen.strokeStyle = "rgba(255, 255, 255, 0.95)";
    pen.strokeRect(left - 1, top - 1, wide + 1, tall + 2);
    pen.lineWidth = strong ? 2 : 1;
    pen.strokeStyle = strong ? CHOSEN : "#222222";
    pen.strokeRect(left - 1, top - 1, wide + 1, tall + 2);
  }

  // The whole line at once, and where in it the strip stands.
  function drawOverview(colours) {
    const { kinds } = now.sequence;
    const pen = sized(overview, place.room, 18);
    const scale = place.room / place.width;
    for (let i = 0; i < kinds.length; i++) {
      pen.fillStyle = [colours.accent, colours.line, colours.break, colours.end][kinds[i]];
      pen.fillRect(place.x[i] * scale, 4, Math.max((place.ends[i] - place.x[i]) * scale, kinds[i] > PATCH ? 1.5 : 0.5), 10);
    }
    if (now.position != null && now.position < kinds.length) {
      pen.fillStyle = CHOSEN;
      pen.fillRect(place.x[now.position] * scale - 1, 0, 3, 18);
    }
    pen.strokeStyle = colours.ink;
    pen.lineWidth = 1.5;
    pen.strokeRect(scroller.scrollLeft * scale + 1, 1.5, Math.min(place.room * scale, place.room) - 2, 15);
  }

  const redraw = eachFrame(draw);

  function tokenUnder(event) {
    if (!place) return null;
    const box = canvas.getBoundingClientRect();
    const left = event.clientX - box.left - place.gutter - 2 + scroller.scrollLeft;
    const top = event.clientY - box.top - 2 + scroller.scrollTop;
    if (!place.tops) return tokenAt(place, left, now.mode === "line" ? Math.min(top, place.pitch - 1) : top);
    const line = lineAt(top);
    return tokenAt({ ...place, pitch: 1 }, left, line);
  }

  function hover(token) {
    if (token === now.hovered) return;
    now.hovered = token;
    redraw();
    onHover(token);
  }

  function reveal(token) {
    if (!place || token == null || token >= place.x.length) return;
    const [left, top, wide, tall] = boxOf(token);
    if (now.mode === "line") {
      if (left < scroller.scrollLeft || left + wide > scroller.scrollLeft + place.room) {
        scroller.scrollLeft = left - place.room / 2;
      }
    } else if (top < scroller.scrollTop || top + tall > scroller.scrollTop + scroller.clientHeight) {
      scroller.scrollTop = top - scroller.clientHeight / 2;
    }
  }

  function step(key) {
    const from = now.position;
    const last = now.sequence.kinds.length - 1;
    if (key === "Home" || from == null) return 0;
    if (key === "End") return last;
    if (key === "ArrowLeft" || key === "ArrowRight") {
      return Math.min(Math.max(from + (key === "ArrowLeft" ? -1 : 1), 0), last);
    }
    const line = lastAtMost(place.lines, from) + (key === "ArrowUp" ? -1 : 1);
    if (line < 0 || line >= place.lines.length) return from;
    return lastAtMost(place.x, place.x[from] + 1, place.lines[line], place.lines[line + 1] ?? last + 1);
  }

  canvas.addEventListener("pointermove", (event) => hover(tokenUnder(event)));
  canvas.addEventListener("pointerleave", () => hover(null));
  canvas.addEventListener("click", (event) => {
    const token = tokenUnder(event);
    if (token != null) onChoose(token);
  });
  canvas.addEventListener("keydown", (event) => {
    const keys = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"];
    if (!keys.includes(event.key) || !now.sequence) return;
    event.preventDefault();
    event.stopPropagation();
    const next = step(event.key);
    onChoose(next);
    reveal(next);
  });
  overview.addEventListener("pointerdown", (event) => { overview.setPointerCapture(event.pointerId); drag(event); });
  overview.addEventListener("pointermove", (event) => { if (event.buttons) drag(event); });
  function drag(event) {
    const box = overview.getBoundingClientRect();
    scroller.scrollLeft = (event.clientX - box.left) / box.width * place.width - place.room / 2;
  }
  scroller.addEventListener("scroll", redraw);
  let wide = 0;
  const watch = new ResizeObserver(() => {
    if (scroller.clientWidth === wide) return;
    wide = scroller.clientWidth;
    if (now.sequence) layOut();
    redraw();
  });
  watch.observe(scroller);
  const untheme = onTheme(redraw);

  return {
    root, reveal, canvas,
    show(changes) {
      Object.assign(now, changes);
      if (now.sequence && ("sequence" in changes || "mode" in changes)) layOut();
      redraw();
    },
    close() { watch.disconnect(); untheme(); },
  };
}

// Two shapes, side by side --------------------------------------------------------------------

function shapeStrip() {
  const name = tag("div", { class: "px-quiet" });
  const canvas = tag("canvas", { role: "img" });
  const root = tag("div", { class: "px-shape" }, name, canvas);
  return {
    root,
    show([rows, columns], kinds, differ) {
      const words = `${rows} × ${columns}`;
      name.textContent = words;
      canvas.setAttribute("aria-label", `The tokens of ${words} patches`);
      const room = Math.max(root.clientWidth, 120);
      const cell = Math.min(Math.max(Math.floor(Math.sqrt(room * 90 / kinds.length)), 3), 10);
      const many = Math.floor((room - 4) / cell);
      const pen = sized(canvas, room, Math.ceil(kinds.length / many) * cell + 4);
      pen.translate(2, 2);
      const colours = ["chip", "line", "break", "end"].map((kind) => ink(root, `--px-${kind}`));
      const gap = cell > 4 ? 1 : 0;
      kinds.forEach((kind, i) => {
        pen.fillStyle = colours[kind];
        pen.fillRect((i % many) * cell, Math.floor(i / many) * cell, cell - gap, cell - gap);
      });
      if (differ == null) return;
      pen.strokeStyle = DIFFERENT;
      pen.lineWidth = 2;
      pen.strokeRect((differ % many) * cell - 1, Math.floor(differ / many) * cell - 1, cell + 1, cell + 1);
    },
  };
}

// The widget ----------------------------------------------------------------------------------

export function render({ model, el }) {
  const panel = frame(el, "The prompt, token after token",
    model.page ? "" : "Try: point at a patch to find it in the picture. Without its row ends, what else could it be?");
  const { ask, close } = connect(model, panel);
  let sequence = null;
  let shapes = null;

  const set = (changes) => {
    for (const [name, value] of Object.entries(changes)) model.set(name, value);
    model.save_changes();
  };
  const choose = (position) => {
    const at = patchAt(sequence.images, position);
    if (!at) { set({ position, patch: null }); return; }
    const inside = sequence.kinds[position] === PATCH;
    set({ position, image: at.image, patch: inside ? [at.row, at.column] : null });
  };
  const tokens = strip({ onHover: pointAt, onChoose: choose });
  const patches = patchCanvas({
    label: "The picture under its patches",
    onHover(patch) {
      const image = sequence?.images[model.get("image")];
      const position = patch && image ? placeOf(image, patch) : null;
      tokens.show({ hovered: position });
      say(position);
    },
    onChoose(patch) {
      const position = placeOf(sequence.images[model.get("image")], patch);
      set({ patch, position });
      tokens.reveal(position);
    },
  });
  const arrangement = choice({
    label: "show it", value: model.get("arrangement"),
    options: [["rows", "as the model sees it"], ["line", "as one line"], ["grid", "as a grid"]],
    onChoose: (value) => { set({ arrangement: value }); },
  });
  const without = checkbox({
    label: "take the breaks away", value: !model.get("breaks"),
    onChange: (taken) => { set({ breaks: !taken }); },
  });
  const which = tag("div");
  const [one, other] = [shapeStrip(), shapeStrip()];
  const verdict = tag("p", { class: "px-verdict" });
  const pair = tag("div", { class: "px-shapes" }, one.root, other.root);
  const marks = key(["var(--px-line)", "patch"], ["var(--px-break)", "[IMG_BREAK] ends a row"],
    ["var(--px-end)", "[IMG_END] ends the picture"], [DIFFERENT, "where they differ first"]);
  const side = tag("div", { class: "px-beside" }, which, patches.root);
  panel.body.append(
    tag("div", { class: "px-wide px-row" }, arrangement.root, without.root), side,
    tag("div", { class: "px-side px-tokens" }, tokens.root), tag("div", { class: "px-wide" }, verdict, pair, marks));

  function pointAt(position) {
    const at = position == null ? null : patchAt(sequence.images, position);
    const inside = at && at.image === model.get("image") && sequence.kinds[position] === PATCH;
    patches.show({ hovered: inside ? [at.row, at.column] : null });
    say(position);
  }

  function say(position) {
    if (!sequence) return;
    const at = position ?? model.get("position");
    panel.say(at != null && at < sequence.kinds.length ? describe(sequence, at) : summary(sequence));
  }

  function compare() {
    const image = sequence?.images[model.get("image")];
    verdict.hidden = pair.hidden = marks.hidden = !image || !shapes;
    if (verdict.hidden) return;
    const found = model.get("breaks") && image.breaks ? shapes.with : shapes.without;
    const names = shapes.grids.map(([rows, columns]) => `${rows} × ${columns}`);
    verdict.textContent = `${found === shapes.with ? "With" : "Without"} the breaks, pictures of ${names.join(" and ")}`
      + ` patches: ${sameness(found)}.`;
    marks.children[1].hidden = found === shapes.without;
    marks.lastChild.hidden = found.differ == null;
    one.show(shapes.grids[0], found.kinds[0], found.differ);
    other.show(shapes.grids[1], found.kinds[1], found.differ);
  }

  const load = latest(
    async (breaks) => {
      const images = model.get("facts").images;
      const all = await ask("sequence", { breaks });
      const pictures = await Promise.all(images.map(async (_, image) => bitmap(await ask("pixels", { image }))));
      return { all, pictures };
    },
    ({ all, pictures }) => {
      panel.fail(null);
      sequence = all;
      const patch = model.get("patch");
      const image = sequence.images[model.get("image")];
      if (patch && image) set({ position: placeOf(image, patch) });
      tokens.show({ sequence, pictures, position: model.get("position"), mode: model.get("arrangement"), hovered: null });
      tokens.reveal(model.get("position"));
      picture(pictures);
      compare();
      say(null);
    },
    (error) => panel.fail(error.message),
  );
  const loadShapes = latest(
    (image) => ask("shapes", { image }), (answer) => { shapes = answer; compare(); },
    (error) => panel.fail(error.message),
  );

  function picture(pictures) {
    const number = model.get("image");
    const image = sequence.images[number];
    side.hidden = !image;
    if (image) {
      patches.show({ picture: pictures[number], rows: image.rows, columns: image.columns, merge: image.merge, chosen: model.get("patch") });
    }
  }

  function update() {
    const { tokens: many, images } = model.get("facts");
    panel.body.hidden = many == null;
    panel.root.toggleAttribute("data-ready", many != null);
    if (many == null) return;
    which.replaceChildren(...(images.length > 1 ? [choice({
      label: "picture", value: model.get("image"), options: images.map((_, i) => [i, String(i + 1)]),
      onChoose: (image) => set({ image, patch: null, position: null }),
    }).root] : []));
    load(model.get("breaks"));
    if (images.length) loadShapes(model.get("image")); else { shapes = null; compare(); }
  }

  const wide = new ResizeObserver(eachFrame(compare));
  wide.observe(pair);
  const stops = [
    follow(model, panel, "Ask a question, and the prompt appears here as the model receives it."),
    on(model, "change:facts", update), on(model, "change:image", update),
    on(model, "change:breaks", () => { without.set(!model.get("breaks")); load(model.get("breaks")); compare(); }),
    on(model, "change:arrangement", () => {
      arrangement.set(model.get("arrangement"));
      tokens.show({ mode: model.get("arrangement") });
      tokens.reveal(model.get("position"));
    }),
    on(model, "change:patch", () => patches.show({ chosen: model.get("patch") })),
    on(model, "change:position", () => { tokens.show({ position: model.get("position") }); say(null); }),
    answersPictures(model, panel.root), onTheme(eachFrame(compare)),
  ];
  update();
  return () => { stops.forEach((stop) => stop()); close(); tokens.close(); patches.close(); wide.disconnect(); };
}

export default { render };
