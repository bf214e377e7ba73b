// Elements and controls of a page, redraws, light and dark. Nothing here knows of models.

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

// At most one call a frame, with the last arguments.
export function eachFrame(draw) {
  let planned = null;
  return (...args) => {
    if (planned == null) requestAnimationFrame(() => { const last = planned; planned = null; draw(...last); });
    planned = args;
  };
}

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
