"""Where MLX computes: the one place that asks, for the few computations that go another way on a
GPU than on a CPU.

Attention in pieces, unpacking by NumPy, what prompt lookup may draft and how bandwidth is measured
depend on it. `assumed` takes either way on any machine, so that both can be tested everywhere.

With `PIXTRAL_MLX_CPU` in the environment MLX computes on the CPU, as on CI's Macs, whose Metal is
virtual; MLX has no such variable of its own.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

REMEDIES = {
    "Impacting Interactivity": "the GPU worked too long while the display was on: a smaller "
    "--prefill-step-size, or the display switched off, helps",
    "GPU Timeout": "one piece of work took the GPU too long: a smaller --prefill-step-size helps",
    "Insufficient Memory": "the GPU's memory was full: fewer tokens, --image-budget or --kv-bits "
    "help, and so does closing other programs",
}
"""What Metal says when macOS ends a GPU's work, and what helps. Where MLX hears of it on a thread
of the system the process ends with SIGABRT, and nobody can say more than Metal's own line."""

_assumed: bool | None = None

if os.environ.get("PIXTRAL_MLX_CPU"):
    mx.set_default_device(mx.cpu)


def on_gpu() -> bool:
    """Whether MLX's default device is a GPU."""
    if _assumed is not None:
        return _assumed
    return mx.default_device() == mx.Device(mx.gpu)


def remedy(said: str) -> str:
    """What helps against an error of Metal's, one line; "" if it is not one of those above."""
    return next((text for sign, text in REMEDIES.items() if "[METAL]" in said and sign in said), "")


@contextmanager
def assumed(*, gpu: bool) -> Iterator[None]:
    """Within it `on_gpu` gives `gpu`, in all threads; MLX computes where it did before."""
    global _assumed
    before, _assumed = _assumed, gpu
    try:
        yield
    finally:
        _assumed = before
