"""How many kernels a GPU is sent: a decode step, and a picture through the encoder.

    python benchmarks/launches.py --peer-python PYTHON_WITH_MLX_VLM

Counted in the graphs that MLX is given, at the depths of Pixtral 12B and 64 wide: every operation
but those that only look at memory in another way. RMSNorm, RoPE and attention of `mx.fast`, which
are a kernel each on Metal and many operations on a CPU, count as one. Beside a decode step of
mlx-lm's `llama.Model` and the encoder of mlx-vlm, which runs in a process of its own.
"""

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import mlx.core as mx
from kernels import one_kernel_each

LAYERS, VISION_LAYERS, WIDTH, HEADS, SIDE = 40, 24, 64, 4, 64
VIEWS = {
    "AsStrided", "Broadcast", "Depends", "ExpandDims", "Flatten", "Reshape", "Slice", "Split",
    "Squeeze", "Transpose", "Unflatten", "View",
}  # fmt: skip


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--peer-python", required=True, help="a Python that has mlx-vlm")
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    one_kernel_each()
    if arguments.peer:
        return print(kernels(peer_encoder()).total())
    words = [arguments.peer_python, __file__, "--peer-python", "", "--peer"]
    theirs = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
    import pixtral_mlx as px

    precision = px.machine().float32_products
    print(f"MLX {mx.__version__}, float32 products in {precision}: kernels")
    print("| | pixtral-mlx | peer |")
    print("|---|---|---|")
    print(f"| a decode step, {LAYERS} layers (mlx-lm) | {decode(ours())} | {decode(llama())} |")
    print(
        f"| a picture, {VISION_LAYERS} layers (mlx-vlm) | {kernels(encoder()).total()} | "
        f"{theirs.split()[-1]} |"
    )


def kernels(output: mx.array) -> Counter[str]:
    """By the names of their operations."""
    with tempfile.TemporaryDirectory() as place:
        graph = Path(place, "graph")
        mx.export_to_dot(str(graph), output)
        names = re.findall(r'label ="(\w+)', graph.read_text())
    return Counter(name for name in names if name not in VIEWS)


def decode(model: Any) -> int:
    """Of the step of one token behind some context."""
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model)
    mx.eval(model.parameters(), model(mx.zeros((1, 8), mx.int32), cache=cache))
    mx.eval([layer.state for layer in cache])
    return kernels(model(mx.array([[1]]), cache=cache)).total()


def ours() -> Any:
    """The decoder."""
    from graph import our_decoder

    return our_decoder(LAYERS)


def llama() -> Any:
    """mlx-lm's, of the same sizes."""
    from graph import llama_of

    return llama_of(LAYERS)


def encoder() -> mx.array:
    """What the encoder makes of a picture."""
    from dataclasses import replace

    from pixtral_mlx.model.config import PIXTRAL_12B_VISION
    from pixtral_mlx.model.vision import VisionEncoder

    config = replace(
        PIXTRAL_12B_VISION, num_hidden_layers=VISION_LAYERS, hidden_size=WIDTH,
        intermediate_size=2 * WIDTH, num_attention_heads=HEADS,
    )  # fmt: skip
    model = VisionEncoder(config)
    pixels = mx.zeros((3, SIDE, SIDE))
    mx.eval(model.parameters(), pixels)
    return model([pixels])


def peer_encoder() -> mx.array:
    """The same, by mlx-vlm."""
    from mlx_vlm.models.pixtral.config import VisionConfig
    from mlx_vlm.models.pixtral.vision import VisionModel

    config = VisionConfig(
        num_hidden_layers=VISION_LAYERS, hidden_size=WIDTH, intermediate_size=2 * WIDTH,
        num_attention_heads=HEADS, head_dim=WIDTH // HEADS, image_size=1024, patch_size=16,
    )  # fmt: skip
    model = VisionModel(config)
    pixels = mx.zeros((1, SIDE, SIDE, 3))
    mx.eval(model.parameters(), pixels)
    found = model(pixels)
    return found[0] if isinstance(found, tuple) else found


if __name__ == "__main__":
    main()
