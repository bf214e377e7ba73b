"""How far off quantized weights are, matrix by matrix; and a quantized copy of a model in memory.

>>> errors = list(px.quantization_errors("mini", bits=4))
>>> worst = max(errors, key=lambda error: error.error)
>>> print(worst.name, f"{worst.error:.1%}")

An error is relative: the root of the squared differences over the root of the squared weights. A
slice of a matrix is in memory at a time, and a folder is read as the conversion reads it, so that
the 12B needs no more memory than pixtral-mini.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from math import sqrt
from os import PathLike
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..checkpoint import layouts
from ..checkpoint.checkpoint import open_checkpoint
from ..checkpoint.names import resolve
from ..checkpoint.scheme import KEEP_BITS, Scheme
from ..errors import CheckpointError
from ..model.config import PixtralConfig
from ..model.vision_language_model import VisionLanguageModel
from .options import ConversionOptions
from .plan import TensorPlan, as_written, plan_for
from .rounding import (
    array_slices,
    come_back,
    dequantized,
    origin_of,
    relative_error,
    slices,
    squares_of,
    stored,
)

Slices = Iterator[tuple[int, int, mx.array]]
Reader = Callable[[TensorPlan], tuple[int, Slices]]
Work = tuple[TensorPlan, Scheme, int, Any]
"""A matrix, its scheme, its bytes afterwards, and its module if it is already quantized."""


@dataclass(frozen=True)
class TensorError:
    """What quantization does to one matrix.

    Arguments:
        name: our parameter name, such as `decoder.layers.0.attention.wq.weight`.
        scheme: how it is quantized.
        shape: its sizes.
        error: relative, see the module.
        norm: root of the squared weights.
        bytes_before: as it is. bytes_after: packed weights, scales and biases.
        index: its number among the matrices that are quantized. count: how many those are.
    """

    name: str
    scheme: Scheme
    shape: tuple[int, ...]
    error: float
    norm: float
    bytes_before: int
    bytes_after: int
    index: int = 0
    count: int = 1

    @property
    def part(self) -> str:
        """ "vision", "projector" or "text"."""
        parts = {"vision_encoder": "vision", "projector": "projector", "decoder": "text"}
        return parts[self.name.partition(".")[0]]

    @property
    def layer(self) -> int | None:
        """Number of its layer in its part; None for a matrix outside the layers."""
        found = re.search(r"\.layers\.(\d+)\.", self.name)
        return int(found[1]) if found else None

    @property
    def kind(self) -> str:
        """Its last name: "wq", "w1", "tok_embeddings", "w_in"."""
        return self.name.split(".")[-2]


def together(errors: Iterable[TensorError]) -> float:
    """The relative error of several matrices as if they were one."""
    errors = list(errors)
    whole = sum(e.norm**2 for e in errors)
    return sqrt(sum((e.error * e.norm) ** 2 for e in errors) / whole) if whole else 0.0


def quantization_errors(
    source: str | PathLike[str] | VisionLanguageModel,
    *,
    quantized: VisionLanguageModel | None = None,
    **options: Any,
) -> Iterator[TensorError]:
    """The error of every matrix that a conversion would quantize, in its order, one at a time.

    Arguments:
        source: the weights before: a model; or a folder, hub id or "mini", read slice by slice.
        quantized: a model that is already quantized and is compared; None rounds `source`.
        options: of `ConversionOptions` (`bits`, `group_size`, `mode`, `vision_bits`, ...);
            none with `quantized`.

    Raises:
        ValueError: options that cannot be.
        CheckpointError: the source is already quantized, or `quantized` is not, or has other sizes.
        ConfigError: nothing can be quantized with these options.
    """
    if quantized is not None and options:
        raise ValueError("give a quantized model or options, not both: the model has its own")
    checked = (
        ConversionOptions(bits=KEEP_BITS) if quantized is not None else ConversionOptions(**options)
    )
    config, read = _opened(source)
    tensors = plan_for(config, checked).tensors
    # What is wrong is said here, and not at the first step of the iterator.
    if quantized is None:
        work = [(t, t.scheme, t.nbytes, None) for t in tensors if t.scheme]
    else:
        work = list(_pairs(tensors, quantized))
    return _measured(work, read)


def quantized_weights(
    model: VisionLanguageModel, **options: Any
) -> tuple[PixtralConfig, dict[str, Scheme], list[tuple[str, mx.array]]]:
    """What a quantized copy of a model is made of; nothing is computed yet.

    Arguments:
        model: not quantized.
        options: as for `quantization_errors`; `dtype` is the model's own unless it is given.

    Returns:
        Its sizes, {our module path: Scheme} of what is quantized, and (name, lazy array) of every
        parameter, for `checkpoint.fill`.

    Raises:
        ValueError, CheckpointError, ConfigError: as for `quantization_errors`.
    """
    _opened(model)  # refuses one that is already quantized
    plan = plan_for(model.config, ConversionOptions(**options))
    schemes = {layouts.module_of(t.name): t.scheme for t in plan.tensors if t.scheme}
    weights = []
    for tensor in plan.tensors:
        kept = tensor if "dtype" in options else replace(tensor, dtype=_own(model, tensor.name))
        parts = stored(_weights(model, tensor), kept)
        stem = layouts.module_of(tensor.name)
        names = [tensor.name, f"{stem}.scales", f"{stem}.biases"]
        weights += zip(names, parts, strict=False)  # one array has one name
    return as_written(model.config), schemes, weights


def _own(model: VisionLanguageModel, name: str) -> str:
    """The type that a model computes a parameter in; encoder and projector may have another."""
    encoder = None if name.startswith("decoder.") else model.vision_encoder
    norm = model.decoder.norm if encoder is None else encoder.ln_pre
    return str(norm.weight.dtype).removeprefix("mlx.core.")


def _opened(source: str | PathLike[str] | VisionLanguageModel) -> tuple[PixtralConfig, Reader]:
    """Its sizes, and what gives the bytes and the slices of a tensor in our order."""
    if isinstance(source, str | PathLike):
        checkpoint = open_checkpoint(resolve(source))
        _refuse_quantized(checkpoint.quantization is not None, str(checkpoint.folder))

        def from_folder(tensor: TensorPlan) -> tuple[int, Slices]:
            origin = origin_of(checkpoint, tensor.name)
            nbytes = origin.nbytes if origin else 0
            return nbytes, slices(tensor, origin, layouts.Transform("copy"))

        return checkpoint.config, from_folder
    names = [name for name, _ in tree_flatten(source.parameters())]
    if any(name.endswith(".lora_a") for name in names):
        raise CheckpointError("the model computes with an adapter: fuse it and quantize the result")
    _refuse_quantized(any(name.endswith(".scales") for name in names), "the model")

    def from_model(tensor: TensorPlan) -> tuple[int, Slices]:
        array = _weights(source, tensor)
        return array.nbytes, array_slices(array)

    return source.config, from_model


def _weights(model: VisionLanguageModel, tensor: TensorPlan) -> mx.array:
    """What a conversion would read: a tied output is the embeddings, missing biases are zero."""
    found = dict(tree_flatten(model.parameters()))
    if tensor.name in found:
        return found[tensor.name]
    if tensor.name == "decoder.output.weight":
        return found["decoder.tok_embeddings.weight"]
    return mx.zeros(tensor.shape)


def _refuse_quantized(is_quantized: bool, what: str) -> None:
    if is_quantized:
        raise CheckpointError(
            f"{what} is already quantized: its errors can only be seen beside the original weights"
        )


def _pairs(tensors: Iterable[TensorPlan], quantized: VisionLanguageModel) -> Iterator[Work]:
    """The matrices of a model that are quantized, with what they are."""
    modules = dict(quantized.named_modules())
    found = False
    for tensor in tensors:
        module: Any = modules.get(tensor.name.removesuffix(".weight"))
        if not isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding):
            continue
        found = True
        scheme = Scheme(module.bits, module.group_size, module.mode)
        if (module.scales.shape[0], module.scales.shape[1] * scheme.group_size) != tensor.shape:
            raise CheckpointError(
                f"{tensor.name} has other sizes in the quantized model: give two versions of one"
            )
        nbytes = sum(part.nbytes for part in _parts(module))
        yield tensor, scheme, nbytes, module
    if not found:
        raise CheckpointError("the model to compare is not quantized: nothing can differ")


def _measured(work: list[Work], read: Reader) -> Iterator[TensorError]:
    for index, (tensor, scheme, after, module) in enumerate(work):
        squares = np.zeros(2)
        before, sliced = read(tensor)
        for start, stop, rows in sliced:
            if module is None:
                kept = come_back(stored(rows, tensor), tensor)
            else:
                kept = _rows(module, start, stop)
            squares += squares_of(rows, kept, tensor, None, (start, stop))
            mx.clear_cache()
        yield TensorError(
            tensor.name, scheme, tensor.shape, relative_error(squares), sqrt(squares[1]),
            before, after, index, len(work),
        )  # fmt: skip


def _rows(module: Any, start: int, stop: int) -> np.ndarray:
    """Some rows of a quantized matrix, as weights in float32."""
    how = Scheme(module.bits, module.group_size, module.mode).entry()
    return dequantized([part[start:stop] for part in _parts(module)], how)


def _parts(module: Any) -> list[mx.array]:
    """Weight, scales and biases; not the bias that is added to the result."""
    return [module[name] for name in ("weight", "scales", "biases") if name in module]
