"""`pixtral-mlx demo`: the main job in small, on a machine without network or GPU.

An official-layout checkpoint is converted to 4 bits and answers about pictures. Its weights are
random, so the answers are noise, and the demo says so: what it shows is that every step works.
"""

import json
import shutil
import tempfile
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from PIL import Image, ImageDraw

from . import layouts
from .checkpoint import load, open_checkpoint
from .commands import format_stats, write_stream
from .config import PIXTRAL_12B, PIXTRAL_12B_VISION, PixtralConfig
from .convert import convert
from .model import Pixtral
from .new_folder import refuse_existing
from .status import Status
from .tokenizer_file import shipped_tekken

QUESTION = "What is in this picture?"


def run(arguments: Namespace) -> int:
    """Write a random checkpoint, convert it, ask it about two pictures."""
    if arguments.keep:
        refuse_existing(Path(arguments.keep))
    with tempfile.TemporaryDirectory(prefix="pixtral-mlx-demo-") as place:
        official, folder = Path(place, "official"), Path(arguments.keep or Path(place, "4bit"))
        write_random_checkpoint(official, small_config())
        print(f"1. a random checkpoint in the official layout: {_megabytes(official):.1f} MB")
        with Status("converting") as status:
            result = convert(official, folder, progress=status.update)
        print(
            f"2. converted to 4 bits: {result.nbytes / 1e6:.1f} MB, "
            f"{result.plan.bits_per_weight:.2f} bits a weight, {result.seconds:.1f} s"
        )
        model = load(folder)
        for name, picture in {"wide": draw(320, 128), "tall": draw(96, 256)}.items():
            with Status("preparing the prompt"):
                prompt = model.encode(QUESTION, [picture])
            rows, columns = prompt.grids[0]
            print(
                f"3. a {name} picture, {picture.width} x {picture.height} pixels: "
                f"{rows} x {columns} patches, {prompt.grids[0].tokens} tokens"
            )
            print(f"   > {QUESTION}\n   ", end="")
            stream = model.stream(prompt, max_tokens=16)
            write_stream(stream)
            print(f"   {format_stats(stream.reply.stats)}")
    print(
        "The answers are noise: these weights are random. For real ones:\n"
        "  pixtral-mlx convert mistralai/Pixtral-12B-2409 pixtral-4bit\n"
        "  pixtral-mlx generate --model pixtral-4bit --image photo.jpg --prompt 'What is this?'"
    )
    if arguments.keep:
        print(f"The converted model is in {arguments.keep}.")
    return 0


def small_config() -> PixtralConfig:
    """Pixtral 12B's shape, a few thousand times smaller; its vocabulary is the real one."""
    text = replace(
        PIXTRAL_12B.text, dim=64, n_layers=2, head_dim=32, hidden_dim=128, n_heads=4, n_kv_heads=2
    )
    vision = replace(
        PIXTRAL_12B_VISION, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2,
    )  # fmt: skip
    return PixtralConfig(text, vision)


def write_random_checkpoint(folder: Path, config: PixtralConfig) -> None:
    """Random weights in the official layout, with the Tekken file that mistral-common ships."""
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps(config.to_params(), indent=2))
    shutil.copyfile(shipped_tekken(), folder / "tekken.json")
    mx.random.seed(0)
    parameters = dict(tree_flatten(Pixtral(config).parameters()))
    weights = {
        source.theirs: source.transform.from_ours(parameters[name]).astype(mx.bfloat16)
        for name, source in layouts.to_ours("official", config).items()
    }
    mx.save_safetensors(str(folder / "consolidated.safetensors"), weights)


def draw(width: int, height: int) -> Image.Image:
    """A sun over the sea, drawn four times as large and shrunk for smooth edges."""
    wide, high = 4 * width, 4 * height
    image = Image.new("RGB", (wide, high), "#bfe3ff")
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, high * 0.6, wide, high), fill="#1f6f8b")
    left, top, side = wide * 0.6, high * 0.1, min(wide, high) * 0.3
    pen.ellipse((left, top, left + side, top + side), fill="#ffc93c")
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _megabytes(folder: Path) -> float:
    return open_checkpoint(folder).nbytes / 1e6
