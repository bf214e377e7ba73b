// Pixtral from pixels and token ids to words, top to bottom (Pixtral 12B, arXiv:2410.07073, section 2).
//
// A tensor is { shape: [rows, width], data: Float32Array }: a row for each patch or token. Sums are
// made in float64. A model is { config, weights }: the sizes as `params.json` has them, and tensors by
// the names that pixtral_mlx gives them; a matrix has a row for each output.
//
// see(name, tensor) is called with every tensor on the way and gives back the tensor to go on with:
// to look inside is to write it down, to experiment is to give back another. Nothing else is done for it.

const unseen = (name, tensor) => tensor;
const within = (see, place) => (name, tensor, before) => see(`${place}.${name}`, tensor, before);

// 1. Patches: a picture of any size and shape is cut into squares, row by row.

// picture: { rows, columns, pixels: (rows * P) x (columns * P) x 3, normalised } -> (patches, P * P * 3)
export function patches({ rows, columns, pixels }, P) {
  const cut = empty(rows * columns, P * P * 3), line = columns * P * 3;
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      for (let y = 0; y < P; y++) {
        const from = (row * P + y) * line + column * P * 3;
        cut.data.set(pixels.subarray(from, from + P * 3), ((row * columns + column) * P + y) * P * 3);
      }
    }
  }
  return cut;
}

// 2. RoPE-2D: a patch knows where it is because its queries and keys are turned by its place. Half of
// the pairs of a head turn with the row, half with the column: (patches, head / 2) angles.

export function rope2d(rows, columns, head, theta) {
  const angles = empty(rows * columns, head / 2), half = head / 4;
  for (let patch = 0; patch < rows * columns; patch++) {
    const row = Math.floor(patch / columns), column = patch % columns;
    for (let j = 0; j < half; j++) {
      angles.data[patch * head / 2 + j] = row * theta ** (-4 * j / head);
      angles.data[patch * head / 2 + half + j] = column * theta ** (-(4 * j + 2) / head);
    }
  }
  return angles;
}

// 3. The vision encoder: every patch of a picture looks at all patches of the same picture.

export function encoder({ config, weights }, pictures, see = unseen, { mask = true } = {}) {
  const { vision_encoder: size } = config, w = (name) => weights[`vision_encoder.${name}`];
  const cut = see("vision.patches", stack(pictures.map((picture) => patches(picture, size.patch_size))));
  const embedded = see("vision.patch_conv", linear(cut, w("patch_conv.weight")));
  let x = see("vision.embeddings", rmsNorm(embedded, w("ln_pre.weight"), size.norm_eps));
  const head = size.hidden_size / size.num_attention_heads;
  const places = pictures.map(({ rows, columns }) => rope2d(rows, columns, head, size.rope_theta));
  const angles = see("vision.angles", stack(places));            // they start anew with each picture
  const seen = mask ? blocks(places.map((place) => place.shape[0])) : () => [0, x.shape[0]];
  for (let i = 0; i < size.num_hidden_layers; i++) {
    x = encoderLayer((name) => w(`layers.${i}.${name}`), x, angles, seen, size, within(see, `vision.${i}`));
  }
  return x;
}

function encoderLayer(w, x, angles, seen, { num_attention_heads: H, norm_eps }, see) {
  const normed = see("attention_norm", rmsNorm(x, w("attention_norm.weight"), norm_eps));
  const q = see("queries", turn(linear(normed, w("attention.wq.weight")), angles));
  const k = see("keys", turn(linear(normed, w("attention.wk.weight")), angles));
  const v = see("values", linear(normed, w("attention.wv.weight")));
  const heads = see("heads", attend(q, k, v, H, H, seen));
  const h = see("attended", add(x, linear(heads, w("attention.wo.weight"))));
  const ready = see("ffn_norm", rmsNorm(h, w("ffn_norm.weight"), norm_eps));
  return see("out", add(h, feedForward(w, ready, see)), x);
}

// The block-diagonal mask, without a mask: patch n sees the patches of its own picture, [from, to).
function blocks(lengths) {
  const ranges = lengths.flatMap((length, i) => {
    const from = lengths.slice(0, i).reduce((sum, each) => sum + each, 0);
    return Array(length).fill([from, from + length]);
  });
  return (n) => ranges[n];
}

// 4. The projector: what a patch means, in the language of the decoder.

export function projector({ weights }, x, see = unseen) {
  const w = (name) => weights[`projector.${name}`];
  const hidden = see("projector.hidden", gelu(linear(x, w("w_in.weight"), w("w_in.bias"))));
  return see("projector.out", linear(hidden, w("w_out.weight"), w("w_out.bias")));
}

// 5. Picture and text in one line: features take the places of [IMG]; the break after each row, and
// the end after the last, are ordinary tokens.

export function merge({ weights }, tokens, features, imageToken, see = unseen) {
  const table = weights["decoder.tok_embeddings.weight"], width = table.shape[1];
  const x = empty(tokens.length, width);
  let patch = 0;
  tokens.forEach((token, n) => {
    const [from, row] = token === imageToken ? [features, patch++] : [table, token];
    x.data.set(from.data.subarray(row * width, (row + 1) * width), n * width);
  });
  return see("text.embeddings", x);
}

// 6. The decoder: every token looks at itself and at those before it. `cache` keeps their keys and
// values, so that the next call computes only what is new.

export function decoder({ config, weights }, x, cache, see = unseen) {
  const w = (name) => weights[`decoder.${name}`], start = cache[0].keys?.shape[0] ?? 0;
  const angles = see("text.angles", rope1d(start, x.shape[0], config.head_dim, config.rope_theta));
  const seen = (n) => [0, start + n + 1];                                    // the causal mask
  for (let i = 0; i < config.n_layers; i++) {
    x = decoderLayer((name) => w(`layers.${i}.${name}`), x, angles, seen, cache[i], config, within(see, `text.${i}`));
  }
  return see("text.norm", rmsNorm(x, w("norm.weight"), config.norm_eps));
}

function decoderLayer(w, x, angles, seen, cache, { n_heads: H, n_kv_heads: K, norm_eps }, see) {
  const normed = see("attention_norm", rmsNorm(x, w("attention_norm.weight"), norm_eps));
  const q = see("queries", turn(linear(normed, w("attention.wq.weight")), angles));
  const k = see("keys", turn(linear(normed, w("attention.wk.weight")), angles));
  const v = see("values", linear(normed, w("attention.wv.weight")));
  cache.keys = stack([cache.keys, k]);
  cache.values = stack([cache.values, v]);
  const heads = see("heads", attend(q, cache.keys, cache.values, H, K, seen));
  const h = see("attended", add(x, linear(heads, w("attention.wo.weight"))));
  const ready = see("ffn_norm", rmsNorm(h, w("ffn_norm.weight"), norm_eps));
  return see("out", add(h, feedForward(w, ready, see)), x);
}

function rope1d(start, length, head, theta) {
  const angles = empty(length, head / 2);
  for (let n = 0; n < length; n++) {
    for (let j = 0; j < head / 2; j++) angles.data[n * head / 2 + j] = (start + n) * theta ** (-2 * j / head);
  }
  return angles;
}

export function unembed({ weights }, x, see = unseen) {
  return see("text.logits", linear(x, weights["decoder.output.weight"] ?? weights["decoder.tok_embeddings.weight"]));
}

// 7. An answer: the likeliest token, again and again, until the end token.

// prompt: { tokens, pictures, imageToken } -> the embeddings of its line, shape (tokens, dim)
export function embed(model, { tokens, pictures, imageToken }, see = unseen, options) {
  const features = pictures.length ? projector(model, encoder(model, pictures, see, options), see) : null;
  return merge(model, tokens, features, imageToken, see);
}

// Yields { token, logprob, logprobs } for each token that is written, the end token too. With `forced`
// these tokens are written instead of the likeliest ones.
export function* write(model, prompt, { end, most = 64, forced = null, see = unseen, ...options }) {
  const cache = Array.from({ length: model.config.n_layers }, () => ({}));
  let x = embed(model, prompt, see, options);
  for (let n = 0; n < (forced?.length ?? most); n++) {
    const last = rows(decoder(model, x, cache, see), -1);
    const logprobs = logSoftmax(unembed(model, last, see).data);
    const token = forced?.[n] ?? likeliest(logprobs);
    yield { token, logprob: logprobs[token], logprobs };
    if (token === end) return;
    x = merge(model, [token], null, null, see);
  }
}

// The arithmetic -------------------------------------------------------------------------------

const empty = (count, width) => ({ shape: [count, width], data: new Float32Array(count * width) });

// Some rows of a tensor; a count below zero takes the last ones.
export function rows({ shape: [count, width], data }, from, to = count) {
  const first = from < 0 ? count + from : from;
  return { shape: [to - first, width], data: data.subarray(first * width, to * width) };
}

// Tensors of one width, one below the other; what is not there is left out.
export function stack(tensors) {
  const parts = tensors.filter(Boolean);
  if (parts.length === 1) return parts[0];
  const whole = empty(parts.reduce((sum, { shape }) => sum + shape[0], 0), parts[0].shape[1]);
  let at = 0;
  for (const { data } of parts) { whole.data.set(data, at); at += data.length; }
  return whole;
}

// x W^T + b. Four rows at a time, so that a weight is read once for all of them.
export function linear({ shape: [N, I], data: x }, { shape: [O], data: w }, bias = null) {
  const y = empty(N, O), out = y.data;
  for (let n = 0; n < N; n += 4) {
    const [a, b, c, d] = [n, Math.min(n + 1, N - 1), Math.min(n + 2, N - 1), Math.min(n + 3, N - 1)];
    const [xa, xb, xc, xd] = [a * I, b * I, c * I, d * I];
    for (let o = 0; o < O; o++) {
      let sa = bias ? bias.data[o] : 0, sb = sa, sc = sa, sd = sa;
      for (let i = 0, at = o * I; i < I; i++, at++) {
        const weight = w[at];
        sa += x[xa + i] * weight;
        sb += x[xb + i] * weight;
        sc += x[xc + i] * weight;
        sd += x[xd + i] * weight;
      }
      out[a * O + o] = sa;
      out[b * O + o] = sb;
      out[c * O + o] = sc;
      out[d * O + o] = sd;
    }
  }
  return y;
}

const map = ({ shape, data }, change) => ({ shape, data: data.map(change) });
const add = (x, y) => map(x, (value, i) => value + y.data[i]);

export function rmsNorm({ shape: [N, D], data: x }, { data: weight }, eps = 1e-5) {
  const y = empty(N, D);
  for (let n = 0; n < N; n++) {
    let squares = 0;
    for (let i = 0; i < D; i++) squares += x[n * D + i] ** 2;
    const scale = 1 / Math.sqrt(squares / D + eps);
    for (let i = 0; i < D; i++) y.data[n * D + i] = x[n * D + i] * scale * weight[i];
  }
  return y;
}

// SwiGLU: w2(silu(w1 x) * w3 x), the same in encoder and decoder.
function feedForward(w, x, see) {
  const gate = see("gate", map(linear(x, w("feed_forward.w1.weight")), (a) => a / (1 + Math.exp(-a))));
  const up = linear(x, w("feed_forward.w3.weight"));
  return linear(see("hidden", map(gate, (g, i) => g * up.data[i])), w("feed_forward.w2.weight"));
}

// The exact GELU, by the error function (Abramowitz and Stegun 7.1.26: right to 1.5e-7).
function gelu(x) {
  return map(x, (a) => {
    const z = Math.abs(a) / Math.SQRT2, t = 1 / (1 + 0.3275911 * z);
    const tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return a / 2 * (1 + Math.sign(a) * (1 - tail * Math.exp(-z * z)));
  });
}

// Turns the pairs (2j, 2j + 1) of every head by the angles of the row.
function turn({ shape: [N, width], data }, { shape: [, pairs], data: angles }) {
  const y = empty(N, width);
  for (let n = 0; n < N; n++) {
    for (let j = 0; j < pairs; j++) {
      const cosine = Math.cos(angles[n * pairs + j]), sine = Math.sin(angles[n * pairs + j]);
      for (let at = n * width + 2 * j; at < (n + 1) * width; at += 2 * pairs) {
        y.data[at] = data[at] * cosine - data[at + 1] * sine;
        y.data[at + 1] = data[at + 1] * cosine + data[at] * sine;
      }
    }
  }
  return y;
}

// The attention of query n in one head: a share for each key in [from, to), which sum to 1. Groups of
// query heads share a head of keys (GQA): there are H of queries and K of keys.
export function attentionRow(q, k, n, head, H, K, [from, to]) {
  const d = q.shape[1] / H, Q = n * q.shape[1] + head * d, group = Math.floor(head * K / H) * d;
  const row = new Float64Array(to - from);
  for (let m = from; m < to; m++) {
    const at = m * k.shape[1] + group;
    let score = 0;
    for (let i = 0; i < d; i++) score += q.data[Q + i] * k.data[at + i];
    row[m - from] = score / Math.sqrt(d);
  }
  const most = row.reduce((a, b) => Math.max(a, b), -Infinity);
  let sum = 0;
  for (let m = 0; m < row.length; m++) sum += row[m] = Math.exp(row[m] - most);
  return row.map((share) => share / sum);
}

function attend(q, k, v, H, K, seen) {
  const [N, width] = q.shape, d = width / H, out = empty(N, width);
  for (let n = 0; n < N; n++) {
    const [from, to] = seen(n);
    for (let head = 0; head < H; head++) {
      const row = attentionRow(q, k, n, head, H, K, [from, to]);
      const group = Math.floor(head * K / H) * d, put = n * width + head * d, sums = new Float64Array(d);
      for (let m = from; m < to; m++) {
        const at = m * v.shape[1] + group, share = row[m - from];
        for (let i = 0; i < d; i++) sums[i] += share * v.data[at + i];
      }
      out.data.set(sums, put);
    }
  }
  return out;
}

export function logSoftmax(logits) {
  const most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - most);
  return Float64Array.from(logits, (logit) => logit - most - Math.log(sum));
}

const likeliest = (values) => values.reduce((best, value, i) => (value > values[best] ? i : best), 0);
