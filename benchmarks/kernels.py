"""Models that compute nonsense with as many operations on a CPU as a GPU gets kernels."""

from typing import Any

import mlx.core as mx


def one_kernel_each() -> None:
    """Before a model is made: RMSNorm, RoPE and attention of `mx.fast`, which are a kernel each on
    Metal and many operations on a CPU, become one operation each, which depends on what it should.
    Numbers stay small."""
    fast: Any = mx.fast
    fast.rms_norm = lambda x, *_, **__: mx.tanh(x)
    fast.rope = lambda x, *_, **__: mx.abs(x)
    fast.scaled_dot_product_attention = lambda q, k, v, **_: mx.depends([mx.tanh(q)], [k, v])[0]
