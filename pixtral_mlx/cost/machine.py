"""This machine: what it is, how exactly it multiplies, and how fast its memory can be read.

An Apple chip's bandwidth is published (`chips`); any other machine's is measured by copying.
"""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..checks import number
from ..model.device import on_gpu
from .chips import this_chip

COPY_BYTES = 2**28
"""Copied at a time, far more than a cache holds; twice as much is allocated for a moment."""

COPIES = 8

PRODUCT_SIDE = 256
"""Of the square matrices whose product is compared with the exact one."""

FLOAT32_ERROR = 5e-6
"""Up to here a product counts as float32: the type itself leaves 1e-7 to 1e-6, TF32's inputs of 10
bits of mantissa 3e-4 if they are rounded (CUDA) and 8e-4 if they are cut off (M5), those of
bfloat16 2e-3."""
TF32_ERROR = 1e-3

GPU_JOB_SECONDS = 5.0
"""After which macOS ends a GPU job, and with it the process (`Caused GPU Timeout Error`). Apple
does not document it: Metal jobs were seen to end at 5,001 ms (KhronosGroup/MoltenVK issue 2675; 5 s
in exo-explore/exo pull request 1620). With the display on it may end one sooner (`Impacting
Interactivity`, ml-explore/mlx issue 3267, which names no time)."""


@dataclass(frozen=True)
class Machine:
    """What a computation ran on.

    Arguments:
        system: "macOS 26.1" or "Linux 6.1.0".
        architecture: "arm64", "x86_64".
        chip: as MLX names its device.
        device: "GPU" or "CPU", whichever MLX computes on.
        cores: of the processor.
        memory_bytes: of the machine; 0 where nobody says.
        python: its version.
        float32_error: of a float32 matrix product, relative to the exact one (root mean square).
    """

    system: str
    architecture: str
    chip: str
    device: str
    cores: int
    memory_bytes: int
    python: str
    float32_error: float

    @property
    def float32_products(self) -> str:
        """In which precision float32 matrices are multiplied: "float32", "TF32" (MLX's choice on
        M5 and CUDA GPUs unless `MLX_ENABLE_TF32=0`), or "less than TF32"."""
        if self.float32_error <= FLOAT32_ERROR:
            return "float32"
        return "TF32" if self.float32_error <= TF32_ERROR else "less than TF32"

    def tolerance(self, float32: float) -> float:
        """How far two ways to compute the same in float32 may be apart here.

        Arguments:
            float32: how far where products are float32; so many times more where they are not as
                they are less exact.
        """
        return float32 * max(1.0, self.float32_error / FLOAT32_ERROR)

    def facts(self) -> dict[str, Any]:
        """All of it by name, for JSON."""
        return {**asdict(self), "float32_products": self.float32_products}

    def __str__(self) -> str:
        return f"{self.system} {self.architecture}, {self.chip}"


def machine() -> Machine:
    """This machine, as MLX computes on it now.

    The precision of a float32 product is measured, once a process and device: MLX computes them in
    TF32 by default on some GPUs, and nothing tells.
    """
    mac = platform.mac_ver()[0]
    return Machine(
        system=f"macOS {mac}" if mac else f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
        chip=str(mx.device_info()["device_name"]),
        device="GPU" if on_gpu() else "CPU",
        cores=os.cpu_count() or 0,
        memory_bytes=memory_bytes(),
        python=platform.python_version(),
        float32_error=_float32_error(str(mx.default_device())),
    )


def memory_bytes() -> int:
    """Of this machine; 0 where nobody says."""
    memory = mx.device_info().get("memory_size") or 0
    if not memory and hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(memory)


@cache
def _float32_error(device: str) -> float:
    """Of a product of random matrices on MLX's default device, against float64.

    Arguments:
        device: its name, which the cache goes by.
    """
    random = np.random.default_rng(0)
    left, right = random.standard_normal((2, PRODUCT_SIDE, PRODUCT_SIDE)).astype(np.float32)
    with np.errstate(all="ignore"):  # Apple's Accelerate raises flags at random (numpy issue 28687)
        exact = left.astype(np.float64) @ right.astype(np.float64)
    found = np.array(mx.array(left) @ mx.array(right), np.float64)
    return float(np.sqrt(((found - exact) ** 2).mean() / (exact**2).mean()))


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
        number("bandwidth", given, 0, above=True)
        return Bandwidth(given, "given", "--bandwidth")
    info = mx.device_info()
    chip = this_chip(str(info.get("device_name", "")), float(info.get("memory_size", 0)))
    if chip is not None and on_gpu():
        return Bandwidth(chip.gigabytes_per_second, "published", f"{chip.name}: {chip.source}")
    how = f"the best of {COPIES} copies of {COPY_BYTES / 1e6:.0f} MB, reads and writes counted"
    return Bandwidth(copy_speed(), "measured", how)


def copy_speed() -> float:
    """GB/s of the best copy of a large array where MLX computes, read and written; on a CPU by
    one thread of NumPy, since MLX would wait for new pages of the system."""
    if on_gpu():
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
