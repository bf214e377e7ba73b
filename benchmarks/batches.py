"""Many requests in a batch against one after another.

    python benchmarks/batches.py [--model mini] [--requests 16] [--batch-size 8] [--runs 5]

Questions about scenes of pixtral-mini, each with a picture of its own; the ways take turns, the
medians are compared, and the tokens must be the same (in full float32, for which TF32 is switched
off). Short answers are those of the model; long ones go on to --max-tokens, with the end token made
impossible: the longer the answers, the more there is to share.

    python benchmarks/random_checkpoint.py FOLDER --scaled
    python benchmarks/batches.py --model FOLDER --joining [--runs 5]

Four answers are being written, and a picture of 4,160 tokens joins: the longest gap between two of
their tokens, beside the median. Then four such pictures at once, of which the first is answered
with one token: seconds until it is there, and until all are.
"""

import argparse
import os
import statistics
import sys
import time

# It claims the same tokens; MLX multiplies in TF32 by default on some GPUs.
os.environ["MLX_ENABLE_TF32"] = "0"

import mlx.core as mx
import numpy as np
from PIL import Image

import pixtral_mlx as px
from pixtral_mlx.mini import scene

QUESTIONS = ["What is in row 1, column 1?", "How many rows are there?", "What colours are there?"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--model", default="mini", help="folder, hub id, or mini (default)")
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=64, help="of the long answers (64)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--joining", action="store_true", help="measure who waits for a picture")
    arguments = parser.parse_args()
    model = px.load(arguments.model, dtype="float32")
    print(f"MLX {mx.__version__}, {os.cpu_count()} cores, {arguments.requests} requests")
    if arguments.joining:
        return joining(model, arguments.runs)
    ends = {"short": {}, "long": {"logit_bias": {model.tokenizer.eos_id: -1e9}}}
    for name, ending in ends.items():
        options = {"max_tokens": arguments.max_tokens, "reuse": False, **ending}
        alone, together = measure(model, arguments, options)
        print(
            f"{name} answers: one after another {alone:.2f} s, {arguments.batch_size} at once "
            f"{together:.2f} s: {alone / together:.2f} times as fast"
        )


def joining(model: px.Pixtral, runs: int) -> None:
    """Measure who waits for a long prompt, and print each run and the medians."""
    joining_gap(model, side=64)  # warms up
    rows = []
    for _ in range(runs):
        gap, usual = joining_gap(model, side=1024)
        first, everything = first_token(model)
        rows.append((gap, usual, first, everything))
    for name, row in [*((str(n), row) for n, row in enumerate(rows, 1)), ("median", None)]:
        gap, usual, first, everything = row or map(statistics.median, zip(*rows, strict=True))
        print(
            f"{name}: longest gap {gap:.2f} s, usual {usual:.3f} s ({gap / usual:.0f} steps); "
            f"first of four answered after {first:.2f} s, all after {everything:.2f} s"
        )


def joining_gap(model: px.Pixtral, side: int) -> tuple[float, float]:
    """Four answers, and a square picture joins, which takes the place of a fifth that was short:
    the longest and the median gap in seconds between two tokens of the four."""
    from mlx_lm.generate import BatchGenerator

    times: list[float] = []
    next_generated = BatchGenerator.next_generated

    def timed(self):
        responses = next_generated(self)
        if len(responses) >= 4:
            times.append(time.perf_counter())
        return responses

    bias = {model.tokenizer.eos_id: -1e9}
    written = {"max_tokens": 64, "logit_bias": bias}
    requests = [{"messages": f"Question {n}?", **written} for n in range(4)]
    requests.append({"messages": "And this?", **written, "max_tokens": 8})
    requests.append({"messages": "What?", "images": [noise(side)], "max_tokens": 2})
    BatchGenerator.next_generated = timed
    try:
        model.generate_batch(requests, batch_size=5, reuse=False)
    finally:
        BatchGenerator.next_generated = next_generated
    gaps = np.diff(times)
    return float(gaps.max()), float(np.median(gaps))


def first_token(model: px.Pixtral) -> tuple[float, float]:
    """Seconds until the first of four pictures is answered, and until all are."""
    requests = [
        {"messages": "What?", "images": [noise(1024, n)], "max_tokens": 1} for n in range(4)
    ]
    start, found = time.perf_counter(), []
    for _ in model.stream_batch(requests, reuse=False):
        found.append(time.perf_counter() - start)
    return found[0], found[-1]


def noise(side: int, seed: int = 0) -> Image.Image:
    """A square picture that nobody has encoded before."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def measure(model: px.Pixtral, arguments: argparse.Namespace, options: dict) -> tuple[float, float]:
    """Median seconds of both ways, taking turns; fails if an answer differs."""
    requests = [
        {"messages": QUESTIONS[n % 3], "images": [scene(n, 1 + n % 3, 1 + n % 4).image]}
        for n in range(arguments.requests)
    ]
    seconds: dict[str, list[float]] = {"alone": [], "together": []}
    for run in range(-1, arguments.runs):  # the first one only warms up
        start = time.perf_counter()
        alone = [model.generate(**request, **options) for request in requests]
        middle = time.perf_counter()
        together = model.generate_batch(requests, batch_size=arguments.batch_size, **options)
        end = time.perf_counter()
        if [reply.tokens for reply in alone] != [reply.tokens for reply in together]:
            sys.exit("the answers differ")
        if run >= 0:
            seconds["alone"].append(middle - start)
            seconds["together"].append(end - middle)
    return statistics.median(seconds["alone"]), statistics.median(seconds["together"])


if __name__ == "__main__":
    main()
