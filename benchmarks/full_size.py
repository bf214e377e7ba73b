"""Convert Pixtral 12B at its full size, with random weights, and measure it.

    python benchmarks/full_size.py --workdir /somewhere/with/35/GB --generate

Writes a random checkpoint in the official layout (25 GB in bf16; names, shapes and tokenizer of
Pixtral-12B-2409), converts it to 4 bits in a process of its own, and with `--generate` encodes one
64 x 64 image and decodes 4 tokens in float32 in another. Reports seconds, peak resident bytes of
each process and bytes written. Everything is deleted at the end unless `--keep` is given.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from processes import PEAK, check_disk, measured

MAKER = str(Path(__file__).with_name("random_checkpoint.py"))
BYTES = 35e9
"""At full size: the checkpoint, its conversion, and some room."""

GOAL_RESIDENT = 1.5e9
GOAL_WEIGHTS = (7.0e9, 7.8e9)

CONVERT = (
    PEAK
    + """
import json
from pixtral_mlx import convert
steps = [0]
def progress(done, total):
    if done * 20 // total > steps[0]:
        steps[0] = done * 20 // total
        print(f"  {done / 1e9:.1f} of {total / 1e9:.1f} GB", file=sys.stderr, flush=True)
result = convert(sys.argv[1], sys.argv[2], progress=progress, **json.loads(sys.argv[3]))
print(json.dumps({"seconds": result.seconds, "weight_bytes": result.nbytes,
                  "bits_per_weight": result.plan.bits_per_weight,
                  "largest_relative_error": max(result.errors.values()),
                  "peak_resident_bytes": peak_resident_bytes()}))
"""
)

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
                  "float32_products": reply.stats.float32_products,
                  "tokens": len(reply.tokens), "mlx_peak_bytes": mx.get_peak_memory()}))
"""


def main() -> None:
    """Write, convert, optionally generate, report, delete."""
    arguments = parse()
    workdir = Path(tempfile.mkdtemp(prefix="full-size-", dir=arguments.workdir))
    source, target = workdir / "official", workdir / "converted"
    report: dict[str, dict] = {"machine": {"cores": os.cpu_count(), "mlx": version("mlx")}}
    try:
        check_disk(workdir, BYTES * max(arguments.scale, 0.15))
        report["write"] = measured(
            [sys.executable, MAKER, str(source), "--scale", str(arguments.scale)]
        )
        print(report["write"], file=sys.stderr, flush=True)
        options = json.dumps(json.loads(arguments.options))
        report["convert"] = measured(
            [sys.executable, "-c", CONVERT, str(source), str(target), options]
        )
        report["convert"]["folder_bytes"] = sum(f.stat().st_size for f in target.iterdir())
        print(report["convert"], file=sys.stderr, flush=True)
        if not arguments.keep:
            shutil.rmtree(source)
        if arguments.generate:
            report["generate"] = measured([sys.executable, "-c", GENERATE, str(target)])
    finally:
        if not arguments.keep:
            shutil.rmtree(workdir, ignore_errors=True)
    print_report(report, whole=arguments.scale == 1)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=2) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--workdir", help="where the 33 GB go (default: the system's temporary folder)")
    add("--scale", type=float, default=1, help="share of the layers, to try the script (default 1)")
    add("--options", default='{"bits": 4}', help="of the conversion, as JSON")
    add("--generate", action="store_true", help="also encode an image and decode 4 tokens")
    add("--keep", action="store_true", help="delete nothing")
    add("--json", metavar="FILE", help="write the numbers there too")
    return parser.parse_args()


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
