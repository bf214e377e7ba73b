"""A model and everything that asks it, as one page of HTML: what `pixtral-mlx live` writes.

The network is `drawing/live/network.js`. Here its weights, its words and the masks of the scenes
become what that script reads.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby
from typing import Any

import mlx.core as mx
import numpy as np
from PIL import Image

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.layouts import module_of
from ..checkpoint.scheme import FLOAT_MODES
from ..drawing import FOLDER, joined, styled
from ..errors import CapacityError, CheckpointError
from ..inputs.tokenizer import Tokenizer
from ..mini.drawing import CHARACTERS, COLOURS, INK, SHAPES, mask, tile_mask
from ..mini.questions import NUMBERS, ORDINALS, PHRASINGS, PLURALS, SIDES
from ..mini.scene_layout import CELL_SIDES
from ..mini.scenes import COUNTED
from ..tables import format_bytes

STATIC = FOLDER / "live"
LARGEST_BYTES = 8_000_000
"""Of the weights in a page: a browser reads them before it shows anything."""

RADII = (90, 98, 106, 114)
"""Of things and of their rims, in tenths of a pixel."""

FULL = 16
"""Of the sixteenths that a mask counts in."""

_LONGEST_RUN = 120
_TYPES = {mx.bfloat16: "BF16", mx.float16: "F16", mx.float32: "F32"}


def check(checkpoint: Checkpoint) -> None:
    """See that a page can hold this model, before a weight is read.

    Raises:
        CheckpointError: a model whose parts the page's script does not have.
        CapacityError: too many bytes.
    """
    folder, config = checkpoint.folder, checkpoint.config
    vision = config.vision
    if vision is None:
        raise CheckpointError(f"{folder}: has no vision encoder, which the page is about")
    heirs = {
        "merges patches": vision.merges or vision.add_pre_mm_projector_layer_norm,
        "stretches its positions (yarn)": config.text.yarn is not None,
        "scales its queries (llama_4_scaling)": config.text.llama_4_scaling is not None,
    }
    for what, found in heirs.items():
        if found:
            raise CheckpointError(
                f"{folder}: {what}, as Pixtral's heirs do, and the page computes Pixtral alone; "
                "allowed: models in Pixtral's own architecture, such as mini"
            )
    if checkpoint.tokenizer_file is None:
        raise CheckpointError(checkpoint.tokenizer_problem)
    if checkpoint.tokenizer_file.suffix != ".json":
        raise CheckpointError(
            f"{checkpoint.tokenizer_file}: the page reads Tekken files (tekken.json) alone, not "
            "SentencePiece"
        )
    size = page_bytes(checkpoint)
    if size > LARGEST_BYTES:
        raise CapacityError(
            f"{folder}: a page would hold {format_bytes(size)} of weights; allowed: up to "
            f"{format_bytes(LARGEST_BYTES)}, so give mini or a model of its size"
        )


def page_bytes(checkpoint: Checkpoint) -> int:
    """Bytes that the weights will take in a page: as stored, but those in a float mode (mxfp4 and
    the like) and FP8 in bfloat16, which holds them exactly."""
    found = 0
    for name, ref in checkpoint.tensors.items():
        scheme = checkpoint.schemes.get(module_of(name))
        if scheme is None or scheme.mode not in FLOAT_MODES:
            found += ref.nbytes * (2 if ref.scale is not None else 1)
        elif name.endswith(".weight"):
            found += ref.nbytes * 16 // scheme.bits
    return found


def packed(checkpoint: Checkpoint) -> tuple[dict[str, Any], bytes]:
    """The weights as the page holds them, under our names and in our order of numbers.

    Returns:
        ({name: {"type", "shape", "at"}}, bytes): where each begins, and of what type it is; one
        quantized in integers has "bits", "group", "scales" and "biases" too.
    """
    arrays, parts, at = checkpoint.arrays(), list[bytes](), 0

    def put(array: mx.array) -> int:
        nonlocal at
        held = np.array(array if array.dtype in (mx.float32, mx.uint32) else array.view(mx.uint16))
        parts.append(held.tobytes())
        at += held.nbytes
        return at - held.nbytes

    def entry(array: mx.array) -> dict[str, Any]:
        return {"type": _TYPES[array.dtype], "shape": list(array.shape), "at": put(array)}

    header = {}
    for name, array in arrays.items():
        module, last = module_of(name), name.rpartition(".")[2]
        scheme = checkpoint.schemes.get(module)
        if scheme is None or last == "bias":
            header[name] = entry(array)
        elif last == "weight" and scheme.mode in FLOAT_MODES:
            bits, group, mode = scheme
            scales = arrays[f"{module}.scales"]
            # A few bits of mantissa times a power of two, or times a few bits: nothing is lost.
            full = mx.dequantize(array, scales, group_size=group, bits=bits, mode=mode)
            header[name] = entry(full.astype(mx.bfloat16))
        elif last == "weight":
            scales, biases = (entry(arrays[f"{module}.{part}"]) for part in ("scales", "biases"))
            rows, groups = scales["shape"]
            header[name] = {
                "type": "affine", "shape": [rows, groups * scheme.group_size], "at": put(array),
                "bits": scheme.bits, "group": scheme.group_size,
                "scales": scales, "biases": biases,
            }  # fmt: skip
    return header, b"".join(parts)


def words(checkpoint: Checkpoint) -> dict[str, Any]:
    """The tokenizer as the page holds it, and the ids around a question.

    Returns:
        {"pattern", "pieces", "first", "template", "end"}: pieces are strings with a character a
        byte; `first` is the id of the first of them; `end` ends an answer.
    """
    file = checkpoint.tokenizer_file
    if file is None:
        raise CheckpointError(checkpoint.tokenizer_problem)
    tokenizer = Tokenizer(file, checkpoint.config.vision)
    stored = json.loads(file.read_text(encoding="utf-8"))
    asked = tokenizer.encode("x", [Image.new("RGB", (1, 1))])
    said = len(tokenizer.encode("x", raw=True).tokens) - 1  # without <s>
    (span,) = asked.spans
    image, row_break, end = tokenizer.image_ids
    first = stored["config"]["default_num_special_tokens"]
    pieces = stored["vocab"][: tokenizer.n_words - first]
    return {
        "pattern": stored["config"]["pattern"],
        "pieces": [base64.b64decode(one["token_bytes"]).decode("latin-1") for one in pieces],
        "first": first,
        "end": tokenizer.eos_id,
        "names": [tokenizer.label(token) for token in range(first)],
        "template": {
            "before": asked.tokens[: span.start], "after": asked.tokens[span.stop + said :],
            "image": image, "rowBreak": row_break, "end": end,
        },
    }  # fmt: skip


def world() -> dict[str, Any]:
    """The names and colours of the scenes, and the words of the questions about them."""
    return {
        "shapes": SHAPES, "colours": COLOURS, "characters": CHARACTERS, "ink": INK,
        "cellSides": CELL_SIDES, "numbers": NUMBERS, "ordinals": ORDINALS, "plurals": PLURALS,
        "sides": SIDES, "phrasings": PHRASINGS, "counted": COUNTED, "masks": masks(),
    }  # fmt: skip


def masks() -> dict[str, Any]:
    """How the things of the scenes cover their cells, drawn by `mini.drawing`.

    Returns:
        {"names", "sides", "radii", "runs"}: for each side of a cell the tile, then each thing by
        its radii; sixteenths of a pixel's area, as `_runs` writes them, in base64.
    """
    sides = sorted(set(CELL_SIDES))
    names = [*SHAPES, *CHARACTERS]
    every = [
        one
        for side in sides
        for one in (
            tile_mask(side),
            *(mask(name, side, radius) for name in names for radius in RADII),
        )
    ]
    shades = np.concatenate([(one.ravel() + 15) // 16 for one in every])
    return {
        "names": names, "sides": sides, "radii": list(RADII),
        "runs": base64.b64encode(bytes(_runs(shades.tolist()))).decode(),
    }  # fmt: skip


def _runs(shades: list[int]) -> Iterator[int]:
    """Up to 16: one pixel of this shade. More: a run of up to 120 pixels, of nothing from 17 on
    (a run of 2), of full cover from 136 on."""
    for shade, same in groupby(shades):
        length = len(list(same))
        while length:
            some = min(length, _LONGEST_RUN) if shade in (0, FULL) else 1
            first = FULL if shade == 0 else FULL + _LONGEST_RUN - 1
            yield first + some - 1 if some > 1 else shade
            length -= some


def data(checkpoint: Checkpoint, name: str) -> tuple[dict[str, Any], bytes]:
    """What the page's script reads, but for the weights' bytes, and those.

    Arguments:
        name: what the model is called.
    """
    header, weights = packed(checkpoint)
    config = asdict(checkpoint.config.text)
    config["vision_encoder"] = asdict(checkpoint.config.vision) if checkpoint.config.vision else {}
    return {
        "name": name, "config": config, "words": words(checkpoint), "weights": header,
        "world": world(),
    }, weights  # fmt: skip


def page(checkpoint: Checkpoint, name: str) -> str:
    """The page: one text that asks nobody for anything."""
    held, weights = data(checkpoint, name)
    style, script = styled(STATIC / "live.css"), joined("page", [STATIC])
    parts = {
        "policy": policy(style, script), "style": style, "script": script,
        "network": (STATIC / "network.js").read_text(encoding="utf-8"),
        "worker": joined("worker", [STATIC]),
        "model": json.dumps(held, separators=(",", ":")).replace("<", "\\u003c"),
        "weights": base64.b64encode(weights).decode(),
        **_first_words(),
    }  # fmt: skip
    text = (STATIC / "live.html").read_text(encoding="utf-8")
    return re.sub(r"{(\w+)}", lambda found: parts[found[1]], text)


def _first_words() -> dict[str, str]:
    """What the page says before its script runs, from the table of all that it says."""
    table = (STATIC / "text.js").read_text(encoding="utf-8")
    found = re.findall(r'^  (title|opening|noScript): "(.*)",$', table, re.MULTILINE)
    return {name: html.escape(words) for name, words in found}


def policy(style: str, script: str) -> str:
    """The Content-Security-Policy: its own style, its own script, and the worker that it starts."""
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {_hash(style)}",
            f"script-src {_hash(script)} blob:",
            "worker-src blob:",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
