"""Conversion to 4 bits beside mlx-vlm's: time and peak memory on the same checkpoint.

    python benchmarks/conversion.py --peer-python PYTHON_WITH_MLX_VLM [--rounds 3]

Writes a random checkpoint of about 2 GB (bf16; `model_type` "pixtral", which both read; Pixtral's
vocabulary and tokenizer) into the temporary folder, and converts it with both in turn: 4 bits,
groups of 64, vision encoder and projector in bf16. Each conversion is a process of its own; its
peak is the largest resident size that the system saw, here plus that of the process that makes
the tokenizer's files. Two times are given: of the whole process,
and of the conversion once everything is imported. The source has been read before and lies in the
system's cache where there is room. Everything is deleted at the end.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from processes import PEAK, both_sides, check_disk, measured, median, spread

MAKER = str(Path(__file__).with_name("random_checkpoint.py"))
BYTES = 8e9
"""The checkpoint twice (official and HF), and two conversions."""

OURS = (
    PEAK
    + """
import json, time
from pixtral_mlx import convert
import pixtral_mlx.quantization.folder_files
start = time.perf_counter()
convert(sys.argv[1], sys.argv[2], bits=4, projector_bits=16)
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "peak_resident_bytes": peak_resident_bytes()}))
"""
)

THEIRS = """
import json, sys, time
from mlx_vlm.convert import convert
start = time.perf_counter()
convert(sys.argv[1], sys.argv[2], quantize=True, q_bits=4, q_group_size=64)
print(json.dumps({"seconds": time.perf_counter() - start}))
"""


def main() -> None:
    """Write, convert in turn, report, delete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--peer-python", metavar="PYTHON", help="a Python that has mlx-vlm 0.7")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", help="write the numbers there too")
    arguments = parser.parse_args()
    sides = both_sides(OURS, THEIRS, arguments.peer_python)
    with tempfile.TemporaryDirectory(prefix="conversion-") as place:
        source = write_source(Path(place))
        runs: dict[str, list[dict]] = {name: [] for name in sides}
        for number in range(arguments.rounds):
            for name, (python, script) in sides.items():
                target = Path(place, f"{name}-{number}")
                run = measured([python, "-c", script, str(source), str(target)])
                run["bytes"] = weight_bytes(target)
                runs[name].append(run)
                print(f"round {number + 1}, {name}: {json.dumps(run)}", file=sys.stderr, flush=True)
                shutil.rmtree(target)
    report(runs)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(runs, indent=2) + "\n")


def write_source(place: Path) -> Path:
    """A checkpoint under the names that mlx-vlm reads, not quantized."""
    check_disk(place, BYTES)
    official, source = place / "official", place / "source"
    measured([sys.executable, MAKER, str(official), "--small"])
    convert = "import sys; from pixtral_mlx import convert; convert(*sys.argv[1:], bits=16)"
    measured([sys.executable, "-c", convert, str(official), str(source)])
    shutil.rmtree(official)
    print(f"source: {weight_bytes(source):,} bytes")
    return source


def weight_bytes(folder: Path) -> int:
    """Of all weight files."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def report(runs: dict[str, list[dict]]) -> None:
    """Medians, as Markdown, and how they compare."""
    print("\n| | conversion, s | whole process, s | processor, s | peak resident | weights |")
    print("|---|---|---|---|---|---|")
    for name, found in runs.items():
        print(
            f"| {name} | {spread(found, 'seconds')} | {spread(found, 'process_seconds')} "
            f"| {spread(found, 'processor_seconds')} "
            f"| {median(found, 'peak_resident_bytes') / 1e9:.2f} GB "
            f"| {median(found, 'bytes') / 1e9:.3f} GB |"
        )
    if len(runs) == 2:
        ours, theirs = runs.values()

        def times(name: str) -> float:
            return median(theirs, name) / median(ours, name)

        print(
            f"\n{times('seconds'):.1f} times faster, as a whole process "
            f"{times('process_seconds'):.1f} times, "
            f"{times('peak_resident_bytes'):.1f} times less memory"
        )


if __name__ == "__main__":
    main()
