"""Which matrices learn, and how they begin; everything else is frozen."""

import hashlib
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from ..checkpoint.adapter import Adapter, LowRank, beside
from ..errors import CheckpointError
from ..model.vision_language_model import VisionLanguageModel
from .options import TuningOptions

PROJECTOR = ("projector.w_in", "projector.w_out")
HEAD = ("decoder.output",)


def put_low_rank(model: VisionLanguageModel, options: TuningOptions) -> int:
    """Freeze a model, and put small matrices that learn beside the linear layers of its decoder.

    The first of each pair is noise, by the seed and the layer's place alone, the second is zero:
    the model answers as before.

    Returns:
        How many numbers learn.

    Raises:
        CheckpointError: it has an adapter already.
    """
    if any("lora_a" in module for _, module in model.named_modules()):
        raise CheckpointError("the model has an adapter already: fuse it, and tune the result")
    model.freeze()
    key = mx.random.key(options.seed)
    pairs = []
    for path, linear in _learning(model, options):
        key, own = mx.random.split(key)
        outputs = linear.weight.shape[0]
        inputs = linear.weight.shape[1]
        if isinstance(linear, nn.QuantizedLinear):
            inputs = inputs * 32 // linear.bits
        bound = inputs**-0.5
        a = mx.random.uniform(-bound, bound, (inputs, options.rank), key=own)
        parts = LowRank(a, mx.zeros((options.rank, outputs)))
        if options.fine_tune_type == "dora":
            parts = parts._replace(m=mx.linalg.norm(whole_weight(linear), axis=1))
        pairs.append((path, beside(linear, options.scale, parts)))
    model.update_modules(tree_unflatten(pairs))
    model.eval()  # there is no dropout
    trained: Any = tree_flatten(model.trainable_parameters())
    mx.eval([array for _, array in trained])
    return sum(array.size for _, array in trained)


def begin_with(model: nn.Module, adapter: Adapter) -> None:
    """Let the matrices that learn begin as those of an adapter.

    Raises:
        CheckpointError: it stands beside other matrices, or has another form, rank or scale.
    """
    own = adapter_of(model)
    if _form(own) != _form(adapter) or own.scale != adapter.scale:
        raise CheckpointError(
            f"{adapter.name}: {_described(adapter)}, and {_described(own)} is to be trained: give "
            "the options that it was trained with"
        )
    pairs = [
        (f"{path}.{name}", array.astype(mx.float32))
        for path, parts in adapter.matrices.items()
        for name, array in zip(("lora_a", "lora_b", "m"), parts, strict=True)
        if array is not None
    ]
    model.update(tree_unflatten(pairs))


def _form(adapter: Adapter) -> dict[str, list[tuple[int, ...] | None]]:
    return {
        path: [None if part is None else part.shape for part in parts]
        for path, parts in adapter.matrices.items()
    }


def _described(adapter: Adapter) -> str:
    return (
        f"{adapter.kind} of rank {adapter.rank} and scale {adapter.scale:g} beside "
        f"{len(adapter.matrices)} matrices"
    )


def _learning(model: VisionLanguageModel, options: TuningOptions) -> list[tuple[str, Any]]:
    """(path, linear layer) of all that learn, from the projector to the output."""
    layers = model.config.text.n_layers
    count = layers if options.num_layers is None else min(options.num_layers, layers)
    starts = tuple(f"decoder.layers.{i}." for i in range(layers - count, layers))
    others = (*(PROJECTOR if options.projector else ()), *(HEAD if options.head else ()))
    found = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.QuantizedLinear)
        and (path.startswith(starts) or path in others)
    ]
    return sorted(found, key=lambda pair: _place(pair[0]))


def _place(path: str) -> tuple[int, int, str]:
    steps = path.split(".")
    return 1 + (path in HEAD) - (path in PROJECTOR), int(steps[2]) if len(steps) > 2 else 0, path


def whole_weight(linear: Any) -> mx.array:
    """The matrix of a linear layer, or of embeddings, in float32, shape (outputs, inputs)."""
    weight = linear.weight
    if isinstance(linear, nn.QuantizedLinear | nn.QuantizedEmbedding):
        weight = mx.dequantize(
            weight, linear.scales, linear.get("biases"), linear.group_size, linear.bits,
            mode=linear.mode,
        )  # fmt: skip
    return weight.astype(mx.float32)


def adapter_of(model: nn.Module) -> Adapter:
    """The adapter that a model computes with."""
    from mlx_lm.tuner.dora import DoRALinear
    from mlx_lm.tuner.lora import LoRALinear

    found, scale = {}, 0.0
    for path, module in model.named_modules():
        if isinstance(module, LoRALinear | DoRALinear):
            found[path] = LowRank(module.lora_a, module.lora_b, module.get("m"))
            scale = module.scale
    return Adapter(dict(sorted(found.items())), scale)


def checksum(module: nn.Module | None) -> str:
    """A name for all numbers of a module; "" for none."""
    if module is None:
        return ""
    name = hashlib.sha256()
    leaves: Any = tree_flatten(module.parameters())
    for path, array in sorted(leaves):
        name.update(f"{path} {array.dtype} {array.shape}".encode())
        name.update(np.array(array.view(mx.uint8)).data)
    return name.hexdigest()
