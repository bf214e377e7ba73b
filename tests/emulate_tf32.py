"""A GPU that multiplies float32 in TF32, emulated on any machine.

    python tests/emulate_tf32.py              # the tests and notebooks that matter, as CI runs them
    python tests/emulate_tf32.py COMMAND ...  # any command: pytest, pixtral-mlx, python

Both must do there what they do elsewhere: the tests because they pin the precision, the notebooks
because `course` does, and once more because their tolerances go by what is measured.

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
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

HOUSE = Path(__file__).resolve().parents[1]
TESTS = (
    "model/test_attention", "model/test_parity", "interpret/test_compare", "interpret/test_edits",
    "interpret/test_trace", "engine/test_prompt_cache", "engine/test_prompt_cache_limits",
)  # fmt: skip
SLOW = ("-k", "not the_peak_of_a_prefill")  # a child that only measures memory
NOTEBOOKS = {"float32": ("3", "4", "6", "claims"), "TF32": ("6", "claims")}
"""What fails there if nothing is pinned: of 1,077 tests 166 did, 111 of them in these files."""

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
    cut, multiply = cutting(mx), mx.matmul
    for owner, name, places in (
        (mx, "matmul", slice(0, 2)),
        (mx.array, "__matmul__", slice(0, 2)),
        (mx, "addmm", slice(1, 3)),
        (mx, "conv2d", slice(0, 2)),
        (mx.fast, "scaled_dot_product_attention", slice(0, 3)),
    ):
        setattr(owner, name, inexact(getattr(owner, name), places, cut))
    exact = mx.quantized_matmul

    @wraps(exact)
    def quantized(x: Any, w: Any, scales: Any, biases: Any = None, **options: Any) -> Any:
        if x.dtype != mx.float32 or not concerned(x, w):
            return exact(x, w, scales, biases, **options)
        transpose = options.pop("transpose", True)
        weight = mx.dequantize(w, scales, biases, **options).astype(mx.float32)
        return multiply(*cut(x, weight.swapaxes(-1, -2) if transpose else weight))

    mx.quantized_matmul = quantized


def cutting(mx: Any) -> Callable[..., list[Any]]:
    """Makes arrays of float32 what the GPU multiplies, others stay as they are. Gradients pass."""

    @mx.custom_function
    def bits(x: Any) -> Any:
        return (x.view(mx.uint32) & MANTISSA).view(mx.float32)

    @bits.vjp
    def _(primal: Any, cotangent: Any, output: Any) -> Any:
        return cotangent

    return lambda *arrays: [bits(x) if x.dtype == mx.float32 else x for x in arrays]


def inexact(product: Any, places: slice, cut: Callable[..., list[Any]]) -> Callable[..., Any]:
    """A function of MLX, with what it multiplies cut.

    Arguments:
        places: of these arrays among its arguments.
    """

    @wraps(product)
    def replacement(*given: Any, **options: Any) -> Any:
        arguments = list(given)
        if concerned(*arguments[places][:2]):
            arguments[places] = cut(*arguments[places])
        return product(*arguments, **options)

    return replacement


def concerned(left: Any, right: Any) -> bool:
    """Whether a product is TF32 on this GPU: neither side is a single vector."""
    if not (hasattr(left, "ndim") and hasattr(right, "ndim") and min(left.ndim, right.ndim) > 1):
        return False
    return left.shape[-2] > 1 and right.shape[-1] > 1 and _enabled()


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


def run_notebooks(precision: str) -> None:
    """Those that matter, as they are for "float32"; for "TF32" some, with a product computed before
    `course` can switch it off.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
        SystemExit: the precision is another one.
    """
    sys.path.insert(0, str(HOUSE / "notebooks"))
    import nbformat

    import run

    new_cell = nbformat.v4.new_code_cell
    first, last = "import pixtral_mlx as px; px.machine()", "px.machine().float32_products"
    for path in run.notebooks():
        if path.name.partition("-")[0] in NOTEBOOKS[precision]:
            notebook = nbformat.read(path, as_version=4)
            notebook.cells.append(new_cell(last))
            if precision == "TF32":
                notebook.cells.insert(0, new_cell(first))
            seconds = run.execute(notebook)
            found = notebook.cells[-1].outputs[0].data["text/plain"].strip("'")
            print(f"{path.stem}: {found}, {seconds:.0f} s", flush=True)
            if found != precision:
                sys.exit(f"expected {precision}")


def main(command: list[str]) -> int:
    """Run the command, or tests and notebooks beside one another; the exit status."""
    commands = [command]
    if not command:
        commands = [[sys.executable, __file__, "--notebooks", name] for name in NOTEBOOKS]
        names = [f"tests/{name}.py" for name in TESTS]
        commands.append([sys.executable, "-m", "pytest", "--quiet", *SLOW, *names])
    with tempfile.TemporaryDirectory() as folder:
        # What a person exports for their own runs is no excuse.
        on_gpu = environment(Path(folder)) | ({} if command else {"MLX_ENABLE_TF32": "1"})
        running = [
            subprocess.Popen(words, env=on_gpu, cwd=None if command else HOUSE)
            for words in commands
        ]
        return max(abs(one.wait()) for one in running)


if __name__ == "sitecustomize":
    sys.meta_path.insert(0, _AtImport())
elif __name__ == "__main__" and sys.argv[1:2] == ["--notebooks"]:
    run_notebooks(sys.argv[2])
elif __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
