"""Model folders: what is in them, checked before it is read, and loaded without being read.

`open_checkpoint` looks at names, shapes and places only. A model is filled with lazy arrays: each
weight is read from disk when the first computation needs it, and a request without an image never
reads the vision weights.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ..cost.chips import this_chip
from ..errors import CheckpointError, ConfigError
from ..inputs.tokenizer_file import OtherWords, ends_without_words, find_tokenizer_file
from ..model.config import PixtralConfig
from ..model.threads import for_any_thread, shared_stream
from . import layouts
from .arrays import load_arrays
from .diagnosis import foreign_tensors, some
from .folder import read_configuration, read_headers, weight_files
from .hf_config import read_json
from .layouts import Layout
from .matching import FLOATS, TensorRef, match_schemes, match_tensors, read_quantization
from .scheme import Scheme
from .stamps import Stamp, check_unchanged, stamps_of

log = logging.getLogger(__name__)

DTYPES = {"bfloat16": mx.bfloat16, "float16": mx.float16, "float32": mx.float32}

AUTO_VISION = "bfloat16"
"""In which type `dtype="auto"` computes encoder and projector, on every chip: a float16 ends at
65,504, which the residual stream of an encoder may pass, and their part of a prefill is small (5 %
of the 12B's for an image of 1024 x 1024 pixels), so that what bfloat16 costs there on M1 and M2 is
little. float32 would take 0.87 GB more."""


class Precision(NamedTuple):
    """In which types a model computes; None is as stored.

    Arguments:
        decoder: of its activations, unquantized tensors, scales and biases.
        vision: the same of encoder and projector.
    """

    decoder: mx.Dtype | None
    vision: mx.Dtype | None

    def of(self, name: str) -> mx.Dtype | None:
        """That of one of our parameters."""
        return self.decoder if name.startswith("decoder.") else self.vision

    def __str__(self) -> str:
        names = [str(kind).rpartition(".")[2] for kind in self]
        return names[0] if names[0] == names[1] else f"{names[0]}, vision {names[1]}"


@dataclass(frozen=True)
class Checkpoint:
    """A model folder whose headers have been checked.

    Arguments:
        folder: where it is.
        config: the sizes.
        layout: "official", "hf" or "mlx".
        quantization: as `config.json` holds it, overrides by their paths; None if there is none.
        tensors: {our parameter name: TensorRef}, complete, with scales and biases.
        schemes: {our module path: Scheme} of what is quantized.
        tokenizer_file: None if the folder brings none; `tokenizer_problem` then says why.
        tokenizer_problem: one line, or "".
        stamps: of the files that all this was read from, when that began.
    """

    folder: Path
    config: PixtralConfig
    layout: str
    quantization: dict[str, Any] | None
    tensors: dict[str, TensorRef]
    schemes: dict[str, Scheme] = field(default_factory=dict)
    tokenizer_file: Path | None = None
    tokenizer_problem: str = ""
    stamps: Mapping[Path, Stamp] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all weights on disk."""
        return sum(ref.nbytes for ref in self.tensors.values())

    def arrays(self, dtype: Any = None) -> dict[str, mx.array]:
        """Our parameters as lazy arrays: nothing is read until it is computed with, on any thread.

        Arguments:
            dtype: as for `load`, of everything floating, scales and biases included. One-byte
                scales (mxfp4, mxfp8, nvfp4) and packed weights stay as they are. Mistral's own FP8
                weights are computed with in this type, bfloat16 by default.
        """
        kinds = precision(dtype)
        scales = [ref.scale for ref in self.tensors.values() if ref.scale is not None]
        files = {file: _lazy(file) for file in {r.file for r in (*self.tensors.values(), *scales)}}
        check_unchanged(self.stamps, "while the model was opened")
        found = {}
        with for_any_thread():
            for name, ref in self.tensors.items():
                array, kind = files[ref.file][ref.theirs], kinds.of(name)
                if ref.scale is not None:
                    array = from_fp8(array, files[ref.scale.file][ref.scale.theirs])
                    array = array.astype(kind or mx.bfloat16)
                array = ref.transform.to_ours(array)
                if kind is not None and ref.dtype in FLOATS:
                    array = array.astype(kind)
                found[name] = array
        return found


def open_checkpoint(folder: str | PathLike[str]) -> Checkpoint:
    """Check a model folder and describe it; no weight is read.

    Raises:
        CheckpointError: weights or configuration are missing, corrupt, pickled, or do not fit
            together; the line names the files or tensors.
        ConfigError: the configuration lacks a key or has a wrong value.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give a model folder")
    stamps = stamps_of(folder.iterdir())
    files = weight_files(folder)
    config, settings = read_configuration(folder, files)
    stored = read_headers(folder, files)
    if foreign := foreign_tensors(stored):
        raise CheckpointError(f"{folder}: {foreign}")
    layout = layouts.detect(stored, config)
    if layout is None:
        raise CheckpointError(
            f"{folder}: no tensor has a Pixtral name ({some(stored)});"
            " the folder holds another architecture"
        )
    config = _as_stored(config, layout, stored)
    table = layouts.to_ours(layout, config)
    quantization = read_quantization(folder, settings)
    schemes = match_schemes(folder, quantization, config, table, stored)
    tensors = match_tensors(folder, config, table, schemes, stored)
    tokenizer_file, problem = None, ""
    try:
        tokenizer_file = find_tokenizer_file(folder, config)
        _note_ends(folder, tokenizer_file)
    except OtherWords:
        raise  # no question could be asked, and what its words are is not known here
    except CheckpointError as error:
        problem = str(error)
    used = {*files, folder / "params.json", folder / "config.json", tokenizer_file}
    stamps = {file: stamp for file, stamp in stamps.items() if file in used}
    check_unchanged(stamps, "while it was read")
    return Checkpoint(
        folder,
        config,
        layout.family,
        quantization,
        tensors,
        schemes,
        tokenizer_file,
        problem,
        stamps,
    )


def _note_ends(folder: Path, tokenizer_file: Path) -> None:
    """Say that an answer of a fine-tune may not end where it was taught to."""
    files = [folder / name for name in ("config.json", "generation_config.json")]
    settings = []
    for file in filter(Path.is_file, files):
        with suppress(ConfigError):  # sizes may come from another file
            settings.append(read_json(file))
    for end in ends_without_words(settings, tokenizer_file):
        log.warning(
            "%s: its answers end with id %d, which has no word in its tokenizer (%s) and is never "
            "written: only </s> ends them",
            folder,
            end,
            tokenizer_file.name,
        )


def fill(
    model: nn.Module, schemes: Mapping[str, Scheme], weights: Iterable[tuple[str, mx.array]]
) -> None:
    """Quantize the modules that `schemes` names, and give the model its weights.

    Arguments:
        schemes: {our module path: Scheme}.
        weights: (our parameter name, array) of every parameter, asked for when the modules are
            quantized; the arrays may be lazy.
    """

    def quantized(path: str, _: nn.Module) -> dict[str, Any] | bool:
        return schemes[path].entry() if path in schemes else False

    nn.quantize(model, class_predicate=quantized)
    model.load_weights(list(weights))
    model.eval()


def find_non_finite(checkpoint: Checkpoint) -> Iterator[tuple[str, bool]]:
    """Read every weight once: (its name in the folder, whether it holds NaN or infinity)."""
    for name, ref in checkpoint.tensors.items():
        array = _lazy(ref.file)[ref.theirs]
        scheme = checkpoint.schemes.get(layouts.module_of(name))
        mode = scheme.mode if scheme else ""
        if ref.scale is not None:
            bad = mx.any(~mx.isfinite(from_fp8(array, _lazy(ref.scale.file)[ref.scale.theirs])))
        elif ref.dtype in FLOATS:
            bad = mx.any(~mx.isfinite(array))
        elif ref.dtype == "U8" and mode.startswith("mx"):
            bad = mx.any(array == 0xFF)  # the one NaN of an E8M0 scale
        elif ref.dtype == "U8" or mode == "mxfp8":
            bad = mx.any((array.view(mx.uint8) & 0x7F) == 0x7F)  # the two NaNs of E4M3
        else:
            bad = mx.array(False)
        yield ref.theirs, bool(bad.item())


def from_fp8(packed: mx.array, scale: mx.array) -> mx.array:
    """Weights that Mistral rounded to FP8 (E4M3), in float32.

    Arguments:
        packed: uint8, as MLX reads them.
        scale: one number.
    """
    return mx.from_fp8(packed, mx.float32) * scale.astype(mx.float32).reshape(())


def precision(dtype: Any) -> Precision:
    """What `load`'s `dtype` means on this machine.

    Raises:
        CheckpointError: another type than the three that a model can compute in.
    """
    if dtype is None or dtype in DTYPES.values():
        return Precision(dtype, dtype)
    if isinstance(dtype, str) and dtype == "auto":
        chip = this_chip(str(mx.device_info().get("device_name", "")))
        return Precision(DTYPES[chip.dtype], DTYPES[AUTO_VISION]) if chip else Precision(None, None)
    if isinstance(dtype, str) and dtype in DTYPES:
        return Precision(DTYPES[dtype], DTYPES[dtype])
    raise CheckpointError(f"dtype is {dtype!r}; allowed: {', '.join(DTYPES)}, auto or None")


def _as_stored(config: PixtralConfig, layout: Layout, stored: Collection[str]) -> PixtralConfig:
    """Two liberties of HF and MLX folders: no vision weights at all (mlx-lm drops them, and the
    model then answers text only), and an output matrix that is stored although it is called tied
    (the stored one counts, as in transformers)."""
    table = layouts.to_ours(
        layout, replace(config, text=replace(config.text, tied_embeddings=False))
    )
    held = {name for name, source in table.items() if source.theirs in stored}
    if config.text.tied_embeddings and "decoder.output.weight" in held:
        config = replace(config, text=replace(config.text, tied_embeddings=False))
    if layout.family != "official" and all(name.startswith("decoder.") for name in held):
        config = replace(config, vision=None)
    return config


def _lazy(file: Path) -> dict[str, mx.array]:
    """Arrays of a file that are read when they are computed with, by whatever thread."""
    try:
        return load_arrays(file, shared_stream(mx.cpu))[0]
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error}); download it again") from error
