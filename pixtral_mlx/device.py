"""Where MLX computes: the one place that asks, for the few computations that go another way on a
GPU than on a CPU.

Attention in pieces, unpacking by NumPy, what prompt lookup may draft and how bandwidth is measured
depend on it. `assumed` takes either way on any machine, so that both can be tested everywhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

_assumed: bool | None = None


def on_gpu() -> bool:
    """Whether MLX's default device is a GPU."""
    if _assumed is not None:
        return _assumed
    return mx.default_device() == mx.Device(mx.gpu)


@contextmanager
def assumed(*, gpu: bool) -> Iterator[None]:
    """Within it `on_gpu` gives `gpu`, in all threads; MLX computes where it did before."""
    global _assumed
    before, _assumed = _assumed, gpu
    try:
        yield
    finally:
        _assumed = before
