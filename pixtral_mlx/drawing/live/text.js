// Every word that the page says, in one table: to translate the page is to write another one.

import { LABELS } from "./labels.js";

export const TEXT = {
  // Those that stand in the page before its script runs: `pixtral-mlx live` writes them there.
  title: "Pixtral, live",
  opening: "Opening the model…",
  noScript: "The model on this page is JavaScript: allow it to run.",
  // Those that the widgets say too; in another language: Object.assign(LABELS, { ... }).
  shared: LABELS,
  model: (name, weights) => `${name} · ${weights} weights`,
  lede: "A vision-language model that runs in this page: no server, no network. It knows nothing but such scenes.",
  failed: (why) => `The page cannot run here: ${why}`,
  unanswered: (why) => `This could not be answered: ${why}`,
  tour: "Guided tour",
  free: "Explore freely",
  back: "Back",
  next: "Next",
  finish: "Explore freely",
  step: (n, all) => `Stop ${n} of ${all}`,
  does: "Do",
  sees: "See",
  done: "Done",

  // The eight stops of the tour: one sentence, one thing to do, one thing to see. Then two more places.
  stops: {
    picture: {
      name: "Picture",
      says: "Pixtral takes a picture of any size and shape; here you draw it yourself.",
      todo: "Choose a thing under “Put” and click a cell of the picture.",
      look: "The answer follows what you drew: nothing was looked up.",
    },
    patches: {
      name: "Patches",
      says: "The picture is cut into squares of 16 × 16 pixels, and one matrix makes a vector of each.",
      todo: "Click a patch of the picture.",
      look: "The patch, enlarged, and the vector that stands for it from now on.",
    },
    rope: {
      name: "RoPE-2D",
      says: "So that a patch knows where it is, half of its pairs of numbers turn with its row, half with its column.",
      todo: "Click a patch, then one further right in the same row.",
      look: "Only the hands of the columns moved; the light shows how well the places alone match.",
    },
    attention: {
      name: "Attention",
      says: "In every layer each patch looks at all patches of its picture and takes what it needs.",
      todo: "Click a patch, then other heads.",
      look: "Some heads look near, some far, some along a row: every row of light is exact and sums to 1.",
    },
    projector: {
      name: "Projector",
      says: "Two matrices translate what the encoder found into the language of the decoder.",
      todo: "Click a patch of a thing that is there twice, or of a colour that is.",
      look: "The light shows which patches are alike, before the translation and after it.",
    },
    breaks: {
      name: "Break tokens",
      says: "To the decoder the picture is one line of tokens, and [IMG_BREAK] after each row is what tells its shape.",
      todo: "Ask about the shape; take the breaks away, then swap rows and columns.",
      look: "The patches are the same, but how many rows there are is lost, or turned round.",
    },
    decoder: {
      name: "Decoder",
      says: "The decoder reads the line from left to right: each token looks at itself and at those before it.",
      todo: "Click a word of the answer, then another layer.",
      look: "How much of the picture and of the question the word was chosen by.",
    },
    answer: {
      name: "Answer",
      says: "A word is not looked up: the likeliest token is written, read again, and then the next one.",
      todo: "Click the words of the answer, one after the other.",
      look: "What else it might have said there, and how likely that was.",
    },
    broken: {
      name: "Break it",
      says: "Take a part away and see what it was for: the question is asked again, whole and broken.",
    },
    code: {
      name: "The code",
      says: "The network as it runs in this page: click a marked line to see its tensor for this picture.",
    },
  },

  // Picture and question
  pictureLabel: "The picture under its patches",
  pictureName: (n) => `Picture ${n}`,
  wholePicture: "Show the whole picture",
  hint: "Click a word of the answer to see where it looked, or a patch of the picture.",
  ask: "Ask",
  askLabel: "Your question",
  talk: "Question and answer",
  another: "Another question",
  newScene: "New scene",
  rows: "Rows",
  columns: "Columns",
  secondPicture: "A second picture",
  put: "Put",
  putShape: "A shape",
  putColour: "Colour of the shape",
  putCharacter: "A digit or a letter",
  nothing: "nothing",
  clearAll: "Clear the picture",
  cell: (row, column, thing) => `Row ${row}, column ${column}: ${thing}.`,
  thinking: "reading…",
  emptyAnswer: "(it says nothing)",
  right: "That is right.",
  wrong: (answer) => `By the rules of its world: ${answer}`,
  speed: (prompt, first, all) => `${prompt} tokens read; first word after ${first} ms, all after ${all} ms.`,
  uncertain: (p) => ` It was uncertain of this word: ${p}.`,
  wordSight: (text, row, column, share, pictures, n) =>
    `“${text}” looks most at patch row ${row}, column ${column}${pictures > 1 ? ` of picture ${n}` : ""}; `
    + `${share} of its attention is on ${pictures > 1 ? "that" : "the"} picture.`,
  ofAttention: "of its attention",

  // Looking inside
  choosePatch: "Click a patch of the picture.",
  patchIs: (row, column, n, all) => `Patch row ${row}, column ${column}: number ${n} of ${all}.`,
  patchNumbers: "Its 16 × 16 pixels, enlarged:",
  vector: (n) => `The ${n} numbers that the first matrix makes of them (blue: below zero, red: above):`,
  sizes: (width, height, rows, columns, tokens) =>
    `${width} × ${height} pixels make ${rows} rows of ${columns} patches: ${tokens} tokens with their breaks.`,
  hands: (pairs) => `${pairs} pairs turn with the row (left), ${pairs} with the column (right):`,
  match: "How well the places alone match those of the chosen patch",
  matchLegend: "of the way from the worst match to a perfect one",
  layer: "Layer",
  head: "Head",
  all: "all",
  attentionAt: (row, column, layer, head, far) =>
    `Patch row ${row}, column ${column} looks most at ${far}. Layer ${layer}, ${head == null ? "mean of its heads" : `head ${head}`}.`,
  patchAt: (row, column) => `row ${row}, column ${column}`,
  everyHead: "Every head of every layer; click one. Rows are layers, columns are heads.",
  alikeBefore: "before",
  alikeAfter: "after",
  alikeLabel: "Alike",
  alike: (row, column, where, most, p) =>
    `${where === "before" ? "Before" : "After"} the translation, patch row ${row}, column ${column} is most like ${most} (cosine ${p}).`,
  alikeLegend: "cosine, without what all patches share",
  line: (tokens, ends) => `The line that the decoder reads: ${tokens} tokens; ${ends === 1 ? "one of them ends" : `${ends} of them end`} a row.`,
  lineKeys: { patch: "a patch", rowBreak: "[IMG_BREAK]", end: "[IMG_END]", word: "text" },
  lineToken: (n, name) => `Token ${n}: ${name}`,
  rowEnd: (row, last) => (last
    ? `After row ${row}, the last, stands [IMG_END]: a token of its own.`
    : `After row ${row} stands [IMG_BREAK]: a token of its own.`),
  breaks: "The breaks",
  breakChoices: { kept: "as they are", none: "taken away", swapped: "rows and columns swapped" },
  askShape: "Ask about the shape",
  firstQuestion: (row, column) => `What is in row ${row}, column ${column}?`,
  shapeQuestion: "How many rows does the picture have?",
  wordAt: (text, onPicture, n, name, share) =>
    `“${text}”: ${onPicture} of its attention is on the picture; most on one token is ${share}, on token ${n}, “${name.trim()}”.`,
  chooseWord: "Click a word of the answer.",
  cache: (tokens, numbers) => `Their keys and values are kept (${tokens} tokens, ${numbers} numbers), so that each step computes one token alone.`,
  candidates: (text) => `What it might have said where it said “${text}”:`,
  end: "(end)",
  weigh: (p, nats) => `The whole answer: probability ${p}, ${nats} nats from certain.`,

  // Break it
  shuffle: "Shuffle the patches",
  noMask: "Let two pictures see each other",
  squash: "Squash to a square",
  hideLit: "Hide the patches that this word looks at",
  needed: "Looking is not needing: hide what this word looks at, and see whether it is missed.",
  hidden: (n) => `${n} ${n === 1 ? "patch" : "patches"} hidden`,
  bits: "Bits of a weight",
  bitsWords: { stored: "as stored", 4: "4", 3: "3", 2: "2" },
  headsOff: "Heads and layers",
  visionLayers: "Encoder",
  textLayers: "Decoder",
  layerOff: (where, layer) => `${where}, layer ${layer}`,
  headOff: (where, layer, head) => `${where}, layer ${layer}, head ${head}`,
  repair: "Mend everything",
  before: "Before",
  now: "Now",
  difference: "Difference",
  nats: (n) => `${n} nats`,
  wholeRun: "Nothing is broken yet.",
  verdict: (same, less, nats) => same
    ? `It says the same, and is ${nats} nats ${less ? "less sure" : "surer"} of it.`
    : `It says something else: its answer from before is ${nats} nats ${less ? "less likely" : "likelier"} now.`,
  asBefore: "Nothing changed that could be measured: the answer is as likely as before.",

  // The code
  codeLayer: "Layer",
  tensor: (site, rows, columns) => `${site}: ${rows} × ${columns}`,
  tensorSays: (low, mean, high) => `from ${low} to ${high}, mean ${mean}`,
  tensorAt: (row, column, value) => `row ${row}, number ${column}: ${value}`,
  noTensor: "Nothing was seen there in this run.",
  codeLine: (n, site) => `Line ${n}: show ${site}`,
};
