// Stands where Jupyter stands: a model without a kernel, from the state in the page.

function decoded(value) {
  if (Array.isArray(value)) return value.map(decoded);
  if (!value || typeof value !== "object") return value;
  if (typeof value.base64 === "string") {
    return Uint8Array.from(atob(value.base64), (c) => c.charCodeAt(0));
  }
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, decoded(item)]));
}

function standIn(state) {
  const handlers = new Map();
  return {
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
}

const saved = decoded(JSON.parse(document.getElementById("state").textContent));
const models = {};
const host = {
  async getModel(reference) { return models[reference] ??= standIn(saved.inner[reference].state); },
  async getWidget(reference) {
    const { name } = saved.inner[reference];
    const model = await host.getModel(reference);
    return { render: ({ el }) => widgets[name].render({ model, el, host }) };
  },
};

// Not awaited at the top: WebKit tells nobody of an error behind a top-level await.
async function show(place) {
  await widgets[saved.name].render({ model: standIn(saved.state), el: place, host });
  if (location.hash !== "#picture") return;
  // For Python's to_png, which serves the page and waits for what it draws.
  await new Promise((resolve) => setTimeout(resolve, 600));
  const root = place.querySelector(".px-widget");
  await fetch(location.pathname, { method: "POST", body: await root.picture() });
}
show(document.getElementById("widget"));
