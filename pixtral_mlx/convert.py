"""From a checkpoint in any layout to a folder of quantized MLX weights, a slice at a time.

Groups of weights are quantized row by row and rows know nothing of one another, so that the matrix
never has to be in memory: a few megabytes of rows are read, put in order, quantized, written to
their place in the output, and forgotten. An 8 GB Mac converts the 25 GB model.

The output grows in a hidden folder beside its destination and takes its name when it is complete:

    convert("Pixtral-12B-2409", "pixtral-4bit", bits=4)
"""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from . import layouts
from .checkpoint import Checkpoint, TensorRef, open_checkpoint, resolve
from .config import PixtralConfig
from .errors import CapacityError, CheckpointError
from .layouts import Source, Transform
from .new_folder import new_folder, refuse_existing, remove_stale
from .quantize import Plan, TensorPlan
from .quantize import plan as make_plan
from .safetensors_io import SafetensorsWriter, TensorInfo, read_rows
from .schemes import check_options

SLICE_BYTES = 16 * 2**20
"""Source bytes in memory at a time; the peak is some ten times as much, plus the interpreter."""

HEADER_BYTES = 256
"""An upper bound of what one tensor adds to a file's header."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Conversion:
    """What a conversion did, or with `dry_run` would do.

    Arguments:
        folder: the new model folder.
        plan: what became of each tensor.
        source: the checkpoint that was read.
        seconds: from the first byte read to the last byte on disk; 0 for a dry run.
        nbytes: of the weight files.
        errors: {our tensor name: relative error}: the root of the squared differences over the
            root of the squared weights; 0 is exact.
        notes: what the user should know, one line each.
    """

    folder: Path
    plan: Plan
    source: Path
    seconds: float = 0.0
    nbytes: int = 0
    errors: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    bits: int | None = None,
    group_size: int | None = None,
    mode: str = "affine",
    vision_bits: int | None = None,
    projector_bits: int | None = None,
    embed_bits: int | None = None,
    head_bits: int | None = None,
    dtype: str = "bfloat16",
    recipe: str | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    shard_bytes: int = 10**9,
) -> Conversion:
    """Write `src`, quantized, as a new folder that this package and mlx-vlm open as it is.

    Arguments:
        src: a folder in the official, HF or (unquantized) MLX layout, or a hub id.
        dst: the new folder; must not exist.
        bits ... recipe: see `schemes.check_options`.
        dry_run: plan and check, write nothing.
        progress: called with (bytes read, bytes to read) of the source after every slice.
        shard_bytes: the most that one weight file may hold, since a reader may map or hold one
            at a time; a single larger tensor has a file of its own.

    Raises:
        ValueError: options that cannot be (a usage error).
        CheckpointError: `src` cannot be read, is quantized already or holds NaN or infinity;
            `dst` exists.
        ConfigError: nothing can be quantized with these options.
        CapacityError: the disk is or becomes too full; nothing is left under `dst`.
    """
    options = check_options(
        bits=bits, group_size=group_size, mode=mode, vision_bits=vision_bits,
        projector_bits=projector_bits, embed_bits=embed_bits, head_bits=head_bits,
        dtype=dtype, recipe=recipe,
    )  # fmt: skip
    folder = Path(dst).expanduser()
    if not dry_run:
        refuse_existing(folder)
    source = open_checkpoint(resolve(src))
    if source.quantization is not None:
        raise CheckpointError(
            f"{source.folder}: quantized already ({_described(source)}); rounding twice loses more "
            "than rounding once, convert from the original weights"
        )
    target = as_written(source.config)
    table = layouts.to_ours(written_layout(target), target)
    shapes = layouts.shapes(target)
    tensors = [(name, table[name].theirs, shapes[name]) for name in _in_order(table)]
    plan = make_plan(tensors, options)
    if dry_run:
        return Conversion(folder, plan, source.folder)
    remove_stale(folder)  # first, since it takes room
    _check_disk(folder, plan, source)
    return _carry_out(source, target, table, plan, folder, progress, shard_bytes)


def as_written(config: PixtralConfig) -> PixtralConfig:
    """The sizes of the output. mlx-vlm's Pixtral always has an output matrix and projector biases:
    a tied output is written out, and missing biases become zeros."""
    if config.vision is None:
        return config
    text = replace(config.text, tied_embeddings=False)
    return replace(config, text=text, vision=replace(config.vision, adapter_bias=True))


def written_layout(config: PixtralConfig) -> str:
    """mlx-vlm's names; a model without vision takes the names that mlx-lm opens."""
    return "mlx" if config.vision else "hf-mistral"


def _in_order(names: Iterable[str]) -> list[str]:
    """Layer by layer, as the computation goes; the tables go name by name."""
    places: dict[str, int] = {}

    def place(name: str) -> tuple[int, int]:
        block, _, rest = name.partition(".layers.")
        layer = int(rest.split(".")[0]) if rest else 0
        return places.setdefault(f"{block}.layers" if rest else name, len(places)), layer

    return sorted(names, key=place)


def _carry_out(
    source: Checkpoint,
    target: PixtralConfig,
    table: dict[str, Source],
    plan: Plan,
    folder: Path,
    progress: Progress | None,
    shard_bytes: int,
) -> Conversion:
    from .export import write_card, write_config, write_errors, write_index, write_tokenizer

    start = time.perf_counter()
    try:
        with new_folder(folder) as partial:
            # First, because it needs the most memory, and gives it back.
            tokenizer = write_tokenizer(partial, source, target)
            errors, files = _write_weights(source, table, plan, partial, progress, shard_bytes)
            write_index(partial, plan, files)
            write_config(partial, target, plan, tokenizer)
            write_errors(partial, plan, errors)
            write_card(partial, plan, source, errors)
            nbytes = sum((partial / file).stat().st_size for file in set(files.values()))
    except OSError as error:
        raise _write_error(folder, plan, error) from error
    seconds = time.perf_counter() - start
    return Conversion(folder, plan, source.folder, seconds, nbytes, errors, tokenizer.notes)


def _write_weights(
    source: Checkpoint,
    table: dict[str, Source],
    plan: Plan,
    folder: Path,
    progress: Progress | None,
    shard_bytes: int,
) -> tuple[dict[str, float], dict[str, str]]:
    """All weight files; the relative errors, and {tensor in the folder: file}."""
    origins = {tensor.name: _origin(source, tensor.name) for tensor in plan.tensors}
    total = sum(ref.nbytes for ref in origins.values() if ref)
    shards = _shards(plan, shard_bytes)
    errors: dict[str, float] = {}
    files: dict[str, str] = {}
    done = 0

    def read(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, total)

    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        outputs = [output for tensor in shard for output in tensor.outputs()]
        rows = [(output.name, output.dtype, output.shape) for output in outputs]
        with SafetensorsWriter(folder / file, rows, {"format": "mlx"}) as writer:
            for tensor in shard:
                origin, transform = origins[tensor.name], table[tensor.name].transform
                errors[tensor.name] = _write_tensor(writer, tensor, origin, transform, read)
        files |= dict.fromkeys((output.name for output in outputs), file)
    return errors, files


def _write_tensor(
    writer: SafetensorsWriter,
    tensor: TensorPlan,
    origin: TensorRef | None,
    transform: Transform,
    read: Callable[[int], None],
) -> float:
    """Read, order, quantize and write one tensor by slices of rows; its relative error."""
    names = [output.name for output in tensor.outputs()]
    dtype = getattr(mx, tensor.dtype)
    squares = np.zeros(2)
    how: dict[str, Any] = tensor.scheme.entry() if tensor.scheme else {}
    for start, stop, rows in _slices(tensor, origin, transform):
        kept = rows.astype(dtype)
        parts = list(mx.quantize(kept, **how)) if how else [kept]
        for name, part in zip(names, parts, strict=True):
            writer.write(name, start, part)
        if how:
            biases = parts[2] if len(parts) == 3 else None  # the float modes have none
            kept = mx.dequantize(parts[0], parts[1], biases, **how)
        found = _squares(rows, kept)
        if not isfinite(found.sum()):
            _refuse_non_finite(tensor, origin, rows, start, stop)
        squares += found
        mx.clear_cache()
        if origin:
            read(origin.nbytes * (stop - start) // tensor.shape[0])
    difference, whole = squares
    return sqrt(difference / whole) if whole else 0.0


def _slices(
    tensor: TensorPlan, origin: TensorRef | None, transform: Transform
) -> Iterator[tuple[int, int, mx.array]]:
    """(first row, last row + 1, rows in the order of the output). A head is never cut in two,
    since the order of its rows is what differs between layouts."""
    rows = tensor.shape[0]
    if origin is None:
        yield 0, rows, mx.zeros(tensor.shape)
        return
    heads = max(transform.heads, origin.transform.heads)
    unit = rows // heads if heads else 1
    step = max(1, SLICE_BYTES * rows // (origin.nbytes * unit)) * unit
    info = TensorInfo(origin.dtype, origin.shape, origin.start, origin.stop)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        here = (stop - start) // unit
        ours = origin.transform._replace(heads=here).to_ours(
            read_rows(origin.file, info, start, stop)
        )
        yield start, stop, transform._replace(heads=here).from_ours(ours)


def _squares(rows: mx.array, kept: mx.array) -> np.ndarray:
    """[sum of squared differences, sum of squares], float64; not finite if a weight is not."""
    exact, near = (np.array(a.astype(mx.float32), copy=False).ravel() for a in (rows, kept))
    with np.errstate(all="ignore"):
        difference = near - exact
        return np.array([np.dot(difference, difference), np.dot(exact, exact)], dtype=np.float64)


def _refuse_non_finite(
    tensor: TensorPlan, origin: TensorRef | None, rows: mx.array, start: int, stop: int
) -> None:
    """Raise what explains a sum that is not finite."""
    where = (
        f"{origin.file.name if origin else ''}: tensor {origin.theirs if origin else tensor.name}"
    )
    finite = bool(mx.isfinite(rows.astype(mx.float32)).all())
    if not finite:
        raise CheckpointError(
            f"{where} holds NaN or infinity (rows {start} to {stop - 1}); the download is damaged "
            "or the training diverged, fetch the file again"
        )
    raise CheckpointError(
        f"{where} has weights too large for {tensor.dtype} (rows {start} to {stop - 1}); use "
        "--dtype bfloat16 or float32, and check the file"
    )


def _origin(source: Checkpoint, name: str) -> TensorRef | None:
    """Where a tensor's values come from; None for biases that the source does not have."""
    if name in source.tensors:
        return source.tensors[name]
    if name == "decoder.output.weight":
        return source.tensors["decoder.tok_embeddings.weight"]
    return None


def _shards(plan: Plan, limit: int) -> list[list[TensorPlan]]:
    """Tensors in order, cut into files; weight, scales and biases stay together."""
    shards: list[list[TensorPlan]] = []
    size = 0
    for tensor in plan.tensors:
        extra = tensor.nbytes + HEADER_BYTES * len(tensor.outputs())
        if not shards or size + extra > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += extra
    return shards


def _check_disk(folder: Path, plan: Plan, source: Checkpoint) -> None:
    """Room for the weights and for the tokenizer's files, before the first byte."""
    place = folder.parent
    while not place.exists() and place != place.parent:
        place = place.parent
    words = source.tokenizer_file.stat().st_size if source.tokenizer_file else 0
    # tekken.json, a tokenizer.json of about the same size, and the small files.
    needed = plan.nbytes + HEADER_BYTES * 3 * len(plan.tensors) + 2 * words + 2**20
    free = shutil.disk_usage(place).free
    if free < needed:
        raise CapacityError(
            f"{place}: {free:,} bytes free, {needed:,} needed; free {needed - free:,} bytes, "
            "choose another disk or fewer bits"
        )


def _write_error(folder: Path, plan: Plan, error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CapacityError(
            f"{folder.parent}: the disk is full ({error.strerror}); about {plan.nbytes:,} bytes "
            "are needed, nothing was left behind, free some and run again"
        )
    return CheckpointError(
        f"{error.filename or folder}: cannot be written ({error.strerror or error}); choose "
        "another place for the output"
    )


def _described(source: Checkpoint) -> str:
    entry: dict[str, Any] = source.quantization or {}
    return f"{entry.get('bits')} bits, groups of {entry.get('group_size')}"
