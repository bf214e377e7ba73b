"""What rounding does to weights: a slice of rows there and back, and how far off it comes back.

Groups of weights are quantized row by row and rows know nothing of one another, so that a matrix
never has to be in memory as a whole. The conversion writes what is computed here; the errors that
it reports, and those of `quantization_error`, are the same numbers.
"""

from collections.abc import Iterator
from math import sqrt
from typing import Any

import mlx.core as mx
import numpy as np

from ..checkpoint.checkpoint import Checkpoint, TensorRef, from_fp8
from ..checkpoint.layouts import Transform
from ..checkpoint.safetensors_io import TensorInfo, read_rows
from ..errors import CheckpointError
from ..model.device import on_gpu
from .plan import TensorPlan

SLICE_BYTES = 2**20
"""Source bytes that a thread holds at a time; its peak is some ten times as much. The arrays of
larger slices are new pages of the system each time, which doubled the processor's time.
"""


def origin_of(source: Checkpoint, name: str) -> TensorRef | None:
    """Where a tensor's values come from; None for biases that the source does not have."""
    if name in source.tensors:
        return source.tensors[name]
    if name == "decoder.output.weight":
        return source.tensors["decoder.tok_embeddings.weight"]
    return None


def slices(
    tensor: TensorPlan, origin: TensorRef | None, transform: Transform
) -> Iterator[tuple[int, int, mx.array]]:
    """(first row, last row + 1, rows in the order of the output), read from a file. A head is never
    cut in two, since the order of its rows is what differs between layouts."""
    rows = tensor.shape[0]
    if origin is None:
        yield 0, rows, mx.zeros(tensor.shape)
        return
    heads = max(transform.heads, origin.transform.heads)
    unit = rows // heads if heads else 1
    step = max(1, SLICE_BYTES * rows // (origin.nbytes * unit)) * unit
    info = TensorInfo(origin.dtype, origin.shape, origin.start, origin.stop)
    scale = None if origin.scale is None else _one_number(origin.scale)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        here = (stop - start) // unit
        read = read_rows(origin.file, info, start, stop)
        read = read if scale is None else from_fp8(read, scale)
        ours = origin.transform._replace(heads=here).to_ours(read)
        yield start, stop, transform._replace(heads=here).from_ours(ours)


def _one_number(ref: TensorRef) -> mx.array:
    """The scale of an FP8 weight."""
    return read_rows(ref.file, TensorInfo(ref.dtype, (1,), ref.start, ref.stop), 0, 1)


def array_slices(array: mx.array) -> Iterator[tuple[int, int, mx.array]]:
    """The same of an array in memory."""
    rows = array.shape[0]
    step = max(1, SLICE_BYTES * rows // max(array.nbytes, 1))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        yield start, stop, array[start:stop]


def stored(rows: mx.array, tensor: TensorPlan) -> list[mx.array]:
    """Rows of a tensor as they are stored: one array, or weight, scales and for affine biases."""
    kept = rows.astype(getattr(mx, tensor.dtype))
    if tensor.scheme is None:
        return [kept]
    return list(mx.quantize(kept, **tensor.scheme.entry()))


def come_back(parts: list[mx.array], tensor: TensorPlan) -> mx.array | np.ndarray:
    """What `stored` gave, as weights again."""
    return dequantized(parts, tensor.scheme.entry()) if tensor.scheme else parts[0]


def dequantized(parts: list[mx.array], how: dict[str, Any]) -> np.ndarray:
    """Weight, scales and biases (the float modes have none) as weights again, in float32."""
    if len(parts) == 2:
        return _float32(mx.dequantize(parts[0], parts[1], **how))
    weight, scales, biases = parts[0], *(part.astype(mx.float32) for part in parts[1:])
    if 8 % how["bits"] == 0 and not on_gpu():
        return _unpacked(weight, scales, biases, how)
    return _float32(mx.dequantize(weight, scales, biases, **how))


def _unpacked(
    weight: mx.array, scales: mx.array, biases: mx.array, how: dict[str, Any]
) -> np.ndarray:
    """The same by NumPy, which takes a third of MLX's time on a CPU: a byte holds consecutive
    values, the first in its lowest bits."""
    bits, packed = how["bits"], np.array(weight, copy=False).view(np.uint8)
    values = np.empty((*packed.shape, 8 // bits), np.float32)
    for place in range(8 // bits):
        values[..., place] = packed >> (place * bits) & (2**bits - 1)
    groups = values.reshape(*scales.shape, how["group_size"])
    groups *= np.array(scales, copy=False)[..., None]
    groups += np.array(biases, copy=False)[..., None]
    return groups.reshape(len(packed), -1)


def _float32(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32), copy=False)


def squares_of(
    rows: mx.array,
    kept: mx.array | np.ndarray,
    tensor: TensorPlan,
    origin: TensorRef | None = None,
    place: tuple[int, int] = (0, 0),
) -> np.ndarray:
    """[sum of squared differences, sum of squares], float64.

    Arguments:
        rows: the weights, and `kept`, what came back.
        tensor, origin, place: what they are, for the error: first row and last row + 1.

    Raises:
        CheckpointError: a weight is not finite, or too large for the dtype.
    """
    exact = _float32(rows).ravel()
    with np.errstate(all="ignore"):
        found = np.array([0, np.dot(exact, exact)], dtype=np.float64)
        if isinstance(kept, np.ndarray) or kept.dtype != rows.dtype:
            near = kept if isinstance(kept, np.ndarray) else _float32(kept)
            difference = near.ravel() - exact
            found[0] = np.dot(difference, difference)
    if not np.isfinite(found).all():
        _refuse_non_finite(rows, tensor, origin, place)
    return found


def relative_error(squares: np.ndarray) -> float:
    """The root of squared differences over squares; 0 is exact."""
    difference, whole = squares
    return sqrt(difference / whole) if whole else 0.0


def _refuse_non_finite(
    rows: mx.array, tensor: TensorPlan, origin: TensorRef | None, place: tuple[int, int]
) -> None:
    """Raise what explains a sum that is not finite."""
    where = f"{origin.file.name}: tensor {origin.theirs}" if origin else f"tensor {tensor.name}"
    which = f"rows {place[0] + 1:,} to {place[1]:,}"
    if not bool(mx.isfinite(rows.astype(mx.float32)).all()):
        raise CheckpointError(
            f"{where} holds NaN or infinity ({which}); the download is damaged or the training "
            "diverged, fetch the file again"
        )
    raise CheckpointError(
        f"{where} has weights too large for {tensor.dtype} ({which}); use --dtype bfloat16 or "
        "float32, and check the file"
    )
