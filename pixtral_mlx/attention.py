"""Attention that never holds the scores of a whole layer.

On a GPU `mx.fast.scaled_dot_product_attention` works in tiles. On a CPU it holds one number for
each query, key and head: 1.1 GB for an image of 64 x 64 patches. There the queries go a few at a
time, which gives the same numbers in the same time.
"""

from typing import Any

import mlx.core as mx

from .device import on_gpu
from .kv_format import dense

SCORES_AT_ONCE = 2**22
"""Scores of one step on a CPU; MLX works on up to ten steps at once."""
FEWEST_QUERIES = 8


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
    N = keys.shape[2]
    step = max(FEWEST_QUERIES, SCORES_AT_ONCE // (B * H * N))
    if step >= L or on_gpu():
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
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
