// The little world of pixtral-mini, by the rules of pixtral_mlx.mini: what is where, and how it looks,
// to the last pixel. Names, colours and masks come from Python; see `world` in cli/live_page.py.

// Python's random.Random(seed), the Mersenne Twister, for whole numbers below 2^32.
export function twister(seed) {
  const N = 624, state = new Uint32Array(N);
  let at = N;
  const first = (value) => {
    state[0] = value;
    for (let i = 1; i < N; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ state[i - 1] >>> 30) + i;
  };
  first(19650218);
  let i = 1;
  for (let k = 0; k < N; k++) {
    state[i] = (state[i] ^ Math.imul(state[i - 1] ^ state[i - 1] >>> 30, 1664525)) + seed;
    if (++i >= N) { state[0] = state[N - 1]; i = 1; }
  }
  for (let k = 0; k < N - 1; k++) {
    state[i] = (state[i] ^ Math.imul(state[i - 1] ^ state[i - 1] >>> 30, 1566083941)) - i;
    if (++i >= N) { state[0] = state[N - 1]; i = 1; }
  }
  state[0] = 0x80000000;
  function next() {
    if (at === N) {
      for (let k = 0; k < N; k++) {
        const y = state[k] & 0x80000000 | state[(k + 1) % N] & 0x7fffffff;
        state[k] = state[(k + 397) % N] ^ y >>> 1 ^ (y & 1 ? 0x9908b0df : 0);
      }
      at = 0;
    }
    let y = state[at++];
    y ^= y >>> 11;
    y ^= y << 7 & 0x9d2c5680;
    y ^= y << 15 & 0xefc60000;
    return (y ^ y >>> 18) >>> 0;
  }
  return () => ((next() >>> 5) * 67108864 + (next() >>> 6)) / 9007199254740992;
}

export const pick = (random, options) => options[Math.floor(random() * options.length)];
export const shuffled = (random, options) =>
  options.map((option) => [random(), option]).sort(([a], [b]) => a - b).map(([, option]) => option);

// What is where ---------------------------------------------------------------------------------

export const NOTHING = { name: "", colour: "" };
const LARGEST = 5;

// A layout is { rows, columns, cells, look }: a cell is { name, colour }, and `look` is the seed of
// everything that changes no answer.
export function makeLayout(random, world, rows = null, columns = null) {
  rows ??= 1 + Math.floor(random() * LARGEST);
  columns ??= 1 + Math.floor(random() * LARGEST);
  const shapes = shuffled(random, world.shapes).slice(0, pick(random, [2, 3, 4, 6, 8]));
  const colours = shuffled(random, Object.keys(world.colours)).slice(0, pick(random, [2, 3, 4, 6, 8]));
  const cells = Array.from({ length: rows * columns }, () =>
    random() < 0.06 ? NOTHING : { name: pick(random, shapes), colour: pick(random, colours) });
  if (columns > 1 && random() < 0.4) writeCode(random, world, cells, rows, columns);
  return { rows, columns, cells, look: Math.floor(random() * 2 ** 32) };
}

function writeCode(random, { characters }, cells, rows, columns) {
  const length = 2 + Math.floor(random() * Math.min(columns - 1, 3));
  const start = Math.floor(random() * rows) * columns + Math.floor(random() * (columns - length + 1));
  const chosen = shuffled(random, characters).slice(0, length);
  cells.splice(start, length, ...chosen.map((name) => ({ name, colour: "" })));
}

// How it looks ----------------------------------------------------------------------------------

// Masks as the page holds them -> (name, side, radius) => cover in sixteenths; "" is the tile.
export function openMasks({ names, sides, radii, runs }) {
  const kinds = 1 + names.length * radii.length, every = new Uint8Array(kinds * sides.reduce((sum, side) => sum + side * side, 0));
  let at = 0;
  for (const letter of atob(runs)) {   // a shade, or a run of 2 to 120 without or with full cover
    const byte = letter.charCodeAt(0), full = byte > 135;
    if (byte <= 16) every[at++] = byte;
    else every.fill(full ? 16 : 0, at, at += byte - (full ? 134 : 15));
  }
  at = 0;
  const places = new Map();
  for (const side of sides) {
    for (const key of ["", ...names.flatMap((name) => radii.map((radius) => `${name} ${radius}`))]) {
      places.set(`${key} ${side}`, every.subarray(at, at += side * side));
    }
  }
  return (name, side, radius) => places.get(name ? `${name} ${radius} ${side}` : ` ${side}`);
}

// A layout -> { width, height, data }: bytes of red, green and blue, row by row.
export function draw({ rows, columns, cells, look }, world, masks) {
  const random = twister(look);
  const side = pick(random, world.cellSides);
  const tint = [0, 0, 0].map(() => 206 + Math.floor(random() * 30));
  const noise = Uint8Array.from({ length: 36 }, () => Math.floor(random() * 256));
  const canvas = ground(columns * side, rows * side, tint, noise);
  const card = [0, 0, 0].map(() => 240 + Math.floor(random() * 13));
  cells.forEach((thing, index) => {
    const corner = [index % columns * side, Math.floor(index / columns) * side];
    paint(canvas, card, masks("", side), side, corner);
    if (thing.name) put(canvas, thing, side, corner, random, world, masks);
  });
  return { ...canvas, data: Uint8Array.from(canvas.data) };
}

// A thing somewhere near the middle of its cell, with a darker rim.
function put(canvas, { name, colour }, side, corner, random, world, masks) {
  const own = colour ? world.colours[colour] : world.ink;
  const light = 94 + Math.floor(random() * 13);
  const fill = own.map((value) => Math.min(Math.floor(value * light / 100), 255));
  const size = pick(random, [90, 98, 106]);
  const at = corner.map((start) => start + Math.floor(random() * 5) - 2);
  if (colour) paint(canvas, fill.map((value) => Math.floor(value * 7 / 10)), masks(name, side, size + 8), side, at);
  paint(canvas, fill, masks(name, side, size), side, at);
}

// Lays a colour over part of a canvas; what falls outside is cut off.
function paint({ width, height, data }, colour, mask, side, [left, top]) {
  for (let y = Math.max(-top, 0); y < side && top + y < height; y++) {
    for (let x = Math.max(-left, 0); x < side && left + x < width; x++) {
      const cover = mask[y * side + x] * 255 >> 4, at = 3 * ((top + y) * width + left + x);
      for (let c = 0; c < 3; c++) data[at + c] += Math.floor(((colour[c] - data[at + c]) * cover + 127) / 255);
    }
  }
}

// A light ground with soft clouds: 6 x 6 bytes of noise, enlarged as Pillow's bicubic does it.
function ground(width, height, tint, noise) {
  const wide = enlarged(noise, 6, 6, width, (row, column) => row * 6 + column, (row, x) => row * width + x);
  const clouds = enlarged(wide, 6, width, height, (column, row) => row * width + column, (column, y) => y * width + column);
  const data = new Int32Array(3 * width * height);
  clouds.forEach((cloud, i) => {
    for (let c = 0; c < 3; c++) data[3 * i + c] = Math.min(Math.max(tint[c] + Math.floor(cloud / 12) - 10, 0), 255);
  });
  return { width, height, data };
}

// One direction of it, in whole numbers: `from` lines of 6 values become lines of `to`.
function enlarged(values, from, lines, to, read, write) {
  const out = new Uint8Array(lines * to), ONE = 2 ** 22;
  const bicubic = (x) => {
    const a = -0.5, d = Math.abs(x);
    return d < 1 ? ((a + 2) * d - (a + 3)) * d * d + 1 : d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
  };
  for (let x = 0; x < to; x++) {
    const centre = (x + 0.5) * (from / to);
    const first = Math.max(Math.trunc(centre - 1.5), 0), last = Math.min(Math.trunc(centre + 2.5), from);
    const taps = Array.from({ length: last - first }, (_, i) => bicubic(i + first - centre + 0.5));
    const sum = taps.reduce((a, b) => a + b, 0);
    const whole = taps.map((tap) => Math.trunc(tap / sum * ONE + (tap < 0 ? -0.5 : 0.5)));
    for (let line = 0; line < lines; line++) {
      const total = whole.reduce((all, tap, i) => all + tap * values[read(line, first + i)], ONE / 2);
      out[write(line, x)] = Math.min(Math.max(Math.floor(total / ONE), 0), 255);
    }
  }
  return out;
}

// What the model receives -----------------------------------------------------------------------

// CLIP's mean and deviation of red, green and blue.
const MEAN = [0.48145466, 0.4578275, 0.40821073];
const STD = [0.26862954, 0.26130258, 0.27577711];

// A picture -> { rows, columns, pixels }: sides that are whole patches, the longer one at most
// `image_size`, and numbers around zero.
export function prepared(picture, { patch_size: patch, image_size: longest }) {
  const ratio = Math.max(picture.width / longest, picture.height / longest, 1);
  const [rows, columns] = [picture.height, picture.width].map((side) =>
    Math.ceil((ratio > 1 ? Math.max(toEven(side / ratio), 1) : side) / patch));
  const { data } = resized(picture, columns * patch, rows * patch);
  return { rows, columns, pixels: Float32Array.from(data, (value, i) => (value / 255 - MEAN[i % 3]) / STD[i % 3]) };
}

// To the nearest whole number, halves to the even one, as Python rounds.
const toEven = (x) => (x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));

// Cubic interpolation, a = -0.75, edges repeated, no antialiasing: rows, then columns.
export function resized({ width, height, data }, toWidth, toHeight) {
  if (width === toWidth && height === toHeight) return { width, height, data };
  const tall = new Float32Array(3 * width * toHeight), out = new Float32Array(3 * toWidth * toHeight);
  for (let y = 0; y < toHeight; y++) {
    for (const [from, weight] of taps(y, height, toHeight)) {
      for (let i = 0; i < 3 * width; i++) tall[3 * y * width + i] += weight * data[3 * from * width + i];
    }
  }
  for (let x = 0; x < toWidth; x++) {
    for (const [from, weight] of taps(x, width, toWidth)) {
      for (let y = 0; y < toHeight; y++) {
        for (let c = 0; c < 3; c++) out[3 * (y * toWidth + x) + c] += weight * tall[3 * (y * width + from) + c];
      }
    }
  }
  return { width: toWidth, height: toHeight, data: out };
}

// The four places in the old line that make one of the new, and their weights.
function taps(at, old, now) {
  const centre = (at + 0.5) * (old / now) - 0.5, first = Math.floor(centre), x = centre - first, a = -0.75;
  const far = x + 1, near = 1 - x;
  const w0 = ((a * far - 5 * a) * far + 8 * a) * far - 4 * a;
  const w1 = ((a + 2) * x - (a + 3)) * x * x + 1;
  const w2 = ((a + 2) * near - (a + 3)) * near * near + 1;
  return [w0, w1, w2, 1 - w0 - w1 - w2].map((weight, i) => [Math.min(Math.max(first - 1 + i, 0), old - 1), weight]);
}
