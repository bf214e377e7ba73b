"""What a wait is made of: another checkout beside this one and the peers, in one run.

    python benchmarks/random_checkpoint.py SCALED --scaled
    python benchmarks/waiting.py SCALED --before CHECKOUT --peer-python PYTHON_WITH_MLX_VLM

Files to prompts (`pictures.py`), kernels (`launches.py`) and the main thread's share of a token
(`sampling.py`) are measured by their own scripts, with this checkout and with the other one. Then
both load the scaled model in float32 and take turns:

- kept: bytes of keys and values after ten questions about one picture, of those after one;
- a hit: the most that is allocated while a known conversation of 2,000 tokens goes on, of its keys
  and values;
- follow-up: seconds to the first word of another question about a known picture;
- one word: seconds of an answer of one token about a known picture;
- a batch of one: its tokens per second, of those of an answer without a batch;
- a crowd: seconds until all of 16 questions, each about a picture of its own of 256 x 256 pixels
  and answered with 16 tokens, 8 at once, have their first word.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import Answering

HERE = Path(__file__).resolve().parent
SIDE, QUESTIONS, TOKENS, CROWD, ASIDE = 384, 10, 24, 16, 256


def main() -> None:
    """Measure in turn and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("model", metavar="SCALED")
    parser.add_argument("--before", metavar="CHECKOUT", required=True)
    parser.add_argument("--peer-python", metavar="PYTHON", required=True)
    parser.add_argument("--rounds", type=int, default=5, help="of each part (5)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments.model)
    checkouts = {"before": str(Path(arguments.before).resolve()), "now": str(HERE.parent)}
    peer = ["--peer-python", arguments.peer_python]
    rounds = ["--rounds", str(arguments.rounds)]
    script("now", checkouts, "pictures.py", *peer, *rounds, "--before", checkouts["before"])
    for name in checkouts:
        script(name, checkouts, "launches.py", *peer)
        script(name, checkouts, "sampling.py", *rounds)
    print("\n| | before | now |\n|---|---|---|")
    for what, (before, now) in in_turn(arguments, checkouts).items():
        shown = [f"{statistics.median(each):.3f} ({min(each):.3f} to {max(each):.3f})"
                 for each in (before, now)]  # fmt: skip
        print(f"| {what} | {shown[0]} | {shown[1]} |", flush=True)


def script(name: str, checkouts: dict[str, str], *words: str) -> None:
    """Run another benchmark, of this checkout, on the code of one of them."""
    print(f"\n{words[0]}, {name}:", flush=True)
    paths = os.pathsep.join([checkouts[name], str(HERE)])
    command = [sys.executable, str(HERE / words[0]), *words[1:]]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": paths})


def in_turn(arguments: argparse.Namespace, checkouts: dict[str, str]) -> dict[str, list[list]]:
    """{what: [those of before, those of now]}."""
    words = [
        sys.executable,
        str(HERE / "waiting.py"),
        arguments.model,
        "--before",
        "",
        "--peer-python",
        "",
    ]
    sides = [Answering([*words, "--serve"], {"PYTHONPATH": path}) for path in checkouts.values()]
    found: dict[str, list[list]] = {}
    for number in range(arguments.rounds):
        for what in MEASURES:
            order = (0, 1) if number % 2 else (1, 0)
            for which in order:
                value = json.loads(sides[which].ask(f"{what}/{number}"))
                found.setdefault(what, [[], []])[which].append(value)
    for side in sides:
        side.end()
    return found


def serve(folder: str) -> None:
    """In a child: answer the name of a measure with its number."""
    import pixtral_mlx as px

    model = px.load(folder, dtype="float32")
    model.generate("Hello", max_tokens=2, reuse=False)
    precision = px.machine().float32_products
    print(
        f"{px.__version__}, float32 products in {precision}: {Path(px.__file__).parent.parent}",
        flush=True,
    )
    for line in sys.stdin:
        what, _, number = line.strip().partition("/")
        model.clear_cache()
        print(json.dumps(MEASURES[what](model, int(number))), flush=True)


def picture(seed: int, side: int = SIDE) -> Any:
    """Noise."""
    import numpy as np

    return np.random.RandomState(seed).randint(0, 256, (side, side, 3), dtype=np.uint8)


def kept(model: Any, number: int) -> float:
    """See above."""
    shown = picture(number)
    sizes = []
    for question in range(QUESTIONS):
        model.generate(f"Number {question}: what is this?", images=[shown], max_tokens=4)
        sizes.append(sum(kept_bytes(model)))
    return sizes[-1] / sizes[0]


def kept_bytes(model: Any) -> list[int]:
    """Of keys and values alone."""
    entries = model.prompt_cache._kept.values()
    return [entry.nbytes for entry in entries if getattr(entry, "content", None) is not None]


def hit(model: Any, number: int) -> float:
    """See above."""
    import mlx.core as mx

    import pixtral_mlx as px

    tokens = [1, 3, *range(1000 + number, 2998 + number)]
    model.generate(px.Prompt(tokens), max_tokens=1)
    (nbytes,) = kept_bytes(model)
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    model.generate(px.Prompt([*tokens, 5000, 5001]), max_tokens=2)
    return (mx.get_peak_memory() - before) / nbytes


def follow_up(model: Any, number: int) -> float:
    """See above."""
    shown = picture(number)
    model.generate("What is this?", images=[shown], max_tokens=2)
    prompt = model.encode("How many things are there, and where are they?", images=[shown])
    return model.generate(prompt, max_tokens=2).stats.prompt_seconds


def one_word(model: Any, number: int) -> float:
    """See above."""
    shown = picture(number)
    model.generate("What is this?", images=[shown], max_tokens=2)
    prompt = model.encode("Is there a cat in it? Yes or no.", images=[shown])
    start = time.perf_counter()
    model.generate(prompt, max_tokens=1)
    return time.perf_counter() - start


def batch_of_one(model: Any, number: int) -> float:
    """See above."""
    prompt = model.encode(f"Number {number}: tell me a long story.")
    options = {"max_tokens": TOKENS, "logit_bias": {model.tokenizer.eos_id: -1e9}, "reuse": False}
    ways = [
        lambda: model.generate(prompt, **options),
        lambda: model.generate_batch([prompt], **options),
    ]
    seconds = []
    for way in ways:
        start = time.perf_counter()
        way()
        seconds.append(time.perf_counter() - start)
    return seconds[0] / seconds[1]


def crowd(model: Any, number: int) -> float:
    """See above."""
    from pixtral_mlx.engine.batch import Batch

    batch, first = Batch(model.engine, batch_size=8), {}
    for each in range(CROWD):
        prompt = model.encode("What is this?", images=[picture(100 * number + each, ASIDE)])
        batch.add({
            "messages": prompt, "max_tokens": 16, "logit_bias": {model.tokenizer.eos_id: -1e9}
        })  # fmt: skip
    start = time.perf_counter()
    while batch.busy and len(first) < CROWD:
        for asked, _ in batch.step():
            first.setdefault(asked, time.perf_counter() - start)
    batch.close()
    return max(first.values())


MEASURES: dict[str, Callable[[Any, int], float]] = {
    "kept": kept,
    "a hit": hit,
    "follow-up, s": follow_up,
    "one word, s": one_word,
    "a batch of one": batch_of_one,
    "a crowd, s": crowd,
}

if __name__ == "__main__":
    main()
