"""A trace in a file: attention to look at later, without the model.

One safetensors file: the turned queries and keys, the pictures as 8-bit pixels, and the metadata
as JSON in the header. No pickle; whatever is opened is checked against its own metadata first.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..checkpoint.arrays import load_arrays, save_arrays
from ..checkpoint.safetensors_io import read_header
from ..errors import CheckpointError, PixtralError
from ..files import expanded, new_file, refuse_existing
from ..inputs.pixels import normalise, to_pixels
from ..model.config import PixtralConfig
from ..model.prompt import ImageSpan, PatchGrid, Prompt
from ..model.tap import Site

VERSION = "1"
_KEY = "pixtral_mlx_trace"


@dataclass(frozen=True, eq=False)
class TraceRecord:
    """What a file keeps of an answer; P tokens of prompt, T of answer, N patches of all images.

    Arguments:
        config, prompt, tokens, logprobs, words, groups: as in `Trace`.
        vision: turned queries and keys of the encoder by their site, (H, N, head_dim).
        text: queries (T, H, head_dim) and residual streams (T, 1, D) of the answer by their site.
        keys: of the decoder by layer, (K, P + T, head_dim).
        states: the states that `TraceOptions.states` named.
    """

    config: PixtralConfig
    prompt: Prompt
    tokens: list[int]
    logprobs: list[float]
    words: list[str]
    groups: Sequence[int]
    vision: Mapping[str, mx.array]
    text: Mapping[str, mx.array]
    keys: Mapping[int, mx.array]
    states: Mapping[str, mx.array]


def write_trace(record: TraceRecord, path: str | Path) -> None:
    """Write a new file, complete or not at all.

    Raises:
        CheckpointError: the name is taken, or cannot be written.
        CapacityError: the disk is full.
    """
    path = expanded(path)
    refuse_existing(path)
    arrays = {**record.vision, **record.text}
    arrays |= {f"text.{layer}.keys": keys for layer, keys in record.keys.items()}
    for number, pixels in enumerate(record.prompt.images):
        arrays[f"image.{number}"] = mx.array(to_pixels(pixels))
    arrays |= {f"state.{site}": whole for site, whole in record.states.items()}
    about = {
        "config": record.config.to_params(),
        "prompt": [int(token) for token in record.prompt.tokens],
        "spans": [[span.start, *span.grid, span.breaks] for span in record.prompt.spans],
        "tokens": record.tokens,
        "logprobs": record.logprobs,
        "words": record.words,
        "groups": list(record.groups),
    }
    kept = json.dumps(about)
    metadata = {_KEY: VERSION, "about": kept, "checksum": _checksum(arrays, kept)}
    with new_file(path, suffix=".safetensors") as hidden:
        save_arrays(hidden, arrays, metadata)


def read_trace(path: str | Path) -> TraceRecord:
    """Read a file that `write_trace` wrote; whatever it holds is checked.

    Raises:
        CheckpointError: no such file, not a trace, or a damaged one.
    """
    path = expanded(path)
    read_header(path)  # refuses what is truncated or corrupt before anything is loaded
    try:
        arrays, metadata = load_arrays(path)
        if metadata.get(_KEY) != VERSION:
            raise ValueError(f"version {metadata.get(_KEY)}, {VERSION} is read")
        if metadata["checksum"] != _checksum(arrays, metadata["about"]):
            raise ValueError("its checksum does not match")
        return _record(arrays, json.loads(metadata["about"]))
    except (ValueError, KeyError, TypeError, IndexError, RuntimeError, PixtralError) as error:
        raise CheckpointError(
            f"{path}: not a trace of pixtral-mlx, or a damaged one ({error}): save it again"
        ) from error


def _checksum(arrays: dict[str, mx.array], about: str) -> str:
    """CRC-32 of everything that a trace holds, as eight hexadecimal digits."""
    found = zlib.crc32(about.encode())
    for name in sorted(arrays):
        array = arrays[name]
        found = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), found)
        found = zlib.crc32(np.array(mx.view(array.reshape(-1), mx.uint8)).data, found)
    return f"{found:08x}"


def _record(arrays: dict[str, mx.array], about: dict[str, Any]) -> TraceRecord:
    config = PixtralConfig.from_params(about["config"])
    spans = [
        ImageSpan(_whole(start), PatchGrid(_whole(rows), _whole(columns)), bool(breaks))
        for start, rows, columns, breaks in about["spans"]
    ]
    grids = [span.grid for span in spans]
    tokens, prompt_tokens = _wholes(about["tokens"]), _wholes(about["prompt"])
    words, logprobs = [str(word) for word in about["words"]], [float(p) for p in about["logprobs"]]
    groups = _wholes(about["groups"])
    merge = config.vision.spatial_merge_size if config.vision else 1
    patches = sum(grid.patches for grid in grids) * merge**2
    if not len(tokens) == len(words) == len(logprobs) or sum(groups) != patches:
        raise ValueError("its metadata contradicts itself")
    if any(not 0 < span.start < span.stop <= len(prompt_tokens) for span in spans):
        raise ValueError("a picture lies outside the prompt")
    vision = {name: array for name, array in arrays.items() if name.startswith("vision.")}
    text = {name: array for name, array in arrays.items() if name.startswith("text.")}
    keys = {int(name.split(".")[1]): text.pop(name) for name in [*text] if name.endswith(".keys")}
    _check_shapes(arrays, config, patches, len(prompt_tokens), len(tokens))
    pictures = [_picture(arrays[f"image.{i}"], config, grid) for i, grid in enumerate(grids)]
    prompt = Prompt(prompt_tokens, pictures, grids, spans, merge)
    states = {n[len("state.") :]: arrays[n] for n in arrays if n.startswith("state.")}
    return TraceRecord(
        config, prompt, tokens, logprobs, words, groups, vision, text, keys, states
    )  # fmt: skip


def _check_shapes(
    arrays: dict[str, mx.array], config: PixtralConfig, patches: int, prompt: int, tokens: int
) -> None:
    """Every array must have the shape that the metadata implies, and its partner."""
    for name in arrays:
        if name.startswith("state."):
            continue
        stem, _, what = name.rpartition(".")
        partner = {"queries": f"{stem}.keys", "keys": f"{stem}.queries"}.get(what, name)
        if partner not in arrays:
            raise ValueError(f"{partner} is missing")
    eyes, text = config.vision, config.text
    for name, array in arrays.items():
        where, layer, *what = name.split(".")
        if where == "vision" and eyes is not None:
            wanted = (eyes.num_attention_heads, patches, eyes.head_dim)
            layers = eyes.num_hidden_layers
        elif where == "text":
            layers = text.n_layers
            wanted = {
                "queries": (tokens, text.n_heads, text.head_dim),
                "keys": (text.n_kv_heads, prompt + tokens, text.head_dim),
                "": (tokens, 1, text.dim),
            }["".join(what)]
        elif where == "image":
            continue
        elif where == "state":
            Site.parse(name[len("state.") :], config)
            continue
        else:
            raise ValueError(f"{name} is not known")
        if tuple(array.shape) != wanted or int(layer) >= layers:
            raise ValueError(f"{name} has shape {tuple(array.shape)}, {wanted} is expected")


def _picture(pixels: mx.array, config: PixtralConfig, grid: PatchGrid) -> np.ndarray:
    side = config.vision.token_size if config.vision else 0
    if tuple(pixels.shape) != (grid.rows * side, grid.columns * side, 3):
        raise ValueError(f"a picture has shape {tuple(pixels.shape)}")
    return normalise(np.array(pixels))


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError(f"{value!r} where a whole number is expected")
    return value


def _wholes(values: Sequence[Any]) -> list[int]:
    return [_whole(value) for value in values]
