"""A trace in a file: attention to look at later, without the model.

One safetensors file: the turned queries and keys, the pictures as 8-bit pixels, and the metadata
as JSON in the header. No pickle; whatever is opened is checked against its own metadata first.
"""

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..checkpoint.safetensors_io import read_header
from ..errors import CheckpointError, PixtralError
from ..files import new_file, refuse_existing
from ..inputs.image import normalise, to_pixels
from ..model.config import PixtralConfig
from ..model.prompt import ImageSpan, PatchGrid, Prompt
from ..model.tap import Site
from .trace import Trace

VERSION = "1"
_KEY = "pixtral_mlx_trace"


@dataclass
class Stored:
    """What a file kept, in the shape of a `Recorder`."""

    vision: dict[str, mx.array]
    text: dict[str, list[mx.array]]
    states: dict[str, list[mx.array]] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        lists = [list(self.vision.values()), *self.text.values(), *self.states.values()]
        return sum(array.nbytes for arrays in lists for array in arrays)


def save_trace(trace: Trace, path: str | Path) -> None:
    """Write a trace to a new file, complete or not at all.

    Raises:
        CheckpointError: the name is taken, or cannot be written.
        CapacityError: the disk is full.
    """
    path = Path(path)
    refuse_existing(path)
    recorded, count = trace._recorded, len(trace.tokens)
    arrays = dict(recorded.vision)
    for site, rows in recorded.text.items():
        shape = (trace.config.text.n_heads, -1) if site.endswith(".queries") else (1, -1)
        arrays[site] = mx.stack([row.reshape(shape) for row in (rows[:count] or rows[:1])])[:count]
        if site.endswith(".queries"):
            layer = int(site.split(".")[1])
            arrays[f"text.{layer}.keys"] = trace._keys(layer)[:, : len(trace.prompt.tokens) + count]
    for number, pixels in enumerate(trace.prompt.images):
        arrays[f"image.{number}"] = mx.array(to_pixels(pixels))
    for site, whole in trace._whole_states().items():
        arrays[f"state.{site}"] = whole
    about = {
        "config": trace.config.to_params(),
        "prompt": [int(token) for token in trace.prompt.tokens],
        "spans": [[span.start, *span.grid, span.breaks] for span in trace.prompt.spans],
        "tokens": trace.tokens,
        "logprobs": trace.logprobs,
        "words": trace.words,
        "groups": list(trace.groups),
    }
    kept = json.dumps(about)
    metadata = {_KEY: VERSION, "about": kept, "checksum": _checksum(arrays, kept)}
    with new_file(path, suffix=".safetensors") as hidden:
        mx.save_safetensors(str(hidden), arrays, metadata)


def open_trace(path: str | Path) -> Trace:
    """Open a trace that `Trace.save` wrote.

    All that needs no weights works as before; `logit_lens` and `position_lens` say that they need
    the model.

    Raises:
        CheckpointError: no such file, not a trace, or a damaged one.
    """
    path = Path(path)
    read_header(path)  # refuses what is truncated or corrupt before anything is loaded
    try:
        loaded: Any = mx.load(str(path), format="safetensors", return_metadata=True)
        arrays, metadata = loaded
        if metadata.get(_KEY) != VERSION:
            raise ValueError(f"version {metadata.get(_KEY)}, {VERSION} is read")
        if metadata["checksum"] != _checksum(arrays, metadata["about"]):
            raise ValueError("its checksum does not fit")
        return _build(arrays, json.loads(metadata["about"]))
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


def _build(arrays: dict[str, mx.array], about: dict[str, Any]) -> Trace:
    config = PixtralConfig.from_params(about["config"])
    spans = [
        ImageSpan(_whole(start), PatchGrid(_whole(rows), _whole(columns)), bool(breaks))
        for start, rows, columns, breaks in about["spans"]
    ]
    grids = [span.grid for span in spans]
    tokens, prompt_tokens = _wholes(about["tokens"]), _wholes(about["prompt"])
    words, logprobs = [str(word) for word in about["words"]], [float(p) for p in about["logprobs"]]
    groups = _wholes(about["groups"])
    patches = sum(grid.patches for grid in grids)
    if not len(tokens) == len(words) == len(logprobs) or sum(groups) != patches:
        raise ValueError("its metadata contradicts itself")
    if any(not 0 < span.start < span.stop <= len(prompt_tokens) for span in spans):
        raise ValueError("an image lies outside the prompt")
    vision = {name: array for name, array in arrays.items() if name.startswith("vision.")}
    text = {name: list(a) for name, a in arrays.items() if name.startswith("text.")}
    keys = {int(n.split(".")[1]): arrays[n] for n in arrays if n.endswith(".keys") and n[0] == "t"}
    _check_shapes(arrays, config, patches, len(prompt_tokens), len(tokens))
    pictures = [_picture(arrays[f"image.{i}"], config, grid) for i, grid in enumerate(grids)]
    prompt = Prompt(prompt_tokens, pictures, grids, spans)
    rows = {name: rows for name, rows in text.items() if ".keys" not in name}
    states = {n[len("state.") :]: [arrays[n]] for n in arrays if n.startswith("state.")}
    recorded = Stored(vision, rows, states)
    return Trace(
        config, prompt, tokens, logprobs, words, groups, None, recorded, _lookup(keys), None
    )


def _lookup(keys: dict[int, mx.array]) -> Callable[[int], mx.array]:
    return lambda layer: keys[layer]


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
    side = config.vision.patch_size if config.vision else 0
    if tuple(pixels.shape) != (grid.rows * side, grid.columns * side, 3):
        raise ValueError(f"a picture has shape {tuple(pixels.shape)}")
    return normalise(np.array(pixels).astype(np.float32))


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError(f"{value!r} where a whole number is expected")
    return value


def _wholes(values: Sequence[Any]) -> list[int]:
    return [_whole(value) for value in values]
