"""What bounds decoding on this machine: how fast its memory can be read.

An Apple chip's bandwidth is published (`macs`); any other machine's is measured by copying.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from .macs import this_chip

COPY_BYTES = 2**28
"""Copied at a time, far more than a cache holds; twice as much is allocated for a moment."""

COPIES = 8


class Bandwidth(NamedTuple):
    """How fast memory can be read at best.

    Arguments:
        gigabytes_per_second: of all reads and writes together.
        kind: "published", "measured" or "given".
        source: where it comes from: an address, or how it was measured.
    """

    gigabytes_per_second: float
    kind: str
    source: str


def machine_bandwidth(given: float | None = None) -> Bandwidth:
    """That of MLX's default device.

    Arguments:
        given: in GB/s, by someone who knows the machine; None to look it up or measure it.

    Raises:
        ValueError: what is given is not above 0.
    """
    if given is not None:
        if not 0 < given < float("inf"):
            raise ValueError(f"a bandwidth of {given:g} GB/s: allowed is more than 0")
        return Bandwidth(given, "given", "--bandwidth")
    info = mx.device_info()
    chip = this_chip(str(info.get("device_name", "")), float(info.get("memory_size", 0)))
    if chip is not None and mx.default_device() == mx.Device(mx.gpu):
        return Bandwidth(chip.gigabytes_per_second, "published", f"{chip.name}: {chip.source}")
    how = f"the best of {COPIES} copies of {COPY_BYTES / 1e6:.0f} MB, reads and writes counted"
    return Bandwidth(copy_speed(), "measured", how)


def copy_speed() -> float:
    """GB/s of the best copy of a large array where MLX computes, read and written; on a CPU by
    one thread of NumPy, since MLX would wait for new pages of the system."""
    if mx.default_device() == mx.Device(mx.gpu):
        array = mx.zeros(COPY_BYTES // 4, dtype=mx.float32)
        mx.eval(array)
        seconds = [_seconds(lambda: mx.eval(mx.abs(array))) for _ in range(COPIES)]
        del array
        mx.clear_cache()
    else:
        source, copy = (np.full(COPY_BYTES // 8, value) for value in (1.0, 2.0))
        seconds = [_seconds(lambda: np.copyto(copy, source)) for _ in range(COPIES)]
    return 2 * COPY_BYTES / min(seconds) / 1e9


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
