"""Conversion to 4 bits beside mlx-vlm's: time and peak memory on the same checkpoint.

    python benchmarks/conversion.py --peer-python PYTHON_WITH_MLX_VLM [--rounds 4]

Writes a random checkpoint of about 2 GB (bf16; `model_type` "pixtral", which both read; Pixtral's
vocabulary and tokenizer) into the temporary folder, and converts it with both in turn: 4 bits,
groups of 64, vision encoder and projector in bf16. Each conversion is a process of its own; its
peak is the largest resident size that the system saw, here plus that of the process that makes
the tokenizer's files. Two times are given: of the whole process,
and of the conversion once everything is imported. The source has been read before and lies in the
system's cache where there is room. The first conversion of each side and the later ones are two
rows, since the system writes to the disk meanwhile what the ones before have left in its cache.
Everything is deleted at the end.
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
    parser.add_argument("--rounds", type=int, default=4)
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
    rows = {
        f"{name}, {which}": part
        for name, found in runs.items()
        for which, part in (("the first", found[:1]), ("later", found[1:]))
        if part
    }
    for name, found in rows.items():
        print(
            f"| {name} | {spread(found, 'seconds')} | {spread(found, 'process_seconds')} "
            f"| {spread(found, 'processor_seconds')} "
            f"| {median(found, 'peak_resident_bytes') / 1e9:.2f} GB "
            f"| {median(found, 'bytes') / 1e9:.3f} GB |"
        )
    for which, part in (("the first", slice(1)), ("later", slice(1, None))):
        chosen = [found[part] for found in runs.values() if found[part]]
        if len(chosen) == 2:
            seconds, whole, memory = (
                median(chosen[1], name) / median(chosen[0], name)
                for name in ("seconds", "process_seconds", "peak_resident_bytes")
            )
            print(
                f"\n{which}: mlx-vlm takes {seconds:.2f} times as long, as a whole process "
                f"{whole:.2f} times, and {memory:.1f} times the memory"
            )


if __name__ == "__main__":
    main()
