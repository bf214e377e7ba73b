"""One layer of each part by its definition, in NumPy's float64 and position by position.

To check any device's kernels against. Nothing here is shared with the modules but their weights;
packed words are unpacked here too.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..model.config import TextConfig, VisionConfig

ROWS_AT_ONCE = 2048
"""Of a matrix that is unpacked; a matrix of the 12B in float64 would take 587 MB."""


def text_layer(
    block: nn.Module, config: TextConfig, x: np.ndarray, positions: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A decoder layer at some positions; each sees itself and all before it.

    Arguments:
        block: a `DecoderBlock`; its matrices may be quantized, affine in 4 bits.
        x: shape (L, D).
        positions: those wanted.

    Returns:
        Its output, shape (positions, D), and the keys, turned, and values of all positions, each of
        shape (K, L, head_dim).
    """
    part: Any = block.attention
    seen = rms_norm(x, part_weight(block.attention_norm), config.norm_eps)
    angles = np.arange(len(x))[:, None] * frequencies(config.head_dim, config.rope_theta)
    keys = turn(heads(product(seen, part.wk), config.n_kv_heads), angles)
    values = heads(product(seen, part.wv), config.n_kv_heads)
    wanted = list(positions)
    queries = turn(heads(product(seen[wanted], part.wq), config.n_heads), angles[wanted])
    group = config.n_heads // config.n_kv_heads
    found = np.empty((len(wanted), config.n_heads, config.head_dim))
    for head in range(config.n_heads):
        for row, position in enumerate(wanted):
            own = slice(position + 1)
            held = keys[head // group, own], values[head // group, own]
            found[row, head] = attend(queries[head, row : row + 1], *held)[0]
    h = x[wanted] + product(found.reshape(len(wanted), -1), part.wo)
    return h + _feed_forward(block, h, config.norm_eps), keys, values


def vision_layer(
    block: nn.Module,
    config: VisionConfig,
    x: np.ndarray,
    grid: tuple[int, int],
    patches: Sequence[int],
    eps: float = 1e-5,
) -> np.ndarray:
    """An encoder layer over one image at some patches; each sees all.

    Arguments:
        block: a `VisionBlock`.
        x: shape (N, D), row by row.
        grid: (rows, columns).
        patches: those wanted.

    Returns:
        Shape (patches, D).
    """
    part: Any = block.attention
    seen = rms_norm(x, part_weight(block.attention_norm), eps)
    rows, columns = np.divmod(np.arange(len(x)), grid[1])
    f = frequencies(config.head_dim, config.rope_theta)
    angles = np.concatenate([rows[:, None] * f[0::2], columns[:, None] * f[1::2]], axis=1)
    count, wanted = config.num_attention_heads, list(patches)
    keys = turn(heads(product(seen, part.wk), count), angles)
    values = heads(product(seen, part.wv), count)
    queries = turn(heads(product(seen[wanted], part.wq), count), angles[wanted])
    found = np.stack([attend(*each) for each in zip(queries, keys, values, strict=True)], axis=1)
    h = x[wanted] + product(found.reshape(len(wanted), -1), part.wo)
    return h + _feed_forward(block, h, eps)


def attend(queries: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """softmax(queries keys^T / sqrt(head_dim)) values of one head: shape (queries, head_dim)."""
    scores = queries @ keys.T * keys.shape[1] ** -0.5
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) @ values


def _feed_forward(block: Any, h: np.ndarray, eps: float) -> np.ndarray:
    seen, part = rms_norm(h, part_weight(block.ffn_norm), eps), block.feed_forward
    gate = product(seen, part.w1)
    return product(gate / (1 + np.exp(-gate)) * product(seen, part.w3), part.w2)


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """x / sqrt(mean(x^2) + eps) * weight, over the last axis."""
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * weight


def frequencies(head_dim: int, theta: float) -> np.ndarray:
    """Of the pairs of a head, in radians a position: shape (head_dim / 2,)."""
    return theta ** -(np.arange(0, head_dim, 2) / head_dim)


def heads(x: np.ndarray, count: int) -> np.ndarray:
    """(L, H * head_dim) -> (H, L, head_dim)."""
    return x.reshape(len(x), count, -1).transpose(1, 0, 2)


def turn(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Pairs (2j, 2j + 1) of shape (H, L, head_dim) as complex numbers, turned by (L, pairs)."""
    pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
    return np.stack([pairs.real, pairs.imag], axis=-1).reshape(x.shape)


def product(x: np.ndarray, linear: Any) -> np.ndarray:
    """x W^T, without a bias: (L, in) -> (L, out)."""
    starts = range(0, linear.weight.shape[0], ROWS_AT_ONCE)
    parts = [x @ matrix(linear, slice(start, start + ROWS_AT_ONCE)).T for start in starts]
    return np.concatenate(parts, axis=1)


def matrix(linear: Any, rows: slice) -> np.ndarray:
    """Some rows of a matrix in float64, unpacked by the definition where it is quantized in 4 bits:
    `scale * integer + bias`, integers from the lowest bits of a word upwards."""
    if not hasattr(linear, "bits"):
        return as_float64(linear.weight[rows])
    bytes_ = np.array(linear.weight[rows]).view(np.uint8)
    integers = np.stack([bytes_ & 15, bytes_ >> 4], axis=-1)
    grouped = integers.reshape(len(bytes_), -1, linear.group_size)
    scales, biases = (as_float64(part[rows])[..., None] for part in (linear.scales, linear.biases))
    return (grouped * scales + biases).reshape(len(bytes_), -1)


def part_weight(norm: Any) -> np.ndarray:
    """The weight of a norm in float64."""
    return as_float64(norm.weight)


def as_float64(array: mx.array) -> np.ndarray:
    """Exact for every type that the modules compute in; NumPy has no bfloat16."""
    return np.array(array.astype(mx.float32)).astype(np.float64)
