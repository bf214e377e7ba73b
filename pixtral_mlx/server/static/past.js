// The conversations that this browser keeps: saved as they go on, and listed to be opened again.

import { tag } from "./elements.js";
import { keeper } from "./kept.js";

const HERE = "pixtral-mlx conversation";   // of this tab; "" after a new one was begun

// blobs: as for `keeper`. current(): the conversation that is open. onOpen(talk), onDelete() of the
// open one. tell(text): what is not kept, or "".
export function shelf({ blobs, current, onOpen, onDelete, tell }) {
  const list = tag("ul");
  const root = tag("details", { class: "px-menu", hidden: true }, tag("summary", { "aria-label": "Conversations" },
    tag("span", { class: "px-long" }, "Conversations"), tag("span", { class: "px-short" }, "Earlier")), list);
  let kept = null;               // null: nothing can be kept
  let saving = Promise.resolve();
  let locked = false;

  const failed = (error) => tell(`This browser does not keep this conversation (${error?.message || error?.name || error}): `
    + "it is lost when the page is closed. Delete earlier ones to make room, or copy what you need.");

  // Saves what is open. instead: what of it to save in place of what it is.
  function keep(instead = {}) {
    if (!kept) return saving;
    const talk = current();
    saving = saving.then(() => kept.save({ ...talk, ...instead })).then((saved) => {
      Object.assign(talk, saved);
      if (talk === current()) sessionStorage.setItem(HERE, talk.id);
      tell("");
      return show();
    }).catch(failed);
    return saving;
  }

  async function show() {
    const all = kept ? await kept.list() : [];
    root.hidden = !all.length;
    list.replaceChildren(...all.map(({ id, title, when }) => tag("li", {},
      tag("button", { type: "button", class: "px-link", "aria-current": id === current().id ? "true" : null, onclick: () => turnTo(id) },
        tag("span", { class: "px-name" }, title || "…"), tag("span", { class: "px-quiet" }, new Date(when).toLocaleDateString())),
      tag("button", { type: "button", class: "px-link", "aria-label": `Delete “${title}”`, onclick: () => remove(id, title) }, "×"))));
    lock(locked);
  }

  async function open(id) {
    const talk = await kept.load(id);
    if (!talk) return;
    sessionStorage.setItem(HERE, id);
    onOpen(talk);
  }

  async function turnTo(id) {
    root.open = false;
    await saving;
    if (id !== current().id) await open(id).catch(failed);
    await show();
  }

  async function remove(id, title) {
    if (!window.confirm(`Delete “${title}” from this browser?`)) return;
    await saving;
    await kept.remove(id).catch(failed);
    if (id === current().id) onDelete();
    await show();
  }

  function lock(now) {
    locked = now;
    for (const button of list.querySelectorAll("button")) button.disabled = now;
  }

  document.addEventListener("pointerdown", (event) => { if (!root.contains(event.target)) root.open = false; });
  root.addEventListener("keydown", (event) => { if (event.key === "Escape") { root.open = false; root.firstChild.focus(); } });

  return {
    root, keep, lock,
    // A new conversation has begun here.
    leave() { sessionStorage.setItem(HERE, ""); if (kept) show(); },
    // Opens what this tab had open, or the latest, unless something was begun meanwhile: begun().
    async start(begun) {
      try {
        kept = await keeper(blobs);
        const id = sessionStorage.getItem(HERE) ?? (await kept.list())[0]?.id;
        if (id && !begun()) await open(id);
        await show();
      } catch (error) { failed(error); }
    },
  };
}
