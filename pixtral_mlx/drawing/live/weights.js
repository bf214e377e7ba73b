// Weights as a page holds them: bytes as they were stored, opened into tensors of float32.

// header: { name: { type, shape, at, [bits, group, scales, biases] } }, as `cli/live_page.py` writes it;
// bytes: a Uint8Array. "affine" are MLX's integers in groups, with a scale and a bias each.
export function opened(header, bytes) {
  return Object.fromEntries(Object.entries(header).map(([name, entry]) =>
    [name, { shape: matrix(entry.shape), data: entry.type === "affine" ? dequantized(entry, bytes) : floats(entry, bytes) }]));
}

// A matrix has a row for each output; a kernel of patches is one too, and a vector is one row.
function matrix(shape) {
  const [first, ...rest] = shape;
  return rest.length ? [first, rest.reduce((a, b) => a * b)] : [1, first];
}

export const WIDTHS = { F32: 4, F16: 2, BF16: 2 };   // bytes a number

function floats({ type, shape, at }, bytes) {
  const count = shape.reduce((a, b) => a * b, 1);
  const own = bytes.slice(at, at + count * WIDTHS[type]).buffer;   // a copy is aligned
  if (type === "F32") return new Float32Array(own);
  const halves = new Uint16Array(own);
  if (type === "F16") return filled(count, (i) => ofHalf(halves[i]));
  const bits = new Uint32Array(count);
  for (let i = 0; i < count; i++) bits[i] = halves[i] << 16;
  return new Float32Array(bits.buffer);
}

// `Float32Array.from` takes ten times as long.
function filled(count, number) {
  const out = new Float32Array(count);
  for (let i = 0; i < count; i++) out[i] = number(i);
  return out;
}

function ofHalf(half) {
  const sign = half >> 15 ? -1 : 1, exponent = half >> 10 & 31, fraction = half & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * fraction / 1024);
}

// Codes stand one after the other, bit by bit, the lowest first, whatever their width.
function dequantized({ shape, at, bits, group, scales, biases }, bytes) {
  const [scale, bias] = [floats(scales, bytes), floats(biases, bytes)];
  const most = 2 ** bits - 1;
  return filled(shape[0] * shape[1], (i) => {
    const bit = i * bits, byte = at + (bit >> 3);
    const code = (bytes[byte] | (bytes[byte + 1] ?? 0) << 8) >> (bit & 7) & most;
    const g = Math.floor(i / group);
    return scale[g] * code + bias[g];
  });
}

// A matrix rounded to few bits, in groups, and back again: what MLX's affine quantization leaves of it.
export function rounded({ shape, data }, bits, group = 64) {
  if (shape[1] % group) return { shape, data };
  const out = new Float32Array(data.length), bins = 2 ** bits - 1;
  for (let from = 0; from < data.length; from += group) {
    const own = data.subarray(from, from + group);
    let low = Infinity, high = -Infinity;
    for (const value of own) { if (value < low) low = value; if (value > high) high = value; }
    const edge = Math.abs(low) > Math.abs(high) ? low : high;
    let scale = Math.max((high - low) / bins, 1e-7) * (edge === low ? 1 : -1);
    const steps = Math.round(edge / scale);   // so that the larger end, and with it zero, is kept
    if (steps) scale = edge / steps;
    const bias = steps ? edge : 0;
    for (let i = 0; i < group; i++) {
      out[from + i] = scale * Math.min(Math.max(Math.round((own[i] - bias) / scale), 0), bins) + bias;
    }
  }
  return { shape, data: out };
}

// Text of base64 -> bytes.
export function ofBase64(text) {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}
