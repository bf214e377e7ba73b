// VisionAttention: where a patch looks, per layer and head.

import { headStrip } from "./head_strip.js";
import { legend } from "./colours.js";
import { choice, slider, tag } from "./elements.js";
import { capital, patchBoth, patchName, patchesFar, share } from "./numbers.js";
import { bitmap, patchCanvas } from "./patches.js";
import { answersPictures, connect, follow, frame, latest, on } from "./shared.js";

// One map of an answer, and what is known of it.
export function pick(answer, index) {
  const [, rows, columns] = answer.maps.shape;
  const size = rows * columns;
  const one = (name) => answer[name][index];
  return {
    rows, columns, values: answer.maps.subarray(index * size, (index + 1) * size), even: answer.even,
    top: one("top"), sum: one("sum"), near: one("near"), row: one("row"), column: one("column"),
    peak: one("peak"), distance: one("distance"),
  };
}

// What a map shows, in words. Half of the attention is what "mostly" takes.
export function describe(who, [row, column], map) {
  const looks = map.near >= 0.5 ? `looks mostly near itself: ${share(map.near)} within two patches`
    : map.row[1] >= 0.5 && map.row[1] >= map.column[1]
      ? `looks mostly at patch row ${map.row[0] + 1} (${share(map.row[1])}): ${share(map.near)} within two patches`
      : map.column[1] >= 0.5
        ? `looks mostly at patch column ${map.column[0] + 1} (${share(map.column[1])}): `
          + `${share(map.near)} within two patches`
        : `looks most at ${patchName(map.peak)} (${share(map.top)}): `
          + `${share(map.near)} within two patches of itself`;
  const far = `${patchesFar(map.distance)} patches away on average (evenly spread: ${patchesFar(map.even)})`;
  const rest = map.sum < 0.995 ? ` ${share(1 - map.sum)} goes to other pictures.` : "";
  return `${who}: ${patchName([row, column])} ${looks}, ${far}.${rest}`;
}

// Which head, in words.
export function whose(mode, layer, head) {
  if (mode === "rollout") return "Rollout through all layers";
  const one = mode === "head" && head != null;
  return `Layer ${layer}, ${one ? `head ${head}` : "mean of all heads"}`;
}

// Whether the rollout that is there is that of a patch.
export const isRolled = (rolled, image, patch) => String(rolled) === String([image, ...patch ?? []]);

// The patch that looks: the chosen one, else that on which the answer rests most, or the middle of
// another picture; null before there is an answer.
export function patchShown(patch, opening, image, grid) {
  if (patch || opening?.token == null || !grid) return patch ?? null;
  return opening.image === image ? opening.patch : [Math.floor(grid.rows / 2), Math.floor(grid.columns / 2)];
}

export function render({ model, el }) {
  const panel = frame(el, "Where a patch looks",
    model.page ? "" : "Try: click a patch, then slide through the layers: which heads look far, which stay near?");
  const { ask, act, has, close } = connect(model, panel);
  const set = (changes) => {
    for (const [name, value] of Object.entries(changes)) model.set(name, value);
    model.save_changes();
  };
  const chooseHead = (head) => set({ head, mode: "head" });
  const patches = patchCanvas({
    label: "The picture; choose the patch that looks", onHover: hover,
    onChoose: (patch) => set({ patch }),
  });
  const bar = legend("of this patch's attention", (plain) => set({ plain }));
  const layers = slider({ label: "layer", max: 0, value: 0, onInput: (layer) => set({ layer }) });
  const modes = choice({
    label: "show", value: model.get("mode"),
    options: [["mean", "mean of heads"], ["head", "one head"], ["rollout", "rollout"]],
    onChoose(mode) {
      if (mode === "rollout") set({ patch: shownPatch() });
      set(mode === "head" ? { head: model.get("head") ?? 0, mode } : mode === "mean" ? { head: null, mode } : { mode });
      const there = isRolled(model.get("rolled"), model.get("image"), model.get("patch"));
      if (mode === "rollout" && !there) act("alive").catch((error) => panel.fail(error.message));
    },
  });
  const heads = headStrip({ onChoose: chooseHead });
  const key = tag("p", { class: "px-quiet px-small", hidden: true });
  const which = tag("div");
  panel.body.append(tag("div", { class: "px-picture" }, patches.root, bar.root),
    tag("div", { class: "px-side" }, which, modes.root, layers.root, heads.root, key));

  let shown = null;    // the map on the picture
  let all = null;      // the answer that the thumbnails show

  const images = () => model.get("facts").images ?? [];
  const shownPatch = () => patchShown(model.get("patch"), model.get("opening"), model.get("image"), images()[model.get("image")]);
  const paint = latest(async (image) => bitmap(await ask("pixels", { image })),
    (picture) => patches.show({ picture }), (error) => panel.fail(error.message));
  const look = latest(
    async (image, patch, layer, mode, head, rolled) => {
      const answer = await ask("heads", { layer, patch, image });
      if (mode !== "rollout") return { answer, map: pick(answer, head ?? answer.maps.shape[0] - 1) };
      const there = isRolled(rolled, image, patch);
      return { answer, map: there ? pick(await ask("rollout", { patch, image }), 0) : null };
    },
    ({ answer, map }) => { if (map) panel.fail(model.get("problem")); show(answer, map); },
    (error) => { forget(); panel.fail(error.message); },
  );

  function show(answer, map) {
    const [count, rows, columns] = answer.maps.shape;
    [all, shown] = [answer, map];
    patches.show({ values: map?.values ?? null, plain: model.get("plain") });
    bar.set(map?.top ?? null, model.get("plain"));
    const mode = model.get("mode");
    heads.show({ maps: answer.maps, distance: answer.distance, even: answer.even, heads: count - 1,
      rows, columns, patch: shownPatch(), chosen: mode === "head" ? model.get("head") : null });
    key.hidden = false;
    key.textContent = `The heads of layer ${model.get("layer")}, each scaled to its own maximum. Below `
      + "each: its number, and how far from this patch it looks on average, in patches. A full bar "
      + `means as far as looking at everything evenly (${patchesFar(answer.even)}).`;
    say();
  }

  function forget() {
    shown = all = null;
    patches.show({ values: null });
    bar.set(null);
    heads.show({ maps: null });
    key.hidden = true;
  }

  function say() {
    const [patch, mode] = [shownPatch(), model.get("mode")];
    if (!images().length) return;
    if (!patch) panel.say("Choose a patch, with a click or the arrow keys, to see where it looks.");
    else if (shown) panel.say(describe(whose(mode, model.get("layer"), model.get("head")), patch, shown));
    else if (mode === "rollout" && all) {
      panel.say(model.get("work").stage ? "Attention is being followed back through all layers."
        : model.page ? "The rollout of this patch is not in this page."
          : "The rollout was stopped: choose a patch, or press “rollout” again.");
    }
  }

  function hover(patch) {
    if (!patch || !shown) { say(); return; }
    const value = shown.values[patch[0] * shown.columns + patch[1]] / 255 * shown.top;
    panel.say(`${capital(patchBoth(patch))} gets ${share(value)} of the attention of `
      + `${patchName(shownPatch())}.`);
  }

  function update() {
    const all = images();
    const [image, patch] = [model.get("image"), shownPatch()];
    panel.body.hidden = all.length === 0;
    if (!all.length) return;
    const { rows, columns } = all[image];
    layers.set(model.get("layer"), { max: model.get("facts").vision.layers - 1 });
    modes.set(model.get("mode"));
    if (model.page) {
      const all = [...Array(model.get("facts").vision.layers).keys()];
      layers.root.hidden = !all.every((layer) => has("heads", { layer, patch, image }));
      modes.root.lastElementChild.hidden = !has("rollout", { patch, image });
    }
    which.replaceChildren(...(all.length > 1 ? [choice({
      label: "picture", value: image, options: all.map((_, i) => [i, String(i + 1)]),
      onChoose: (next) => set({ image: next, patch: null }),
    }).root] : []));
    patches.show({ rows, columns, chosen: patch });
    if (!patch || patch[0] >= rows || patch[1] >= columns) { forget(); say(); return; }
    look(image, patch, model.get("layer"), model.get("mode"), model.get("head"), model.get("rolled"));
  }

  const work = () => {
    const own = model.get("work");
    panel.busy(own.stage ? own : model.get("progress"),
      own.stage ? () => act("stop").catch(() => {}) : undefined);
    if (!shown) say();
  };
  const everything = () => { paint(model.get("image")); update(); };
  const stops = [
    follow(model, panel, "Ask a question with a picture, and see here where its patches look."),
    on(model, "change:facts", everything), on(model, "change:image", everything),
    on(model, "change:state", update),
    ...["patch", "layer", "head", "mode", "rolled", "plain", "opening"].map((name) => on(model, `change:${name}`, update)),
    on(model, "change:work", work), on(model, "change:progress", work),
    answersPictures(model, panel.root),
  ];
  if (images().length) everything(); else update();
  work();
  return () => { stops.forEach((stop) => stop()); close(); patches.close(); heads.close(); };
}

export default { render };
