"""What notebooks 8 and 9 share: timing, rounding, and answers to their exercises."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

import pixtral_mlx as px
from pixtral_mlx.engine.capacity import kv_bytes_per_token

from .exercises import Verdict, numbers
from .figures import short

# Notebook 8 -----------------------------------------------------------------------------------


def seconds(work: Callable[[], mx.array], times: int = 5) -> float:
    """The shortest of several runs, after one that is not counted: other programs only add."""
    mx.eval(work())
    found = []
    for _ in range(times):
        start = time.perf_counter()
        mx.eval(work())
        found.append(time.perf_counter() - start)
    return min(found)


def check_kv(answer: Any, config: px.PixtralConfig, tokens: int) -> Verdict:
    """Bytes of keys and values of so many tokens, in 16 bits; within one in a hundred.

    Arguments:
        config: of the model. tokens: of the image, breaks included.
    """
    found = _number(answer)
    if found is None:
        return Verdict(False, "Give a number of bytes, as in 1e9.")
    text, grid = config.text, px.patch_grid(1024, 1024, config.vision)
    right = tokens * kv_bytes_per_token(text)
    wrong = {
        2: "Keys and values: twice as much.",
        text.n_kv_heads / text.n_heads: "Only the key and value heads are kept, and there are "
        f"{text.n_kv_heads} of them for {text.n_heads} query heads.",
        0.5: "In 16 bits a number takes two bytes, not four.",
        text.n_layers: "That is one layer.",
        tokens / grid.patches: "Break tokens have keys and values too.",
        tokens: "That is one token.",
    }
    for factor, text_of_error in wrong.items():
        if abs(found * factor / right - 1) < 0.005:
            return Verdict(False, text_of_error)
    if abs(found / right - 1) > 0.01:
        return Verdict(
            False, "Multiply 2 (key and value), layers, key heads, head width, bytes and tokens."
        )
    return Verdict(True, f"{right:,} bytes for one picture.")


def check_speed(answer: Any, bandwidth: float, read: int, whole: int) -> Verdict:
    """Tokens a second at most; within five in a hundred.

    Arguments:
        bandwidth: bytes a second. read: bytes of one decode step. whole: bytes of all weights.
    """
    found = _number(answer)
    if found is None or found <= 0:
        return Verdict(False, "Give a number of tokens per second, as in 25.")
    if abs(found * whole / bandwidth - 1) < 0.02:
        return Verdict(
            False, "A step reads the decoder, but not the encoder, nor the whole embedding table."
        )
    if abs(found * read / bandwidth - 1) > 0.05:
        return Verdict(False, "Divide bytes per second by bytes per step.")
    return Verdict(True, f"At most {bandwidth / read:.0f} tokens per second.")


def _number(answer: Any) -> float | None:
    found = numbers([answer], 1)
    return found[0] if found else None


# Notebook 9 -----------------------------------------------------------------------------------


def twin(model: px.Pixtral) -> px.Pixtral:
    """A second model with the same weights, which are in memory only once."""
    other = px.Pixtral(model.config, model.tokenizer.path)
    other.load_weights(tree_flatten(model.parameters()))
    other.eval()
    return other


def parts_of(model: px.Pixtral) -> dict[str, list[nn.Module]]:
    """The matrices that a conversion quantizes by default, part by part, in order."""
    decoder = model.decoder
    named = {"embeddings": decoder.tok_embeddings, "projector": model.projector}
    named |= {f"layer {number}": layer for number, layer in enumerate(decoder.layers)}
    if not model.config.text.tied_embeddings:
        named["output"] = decoder.output
    kinds = nn.Linear | nn.Embedding
    return {
        name: [m for _, m in module.named_modules() if isinstance(m, kinds)]
        for name, module in named.items()
    }


@contextmanager
def rounded(matrices: Sequence[nn.Module], bits: int, group_size: int = 64) -> Iterator[None]:
    """Within `with`, these matrices are what so many bits leave of them; then as they were."""
    before = [matrix.weight for matrix in matrices]
    how = {"group_size": group_size, "bits": bits}
    try:
        for matrix in matrices:
            matrix.weight = mx.dequantize(*mx.quantize(matrix.weight, **how), **how)
        yield
    finally:
        for matrix, weight in zip(matrices, before, strict=True):
            matrix.weight = weight


def bytes_in(parts: Mapping[str, Sequence[nn.Module]], bits: Mapping[str, int]) -> int:
    """Bytes of these parts in so many bits each, with a 16-bit scale and bias for each 64."""
    sizes = {name: sum(matrix.weight.size for matrix in part) for name, part in parts.items()}
    return round(sum(size * (bits[name] + 32 / 64) / 8 for name, size in sizes.items()))


def check_part(answer: Any, effects: Mapping[str, float]) -> Verdict:
    """The part that rounding hurts most.

    Arguments:
        effects: {part: KL when it alone is rounded}.
    """
    if not isinstance(answer, str) or answer not in effects:
        return Verdict(False, f"Give one of: {', '.join(effects)}.")
    own, worse = effects[answer], [name for name in effects if effects[name] > effects[answer]]
    seen = f"Rounding it alone moves the answers by {short(own)} nats per token"
    if worse:
        return Verdict(False, f"{seen}; parts that move them more: {len(worse)}.")
    return Verdict(True, f"{seen}, more than any other part.")


def check_bytes(answer: Any, right: float) -> Verdict:
    """Bits a weight takes with its share of scale and bias."""
    found = _number(answer)
    if found is None:
        return Verdict(False, "Give a number of bits, as in 3.2.")
    if found == int(right):
        return Verdict(False, "Each group has a scale and a bias of 16 bits too.")
    if abs(found - right) > 1e-6:
        return Verdict(False, "Share the 32 bits of scale and bias among the weights of the group.")
    return Verdict(True, f"{right} bits per weight.")
