"""Several images through the vision encoder: time and memory beside mlx-vlm's Pixtral tower.

    python benchmarks/many_images.py --peer-python PYTHON_WITH_MLX_VLM

Pixtral's real width (1024, 16 heads, FFN 4096), 4 layers, float32, 32 x 32 patches an image, the
same random weights and pixels for both, each in the order in which that side takes them. Each side
is a process of its own; they take turns, and medians are printed, with the largest difference
between what they give. Without `--peer-python`
only this project is measured.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from processes import Answering

LAYERS, PATCHES = 4, 32
NAMES = {
    "attention.wq": "attention.q_proj",
    "attention.wk": "attention.k_proj",
    "attention.wv": "attention.v_proj",
    "attention.wo": "attention.o_proj",
    "feed_forward.w1": "feed_forward.gate_proj",
    "feed_forward.w2": "feed_forward.down_proj",
    "feed_forward.w3": "feed_forward.up_proj",
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--peer-python", metavar="PYTHON", help="a Python that has mlx-vlm 0.7")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)  # side, folder: a child
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(*arguments.serve)
    with tempfile.TemporaryDirectory() as place:
        pythons = {"pixtral-mlx": sys.executable}
        if arguments.peer_python:
            pythons["mlx-vlm"] = arguments.peer_python
        write_weights(Path(place))
        sides = {name: Side(name, python, place) for name, python in pythons.items()}
        for side in sides.values():
            side.encode(1)  # to warm up
        for count in arguments.images:
            measure(sides, count, arguments.rounds)
        for side in sides.values():
            side.end()


class Side(Answering):
    """One of the two, in a process of its own that answers line by line."""

    def __init__(self, name: str, python: str, place: str):
        super().__init__([python, __file__, "--serve", name, place])
        self.place = place

    def encode(self, count: int) -> dict:
        """Encode `count` images once: seconds, peak bytes."""
        return json.loads(self.ask(str(count)))


def measure(sides: dict[str, Side], count: int, rounds: int) -> None:
    """Let the sides take turns; print medians."""
    runs: dict[str, list[dict]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            runs[name].append(side.encode(count))
    row = [f"{count} images"]
    for name, found in runs.items():
        seconds = [run["seconds"] for run in found]
        row.append(
            f"{name} {statistics.median(seconds):.3f} s "
            f"({min(seconds):.3f} to {max(seconds):.3f}), "
            f"peak {max(run['peak_bytes'] for run in found) / 1e6:,.0f} MB above weights and pixels"
        )
    if len(runs) == 2:
        ours, theirs = runs.values()
        faster = statistics.median(r["seconds"] for r in theirs) / statistics.median(
            r["seconds"] for r in ours
        )
        less = theirs[0]["peak_bytes"] / max(run["peak_bytes"] for run in ours)
        one, two = (np.load(Path(side.place, f"{name}.npy")) for name, side in sides.items())
        row.append(f"{faster:.1f} times faster, {less:.1f} times less memory")
        row.append(f"largest difference {np.abs(one - two).max():.1e} of {np.abs(one).max():.1f}")
    print("; ".join(row), flush=True)


def write_weights(place: Path) -> None:
    """Random weights of the tower, for us and by mlx-vlm's names (rotate-half order of wq, wk)."""
    random = np.random.RandomState(0)
    width, hidden, heads = 1024, 4096, 16

    def matrix(rows: int, columns: int) -> np.ndarray:
        return random.standard_normal((rows, columns)).astype(np.float32) / np.float32(columns**0.5)

    conv = matrix(width, 3 * 16 * 16).reshape(width, 16, 16, 3)
    ours = {"patch_conv.weight": conv, "ln_pre.weight": np.ones(width, np.float32)}
    theirs = dict(ours)
    for n in range(LAYERS):
        for name, other in NAMES.items():
            shape = {"w1": (hidden, width), "w2": (width, hidden), "w3": (hidden, width)}
            weight = matrix(*shape.get(name.split(".")[1], (width, width)))
            ours[f"layers.{n}.{name}.weight"] = weight
            if name in ("attention.wq", "attention.wk"):
                pairs = weight.reshape(heads, -1, 2, width)
                weight = pairs.transpose(0, 2, 1, 3).reshape(width, width)
            theirs[f"transformer.layers.{n}.{other}.weight"] = weight
        for norm in ("attention_norm", "ffn_norm"):
            ours[f"layers.{n}.{norm}.weight"] = np.ones(width, np.float32)
            theirs[f"transformer.layers.{n}.{norm}.weight"] = np.ones(width, np.float32)
    np.savez(place / "pixtral-mlx.npz", **ours)
    np.savez(place / "mlx-vlm.npz", **theirs)


def serve(name: str, place: str) -> None:
    """In a child: read a number of images, encode them, answer with time and memory."""
    import mlx.core as mx

    tower, prepare, encode, version = (our_tower if name == "pixtral-mlx" else peer_tower)()
    tower.load_weights([(n, mx.array(a)) for n, a in np.load(Path(place, f"{name}.npz")).items()])
    mx.eval(tower.parameters())
    said = f"{name}: {version}, MLX {mx.__version__}, {mx.default_device()}"
    print(said, flush=True)
    for line in sys.stdin:
        side = PATCHES * 16
        pixels = np.random.RandomState(1).standard_normal((int(line), 3, side, side))
        images = prepare(pixels.astype(np.float32))
        mx.eval(images)
        mx.clear_cache()
        mx.reset_peak_memory()
        before, start = mx.get_active_memory(), time.perf_counter()
        features = encode(images)
        mx.eval(features)
        seconds = time.perf_counter() - start
        found = {"seconds": seconds, "peak_bytes": mx.get_peak_memory() - before}
        np.save(Path(place, f"{name}.npy"), np.array(features).reshape(-1, 1024))
        print(json.dumps(found), flush=True)


def our_tower():
    """This project's encoder: itself, what makes its input, how it is called, its version."""
    from dataclasses import replace

    import mlx.core as mx

    import pixtral_mlx as px
    from pixtral_mlx.model.config import PIXTRAL_12B_VISION
    from pixtral_mlx.model.vision import VisionEncoder

    tower = VisionEncoder(replace(PIXTRAL_12B_VISION, num_hidden_layers=LAYERS))
    return (
        tower,
        lambda pixels: [mx.array(p) for p in pixels],
        tower,
        f"pixtral-mlx {px.__version__}, float32 products in {px.machine().float32_products}",
    )


def peer_tower():
    """The same of mlx-vlm's, called as its Pixtral model calls it."""
    from importlib.metadata import version

    import mlx.core as mx
    from mlx_vlm.models.pixtral.config import VisionConfig
    from mlx_vlm.models.pixtral.vision import PixtralVisionModel

    config = VisionConfig(num_hidden_layers=LAYERS, image_size=1024, patch_size=16)
    tower, name = PixtralVisionModel(config), f"mlx-vlm {version('mlx-vlm')}"

    def prepare(pixels):
        return mx.contiguous(mx.array(pixels).transpose(0, 2, 3, 1))

    return tower, prepare, lambda images: tower(images)[0], name


if __name__ == "__main__":
    main()
