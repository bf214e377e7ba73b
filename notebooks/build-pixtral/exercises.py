"""The twelve exercises and the last: what each asks for, a hint, and its check.

What is right is never taken from a solution: MLX's own functions and pixtral-mlx compute it.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from pixtral_mlx.model.config import VisionConfig
from pixtral_mlx.model.feed_forward import FeedForward
from pixtral_mlx.model.prompt import PatchGrid, image_tokens
from pixtral_mlx.model.rope import Rope2D

CLOSE = 2e-5
"""How far a number of an exercise may be off, by the largest of its array."""
CLOSE_LOGITS = 1e-4
"""The same for the logits of pixtral-mini, which have passed through nine layers."""


class Wrong(Exception):
    """What is not right yet, in one line."""


@dataclass(frozen=True)
class Exercise:
    """One gap.

    Arguments:
        title: what it is about.
        form: the function and what goes in and comes out.
        hint: what to try, in one or two sentences.
        check: raises `Wrong` if the code that it is given is.
    """

    title: str
    form: str
    hint: str
    check: Callable[[Any], None]


EXERCISES: dict[int, Exercise] = {}


def exercise(title: str, form: str, hint: str):
    """Enter a check into `EXERCISES`, numbered in the order of this file."""

    def enter(check: Callable[[Any], None]) -> Callable[[Any], None]:
        EXERCISES[len(EXERCISES) + 1] = Exercise(title, form, hint, check)
        return check

    return enter


# What every check does ----------------------------------------------------------------------------


def compare(
    found: Any, right: mx.array, *mistakes: tuple[mx.array, str], tolerance: float = CLOSE
) -> None:
    """The same shape and the same numbers; a mistake that is often made is called by its name.

    Raises:
        Wrong: otherwise.
    """
    if found is None:
        raise Wrong("it returns nothing: is there a return?")
    if not isinstance(found, mx.array):
        raise Wrong(f"it returns {type(found).__name__}; expected mx.array")
    if right.dtype == mx.bool_ and found.dtype != mx.bool_:
        raise Wrong(f"the result holds {found.dtype} numbers; expected True and False")
    if close(found, right, tolerance):
        return
    for wrong, why in mistakes:
        if close(found, wrong, tolerance):
            raise Wrong(why)
    if found.shape != right.shape:
        raise Wrong(f"the result has shape {found.shape}; expected {right.shape}")
    ours, theirs = plain(found), plain(right)
    apart = np.where(np.isfinite(ours), np.abs(ours - theirs), np.inf)
    place = np.unravel_index(apart.argmax(), apart.shape)
    raise Wrong(
        f"the shape is right, {found.shape}, the numbers are not: "
        f"[{', '.join(map(str, place))}] is {ours[place]:.4g}; expected {theirs[place]:.4g}"
    )


def close(found: mx.array, right: mx.array, tolerance: float) -> bool:
    """Whether shapes are equal and numbers nearly so."""
    if found.shape != right.shape:
        return False
    ours, theirs = plain(found), plain(right)
    return bool(np.all(np.abs(ours - theirs) <= tolerance * max(np.abs(theirs).max(), 1e-30)))


def plain(x: mx.array) -> np.ndarray:
    """For arithmetic outside of MLX."""
    return np.array(x.astype(mx.float32)).astype(np.float64)


def learns(function: Callable[[mx.array], mx.array], x: mx.array) -> None:
    """Training goes backwards through every function.

    Raises:
        Wrong: nothing comes back.
    """
    lost = "the numbers are right, but training could not go back through it: compute in MLX alone"
    try:
        gradient = mx.grad(lambda x: (function(x) ** 2).sum())(x)
        flows = bool(mx.all(mx.isfinite(gradient)) & mx.any(gradient != 0))
    except Exception as error:
        raise Wrong(f"{lost} ({type(error).__name__})") from None
    if not flows:
        raise Wrong(lost)


def noise(*shape: int, seed: int = 0) -> mx.array:
    """The same numbers every time."""
    return mx.random.normal(shape, key=mx.random.key(seed))


# The twelve ---------------------------------------------------------------------------------------


@exercise(
    "patch embedding",
    "embed_patches(pictures (B, C, height, width), weight (D, C, P, P)) -> (B, N, D)",
    "Give each side two axes with reshape, (height / P, P) and (width / P, P). Then transpose, so "
    "that the two that count patches stand together, and C, P, P behind them as in the weight.",
)
def check_patches(code: Any) -> None:
    """Two pictures of 2 × 3 patches."""
    pictures, weight = noise(2, 3, 8, 12), noise(5, 3, 4, 4, seed=1)
    right = convolved(pictures, weight)
    by_column = right.reshape(2, 2, 3, 5).swapaxes(1, 2).reshape(2, 6, 5)
    other_order = convolved(pictures, weight.reshape(5, 4, 4, 3).transpose(0, 3, 1, 2))
    compare(
        code.embed_patches(pictures, weight),
        right,
        (by_column, "patches go column by column; expected row by row, as one reads"),
        (other_order, "colours come after pixels in your patches; in the weight they come first"),
    )
    learns(lambda w: code.embed_patches(pictures, w), weight)


def convolved(pictures: mx.array, weight: mx.array) -> mx.array:
    """A convolution with a stride of one patch is the same thing; MLX has colours last."""
    found = mx.conv2d(pictures.transpose(0, 2, 3, 1), weight.transpose(0, 2, 3, 1), stride=4)
    return found.reshape(pictures.shape[0], -1, weight.shape[0])


@exercise(
    "RMSNorm",
    "rms_norm(x (..., D), weight (D,), eps) -> (..., D)",
    "Square, take the mean over the last axis and keep that axis, add eps, take the root, divide. "
    "Nothing is subtracted.",
)
def check_norm(code: Any) -> None:
    """A large eps shows where it is added."""
    x, weight, eps = noise(2, 3, 8) + 0.5, noise(8, seed=1), 0.3
    mean = x.mean(-1, keepdims=True)
    square = (x * x).mean(-1, keepdims=True)
    right = mx.fast.rms_norm(x, weight, eps)
    compare(
        code.rms_norm(x, weight, eps),
        right,
        (mx.fast.layer_norm(x, weight, None, eps), "that is LayerNorm: the mean is not subtracted"),
        (x - mean, "the mean is not subtracted, and the size is to become one"),
        (mx.fast.rms_norm(x, None, eps), "the weight is not used yet"),
        (x / (mx.sqrt(square) + eps) * weight, "eps belongs under the root, to the mean square"),
        (mx.fast.rms_norm(x, weight, 0.0), "eps is not used yet"),
        (x * mx.rsqrt(square * 8 + eps) * weight, "that is the sum of squares; expected the mean"),
    )
    learns(lambda x: code.rms_norm(x, weight, eps), x)


@exercise(
    "RoPE-2D",
    "rope_2d(rows, columns, d, theta) -> (N, d / 2)",
    "First write the row of every patch, 0 0 0 1 1 1 for 2 × 3, and its column, 0 1 2 0 1 2. Each, "
    "as in rope_1d, times its half of the frequencies: f[0::2] is every other one from the first.",
)
def check_rope(code: Any) -> None:
    """Rows, columns and a head of three different sizes."""
    eyes = VisionConfig(
        hidden_size=16, num_channels=3, image_size=64, patch_size=4, rope_theta=100.0,
        intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, image_token_id=10,
    )  # fmt: skip
    right = Rope2D(eyes).angles([(2, 3)])
    by_row, by_column = right[:, :4], right[:, 4:]
    f = 100.0 ** -(mx.arange(0, 16, 2) / 16)
    row, column = mx.array([0, 0, 0, 1, 1, 1])[:, None], mx.array([0, 1, 2, 0, 1, 2])[:, None]
    compare(
        code.rope_2d(2, 3, 16, 100.0),
        right,
        (mx.concatenate([by_column, by_row], 1), "columns come first; expected rows"),
        (
            mx.concatenate([column * f[0::2], row * f[1::2]], 1),
            "columns turn the pairs of rows; rows come first",
        ),
        (
            mx.concatenate([row * f[:4], column * f[4:]], 1),
            "rows have the fast frequencies, columns the slow ones; expected every other one each",
        ),
        (
            mx.concatenate([row * f[0::2], column * f[0::2]], 1),
            "rows and columns share their frequencies; expected every other one each",
        ),
        (
            mx.stack([by_row, by_column], -1).reshape(6, 8),
            "row and column take turns; expected all of the row's first",
        ),
        (
            mx.concatenate([(row + 1) * f[0::2], (column + 1) * f[1::2]], 1),
            "rows and columns count from 1; expected from 0",
        ),
    )


@exercise(
    "attention",
    "attention(queries (B, H, L, d), keys (B, H, N, d), values (B, H, N, d), mask (L, N)) "
    "-> (B, H, L, d)",
    "Scores are queries times keys with the last two axes swapped, divided by the root of d. Put "
    "minus infinity where the mask is False, and only then take softmax over the keys.",
)
def check_attention(code: Any) -> None:
    """First without a mask, then with one."""
    queries, keys, values = (noise(2, 3, n, 8, seed=n) for n in (4, 5, 6))
    values, mask = values[:, :, :5], mx.array(np.tri(4, 5, 0, dtype=bool))
    right, scores = attended(queries, keys, values), queries @ keys.swapaxes(-1, -2)
    compare(
        code.attention(queries, keys, values),
        right,
        (mx.softmax(scores, axis=-1) @ values, "the scores are not scaled: by the root of d"),
        (mx.softmax(scores / 8, axis=-1) @ values, "the scores are scaled by d; expected its root"),
        (
            mx.softmax(scores / 8**0.5, axis=-2) @ values,
            "softmax is over the queries; expected over the keys, the last axis",
        ),
        (scores / 8**0.5 @ values, "there is no softmax yet"),
    )
    chances = mx.softmax(scores / 8**0.5, axis=-1)
    compare(
        code.attention(queries, keys, values, mask),
        attended(queries, keys, values, mask),
        (right, "the mask is not used yet"),
        (
            attended(queries, keys, values, ~mask),
            "the mask is upside down: a query may look where it is True",
        ),
        (
            mx.where(mask, chances, 0.0) @ values,
            "the mask comes after softmax: the weights of a query no longer sum to one",
        ),
        (
            mx.softmax(mx.where(mask, scores / 8**0.5, 0.0), axis=-1) @ values,
            "a score of 0 is not nothing: after softmax it still has a weight",
        ),
    )
    learns(lambda q: code.attention(q, keys, values, mask), queries)


def attended(queries: mx.array, keys: mx.array, values: mx.array, mask: Any = None) -> mx.array:
    """MLX's own."""
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=8**-0.5, mask=mask)


@exercise(
    "SwiGLU",
    "swiglu(x (..., D), w1, w2, w3) -> (..., D)",
    "Three layers, one product: nn.silu of what w1 makes of x opens or shuts what w3 makes of it, "
    "number by number; w2 leads back.",
)
def check_swiglu(code: Any) -> None:
    """Layers of 6 to 10 and back."""
    mx.random.seed(0)
    layer, x = FeedForward(6, 10), 3 * noise(2, 4, 6)
    w1, w2, w3 = layer.w1, layer.w2, layer.w3
    compare(
        code.swiglu(x, w1, w2, w3),
        layer(x),
        (w2(w1(x) * nn.silu(w3(x))), "gate and value are exchanged: silu is for w1"),
        (w2(nn.gelu(w1(x)) * w3(x)), "that is GELU; expected silu"),
        (w2(mx.sigmoid(w1(x)) * w3(x)), "that is the sigmoid alone; silu is x times sigmoid(x)"),
        (w2(nn.relu(w1(x)) * w3(x)), "that is ReLU; expected silu"),
        (w2(nn.silu(w1(x))), "there is a gate and no value: w3 is not used yet"),
        (w2(w1(x) * w3(x)), "nothing bends: silu is missing"),
        (w2(nn.silu(w1(x)) + w3(x)), "gate and value are added; expected multiplied"),
    )
    learns(lambda x: code.swiglu(x, w1, w2, w3), x)


@exercise(
    "block-diagonal mask",
    "own_picture(lengths) -> (N, N), True and False",
    "Give each patch the number of its picture, 0 0 1 1 1 for [2, 3], and compare that as a column "
    "with itself as a row.",
)
def check_mask(code: Any) -> None:
    """One that differs says who sees whom."""
    for lengths in ([2, 3, 1], [4], [1, 1]):
        owner = np.repeat(np.arange(len(lengths)), lengths)
        right = owner[:, None] == owner[None]
        found = code.own_picture(list(lengths))
        if isinstance(found, mx.array) and found.shape == right.shape:
            for i, j in np.argwhere(np.array(found).astype(bool) != right)[:1]:
                may = "may not" if right[i, j] else "may"
                whose = "of its own picture" if right[i, j] else "of another picture"
                raise Wrong(f"for {lengths}, patch {i + 1} {may} see patch {j + 1}, {whose}")
        compare(found, mx.array(right))


@exercise(
    "projector",
    "project(x (..., D of the encoder), w_in, w_out) -> (..., D of the decoder)",
    "Call w_in, bend, call w_out. nn.gelu is the exact one; it has cousins that are nearly right.",
)
def check_project(code: Any) -> None:
    """Numbers at which GELU and its cousins are furthest apart."""
    mx.random.seed(0)
    w_in, w_out, x = nn.Linear(6, 8), nn.Linear(8, 8), 2 * noise(2, 5, 6)
    inner = w_in(x)
    compare(
        code.project(x, w_in, w_out),
        w_out(nn.gelu(inner)),
        (w_out(inner), "nothing bends between the layers: GELU is missing"),
        (w_out(nn.gelu_approx(inner)), "that is GELU's approximation by tanh; expected the exact"),
        (w_out(nn.gelu_fast_approx(inner)), "that is an approximation; expected the exact GELU"),
        (w_out(nn.silu(inner)), "that is silu; expected GELU"),
        (w_out(nn.relu(inner)), "that is ReLU; expected GELU"),
        (nn.gelu(w_out(inner)), "GELU belongs between the layers; yours comes last"),
        (nn.gelu(inner), "w_out is not used yet"),
    )
    learns(lambda x: code.project(x, w_in, w_out), x)


@exercise(
    "break tokens",
    "picture_tokens(rows, columns) -> a list of rows * (columns + 1) ids",
    "One row is IMG as often as there are columns, and one IMG_BREAK. Repeat it, and look at the "
    "last token once more.",
)
def check_tokens(code: Any) -> None:
    """A single row and a single column too."""
    names = {code.IMG: "IMG", code.IMG_BREAK: "IMG_BREAK", code.IMG_END: "IMG_END"}
    ids = tuple(names)
    for rows, columns in ((2, 3), (1, 4), (3, 1)):
        found, right = (
            code.picture_tokens(rows, columns),
            image_tokens(PatchGrid(rows, columns), ids),
        )
        here = f"for {rows} row{'s' * (rows > 1)} and {columns} column{'s' * (columns > 1)}"
        if found is None:
            raise Wrong("it returns nothing: is there a return?")
        if not isinstance(found, list):
            raise Wrong(f"it returns {type(found).__name__}; expected list, of ids")
        if found == right:
            continue
        if found == image_tokens(PatchGrid(columns, rows), ids):
            raise Wrong(f"{here}, rows and columns are exchanged")
        if found == [*right[:-1], code.IMG_BREAK]:
            raise Wrong(f"{here}, the last token is IMG_BREAK; expected IMG_END")
        if found == [*right[:-1], code.IMG_BREAK, code.IMG_END]:
            raise Wrong(f"{here}, IMG_END is added; expected in place of the last IMG_BREAK")
        if len(found) != len(right):
            raise Wrong(f"{here} there are {len(found)} ids; expected {len(right)}")
        place = next(i for i, pair in enumerate(zip(found, right, strict=True)) if len({*pair}) > 1)
        said = names.get(found[place], repr(found[place]))
        raise Wrong(f"{here}, token {place + 1} is {said}; expected {names[right[place]]}")


@exercise(
    "grouped queries",
    "share_heads(x (B, K, N, d), H) -> (B, H, N, d)",
    "Each head is to stand there H / K times, one copy next to the other. MLX has a function for "
    "that, and another that puts the copies elsewhere.",
)
def check_share(code: Any) -> None:
    """Two heads for six."""
    x = noise(2, 2, 3, 4)
    compare(
        code.share_heads(x, 6),
        x[:, mx.array([0, 0, 0, 1, 1, 1])],
        (
            x[:, mx.array([0, 1, 0, 1, 0, 1])],
            "the copies take turns, 0 1 0 1 0 1; expected neighbours, 0 0 0 1 1 1",
        ),
        (x, "there are as many heads as before"),
    )
    learns(lambda x: code.share_heads(x, 6), x)


@exercise(
    "KV cache",
    "KVCache.update(keys (B, K, L, d), values (B, K, L, d)) -> the same of all tokens so far",
    "At first self.keys is None. Later, put the old ones and the new ones together along the axis "
    "that counts tokens; remember the result in self, for the next time.",
)
def check_cache(code: Any) -> None:
    """Three tokens, then one, then two."""
    keys, values, cache = noise(2, 3, 6, 4), noise(2, 3, 6, 4, seed=1), code.KVCache()
    for start, stop in ((0, 3), (3, 4), (4, 6)):
        new = keys[:, :, start:stop], values[:, :, start:stop]
        found = cache.update(*new)
        if not isinstance(found, tuple) or len(found) != 2:
            raise Wrong("it returns something else; expected two arrays, keys and values")
        when = "" if start == 0 else f"with {start} tokens before and {stop - start} new, "
        for what, ours, whole in zip(("keys", "values"), found, (keys, values), strict=True):
            old, late = whole[:, :, :start], whole[:, :, start:stop]
            other = values if what == "keys" else keys
            mistakes = [(other[:, :, :stop], "keys and values are exchanged")]
            if start:
                mistakes += [
                    (late, "only the new ones come back; expected the old ones too"),
                    (mx.concatenate([late, old], 2), "new ones come first; expected oldest first"),
                ]
            try:
                compare(ours, whole[:, :, :stop], *mistakes)
            except Wrong as wrong:
                raise Wrong(f"{when}{what}: {wrong}") from None
        if cache.length != stop:
            raise Wrong(
                f"the cache remembers {cache.length} tokens after {stop}: keep them in self"
            )


@exercise(
    "sampling",
    "sample(logits (vocabulary,), temperature, top_p) -> an int",
    "mx.argsort puts tokens in order, mx.cumsum adds up their chances. A token stays if those that "
    "are likelier do not reach top_p yet; the others get minus infinity. mx.random.categorical "
    "draws from logits. What it draws is a place in the order, not yet the token.",
)
def check_sample(code: Any) -> None:
    """Four tokens, likeliest first: 2, 0, 3, 1. Draws are counted."""
    mx.random.seed(0)
    logits = mx.log(mx.array([0.3, 0.1, 0.4, 0.2]))
    best = code.sample(logits, 0.0, 1.0)
    if best is None:
        raise Wrong("it returns nothing: is there a return?")
    if not isinstance(best, int):
        raise Wrong(f"it returns {type(best).__name__}; expected int: .item() makes one")
    if best != 2:
        raise Wrong(f"at temperature 0 it says token {best}; expected 2, the likeliest")

    def share(times: int, temperature: float, top_p: float) -> dict[int, float]:
        drawn = Counter(code.sample(logits, temperature, top_p) for _ in range(times))
        if strange := set(drawn) - {0, 1, 2, 3}:
            raise Wrong(f"it says token {strange.pop()}; there are four, 0 to 3")
        return {token: drawn[token] / times for token in range(4)}

    def expect(found: dict[int, float], right: dict[int, float], when: str) -> None:
        for token, chance in sorted(right.items(), key=lambda each: each[1]):
            if chance == 0 and found[token]:
                raise Wrong(f"{when} it draws token {token}, which does not belong to those kept")
            if chance and not found[token]:
                raise Wrong(
                    f"{when} it never draws token {token}; expected {chance:.0%} of the time"
                )
            if abs(found[token] - chance) > 0.11:
                raise Wrong(
                    f"{when} it draws token {token} {found[token]:.0%} of the time; "
                    f"expected {chance:.0%}"
                )

    expect(share(60, 5.0, 0.01), {2: 1, 0: 0, 3: 0, 1: 0}, "with top_p 0.01")
    right = {2: 4 / 7, 0: 3 / 7, 3: 0, 1: 0}
    expect(share(400, 1.0, 0.6), right, "with top_p 0.6 and chances of 40, 30, 20 and 10 %,")
    sharp = dict(zip((2, 0, 3, 1), np.array([16, 9, 4, 1]) / 30, strict=True))
    expect(share(400, 0.5, 1.0), sharp, "at temperature 0.5")
    sharp = {2: 16 / 25, 0: 9 / 25, 3: 0, 1: 0}
    expect(share(400, 0.5, 0.75), sharp, "at temperature 0.5 and top_p 0.75")


@exercise(
    "merge",
    "merge(embeddings (B, L, D), tokens (B, L), features (N, D)) -> (B, L, D)",
    "mx.cumsum over tokens == IMG, flattened, numbers the places from 1. Take the feature of that "
    "number everywhere, and keep it, with mx.where, only where there is an IMG.",
)
def check_merge(code: Any) -> None:
    """Two prompts, the first with a picture of 2 × 2 patches and the second of 1 × 2."""
    IMG, BREAK, END = code.IMG, code.IMG_BREAK, code.IMG_END
    ids = [[1, IMG, IMG, BREAK, IMG, IMG, END, 7], [1, 8, 9, IMG, IMG, END, 7, 7]]
    tokens, embeddings, features = mx.array(ids), noise(2, 8, 4), noise(6, 4, seed=1)

    def merged(order: list[int]) -> mx.array:
        expected, numbers = np.array(embeddings), iter(order)
        for place in np.argwhere(np.array(ids) == IMG):
            expected[tuple(place)] = np.array(features)[next(numbers)]
        return mx.array(expected)

    found = code.merge(mx.array(embeddings), tokens, features)
    if isinstance(found, mx.array) and found.shape == embeddings.shape:
        for prompt, token in np.argwhere(np.array(mx.any(found != embeddings, axis=-1))).tolist():
            if ids[prompt][token] != IMG:
                name = {BREAK: "IMG_BREAK", END: "IMG_END"}.get(ids[prompt][token], "the word")
                at = f"prompt {prompt + 1}, token {token + 1}"
                raise Wrong(f"{name} at {at}, is changed; expected IMG alone to take features")
    compare(
        found,
        merged([*range(6)]),
        (
            merged([0, 1, 2, 3, 0, 1]),
            "the second prompt begins with the first feature again; expected the fifth",
        ),
        (merged([5, 4, 3, 2, 1, 0]), "the features are in reverse"),
        (
            merged([1, 2, 3, 4, 5, 5]),
            "off by one: the first IMG is to take the first feature",
        ),
        (embeddings, "no feature is put anywhere"),
    )
    learns(lambda f: code.merge(mx.array(embeddings), tokens, f), features)


# The last -----------------------------------------------------------------------------------------


def check_mini(code: Any) -> str:
    """pixtral-mini's weights in this code: logits as the library's, and answers.

    Returns:
        How close they are, and what it said.

    Raises:
        Wrong: anything differs.
    """
    import pixtral_mlx as px
    from pixtral_mlx.mini import CHECKPOINT, scene

    library, model = px.load("mini", dtype="float32"), code.load(CHECKPOINT)
    said, apart = [], 0.0
    for kind in ("describe", "which"):
        question = next(one for one in scene(5).questions if one.kind == kind)
        prompt = library.encode(question.text, images=question.images)
        pictures = [mx.array(image) for image in prompt.images]
        try:
            ours, theirs = model(mx.array([prompt.tokens]), pictures)[0], library.logits(prompt)
            compare(ours, theirs, tolerance=CLOSE_LOGITS)
        except Wrong as wrong:
            raise Wrong(f"logits for {len(pictures)} picture(s): {wrong}") from None
        apart = max(apart, mx.abs(ours - theirs).max().item())
        answer = library.tokenizer.decode(list(code.generate(model, prompt.tokens, pictures)))
        if answer != question.answer:
            raise Wrong(
                f"asked {question.text!r}, it says {answer!r}; expected {question.answer!r}"
            )
        said.append(f"{question.text} {answer}")
    return f"the same logits as the library's, to within {apart:.1g}. {' '.join(said)}"
