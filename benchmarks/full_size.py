"""Convert Pixtral 12B at its full size, with random weights, and measure it.

    python benchmarks/full_size.py --workdir /somewhere/with/35/GB --generate

Writes a random checkpoint in the official layout (25 GB in bf16; names, shapes and tokenizer of
Pixtral-12B-2409), converts it to 4 bits in a process of its own, and with `--generate` encodes one
64 x 64 image and decodes 4 tokens in float32 in another. Reports seconds, peak resident bytes of
each process and bytes written. Everything is deleted at the end unless `--keep` is given.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mlx.core as mx
import numpy as np

from pixtral_mlx import layouts
from pixtral_mlx.config import PIXTRAL_12B, PixtralConfig
from pixtral_mlx.safetensors_io import SafetensorsWriter
from pixtral_mlx.tokenizer_file import shipped_tekken

PARAMS = PIXTRAL_12B.to_params()
BLOCK = 32 * 2**20  # weights; 64 MB of bf16
GOAL_RESIDENT = 1.5e9
GOAL_WEIGHTS = (7.0e9, 7.8e9)

CONVERT = """
import json, sys
from pixtral_mlx.convert import convert
steps = [0]
def progress(done, total):
    if done * 20 // total > steps[0]:
        steps[0] = done * 20 // total
        print(f"  {done / 1e9:.1f} of {total / 1e9:.1f} GB", file=sys.stderr, flush=True)
result = convert(sys.argv[1], sys.argv[2], progress=progress, **json.loads(sys.argv[3]))
print(json.dumps({"seconds": result.seconds, "weight_bytes": result.nbytes,
                  "bits_per_weight": result.plan.bits_per_weight,
                  "largest_relative_error": max(result.errors.values())}))
"""

GENERATE = """
import json, sys, time
import mlx.core as mx
import numpy as np
from PIL import Image
import pixtral_mlx as px
start = time.perf_counter()
model = px.load(sys.argv[1], dtype="float32")
pixels = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)
prompt = model.encode("Describe.", images=[Image.fromarray(pixels)])
reply = model.generate(prompt, max_tokens=4, force=True)
print(json.dumps({"seconds": time.perf_counter() - start, "prompt_tokens": len(prompt.tokens),
                  "image_tokens": sum((c + 1) * r for r, c in prompt.grids),
                  "tokens": len(reply.tokens), "mlx_peak_bytes": mx.get_peak_memory()}))
"""


def main() -> None:
    """Write, convert, optionally generate, report, delete."""
    arguments = parse()
    params = scaled(arguments.scale)
    workdir = Path(tempfile.mkdtemp(prefix="full-size-", dir=arguments.workdir))
    source, target = workdir / "official", workdir / "converted"
    report: dict[str, dict] = {"machine": {"cores": os.cpu_count(), "mlx": mx.__version__}}
    try:
        check_disk(workdir, params)
        report["write"] = write_checkpoint(source, params)
        print(report["write"], file=sys.stderr, flush=True)
        options = json.dumps(json.loads(arguments.options))
        report["convert"] = measured(CONVERT, str(source), str(target), options)
        report["convert"]["folder_bytes"] = sum(f.stat().st_size for f in target.iterdir())
        print(report["convert"], file=sys.stderr, flush=True)
        if not arguments.keep:
            shutil.rmtree(source)
        if arguments.generate:
            report["generate"] = measured(GENERATE, str(target))
    finally:
        if not arguments.keep:
            shutil.rmtree(workdir, ignore_errors=True)
    print_report(report, whole=arguments.scale == 1)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=2) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--workdir", help="where the 33 GB go (default: the system's temporary folder)")
    add("--scale", type=float, default=1, help="share of the layers, to try the script (default 1)")
    add("--options", default='{"bits": 4}', help="of the conversion, as JSON")
    add("--generate", action="store_true", help="also encode an image and decode 4 tokens")
    add("--keep", action="store_true", help="delete nothing")
    add("--json", metavar="FILE", help="write the numbers there too")
    return parser.parse_args()


def scaled(share: float) -> dict:
    """Pixtral 12B's sizes with a share of its layers."""
    eye = PARAMS["vision_encoder"]
    eye = eye | {"num_hidden_layers": max(1, round(share * eye["num_hidden_layers"]))}
    layers = max(1, round(share * PARAMS["n_layers"]))
    return PARAMS | {"n_layers": layers, "vision_encoder": eye}


def official_shapes(params: dict) -> dict[str, tuple[int, ...]]:
    """{official name: shape as stored there}."""
    config = PixtralConfig.from_params(params)
    ours = layouts.shapes(config)
    table = layouts.to_ours(layouts.OFFICIAL, config)
    return {s.theirs: s.transform.stored_shape(ours[name]) for name, s in table.items()}


def check_disk(place: Path, params: dict) -> None:
    """Stop before the disk is full."""
    weights = sum(math.prod(shape) for shape in official_shapes(params).values())
    needed, free = int(weights * 2.8), shutil.disk_usage(place).free
    if free < needed:
        sys.exit(f"{place}: {free:,} bytes free, {needed:,} needed; use --workdir or --scale")


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
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "bytes": path.stat().st_size}


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


def measured(script: str, *words: str) -> dict:
    """Run Python code in a process of its own: what it reports, and its peak resident bytes."""
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-c", script, *words], stdout=subprocess.PIPE, text=True
    )
    answer = child.stdout.read() if child.stdout else ""
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"the measured process failed with status {child.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on a Mac, kB on Linux
    return json.loads(answer.splitlines()[-1]) | {
        "process_seconds": time.perf_counter() - start,
        "peak_resident_bytes": usage.ru_maxrss * unit,
    }


def print_report(report: dict, *, whole: bool) -> None:
    """A table of every number, and the goals."""
    for part, numbers in report.items():
        for name, value in numbers.items():
            shown = f"{value:,.2f}" if isinstance(value, float) else value
            shown = f"{shown:,}" if isinstance(shown, int) else shown
            print(f"{part:<10} {name:<24} {shown:>18}")
    if whole:
        found = report["convert"]
        resident = found["peak_resident_bytes"] <= GOAL_RESIDENT
        weights = GOAL_WEIGHTS[0] <= found["weight_bytes"] <= GOAL_WEIGHTS[1]
        print(f"at most 1.5 GB resident: {'yes' if resident else 'NO'}")
        print(f"weights of 7.0 to 7.8 GB: {'yes' if weights else 'NO'}")


if __name__ == "__main__":
    main()
