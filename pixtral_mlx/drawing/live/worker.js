// The model on a thread of its own: a page sends { id, what, ... } and gets { id, ... } back, always.

import { newRun, prompted, roundedModel, UNCHANGED } from "./runs.js";
import { speaker, tokenizer } from "./tokenizer.js";
import { ofBase64, opened } from "./weights.js";

const MOST = 64;          // tokens of an answer
const CANDIDATES = 5;     // shown beside the token that was written

let model, words, tokens;
const versions = new Map();   // of the model, by their bits
const runs = new Map();      // by their names: "now", "before"
let latest = 0;              // the question that is being answered

const answers = {
  open({ data, weights }) {
    words = data.words;
    tokens = tokenizer(words);
    model = { config: data.config, weights: opened(data.weights, ofBase64(weights)) };
    return {};
  },

  // Answers a question, a piece for each token, and keeps the run under its name. pictures:
  // [{ rows, columns, pixels }]; score: tokens of an answer, whose log-probability is measured after it.
  async ask({ id, name, text, pictures, changes = UNCHANGED, score = null }) {
    latest = id;
    const begun = performance.now(), used = withBits(changes.bits);
    const image = words.template.image, end = words.end;
    const prompt = prompted(tokens, image, text, pictures, changes);
    const run = newRun(used, prompt, { end, changes, most: MOST });
    runs.set(name, run);
    const { add } = speaker(tokens), logprobs = [], ids = [];
    let first = null;
    postMessage({ id, prompt: { tokens: prompt.tokens, names: prompt.tokens.map(label) } });
    for (const { token, logprob, logprobs: all } of run.go()) {
      first ??= performance.now() - begun;
      ids.push(token);
      logprobs.push(logprob);
      const maps = pictures.map((_, i) => Float32Array.from(run.imageRow(ids.length - 1, null, null, i)));
      const last = token === end;
      postMessage({ id, piece: { token, logprob, last, text: last ? "" : add(token), maps, others: candidates(all) } });
      await breath();
      if (latest !== id) return { stopped: true };
    }
    const scored = score && scoreOf(used, prompt, score, changes);
    return { tokens: ids, logprobs, scored, ms: { first, all: performance.now() - begun }, names: run.names() };
  },

  // Attention: of a patch of a picture, or of the token at a position of the line; head null is their mean.
  patch: ({ name, layer, head, picture, patch }) => runs.get(name).visionRow(layer, head, picture, patch),
  token: ({ name, layer, head, position }) => ({ row: runs.get(name).textRow(layer, head, position) }),
  word: ({ name, token, layer, head, picture }) => ({ row: runs.get(name).imageRow(token, layer, head, picture) }),
  alike: ({ name, site, row }) => ({ row: runs.get(name).alike(site, row) }),
  tensor: ({ name, site }) => ({ tensor: runs.get(name)?.tensor(site) ?? null }),
};

function withBits(bits) {
  if (!bits) return model;
  if (!versions.has(bits)) versions.set(bits, roundedModel(model, bits));
  return versions.get(bits);
}

// The log-probabilities of an answer's tokens, if it is read instead of written.
const scoreOf = (used, prompt, forced, changes) =>
  [...newRun(used, prompt, { changes, forced }).go()].map(({ logprob }) => logprob);

function candidates(logprobs) {
  const order = [...logprobs.keys()].sort((a, b) => logprobs[b] - logprobs[a]).slice(0, CANDIDATES);
  return order.map((token) => ({ text: label(token), p: Math.exp(logprobs[token]) }));
}

// How one id is written: special ones by their names, others by what they say.
function label(token) {
  return words.names[token] ?? new TextDecoder().decode(tokens.bytes(token));
}

// Lets messages in that came meanwhile.
const pause = new MessageChannel();
const waiting = [];
pause.port1.onmessage = () => waiting.shift()();
const breath = () => new Promise((resolve) => { waiting.push(resolve); pause.port2.postMessage(null); });

onmessage = async ({ data: { id, what, ...rest } }) => {
  try {
    postMessage({ id, done: await answers[what]({ id, ...rest }) });
  } catch (error) {
    postMessage({ id, problem: error.message });
  }
};
