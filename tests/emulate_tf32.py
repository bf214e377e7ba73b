"""A GPU that multiplies float32 in TF32, emulated on any machine.

    python tests/emulate_tf32.py              # the tests and notebooks that matter, as CI runs them
    python tests/emulate_tf32.py COMMAND ...  # any command: pytest, pixtral-mlx, python

On M5 and CUDA GPUs MLX computes float32 products in TF32 unless `MLX_ENABLE_TF32` is 0: their
inputs keep 10 of 23 bits of mantissa. CUDA rounds them. M5 seems to cut them off: that gives the
error of 7.7e-4 that others published for it (mlx 3534, omlx 2135), where rounding gives 2.9e-4; so
does this emulation. Concerned is what MLX 0.32's sources name: matrix products, quantized ones
with float32 activations, convolutions and attention; products with a single row go another way on
both GPUs, and stay exact.

It sits below MLX's Python functions, in COMMAND and in every Python that it starts, kernels of
notebooks too, and obeys the variable as MLX does: read once, when the first product is computed.
"""

import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

MANTISSA = 0xFFFFE000
"""Sign, exponent and the first 10 bits of a float32's mantissa."""


def environment(folder: Path) -> dict[str, str]:
    """For processes with the emulated GPU, nothing pinned.

    Arguments:
        folder: any; this file is copied there as `sitecustomize`, which Python imports first.
    """
    shutil.copyfile(__file__, folder / "sitecustomize.py")
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    unpinned = {k: v for k, v in os.environ.items() if k != "MLX_ENABLE_TF32"}
    return {**unpinned, "PYTHONPATH": os.pathsep.join(path)}


@cache
def _enabled() -> bool:
    """As MLX asks: once."""
    return os.environ.get("MLX_ENABLE_TF32", "1") != "0"


def emulate(mx: Any) -> None:
    """Put the emulated products into mlx.core."""
    float32, multiply = mx.float32, mx.matmul

    @mx.custom_function
    def bits(x: Any) -> Any:
        return (x.view(mx.uint32) & MANTISSA).view(float32)

    @bits.vjp
    def _(primal: Any, cotangent: Any, output: Any) -> Any:
        return cotangent

    def cut(*arrays: Any) -> list[Any]:
        """What the GPU multiplies, for arrays of float32; others as they are."""
        return [bits(x) if x.dtype == float32 else x for x in arrays]

    def several(x: Any) -> bool:
        return x.ndim > 1 and x.shape[-2] > 1 and _enabled()

    def concerned(left: Any, right: Any) -> bool:
        both = isinstance(left, mx.array) and isinstance(right, mx.array)
        return both and several(left) and right.ndim > 1 and right.shape[-1] > 1

    def product(left: Any, right: Any, original: Any, **options: Any) -> Any:
        if concerned(left, right):
            left, right = cut(left, right)
        return original(left, right, **options)

    def replace(owner: Any, name: str) -> Any:
        """A decorator: the function takes the place of `owner`'s, and that one first."""
        original = getattr(owner, name)

        def put(function: Any) -> None:
            @wraps(original)
            def replacement(*args: Any, **options: Any) -> Any:
                return function(original, *args, **options)

            setattr(owner, name, replacement)

        return put

    for owner, name in ((mx, "matmul"), (mx.array, "__matmul__")):

        @replace(owner, name)
        def _(original: Any, left: Any, right: Any, **options: Any) -> Any:
            return product(left, right, original, **options)

    @replace(mx, "addmm")
    def _(original: Any, bias: Any, left: Any, right: Any, *args: Any, **options: Any) -> Any:
        if concerned(left, right):
            left, right = cut(left, right)
        return original(bias, left, right, *args, **options)

    @replace(mx, "quantized_matmul")
    def _(original: Any, x: Any, w: Any, scales: Any, biases: Any = None, **options: Any) -> Any:
        if x.dtype != float32 or not several(x):
            return original(x, w, scales, biases, **options)
        transpose = options.pop("transpose", True)
        weight = mx.dequantize(w, scales, biases, **options).astype(float32)
        return multiply(*cut(x, weight.swapaxes(-1, -2) if transpose else weight))

    @replace(mx, "conv2d")
    def _(original: Any, x: Any, weight: Any, *args: Any, **options: Any) -> Any:
        return original(*(cut(x, weight) if _enabled() else (x, weight)), *args, **options)

    @replace(mx.fast, "scaled_dot_product_attention")
    def _(original: Any, queries: Any, keys: Any, values: Any, **options: Any) -> Any:
        arrays = cut(queries, keys, values) if several(queries) else (queries, keys, values)
        return original(*arrays, **options)


class _AtImport:
    """Finds mlx.core as before, and emulates once it is loaded."""

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "mlx.core":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        loader: Any = spec and spec.loader
        if loader:
            load = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                emulate(module)

            loader.exec_module = exec_module
        return spec


def main(command: list[str]) -> int:
    """Run the command; its exit status."""
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(command, env=environment(Path(folder))).returncode


if __name__ == "sitecustomize":
    sys.meta_path.insert(0, _AtImport())
elif __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
