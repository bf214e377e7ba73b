"""The safetensors file format: headers, rows of one tensor, and files written piece by piece.

A file is eight bytes (little-endian length n), n bytes of JSON, then the data. The JSON maps each
tensor's name to its dtype, shape and place. Everything here is checked before one byte of data is
touched, so that a truncated download or a pickle with the wrong name ends in one clear line.
"""

import json
import os
import threading
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..errors import CheckpointError
from ..files import open_file
from ..inputs.file_kind import saved_instead

# The format's reference implementation reads up to 100 MB; real ones are a few hundred kB, and the
# largest Pixtral has 1,600 tensors.
MAX_HEADER_BYTES = 16_000_000
MOST_TENSORS = 50_000
MOST_AXES = 8

ITEM_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "C64": 8,
}
"""Bytes of one element, by the dtype names that safetensors uses."""


class TensorInfo(NamedTuple):
    """One tensor as the header declares it.

    Arguments
        dtype: the safetensors name of the type ("BF16", "F32", "U32" ...).
        shape: sizes, outermost first; () for a scalar.
        start, stop: absolute byte offsets in the file, stop exclusive.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Bytes of data on disk."""
        return self.stop - self.start


def read_header(path: str | Path) -> dict[str, TensorInfo]:
    """Read and check the header of one safetensors file; no tensor data is read.

    Returns
        {tensor name: TensorInfo}, in the order of the data in the file.

    Raises
        CheckpointError: the file is missing, too short, not safetensors, or its header contradicts
        its size; the line names the file and what is wrong.
    """
    path = Path(path)
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(8)
            length = _header_length(path, head, size)
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    entries = _parse(path, text)
    entries.pop("__metadata__", None)
    infos = {name: _info(path, name, entry, 8 + length) for name, entry in entries.items()}
    return _check_places(path, infos, 8 + length, size)


def _header_length(path: Path, head: bytes, size: int) -> int:
    if (size < 8 or not _plausible(head)) and (what := saved_instead(path)):
        raise CheckpointError(f"{path}: {what}")
    if size < 8:
        raise CheckpointError(
            f"{path}: {size} bytes, too short for safetensors; download or write it again"
        )
    length = int.from_bytes(head, "little")
    if not _plausible(head):
        raise CheckpointError(f"{path}: {_not_safetensors(head, length)}")
    if 8 + length > size:
        raise CheckpointError(
            f"{path}: truncated inside its header ({size} bytes, {8 + length} needed);"
            " download it again"
        )
    return length


def _plausible(head: bytes) -> bool:
    """Whether the first eight bytes may be the length of a header."""
    return 2 <= int.from_bytes(head, "little") <= MAX_HEADER_BYTES


def _not_safetensors(head: bytes, length: int) -> str:
    """What the first eight bytes of a file that is no safetensors file say it is."""
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return (
            "a pickled PyTorch file; pickles can run code and are not read,"
            " use the model's safetensors files"
        )
    return (
        f"header length {length} (2 to {MAX_HEADER_BYTES} allowed);"
        " not a safetensors file, or a corrupt one"
    )


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name appears twice")
        return found

    if (count := text.count(b'"data_offsets"')) > MOST_TENSORS:
        raise CheckpointError(
            f"{path}: {count:,} tensors, at most {MOST_TENSORS:,} are read; use a file that holds "
            "a model"
        )
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: the header is not valid JSON ({error}); the file is corrupt"
        ) from error
    if not isinstance(entries, dict):
        raise CheckpointError(f"{path}: the header is not a JSON object; the file is corrupt")
    return entries


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _info(path: Path, name: str, entry: Any, base: int) -> TensorInfo:
    where = f"{path}: tensor {name!r}"
    try:
        dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        sizes_ok = isinstance(shape, list) and len(shape) <= MOST_AXES
        sizes_ok = sizes_ok and all(map(_is_size, [*shape, start, stop]))
    except (TypeError, KeyError, ValueError):
        sizes_ok, dtype, shape, start, stop = False, None, [], 0, 0
    if not sizes_ok or not isinstance(dtype, str):
        raise CheckpointError(
            f"{where} has a malformed header entry (dtype, shape, data_offsets); the file is"
            " corrupt"
        )
    if dtype not in ITEM_BYTES:
        raise CheckpointError(f"{where} has dtype {dtype!r}; allowed: {', '.join(ITEM_BYTES)}")
    needed = prod(shape) * ITEM_BYTES[dtype]
    if stop - start != needed:
        raise CheckpointError(
            f"{where} spans {stop - start} bytes, but {dtype} {tuple(shape)} takes {needed};"
            " the file is corrupt"
        )
    return TensorInfo(dtype, tuple(shape), base + start, base + stop)


def _check_places(
    path: Path, infos: dict[str, TensorInfo], base: int, size: int
) -> dict[str, TensorInfo]:
    """Data must follow the header without holes or overlaps and end where the file ends."""
    ordered = dict(sorted(infos.items(), key=lambda item: (item[1].start, item[1].stop)))
    end = base
    for name, info in ordered.items():
        if info.start != end:
            raise CheckpointError(
                f"{path}: tensor {name!r} starts at byte {info.start} where {end} is expected;"
                " the file is corrupt"
            )
        end = info.stop
    if size < end:
        raise CheckpointError(
            f"{path}: truncated ({size} bytes, {end} needed); download or write it again"
        )
    if size > end:
        raise CheckpointError(
            f"{path}: {size - end} bytes after the last tensor; the file is corrupt"
        )
    return ordered


# numpy has no bfloat16: such values travel as uint16 and MLX views them.
_NUMPY_TYPES = {
    "BF16": (np.uint16, mx.bfloat16),
    "F16": (np.float16, mx.float16),
    "F32": (np.float32, mx.float32),
    "U32": (np.uint32, mx.uint32),
    "U8": (np.uint8, mx.uint8),
    "F8_E4M3": (np.uint8, mx.uint8),
}


def read_rows(path: str | Path, info: TensorInfo, start: int, stop: int) -> mx.array:
    """Read rows [start, stop) of one tensor, and nothing else, into memory of their own.

    The file is not mapped: pages of a mapping count as resident, so that a conversion that maps
    its source seems to need, and on a busy machine does need, the whole of it.

    Arguments
        path: the file that holds the tensor.
        info: its entry from `read_header`.
        start, stop: row numbers along the outermost axis.

    Returns
        (stop - start, ...) in the tensor's own type; FP8 as uint8, as MLX has it.

    Raises
        CheckpointError: the file ends early, cannot be read, or the type is none that a model's
        weights have.
    """
    if info.dtype not in _NUMPY_TYPES:
        raise CheckpointError(
            f"{path}: a tensor of type {info.dtype}; weights are {', '.join(_NUMPY_TYPES)}"
        )
    row_bytes = info.nbytes // info.shape[0]
    data = _read_bytes(Path(path), info.start + start * row_bytes, (stop - start) * row_bytes)
    kind, dtype = _NUMPY_TYPES[info.dtype]
    rows = mx.array(np.frombuffer(data, dtype=kind).reshape(stop - start, *info.shape[1:]))
    return rows.view(dtype)


def _read_bytes(path: Path, offset: int, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    try:
        with open_file(path) as file:
            file.seek(offset)
            while view:
                count = file.readinto(view)
                if not count:
                    raise CheckpointError(
                        f"{path}: ends {len(view)} bytes early; download or write it again"
                    )
                view = view[count:]
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    return data


class SafetensorsWriter:
    """One safetensors file whose tensors arrive as slices of rows, in any order, from any thread.

    Names, types and shapes are known beforehand, so the header is written first and every slice
    goes straight to its place: nothing is held in memory. Use as a context manager; the data is on
    the disk when the block ends without an exception.

    Arguments
        path: must not exist.
        tensors: (name, safetensors dtype, shape), in the order in which they are laid out.
        metadata: the header's `__metadata__`; MLX looks for {"format": "mlx"}.

    Raises
        OSError: the file cannot be created or the disk is full (`errno.ENOSPC`).
    """

    def __init__(
        self,
        path: str | Path,
        tensors: Iterable[tuple[str, str, tuple[int, ...]]],
        metadata: Mapping[str, str],
    ):
        header: dict[str, Any] = {"__metadata__": dict(metadata)}
        end = 0
        for name, dtype, shape in tensors:
            start, end = end, end + prod(shape) * ITEM_BYTES[dtype]
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # data begins on a multiple of 8, as the format asks
        del header["__metadata__"]
        self._entries = header
        self._base = 8 + len(text)
        self._missing = end
        self._head = len(text).to_bytes(8, "little") + text
        self._path = Path(path)
        self._descriptor = -1
        self._lock = threading.Lock()

    def write(self, name: str, row: int, rows: mx.array) -> None:
        """Put `rows` (count, ...) at row `row` of tensor `name`; every row is written once."""
        entry = self._entries[name]
        dtype, shape = entry["dtype"], entry["shape"]
        kind, mlx_type = _NUMPY_TYPES[dtype]
        if rows.dtype != mlx_type or list(rows.shape[1:]) != shape[1:]:
            raise ValueError(
                f"{name}: rows {rows.dtype} {rows.shape} do not fit {dtype} {tuple(shape)}"
            )
        if dtype == "BF16":
            rows = rows.view(mx.uint16)
        values = np.ascontiguousarray(np.array(rows, copy=False), dtype=kind)
        row_bytes = prod(shape[1:]) * ITEM_BYTES[dtype]
        self._write_at(self._base + entry["data_offsets"][0] + row * row_bytes, values.data)
        with self._lock:
            self._missing -= values.nbytes

    def _write_at(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B") if len(data) else memoryview(b"")
        while view:
            count = os.pwrite(self._descriptor, view, offset)
            view, offset = view[count:], offset + count

    def __enter__(self) -> "SafetensorsWriter":
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        self._write_at(0, self._head)
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is None:
                if self._missing:
                    raise ValueError(f"{self._path}: {self._missing} bytes were not written")
                os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)
