"""Start-up beside mlx-vlm: help, import, and the first answer of a fresh process.

    python benchmarks/start_up.py --peer-python PYTHON_WITH_MLX_VLM [--rounds 5]

Each figure is a process of its own, from start to end; the sides take turns. "help" is the console
command's --help, "import" the package alone, "first answer" one of one token to "Hello", "about a
picture" one of one token about 256 x 256 pixels in a file. When a model counts as loaded is not
compared: what one side reads then, the other reads with the first question. The model is a random
one of 1.1 billion weights (see random_checkpoint.py), converted to 4 bits by this project, a folder
that both open; activations are float32, which CPUs are fast at. Files have been read before, so
that disks do not matter, and Python's bytecode of all modules has been written before
(`__pycache__`). In the rows "without bytecode", as after an installation that did not compile it,
each process compiles what it imports and keeps nothing of it. Seconds of the processor say more
than those of the clock where other programs run.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from processes import both_sides, check_disk, measured, median, spread

MAKER = str(Path(__file__).with_name("random_checkpoint.py"))
BYTES = 5e9
PICTURE = (
    "import sys; from pixtral_mlx.inputs import gradient; gradient(256, 256).save(sys.argv[1])"
)
CONVERT = "import sys; from pixtral_mlx import convert; convert(*sys.argv[1:], bits=4)"

OURS = {
    "help": ["-m", "pixtral_mlx", "--help"],
    "import": ["-c", "import pixtral_mlx"],
    "first answer": [
        "-c",
        "import sys, pixtral_mlx as px\n"
        "px.load(sys.argv[1], dtype='float32').generate('Hello', max_tokens=1)",
    ],
    "about a picture": [
        "-c",
        "import sys, pixtral_mlx as px\n"
        "model = px.load(sys.argv[1], dtype='float32')\n"
        "model.generate('What is this?', images=[sys.argv[2]], max_tokens=1)",
    ],
}
THEIRS = {
    "help": ["-m", "mlx_vlm", "generate", "--help"],
    "import": ["-c", "import mlx_vlm"],
    "first answer": [
        "-c",
        "import sys, mlx.core as mx, mlx_vlm\n"
        "model, processor = mlx_vlm.load(sys.argv[1], lazy=True)\n"
        "model.set_dtype(mx.float32)\n"
        "from mlx_vlm.prompt_utils import apply_chat_template\n"
        "text = apply_chat_template(processor, model.config, 'Hello', num_images=0)\n"
        "mlx_vlm.generate(model, processor, text, max_tokens=1)",
    ],
    "about a picture": [
        "-c",
        "import sys, mlx.core as mx, mlx_vlm\n"
        "model, processor = mlx_vlm.load(sys.argv[1], lazy=True)\n"
        "model.set_dtype(mx.float32)\n"
        "from mlx_vlm.prompt_utils import apply_chat_template\n"
        "text = apply_chat_template(processor, model.config, 'What is this?', num_images=1)\n"
        "mlx_vlm.generate(model, processor, text, image=[sys.argv[2]], max_tokens=1)",
    ],
}
WITHOUT, WITHOUT_BYTECODE = "without bytecode", ("help", "import", "first answer")
GOALS = {"help": 0.3, "import": 0.5}


def main() -> None:
    """Measure in turn and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--peer-python", metavar="PYTHON", help="a Python that has mlx-vlm 0.7")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-model", action="store_true", help="help and import only")
    arguments = parser.parse_args()
    sides = both_sides(OURS, THEIRS, arguments.peer_python)
    with tempfile.TemporaryDirectory(prefix="start-up-") as place:
        steps, model = list(OURS), Path(place, "4bit")
        if arguments.no_model:
            steps = list(GOALS)
        else:
            write_model(Path(place), model)
        steps = ["empty", *steps, *(f"{s}, {WITHOUT}" for s in WITHOUT_BYTECODE if s in steps)]
        runs = {step: {name: [] for name in sides} for step in steps}
        for number in range(arguments.rounds + 1):
            for step, found in runs.items():
                for name, (python, commands) in sides.items():
                    run = measured_step(python, commands, step, Path(place))
                    if number > 0:  # the first reads everything from disk, and writes bytecode
                        found[name].append(run)
    report(runs)


def measured_step(python: str, commands: dict, step: str, place: Path) -> dict:
    """One process of one step."""
    what, _, without = step.partition(", ")
    words = commands.get(what, ["-c", "pass"])
    files = [str(place / "4bit"), str(place / "picture.png")] if "sys.argv" in words[-1] else []
    empty = {"PYTHONPYCACHEPREFIX": str(place / "none"), "PYTHONDONTWRITEBYTECODE": "1"}
    return measured([python, *words, *files], empty if without else {"PYTHONDONTWRITEBYTECODE": ""})


def write_model(place: Path, model: Path) -> None:
    """A converted folder that both open, and a picture."""
    check_disk(place, BYTES)
    measured([sys.executable, "-c", PICTURE, str(place / "picture.png")])
    official = place / "official"
    measured([sys.executable, MAKER, str(official), "--small"])
    measured([sys.executable, "-c", CONVERT, str(official), str(model)])
    shutil.rmtree(official)


def report(runs: dict[str, dict[str, list[dict]]]) -> None:
    """Medians, as Markdown."""
    names = list(runs["empty"])
    heads = [f"{name}, {what}" for name in names for what in ("s", "processor s", "peak")]
    print("\n| | " + " | ".join(heads) + " |\n|---|" + "---|" * len(heads))
    for step, found in runs.items():
        cells = []
        for name in names:
            cells.append(spread(found[name], "process_seconds", 2))
            cells.append(f"{median(found[name], 'processor_seconds'):.2f}")
            cells.append(f"{median(found[name], 'peak_resident_bytes') / 1e9:.2f} GB")
        print(f"| {'an empty Python' if step == 'empty' else step} | " + " | ".join(cells) + " |")
    for step, goal in GOALS.items():
        clock, processor = (
            median(runs[step]["pixtral-mlx"], f"{which}_seconds")
            for which in ("process", "processor")
        )
        print(
            f"{step}: {processor:.2f} s of the processor, {clock:.2f} s on the clock; at most "
            f"{goal} s wanted: {'yes' if clock < goal else 'NO'}"
        )


if __name__ == "__main__":
    main()
