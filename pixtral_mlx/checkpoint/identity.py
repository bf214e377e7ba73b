"""Whose weights these are: the arrays that a model computes with, and a name for their files."""

import hashlib
import json
import weakref
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .. import __version__
from ..files import open_file
from .adapter import Adapter
from .checkpoint import Checkpoint, Precision


def arrays_of(model: nn.Module) -> list[mx.array]:
    """All parameters of a model, always in one order. `model.parameters()` takes ten times as long,
    since it names them, and this is asked before every answer."""
    found, left = [], list[Any]([model])
    while left:
        each = left.pop()
        if isinstance(each, mx.array):
            found.append(each)
        elif isinstance(each, dict):  # a module is one
            left += [value for name, value in each.items() if not name.startswith("_")]
        elif isinstance(each, list):
            left += each
    return found


class LoadedArrays:
    """Which arrays a model computes with, without keeping them alive."""

    def __init__(self, model: nn.Module):
        self._arrays = [weakref.ref(array) for array in arrays_of(model)]

    def are_those_of(self, model: nn.Module) -> bool:
        """Whether the model has these arrays still."""
        arrays = arrays_of(model)
        same = (ref() is array for ref, array in zip(self._arrays, arrays, strict=False))
        return len(arrays) == len(self._arrays) and all(same)


def model_identity(checkpoint: Checkpoint, kinds: Precision, adapter: Adapter | None = None) -> str:
    """A name for weights as they were loaded, from what is cheap to read.

    Of every file its name, size and time of change, of every tensor its place, type, shape and
    first and last bytes; all of the adapter; the configuration, the types computed in, and this
    package's version.
    """
    name = hashlib.blake2b(digest_size=32)
    settings = [__version__, checkpoint.layout, str(kinds), checkpoint.config.to_params()]
    if adapter is not None:
        settings.append(adapter.identity)
    name.update(json.dumps(settings, sort_keys=True).encode())
    for file in sorted({ref.file for ref in checkpoint.tensors.values()}):
        seen = file.stat()
        name.update(f"{file.name} {seen.st_size} {seen.st_mtime_ns}".encode())
        with open_file(file) as data:
            for ours, ref in sorted(checkpoint.tensors.items()):
                if ref.file == file:
                    name.update(f"{ours} {ref.theirs} {ref.dtype} {ref.shape} {ref.start}".encode())
                    for start in (ref.start, max(ref.start, ref.stop - 256)):
                        data.seek(start)
                        name.update(data.read(min(256, ref.stop - start)))
    return name.hexdigest()
