"""A model and its adapter as one folder of MLX weights, which needs no adapter any more."""

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..checkpoint import layouts
from ..checkpoint.arrays import save_arrays
from ..checkpoint.checkpoint import open_checkpoint
from ..checkpoint.names import resolve
from ..checkpoint.scheme import AFFINE_BITS, AFFINE_GROUPS, Scheme
from ..checkpoint.stamps import check_unchanged
from ..checkpoint.sums import write_sums
from ..checks import one_of
from ..errors import CheckpointError
from ..files import expanded, new_folder, refuse_existing
from ..pixtral import Pixtral, load
from ..quantization.conversion import check_disk, shards
from ..quantization.folder_files import write_config, write_index, write_tokenizer
from ..quantization.plan import Plan, TensorPlan, as_written, in_order
from .low_rank import whole_weight
from .options import FUSED_BITS

SHARD_BYTES = 10**9
KEPT = "not quantized"


@dataclass(frozen=True)
class Fused:
    """What was written.

    Arguments:
        folder: the new model folder.
        plan: how each tensor is stored.
    """

    folder: Path
    plan: Plan


def fuse(
    path: str | PathLike[str],
    adapter_path: str | PathLike[str],
    dst: str | PathLike[str],
    *,
    bits: int = FUSED_BITS,
    dequantize: bool = False,
) -> Fused:
    """Add an adapter to the weights beside which it stands, and write all of them.

    A quantized matrix is rounded once more when the adapter has been added to it: in its own
    groups, and in more bits than before, since what was learned is smaller than a step of 4 bits.
    Every other matrix stays as it is.

    Arguments:
        path, adapter_path: as for `px.load`.
        dst: the new folder; must not exist.
        bits: of a quantized matrix that has changed; it keeps its own where those are more.
        dequantize: write every matrix unquantized, so that nothing is rounded again.

    Raises:
        ValueError: bits that MLX does not have.
        CheckpointError: the model or the adapter cannot be used; `dst` exists.
        CapacityError: the disk is too full.
    """
    bits = one_of("bits", bits, AFFINE_BITS)
    folder = expanded(dst)
    refuse_existing(folder)
    source = open_checkpoint(resolve(path))
    model = load(path, adapter_path=adapter_path)
    fuse_layers(model, bits=bits, dequantize=dequantize)
    target = as_written(model.config)
    table = layouts.to_ours(layouts.written_layout(target), target)
    modules = dict(model.named_modules())
    shapes = layouts.shapes(target)
    dtype = str(model.decoder.norm.weight.dtype).rpartition(".")[2]
    tensors = []
    for name in in_order(table):
        scheme = _scheme(modules.get(layouts.module_of(name)), dequantize=dequantize)
        scheme = scheme if name.endswith(".weight") else None
        reason = "" if scheme else KEPT
        tensors.append(TensorPlan(name, table[name].theirs, shapes[name], scheme, dtype, reason))
    plan = Plan(tuple(tensors), dtype)
    check_disk(folder, plan, source)
    with new_folder(folder, needed=plan.nbytes) as hidden:
        write_index(hidden, plan, _write(hidden, plan, table, modules))
        write_config(hidden, target, plan, write_tokenizer(hidden, source, target))
        check_unchanged(source.stamps, "while it was read")
        write_sums(hidden)
    return Fused(folder, plan)


def fuse_layers(model: Pixtral, *, bits: int = FUSED_BITS, dequantize: bool = False) -> None:
    """Put plain linear layers in the places of those that compute with an adapter; see `fuse`."""
    pairs = []
    for path, module in model.named_modules():
        if "lora_a" not in module:
            continue
        whole, before = module.fuse(True), module.linear
        if isinstance(before, nn.QuantizedLinear) and not dequantize:
            how_many, group_size, mode = _finer(before, bits)
            whole = nn.QuantizedLinear.from_linear(whole, group_size, how_many, mode=mode)
        pairs.append((path, whole))
    if not pairs:
        raise CheckpointError("the model has no adapter: load it with one")
    model.update_modules(tree_unflatten(pairs))


def _finer(linear: nn.QuantizedLinear, bits: int) -> Scheme:
    """At least so many bits in a matrix's own groups; a format with one number of bits gives way
    to whole steps, whose groups have 32 values or more."""
    if linear.bits >= bits:
        return Scheme(linear.bits, linear.group_size, linear.mode)
    return Scheme(bits, max(linear.group_size, AFFINE_GROUPS[0]))


def _scheme(module: Any, *, dequantize: bool) -> Scheme | None:
    if dequantize or not isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding):
        return None
    return Scheme(module.bits, module.group_size, module.mode)


def _write(
    folder: Path, plan: Plan, table: dict[str, layouts.Source], modules: dict[str, Any]
) -> dict[str, str]:
    """The weight files, one after the other; {tensor in the folder: file}."""
    files = {}
    parts = shards(plan, SHARD_BYTES)
    for number, part in enumerate(parts, start=1):
        file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        arrays = dict(
            pair for tensor in part for pair in _stored(tensor, table[tensor.name], modules)
        )
        save_arrays(folder / file, arrays, {"format": "mlx"})
        files |= dict.fromkeys(arrays, file)
        mx.clear_cache()
    return files


def _stored(
    tensor: TensorPlan, source: layouts.Source, modules: dict[str, Any]
) -> Iterator[tuple[str, mx.array]]:
    """(name, array) of one tensor as it is written; see `plan.as_written` for what is not there."""
    path, part = layouts.module_of(tensor.name), tensor.name.rpartition(".")[2]
    module: Any = modules.get(path)
    kind = getattr(mx, tensor.dtype)
    if tensor.scheme is not None:
        for name in ("weight", "scales", "biases"):
            if (array := module.get(name)) is not None:
                yield layouts.companion(tensor.theirs, name), source.transform.from_ours(array)
        return
    if path == "decoder.output" and module is None:
        module = modules["decoder.tok_embeddings"]
    if module is None or part not in module:
        array = mx.zeros(tensor.shape)
    elif isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding) and part == "weight":
        array = whole_weight(module)
    else:
        array = module[part]
    yield tensor.theirs, source.transform.from_ours(array.astype(kind))
