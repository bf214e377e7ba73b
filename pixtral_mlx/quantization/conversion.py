"""From a checkpoint in any layout to a folder of quantized MLX weights, a slice at a time.

Groups of weights are quantized row by row and rows know nothing of one another, so that the matrix
never has to be in memory: a few megabytes of rows are read, put in order, quantized, written to
their place in the output, and forgotten. An 8 GB Mac converts the 25 GB model.

The output grows in a hidden folder beside its destination and takes its name when it is complete:

    convert("Pixtral-12B-2409", "pixtral-4bit", bits=4)
"""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..checkpoint import layouts
from ..checkpoint.checkpoint import Checkpoint, TensorRef, open_checkpoint
from ..checkpoint.layouts import Source, Transform
from ..checkpoint.names import resolve
from ..checkpoint.safetensors_io import SafetensorsWriter
from ..checkpoint.stamps import Stamp, check_unchanged
from ..checkpoint.sums import write_sums
from ..errors import CapacityError, CheckpointError
from ..files import expanded, new_folder, refuse_existing, remove_stale, scratch_folder
from ..model.config import PixtralConfig
from .options import ConversionOptions
from .plan import Plan, TensorPlan, as_written, plan_for
from .rounding import come_back, origin_of, relative_error, slices, squares_of, stored

THREADS = 2
"""That quantize at a time; while one reads, writes or adds up errors, the other keeps MLX busy."""

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
    dry_run: bool = False,
    progress: Progress | None = None,
    shard_bytes: int = 10**9,
    **options: Any,
) -> Conversion:
    """Write `src`, quantized, as a new folder that this package and mlx-vlm open as it is.

    Arguments:
        src: a folder in the official, HF or (unquantized) MLX layout, or a hub id.
        dst: the new folder; must not exist.
        dry_run: plan and check, write nothing; of a hub id's weights only headers are fetched.
        progress: called with (bytes read, bytes to read) of the source after every slice.
        shard_bytes: the most that one weight file may hold, since a reader may map or hold one
            at a time; a single larger tensor has a file of its own.
        options: the fields of `ConversionOptions` (`bits`, `group_size`, `mode`, ...).

    Raises:
        ValueError: options that cannot be (a usage error).
        CheckpointError: `src` cannot be read, is already quantized or holds NaN or infinity;
            `dst` exists.
        ConfigError: nothing can be quantized with these options.
        CapacityError: the disk is or becomes too full; nothing is left under `dst`.
    """
    asked = ConversionOptions(**options)
    folder = expanded(dst)
    if dry_run:
        with scratch_folder() as place:
            source = _unquantized(src, outline_in=place)
        return Conversion(folder, plan_for(source.config, asked), expanded(src))
    refuse_existing(folder)
    source = _unquantized(src)
    target = as_written(source.config)
    table = layouts.to_ours(layouts.written_layout(target), target)
    plan = plan_for(source.config, asked)
    remove_stale(folder)  # first, since it takes room
    check_disk(folder, plan, source)
    return _carry_out(source, target, table, plan, folder, progress, shard_bytes)


def _unquantized(src: str | os.PathLike[str], outline_in: Path | None = None) -> Checkpoint:
    source = open_checkpoint(resolve(src, outline_in))
    if source.quantization is not None:
        raise CheckpointError(
            f"{src}: quantized already ({_described(source)}); rounding twice loses more "
            "than rounding once, convert from the original weights"
        )
    return source


def _carry_out(
    source: Checkpoint,
    target: PixtralConfig,
    table: dict[str, Source],
    plan: Plan,
    folder: Path,
    progress: Progress | None,
    shard_bytes: int,
) -> Conversion:
    from .folder_files import write_card, write_config, write_errors, write_index, write_tokenizer

    start = time.perf_counter()
    with new_folder(folder, needed=plan.nbytes) as partial, ThreadPoolExecutor(1) as beside:
        tokenizer = beside.submit(write_tokenizer, partial, source, target)
        errors, files = _write_weights(source, table, plan, partial, progress, shard_bytes)
        write_index(partial, plan, files)
        write_config(partial, target, plan, tokenizer.result())
        write_errors(partial, plan, errors)
        write_card(partial, plan, source, errors)
        check_unchanged(source.stamps, "while it was converted")
        write_sums(partial)
        nbytes = sum((partial / file).stat().st_size for file in set(files.values()))
    seconds = time.perf_counter() - start
    notes = (source.tokenizer_problem,) if source.tokenizer_problem else ()
    return Conversion(folder, plan, source.folder, seconds, nbytes, errors, notes)


def _write_weights(
    source: Checkpoint,
    table: dict[str, Source],
    plan: Plan,
    folder: Path,
    progress: Progress | None,
    shard_bytes: int,
) -> tuple[dict[str, float], dict[str, str]]:
    """All weight files; the relative errors, and {tensor in the folder: file}."""
    origins = {tensor.name: origin_of(source, tensor.name) for tensor in plan.tensors}
    total = sum(ref.nbytes for ref in origins.values() if ref)
    parts = shards(plan, shard_bytes)
    errors: dict[str, float] = {}
    files: dict[str, str] = {}
    done = 0
    lock = threading.Lock()

    def read(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            if progress:
                progress(done, total)

    for number, shard in enumerate(parts, start=1):
        file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        outputs = [output for tensor in shard for output in tensor.outputs()]
        rows = [(output.name, output.dtype, output.shape) for output in outputs]
        with (
            SafetensorsWriter(folder / file, rows, {"format": "mlx"}) as writer,
            _threads() as pool,
        ):
            written = {
                tensor.name: pool.submit(
                    _write_tensor, writer, tensor, origins[tensor.name],
                    table[tensor.name].transform, read, source.stamps,
                )
                for tensor in sorted(shard, key=lambda tensor: -tensor.nbytes)  # evens the ends
            }  # fmt: skip
            errors |= {name: error.result() for name, error in written.items()}
        files |= dict.fromkeys((output.name for output in outputs), file)
    return errors, files


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Threads with an MLX stream each; at the end nothing runs any more, and after a mistake or
    Ctrl-C nothing new begins."""

    def own_stream() -> None:
        mx.set_default_stream(mx.new_stream(mx.default_device()))

    pool = ThreadPoolExecutor(THREADS, initializer=own_stream)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _write_tensor(
    writer: SafetensorsWriter,
    tensor: TensorPlan,
    origin: TensorRef | None,
    transform: Transform,
    read: Callable[[int], None],
    stamps: Mapping[Path, Stamp],
) -> float:
    """Read, order, quantize and write one tensor by slices of rows; its relative error."""
    names = [output.name for output in tensor.outputs()]
    squares = np.zeros(2)
    for start, stop, rows in slices(tensor, origin, transform):
        parts = stored(rows, tensor)
        for name, part in zip(names, parts, strict=True):
            writer.write(name, start, part)
        kept = come_back(parts, tensor)
        squares += squares_of(rows, kept, tensor, origin, (start, stop))
        if origin:
            read(origin.nbytes * (stop - start) // tensor.shape[0])
    mx.clear_cache()
    check_unchanged(stamps, "while it was converted")
    return relative_error(squares)


def shards(plan: Plan, limit: int) -> list[list[TensorPlan]]:
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


def check_disk(folder: Path, plan: Plan, source: Checkpoint) -> None:
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


def _described(source: Checkpoint) -> str:
    return "; ".join(sorted({str(scheme) for scheme in source.schemes.values()})) or "config.json"
