"""Attention that never holds the scores of a whole layer, and no mask between images.

On a GPU `mx.fast.scaled_dot_product_attention` works in tiles. On a CPU it holds one number for
each query, key and head: 1.1 GB for an image of 64 x 64 patches. There the queries go a few at a
time, which gives the same numbers in the same time.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import mlx.core as mx

from .device import on_gpu
from .kv_cache import dense

SCORES_AT_ONCE = 2**22
"""Scores of one step on a CPU; MLX works on up to ten steps at once."""
FEWEST_QUERIES = 8
PATCHES_AT_ONCE = 1000
"""Small images go through the encoder together, and attend in one call where they have one size;
larger ones go one by one, so that memory does not grow with the number of images."""


def attend(
    queries: mx.array,
    keys: Any,
    values: Any,
    *,
    scale: float,
    mask: Any = None,
    cache: Any = None,
) -> mx.array:
    """softmax(scale queries keys^T + mask) values.

    Arguments:
        queries: shape (B, H, L, head_dim).
        keys, values: shape (B, K, N, head_dim); or what a quantized KV cache gives.
        mask: None, "causal" (the last query sees the last key) or an array (..., L, N).
        cache: the KV cache that gave keys and values, or None.

    Returns:
        Shape (B, H, L, head_dim).
    """
    B, H, L, _ = queries.shape
    if hasattr(cache, "bits"):
        K, head_dim = keys[0].shape[1], queries.shape[3]
        if K * head_dim >= H * L:  # less than the keys would take
            from mlx_lm.models.base import quantized_scaled_dot_product_attention

            # It scales the queries in place, and a trace may hold them.
            return quantized_scaled_dot_product_attention(
                queries * scale, keys, values, 1.0, mask, cache.group_size, cache.bits
            )
        keys, values = (dense(part, cache, queries.dtype) for part in (keys, values))
    step = L
    if L > FEWEST_QUERIES and not on_gpu():
        step = max(FEWEST_QUERIES, SCORES_AT_ONCE // (B * H * keys.shape[2]))
    if step >= L:
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
    N = keys.shape[2]
    parts: list[mx.array] = []
    for start in range(0, L, step):
        stop, seen = min(start + step, L), N
        own, some = mask, queries[:, :, start:stop]
        if isinstance(mask, str):
            seen = N - L + stop
        elif mask is not None:
            own = mask[..., start:stop, :]
        if parts:  # one step after the other
            some = mx.depends([some], parts[-1:])[0]
        parts.append(
            mx.fast.scaled_dot_product_attention(
                some, keys[:, :, :seen], values[:, :, :seen], scale=scale, mask=own
            )
        )
    return mx.concatenate(parts, axis=2)


def attend_within(
    queries: mx.array, keys: mx.array, values: mx.array, lengths: Sequence[int], *, scale: float
) -> mx.array:
    """Attention of several images, each within itself: the block-diagonal mask without a mask (a
    dense one for four full-size images would hold (4 * 4096)^2 entries).

    Arguments:
        queries, keys, values: patches of all images, shape (1, H, N, head_dim).
        lengths: patches of each image; they sum to N.

    Returns:
        Shape (N, H, head_dim).
    """
    H, outputs, start = queries.shape[1], [], 0
    for length, images in _runs(lengths):
        part = slice(start, start + images * length)
        attended = attend(
            *(_split(each[:, :, part], images) for each in (queries, keys, values)), scale=scale
        )
        outputs.append(attended.transpose(0, 2, 1, 3).reshape(images * length, H, -1))
        start = part.stop
    return mx.concatenate(outputs)


def together(images: Sequence, sizes: Sequence[int]) -> Iterator[list]:
    """Neighbouring images of together at most `PATCHES_AT_ONCE` patches, which share matrices; a
    larger image is alone.

    Arguments:
        sizes: patches of each image.
    """
    group, patches = [], 0
    for image, size in zip(images, sizes, strict=True):
        if group and patches + size > PATCHES_AT_ONCE:
            yield group
            group, patches = [], 0
        group.append(image)
        patches += size
    if group:
        yield group


def _runs(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(length, how many neighbours of this length attend in one call)."""
    for length, run in groupby(lengths):
        images, most = len(list(run)), max(1, PATCHES_AT_ONCE // length)
        while images:
            yield length, min(images, most)
            images -= min(images, most)


def _split(x: mx.array, images: int) -> mx.array:
    """(1, H, images * N, head_dim) -> (images, H, N, head_dim)."""
    heads, width = x.shape[1], x.shape[3]
    return x.reshape(heads, images, -1, width).transpose(1, 0, 2, 3)
