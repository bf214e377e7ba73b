// Questions about scenes, by the rules of pixtral_mlx.mini.questions: their words and their answers.

import { pick } from "./scenes.js";

// A thing as answers say it: "a red star", "the letter K", "the digit 7", "nothing".
export function said({ name, colour }) {
  if (colour) return `a ${colour} ${name}`;
  return name ? `the ${/\d/.test(name) ? "digit" : "letter"} ${name}` : "nothing";
}

// As questions name it: "the red star"; "" for an empty cell.
const named = (thing) => (thing.colour ? `the ${thing.colour} ${thing.name}` : thing.name ? said(thing) : "");

// Cells whose thing shares `key` with no other; an empty key does not count.
function unique(cells, key) {
  const keys = cells.map(key);
  return [...keys.keys()].filter((i) => keys[i] && keys.indexOf(keys[i]) === keys.lastIndexOf(keys[i]));
}

export const outline = ({ rows, columns }) => (rows === columns ? "square" : columns > rows ? "wide" : "tall");

const ASKERS = {
  colour({ cells }, random) {
    const cell = one(random, unique(cells, (thing) => thing.colour && thing.name));
    return cell == null ? null : { answer: cells[cell].colour, blanks: { shape: cells[cell].name } };
  },
  shape({ cells }, random) {
    const cell = one(random, unique(cells, (thing) => thing.colour));
    return cell == null ? null : { answer: cells[cell].name, blanks: { colour: cells[cell].colour } };
  },
  at({ cells, columns }, random, { ordinals }) {
    const cell = Math.floor(random() * cells.length);
    const [row, column] = [Math.floor(cell / columns), cell % columns];
    return { answer: said(cells[cell]), blanks: {
      row: row + 1, column: column + 1, nth_row: ordinals[row], nth_column: ordinals[column],
    } };
  },
  where({ cells, columns }, random, { numbers }) {
    const cell = one(random, unique(cells, named));
    if (cell == null) return null;
    const [row, column] = [Math.floor(cell / columns), cell % columns];
    return { answer: `row ${numbers[row + 1]}, column ${numbers[column + 1]}`, blanks: { thing: named(cells[cell]) } };
  },
  read({ cells }) {
    const code = cells.filter(({ name, colour }) => name && !colour).map(({ name }) => name).join("");
    return code ? { answer: code } : null;
  },
  rows: ({ rows }, random, { numbers }) => ({ answer: numbers[rows] }),
  columns: ({ columns }, random, { numbers }) => ({ answer: numbers[columns] }),
  wide: (layout) => ({ answer: outline(layout) }),
  next(layout, random, { sides }) {
    const side = pick(random, Object.keys(sides)), [down, right] = sides[side];
    const { cells, rows, columns } = layout;
    const inside = (cell) => {
      const [row, column] = [Math.floor(cell / columns) + down, cell % columns + right];
      return row >= 0 && row < rows && column >= 0 && column < columns;
    };
    const cell = one(random, unique(cells, named).filter(inside));
    return cell == null ? null
      : { answer: said(cells[cell + down * columns + right]), blanks: { side, thing: named(cells[cell]) } };
  },
  count({ cells }, random, { colours, plurals, numbers, counted }) {
    const asked = [
      ...Object.keys(colours).map((colour) => [`${colour} things`, (thing) => thing.colour === colour]),
      ...Object.entries(plurals).map(([shape, words]) => [words, (thing) => thing.name === shape]),
    ].map(([things, holds]) => [things, cells.filter(holds).length]);
    let found = [...new Set(asked.map(([, number]) => number))].filter((n) => n > 0 && n <= counted).sort();
    if (asked.some(([, number]) => number === 0) && (!found.length || random() < 0.1)) found = [0];
    if (!found.length) return null;
    const number = pick(random, found);
    const [things] = pick(random, asked.filter(([, each]) => each === number));
    return { answer: numbers[number], blanks: { things } };
  },
  which(layout, random, { ordinals }, other) {
    if (!other) return null;
    const second = random() < 0.5;
    const [here, there] = second ? [other, layout] : [layout, other];
    const elsewhere = new Set(there.cells.map(named));
    const found = [...here.cells.keys()].filter((i) => named(here.cells[i]) && !elsewhere.has(named(here.cells[i])));
    const cell = one(random, found);
    return cell == null ? null
      : { answer: `the ${ordinals[Number(second)]}`, blanks: { a_thing: said(here.cells[cell]) } };
  },
  describe(layout, random, { numbers }) {
    const { cells, rows, columns } = layout;
    if (cells.length === 1) return { answer: `A square picture of ${said(cells[0])}.` };
    const many = (n, word) => `${numbers[n]} ${word}${n > 1 ? "s" : ""}`;
    return { answer: `A ${outline(layout)} picture, ${many(rows, "row")} and ${many(columns, "column")}, `
      + `from ${said(cells[0])} to ${said(cells.at(-1))}.` };
  },
};

const one = (random, found) => (found.length ? pick(random, found) : null);

// Something to ask about a scene: { kind, text, answer }, or null where the scene allows no such question.
// kind: one of the keys of `world.phrasings`; other: a second picture, which "which" is about.
export function ask(kind, layout, random, world, other = null) {
  const asked = ASKERS[kind](layout, random, world, other);
  if (!asked) return null;
  const text = pick(random, world.phrasings[kind]).replace(/\{(\w+)\}/g, (_, blank) => asked.blanks[blank]);
  return { kind, text, answer: asked.answer };
}
