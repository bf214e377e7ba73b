// The conversation: questions with their pictures, answers word by word.

import { tag } from "./elements.js";
import { UNCERTAIN, count, digits } from "./numbers.js";
import { wordsOf } from "./grouping.js";
import { stepTo } from "./light.js";
import { thumb } from "./composer.js";
import { blocksOf, runsOf } from "./words.js";

const ENDS = {
  length: "It ended here because there was no room for more.",
  stopped: "Stopped.",
  broken: "It broke off here.",
};

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {   // on a page that came without TLS from another machine
    const all = tag("textarea", { class: "px-hidden" });
    all.value = text;
    document.body.append(all);
    all.select();
    document.execCommand("copy");
    all.remove();
    button.focus();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

// An element that has become another one: what is the same at its start stays where it is, so that a
// click finds its word and what was selected stays so while the answer grows.
function grown(old, fresh) {
  if (old.tagName !== fresh.tagName || old.className !== fresh.className) { old.replaceWith(fresh); return fresh; }
  const [before, after] = [[...old.childNodes], [...fresh.childNodes]];
  let same = 0;
  while (same < before.length && same < after.length && before[same].isEqualNode(after[same])) same++;
  before.slice(same).forEach((node) => node.remove());
  old.append(...after.slice(same));
  old.style.marginLeft = fresh.style.marginLeft;
  return old;
}

// An answer as its words; onChoose(number of a word). show(answer, { writing, chosen, waiting: what to
// say while there is nothing yet }).
export function answerView({ onChoose }) {
  const prose = tag("div", { class: "px-prose", tabindex: 0, role: "group" });
  const facts = tag("span", { class: "px-quiet px-small" });
  const button = tag("button", { type: "button", class: "px-link", onclick: () => copy(shown, button) }, "Copy");
  const foot = tag("div", { class: "px-row px-under", hidden: true }, button, facts);
  const root = tag("article", { class: "px-answer", "aria-label": "Answer" }, prose, foot);
  let words = [];
  let at = -1;         // the chosen word
  let drawn = [];      // [key, element] of each block
  let shown = "";      // the text
  let state = "";      // all that is seen, so that an answer that stays costs nothing

  const choose = (i) => { if (words.length) onChoose(i); };
  prose.addEventListener("click", (event) => {
    const word = event.target.closest?.("[data-word]");
    if (word && getSelection().isCollapsed) choose(Number(word.dataset.word));
  });
  prose.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
    if (!step || !words.length || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    choose(stepTo(at, step, words.length));
  });

  // A stretch of the text: words that can be chosen, and what stands between them.
  function filled(parent, text, start, end, looks) {
    let next = words.findIndex((word) => word.end > start);
    for (const run of runsOf(text, start, end)) {
      const inside = run.kind ? parent.appendChild(tag(run.kind)) : parent;
      let place = run.start;
      while (place < run.end) {
        while (looks && words[next] && words[next].end <= place) next++;
        const word = looks ? words[next] : null;
        const stop = Math.min(run.end, !word ? run.end : place < word.start ? word.start : word.end);
        const part = text.slice(place, stop);
        if (word && place >= word.start) {
          inside.append(tag("span", { class: word.p < UNCERTAIN ? "px-w px-uncertain" : "px-w", "data-word": next }, part));
        } else inside.append(part);
        place = stop;
      }
    }
    return parent;
  }

  function element(block, text, looks) {
    const { kind, start, end } = block;
    if (kind === "rule") return tag("hr");
    if (kind === "table") {
      const cells = (row, name) => tag("tr", {}, ...row.map(([from, to]) => filled(tag(name), text, from, to, looks)));
      const [head, ...rows] = block.rows;
      return tag("div", { class: "px-table" }, tag("table", {}, head ? cells(head, "th") : null, ...rows.map((row) => cells(row, "td"))));
    }
    const root = tag(kind === "code" ? "pre" : kind === "heading" ? `h${Math.min(block.level + 2, 6)}` : "p", { class: `px-${kind}` });
    if (kind === "item") {
      root.style.marginLeft = `${Math.min(block.depth, 12) * 0.5 + 1.4}em`;
      root.append(tag("span", { class: "px-mark" }, block.mark));
    }
    return filled(root, text, start, end, looks);
  }

  function show(answer, { writing = false, chosen = -1, waiting = "" }) {
    const now = JSON.stringify([answer.text.length, answer.tokens.length, answer.end, Boolean(answer.usage), writing, chosen, waiting]);
    if (state === now) return;
    state = now;
    shown = answer.text;
    const looks = answer.tokens.some(({ map }) => map);
    words = looks ? wordsOf(answer.tokens) : [];
    for (const old of prose.querySelectorAll(".px-chosen")) old.classList.remove("px-chosen");
    const blocks = blocksOf(answer.text);
    blocks.forEach((block, i) => {
      const key = JSON.stringify([block, looks]);
      if (drawn[i]?.[0] === key) return;
      const fresh = element(block, answer.text, looks);
      drawn[i] = [key, drawn[i] ? grown(drawn[i][1], fresh) : prose.appendChild(fresh)];
    });
    while (drawn.length > blocks.length) drawn.pop()[1].remove();
    at = chosen;
    for (const span of prose.querySelectorAll(`[data-word="${chosen}"]`)) span.classList.add("px-chosen");
    prose.setAttribute("aria-label", looks ? "The answer; arrow keys step through its words" : "The answer");
    root.classList.toggle("px-writing", writing);
    root.classList.toggle("px-lookable", looks);
    root.dataset.waiting = waiting;
    foot.hidden = writing;
    facts.textContent = [ENDS[answer.end], summary(answer)].filter(Boolean).join(" ");
  }
  return {
    root, show, focus: () => prose.focus({ preventScroll: true }),
    get words() { return words; },
    reveal(i) { prose.querySelector(`[data-word="${i}"]`)?.scrollIntoView({ block: "nearest" }); },
  };
}

// What it took, in words.
export function summary({ usage, first, seconds, tokens }) {
  if (!usage || !(seconds > 0)) return "";
  const known = usage.prompt_tokens_details?.cached_tokens ?? 0;
  const read = `${count(usage.prompt_tokens)} tokens read${known ? ` (${count(known)} known from before)` : ""}`;
  const pace = tokens.length > 1 ? ` · ${digits(usage.completion_tokens / seconds)} tokens/s` : "";
  return `${read} · first word after ${digits(first)} s${pace}`;
}

// A question and its answer.
export function turnView(turn, { blobs, onEdit, onChoose }) {
  const files = turn.files.map((file) => thumb(file, blobs));
  const edit = tag("button", { type: "button", class: "px-link", "aria-label": `Edit “${turn.text}” and ask again`, onclick: onEdit }, "Edit");
  const asked = tag("div", { class: "px-asked" },
    files.length ? tag("div", { class: "px-files" }, ...files) : null, tag("div", { class: "px-text" }, turn.text));
  const answer = answerView({ onChoose });
  return { root: tag("div", { class: "px-turn" }, tag("div", { class: "px-question-row" }, edit, asked), answer.root), answer, edit };
}
