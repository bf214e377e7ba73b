// Where a question is written: its words, its pictures and PDFs.

import { tag } from "./elements.js";
import { bytes } from "./numbers.js";
import { sortFiles } from "./files.js";
import { newId } from "./kept.js";

const TALLEST = 200;   // CSS pixels of what is being written

// A file in small: the picture itself, or what it is called.
export function thumb({ id, name, pages }, blobs) {
  const root = tag("span", { class: "px-file" });
  const words = tag("span", { class: "px-name" }, pages ? `${name}, pages ${pages}` : name);
  const blob = blobs.get(id);
  const drawn = blob?.type.startsWith("image/") ? tag("img", { class: "px-thumb", alt: name, title: name }) : null;
  if (!drawn) { root.append(words); return root; }
  drawn.addEventListener("error", () => drawn.replaceWith(words), { once: true });   // HEIC or TIFF
  drawn.addEventListener("load", () => URL.revokeObjectURL(drawn.src), { once: true });
  drawn.src = URL.createObjectURL(blob);
  root.append(drawn);
  return root;
}

// blobs: a Map that takes the files by their ids. onAsk({ text, files }), onStop(), onCancel() of an
// edit, refuse(text): what could not be taken. onChange(whether there are more files).
export function composer({ blobs, onAsk, onStop, onCancel, refuse, onChange }) {
  let files = [];
  let busy = false;
  const picker = (label, short, options) => {
    const input = tag("input", { type: "file", hidden: true, "aria-label": label, ...options });
    input.addEventListener("change", () => { add([...input.files]); input.value = ""; });
    const button = tag("button", { type: "button", "aria-label": label, onclick: () => input.click() },
      tag("span", { class: "px-long" }, label), tag("span", { class: "px-short" }, short));
    return [button, input];
  };
  const [choose, files_] = picker("Add pictures or PDFs", "Add", { accept: "image/*,application/pdf", multiple: true });
  const [camera, shot] = picker("Take a photo", "Photo", { accept: "image/*", capture: "environment" });
  const touched = window.matchMedia("(pointer: coarse)").matches;
  camera.hidden = !touched;
  const list = tag("div", { class: "px-files", hidden: true });
  const editing = tag("p", { class: "px-editing px-quiet", hidden: true }, "Ask again: what came after this question goes away. ",
    tag("button", { type: "button", class: "px-link", onclick: () => onCancel() }, "Leave it as it was"));
  const words = tag("textarea", { rows: 1, "aria-label": "Your question", placeholder: "Ask about a picture", enterkeyhint: "send" });
  const send = tag("button", { type: "submit", class: "px-send" }, "Ask");
  const stop = tag("button", { type: "button", class: "px-send", hidden: true, onclick: () => onStop() }, "Stop");
  const root = tag("form", { class: "px-composer", "aria-label": "Ask" },
    editing, list, words, tag("div", { class: "px-row" }, choose, files_, camera, shot, tag("span", { class: "px-gap" }), send, stop));

  function add(chosen) {
    const { pictures, documents, refused } = sortFiles(chosen);
    refuse(refused.length ? `${refused.join("; ")}: choose a PNG, JPEG, WebP, GIF, BMP, TIFF, HEIC or PDF.` : "");
    for (const file of [...pictures, ...documents]) {
      const id = newId();
      blobs.set(id, file);
      files.push({ id, name: file.name, type: file.type, size: file.size, pages: "" });
    }
    show();
    onChange(chosen.length > refused.length);
    if (!touched) words.focus();
  }

  function pagesOf(file) {
    const input = tag("input", { class: "px-pages", "aria-label": `Pages of ${file.name}`, placeholder: "all pages", value: file.pages, inputmode: "numeric", title: "for example 3, or 2-5,9" });
    input.addEventListener("input", () => { file.pages = input.value.replace(/[^\d,-]/g, ""); });
    return input;
  }

  function show() {
    list.hidden = !files.length;
    list.replaceChildren(...files.map((file) => {
      const remove = tag("button", { type: "button", class: "px-remove", "aria-label": `Remove ${file.name}`, onclick() {
        files = files.filter((other) => other !== file);
        show();
        onChange(false);
        words.focus();
      } }, "×");
      const chip = thumb({ ...file, pages: "" }, blobs);
      if (file.type === "application/pdf") chip.append(tag("span", { class: "px-quiet" }, bytes(file.size)), pagesOf(file));
      chip.append(remove);
      return chip;
    }));
    grow();
  }

  function grow() {
    words.style.height = "auto";
    words.style.height = `${Math.min(words.scrollHeight, TALLEST)}px`;
  }

  function ask() {
    const text = words.value.trim();
    if (busy) return;
    if (!text) { refuse("The question is empty: write one."); words.focus(); return; }
    const asked = { text, files };
    files = [];
    words.value = "";
    show();
    onAsk(asked);
  }

  root.addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  words.addEventListener("input", grow);
  words.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    ask();
  });

  return {
    root, add,
    focus() { if (!touched) words.focus(); },   // else a keyboard would cover half of the screen
    get files() { return files; },
    // What is here, unless it is nothing.
    draft: () => files.length || words.value.trim() ? { text: words.value, files } : null,
    // A question stands here again; what is here is not lost.
    put(asked) {
      words.value = [asked.text, words.value].filter(Boolean).join("\n");
      files = [...asked.files, ...files];
      show();
    },
    take() {
      const taken = { text: words.value, files };
      [words.value, files] = ["", []];
      show();
      return taken;
    },
    set({ busy: now, editing: again, placeholder }) {
      busy = now;
      [send.hidden, stop.hidden, editing.hidden] = [now, !now, !again];
      if (placeholder) words.placeholder = placeholder;
    },
  };
}
