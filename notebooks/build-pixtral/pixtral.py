"""Pixtral, small enough to read in one sitting. Twelve functions are yours to write.

`python check.py 1` looks at the first, `python check.py` at all of them in turn. Around the gaps
everything is there, so that each function is used as soon as you have written it.

Shapes are written in letters: B pictures or prompts, L tokens, N patches, D width, H query heads,
K key and value heads, d width of a head, P side of a patch in pixels, C colour channels.
"""

import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

IMG, IMG_BREAK, IMG_END = 10, 12, 13  # ids of the three picture tokens
EOS = 2  # ends an answer


# ── From pixels to patches ────────────────────────────────────────────────────────────────────


def embed_patches(pictures, weight):
    """Exercise 1. Cut pictures into squares and turn each into one vector.

    Arguments:
        pictures: (B, C, height, width), all of one size; P divides height and width.
        weight: (D, C, P, P). A patch becomes D numbers: its dot product with each of D small
            pictures.

    Returns:
        (B, N, D), patches row by row as one reads.
    """
    raise NotImplementedError  # yours: about 5 lines


def rms_norm(x, weight, eps):
    """Exercise 2. Bring every vector to a root mean square of one, then scale each number.

    Arguments:
        x: (..., D).
        weight: (D,).
        eps: added to the mean square before the root, so that zeros stay zeros.

    Returns:
        (..., D).
    """
    raise NotImplementedError  # yours: about 1 line


# ── Where am I? Rotary positions ──────────────────────────────────────────────────────────────


def frequencies(d, theta):
    """How far each of the d / 2 pairs of a head turns at one step: from 1 radian down. (d / 2,)"""
    return theta ** -(mx.arange(0, d, 2) / d)


def rope_1d(positions, d, theta):
    """The decoder's angles: position times frequency. positions (L,) -> (L, d / 2)"""
    return positions[:, None] * frequencies(d, theta)


def rope_2d(rows, columns, d, theta):
    """Exercise 3. The encoder's angles: half of the pairs turn with the row, half with the column.

    Of the d / 2 frequencies, the 1st, 3rd, 5th... belong to the row and come first in the
    result; the 2nd, 4th, 6th... belong to the column and come last. Rows and columns count from 0.

    Arguments:
        rows, columns: of patches in the picture.

    Returns:
        (N, d / 2), patches row by row.
    """
    raise NotImplementedError  # yours: about 4 lines


def rotate(x, angles):
    """Turn the pairs (0, 1), (2, 3), ... of each head. x (B, H, L, d), angles (L, d / 2)"""
    even, odd, cosine, sine = x[..., 0::2], x[..., 1::2], mx.cos(angles), mx.sin(angles)
    turned = [even * cosine - odd * sine, odd * cosine + even * sine]
    return mx.stack(turned, axis=-1).reshape(x.shape)


# ── A transformer block, the same in the encoder and the decoder ──────────────────────────────


def attention(queries, keys, values, mask=None):
    """Exercise 4. Each query takes a weighted mean of the values; softmax makes the weights.

    Arguments:
        queries: (B, H, L, d).
        keys, values: (B, H, N, d).
        mask: (L, N), True where a query may look; None if it may look everywhere.

    Returns:
        (B, H, L, d).
    """
    raise NotImplementedError  # yours: about 4 lines


def swiglu(x, w1, w2, w3):
    """Exercise 5. The feed-forward network: a gate, opened by silu, times a value.

    Arguments:
        x: (..., D).
        w1, w3: layers to call, (..., D) -> (..., hidden). w1 makes the gate, w3 the value.
        w2: a layer back, (..., hidden) -> (..., D).

    Returns:
        (..., D).
    """
    raise NotImplementedError  # yours: about 1 line


def own_picture(lengths):
    """Exercise 6. Pictures are encoded side by side, and none may see another.

    Arguments:
        lengths: how many patches each picture has, a list of numbers that sum to N.

    Returns:
        (N, N), True where the patch of this row and that of this column share a picture.
    """
    raise NotImplementedError  # yours: about 2 lines


def project(x, w_in, w_out):
    """Exercise 7. From the encoder's vectors to the decoder's: layer, exact GELU, layer.

    Arguments:
        x: (..., D of the encoder).
        w_in: a layer to call, to the decoder's D.
        w_out: a layer to call, from there to the same D.

    Returns:
        (..., D of the decoder).
    """
    raise NotImplementedError  # yours: about 1 line


# ── From patches to a prompt ──────────────────────────────────────────────────────────────────


def picture_tokens(rows, columns):
    """Exercise 8. The token ids of one picture: IMG for each patch, and an end for each row.

    IMG_BREAK ends a row, IMG_END ends the last one. That is how a line of tokens keeps its shape.

    Arguments:
        rows, columns: of patches.

    Returns:
        A list of rows * (columns + 1) ids.
    """
    raise NotImplementedError  # yours: about 2 lines


def share_heads(x, H):
    """Exercise 9. Grouped queries: K heads of keys serve H heads of queries, neighbours together.

    With K = 2 and H = 6, the first three query heads read the first head, the others the second.

    Arguments:
        x: keys or values, (B, K, N, d).
        H: a multiple of K.

    Returns:
        (B, H, N, d).
    """
    raise NotImplementedError  # yours: about 1 line


class KVCache:
    """Keys and values of all tokens read so far, for one layer; None before the first."""

    def __init__(self):
        self.keys = self.values = None

    @property
    def length(self):
        """How many tokens are in it."""
        return 0 if self.keys is None else self.keys.shape[2]

    def update(self, keys, values):
        """Exercise 10. Put new keys and values behind the old ones, and return all of them.

        Arguments:
            keys, values: of the new tokens, (B, K, L, d).

        Returns:
            keys, values: of all tokens so far, oldest first, (B, K, length, d).
        """
        raise NotImplementedError  # yours: about 5 lines


def sample(logits, temperature=0.0, top_p=1.0):
    """Exercise 11. Choose the next token.

    At temperature 0 it is the likeliest. Otherwise divide the logits by the temperature; softmax
    then gives probabilities. Keep the fewest likeliest tokens whose probabilities reach top_p
    together, and draw one of them by chance, likelier ones more often.

    Arguments:
        logits: (vocabulary,).
        temperature: 0 or above.
        top_p: above 0, at most 1.

    Returns:
        The token's id, an int.
    """
    raise NotImplementedError  # yours: about 8 lines


def merge(embeddings, tokens, features):
    """Exercise 12. Put the pictures where the IMG tokens are: the first feature at the first IMG.

    Only IMG takes a feature. IMG_BREAK and IMG_END are words like any other.

    Arguments:
        embeddings: of the tokens, (B, L, D).
        tokens: ids, (B, L).
        features: (N, D), one for each IMG, prompt after prompt.

    Returns:
        (B, L, D).
    """
    raise NotImplementedError  # yours: about 4 lines


# ── The network: from here on there is nothing to write, only to read ─────────────────────────
# Every attribute is named as in Mistral's own file, so that its weights find their places.


class Norm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = mx.ones(width), eps

    def __call__(self, x):
        return rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, width, H, K, d):
        super().__init__()
        self.H, self.K = H, K
        self.wq = nn.Linear(width, H * d, bias=False)
        self.wk = nn.Linear(width, K * d, bias=False)
        self.wv = nn.Linear(width, K * d, bias=False)
        self.wo = nn.Linear(H * d, width, bias=False)

    def __call__(self, x, angles, mask, cache):
        queries = rotate(self.heads(self.wq(x), self.H), angles)
        keys = rotate(self.heads(self.wk(x), self.K), angles)
        values = self.heads(self.wv(x), self.K)
        if cache is not None:
            keys, values = cache.update(keys, values)
        if self.K != self.H:
            keys, values = share_heads(keys, self.H), share_heads(values, self.H)
        seen = attention(queries, keys, values, mask)
        return self.wo(seen.swapaxes(1, 2).reshape(*x.shape[:2], -1))

    @staticmethod
    def heads(x, n):
        """(B, L, n * d) -> (B, n, L, d)"""
        return x.reshape(*x.shape[:2], n, -1).swapaxes(1, 2)


class FeedForward(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.w1 = nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)
        self.w3 = nn.Linear(width, hidden, bias=False)

    def __call__(self, x):
        return swiglu(x, self.w1, self.w2, self.w3)


class Block(nn.Module):
    def __init__(self, width, hidden, H, K, d, eps):
        super().__init__()
        self.attention, self.feed_forward = Attention(width, H, K, d), FeedForward(width, hidden)
        self.attention_norm, self.ffn_norm = Norm(width, eps), Norm(width, eps)

    def __call__(self, x, angles, mask=None, cache=None):
        x = x + self.attention(self.attention_norm(x), angles, mask, cache)
        return x + self.feed_forward(self.ffn_norm(x))


class VisionEncoder(nn.Module):
    """Pictures in, one vector for each patch out. Every patch sees all of its picture."""

    def __init__(self, sizes, eps):
        super().__init__()
        D, H, P = sizes["hidden_size"], sizes["num_attention_heads"], sizes["patch_size"]
        self.d, self.P, self.theta = D // H, P, sizes["rope_theta"]
        shape = (D, sizes["num_channels"], P, P)
        self.patch_conv = nn.Module()
        self.patch_conv.weight = mx.random.normal(shape, scale=(shape[1] * P * P) ** -0.5)
        self.ln_pre = Norm(D, eps)
        self.transformer = nn.Module()
        self.transformer.layers = [
            Block(D, sizes["intermediate_size"], H, H, self.d, eps)
            for _ in range(sizes["num_hidden_layers"])
        ]

    def __call__(self, pictures):
        """Pictures of any sizes, a list of (C, height, width) -> (N, D), N patches in all"""
        patches = [embed_patches(one[None], self.patch_conv.weight)[0] for one in pictures]
        angles = mx.concatenate([self.angles(one) for one in pictures])
        mask = own_picture([len(one) for one in patches]) if len(patches) > 1 else None
        return self.blocks(mx.concatenate(patches)[None], angles, mask)[0]

    def batch(self, pictures):
        """Pictures of one size, (B, C, height, width) -> (B, N, D). They need no mask."""
        patches = embed_patches(pictures, self.patch_conv.weight)
        return self.blocks(patches, self.angles(pictures[0]))

    def angles(self, picture):
        return rope_2d(picture.shape[1] // self.P, picture.shape[2] // self.P, self.d, self.theta)

    def blocks(self, x, angles, mask=None):
        x = self.ln_pre(x)
        for block in self.transformer.layers:
            x = block(x, angles, mask)
        return x


class Projector(nn.Module):
    def __init__(self, eye_width, width):
        super().__init__()
        self.w_in, self.w_out = nn.Linear(eye_width, width), nn.Linear(width, width)

    def __call__(self, x):
        return project(x, self.w_in, self.w_out)


class Pixtral(nn.Module):
    """The whole model; `sizes` is what stands in params.json."""

    def __init__(self, sizes):
        super().__init__()
        D, eps, eyes = sizes["dim"], sizes["norm_eps"], sizes["vision_encoder"]
        self.d, self.theta = sizes["head_dim"], sizes["rope_theta"]
        self.vision_encoder = VisionEncoder(eyes, eps)
        self.vision_language_adapter = Projector(eyes["hidden_size"], D)
        self.tok_embeddings = nn.Embedding(sizes["vocab_size"], D)
        self.layers = [
            Block(D, sizes["hidden_dim"], sizes["n_heads"], sizes["n_kv_heads"], self.d, eps)
            for _ in range(sizes["n_layers"])
        ]
        self.norm = Norm(D, eps)
        self.output = nn.Linear(D, sizes["vocab_size"], bias=False)

    def __call__(self, tokens, pictures=(), cache=None):
        """Token ids (B, L), and the pictures in their order -> logits (B, L, vocabulary)"""
        features = self.vision_encoder(pictures) if len(pictures) else None
        return self.decode(tokens, features, cache)

    def decode(self, tokens, features=None, cache=None):
        """The same from the encoder's features on, (N, D of the encoder)."""
        x = self.tok_embeddings(tokens)
        if features is not None:
            x = merge(x, tokens, self.vision_language_adapter(features))
        before = cache[0].length if cache else 0
        positions = mx.arange(before, before + x.shape[1])
        mask = positions[:, None] >= mx.arange(before + x.shape[1])  # nobody sees the future
        angles = rope_1d(positions, self.d, self.theta)
        for i, block in enumerate(self.layers):
            x = block(x, angles, mask, cache[i] if cache else None)
        return self.output(self.norm(x))


def load(folder):
    """A model in Mistral's own layout, in float32."""
    model = Pixtral(json.loads(Path(folder, "params.json").read_text()))
    model.load_weights(str(Path(folder, "consolidated.safetensors")))
    model.set_dtype(mx.float32)
    return model


def generate(model, tokens, pictures=(), *, most=40, temperature=0.0, top_p=1.0):
    """Token after token, until the model ends its answer or there are `most`."""
    cache = [KVCache() for _ in model.layers]
    logits = model(mx.array([tokens]), pictures, cache)
    for _ in range(most):
        token = sample(logits[0, -1], temperature, top_p)
        if token == EOS:
            return
        yield token
        logits = model(mx.array([[token]]), (), cache)
