"""Many requests in a batch against one after another.

    python benchmarks/batches.py [--model mini] [--requests 16] [--batch-size 8] [--runs 5]

Questions about scenes of pixtral-mini, each with a picture of its own; the ways take turns, the
medians are compared, and the tokens must be the same (in full float32, for which TF32 is switched
off). Short answers are those of the model; long ones go on to --max-tokens, with the end token made
impossible: the longer the answers, the more there is to share.
"""

import argparse
import os
import statistics
import sys
import time

# It claims the same tokens; MLX multiplies in TF32 by default on some GPUs.
os.environ["MLX_ENABLE_TF32"] = "0"

import mlx.core as mx

import pixtral_mlx as px
from pixtral_mlx.mini import scene

QUESTIONS = ["What is in row 1, column 1?", "How many rows are there?", "What colours are there?"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="mini", help="folder, hub id, or mini (default)")
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=64, help="of the long answers (64)")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    model = px.load(arguments.model, dtype="float32")
    print(f"MLX {mx.__version__}, {os.cpu_count()} cores, {arguments.requests} requests")
    ends = {"short": {}, "long": {"logit_bias": {model.tokenizer.eos_id: -1e9}}}
    for name, ending in ends.items():
        options = {"max_tokens": arguments.max_tokens, "reuse": False, **ending}
        alone, together = measure(model, arguments, options)
        print(
            f"{name} answers: one after another {alone:.2f} s, {arguments.batch_size} at once "
            f"{together:.2f} s: {alone / together:.2f} times as fast"
        )


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
