// Stands where Jupyter stands: a model without a kernel, from the state in the page.

function decoded(value) {
  if (Array.isArray(value)) return value.map(decoded);
  if (!value || typeof value !== "object") return value;
  if (typeof value.base64 === "string") {
    return Uint8Array.from(atob(value.base64), (c) => c.charCodeAt(0));
  }
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, decoded(item)]));
}

const state = decoded(JSON.parse(document.getElementById("state").textContent));
const handlers = new Map();
const model = {
  page: true,
  get: (name) => state[name],
  set(name, value) {
    if (JSON.stringify(state[name]) === JSON.stringify(value)) return;
    state[name] = value;
    for (const handler of handlers.get(`change:${name}`) ?? []) handler();
  },
  save_changes() {},
  send() {},
  on(event, handler) { handlers.set(event, [...(handlers.get(event) ?? []), handler]); },
  off(event, handler) {
    handlers.set(event, (handlers.get(event) ?? []).filter((other) => other !== handler));
  },
};

const place = document.getElementById("widget");
await widget.render({ model, el: place });
if (location.hash === "#picture") {
  // For Python's to_png: the picture goes into the page, where it is read.
  await new Promise((resolve) => setTimeout(resolve, 600));
  const root = place.querySelector(".px-widget");
  document.body.setAttribute("data-picture", await root.picture());
}
