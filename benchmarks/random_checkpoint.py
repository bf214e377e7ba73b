"""Write a Pixtral of random weights in the official layout: names, shapes and tokenizer are real.

    python benchmarks/random_checkpoint.py FOLDER [--scale 0.1] [--small] [--scaled]

`--scale` keeps this share of Pixtral 12B's layers; `--small` is one of 1.1 billion weights (2.2 GB
in bf16): its width, depth and heads are smaller, its vocabulary is not. `--scaled` is the model of
benchmarks on a CPU: 4 decoder layers of width 1024, an encoder of 4 layers of width 512, 131,072
words, 0.3 billion weights, so that a picture of 4,160 tokens takes seconds; load it in float32.
Prints its seconds and bytes as JSON.
"""

import argparse
import json
import math
import shutil
import time
from pathlib import Path

import mlx.core as mx
import numpy as np

from pixtral_mlx.checkpoint import layouts
from pixtral_mlx.checkpoint.safetensors_io import SafetensorsWriter
from pixtral_mlx.inputs.tokenizer_file import shipped_tekken
from pixtral_mlx.model.config import PIXTRAL_12B, PixtralConfig
from pixtral_mlx.random_model import scaled

BLOCK = 32 * 2**20  # weights; 64 MB of bf16
SMALL = {"dim": 2048, "n_layers": 8, "n_heads": 16, "n_kv_heads": 4, "hidden_dim": 5632}
SMALL_VISION = {"num_hidden_layers": 12}
SCALED = {
    "dim": 1024, "n_layers": 4, "n_heads": 8, "n_kv_heads": 2, "hidden_dim": 2816,
}  # fmt: skip
SCALED_VISION = {
    "hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 1408,
}  # fmt: skip


def main() -> None:
    """Write one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("folder", metavar="FOLDER", help="a new folder")
    parser.add_argument("--scale", type=float, default=1, help="share of the layers (default 1)")
    parser.add_argument("--small", action="store_true", help="1.1 billion weights")
    parser.add_argument("--scaled", action="store_true", help="0.3 billion weights")
    arguments = parser.parse_args()
    if arguments.small or arguments.scaled:
        params = smaller(SMALL, SMALL_VISION) if arguments.small else smaller(SCALED, SCALED_VISION)
    else:
        params = scaled(PIXTRAL_12B, arguments.scale).to_params()
    print(json.dumps(write_checkpoint(Path(arguments.folder), params)))


def smaller(text: dict, vision: dict) -> dict:
    """`params.json` of Pixtral 12B with other sizes."""
    params = PIXTRAL_12B.to_params()
    return params | text | {"vision_encoder": params["vision_encoder"] | vision}


def official_shapes(params: dict) -> dict[str, tuple[int, ...]]:
    """{official name: shape as stored there}."""
    config = PixtralConfig.from_params(params)
    ours = layouts.shapes(config)
    table = layouts.to_ours(layouts.OFFICIAL, config)
    return {s.theirs: s.transform.stored_shape(ours[name]) for name, s in table.items()}


def write_checkpoint(folder: Path, params: dict) -> dict:
    """A random official folder; gaussian weights of standard deviation 1 / sqrt(width)."""
    start = time.perf_counter()
    folder.mkdir()
    (folder / "params.json").write_text(json.dumps(params, indent=2))
    shutil.copyfile(shipped_tekken(), folder / "tekken.json")
    shapes = official_shapes(params)
    values = np.random.default_rng(0).standard_normal(BLOCK, dtype=np.float32)
    blocks: dict[float, mx.array] = {}
    path = folder / "consolidated.safetensors"
    rows = [(name, "BF16", shape) for name, shape in shapes.items()]
    with SafetensorsWriter(path, rows, {"format": "pt"}) as writer:
        for number, (name, shape) in enumerate(shapes.items()):
            if len(shape) == 1:
                fill = mx.zeros if name.endswith(".bias") else mx.ones
                writer.write(name, 0, fill(shape, dtype=mx.bfloat16))
                continue
            scale = 1.0 if "tok_embeddings" in name else math.prod(shape[1:]) ** -0.5
            if scale not in blocks:
                blocks[scale] = mx.array(values * scale).astype(mx.bfloat16)
            write_matrix(writer, name, shape, blocks[scale], offset=97 * number)
    return {"seconds": time.perf_counter() - start, "bytes": path.stat().st_size}


def write_matrix(
    writer: SafetensorsWriter, name: str, shape: tuple[int, ...], block: mx.array, *, offset: int
) -> None:
    """Rows cut from the block, each tensor from a place of its own."""
    width = math.prod(shape[1:])
    step = (BLOCK - offset) // width
    for row in range(0, shape[0], step):
        count = min(step, shape[0] - row)
        piece = block[offset : offset + count * width].reshape(count, *shape[1:])
        writer.write(name, row, piece)


if __name__ == "__main__":
    main()
