"""Does pixtral-mini look at the evidence? The pointing game, per kind of question.

    python benchmarks/pointing_game.py [--scenes 50]

Questions about newly drawn scenes are answered with a trace. A hit: the patch that the words of a
right answer look at most, mean over layers and heads, is one of those that hold the evidence.
Beside it the share of the attention on all patches that falls on the evidence, and the same for a
model that looks everywhere alike. Questions whose evidence is the grid itself, or nothing, are not
asked.
"""

import argparse
import os
import statistics
from collections import Counter, defaultdict

# It claims counts that anyone gets again; MLX multiplies in TF32 by default on some GPUs.
os.environ["MLX_ENABLE_TF32"] = "0"

from tqdm import tqdm

import pixtral_mlx as px
from pixtral_mlx.mini import scene
from pixtral_mlx.mini.evaluation import FIRST_SEED
from pixtral_mlx.mini.looking import Looked, look


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--scenes", type=int, default=50)
    model = px.load("mini", dtype="float32")
    asked: Counter[str] = Counter()
    found: dict[str, list[Looked]] = defaultdict(list)
    for number in tqdm(range(parser.parse_args().scenes), leave=False):
        for question in scene(FIRST_SEED + number).questions:
            if not question.patches:
                continue
            asked[question.kind] += 1
            reply = model.generate(question.text, images=question.images, trace=True)
            looked = look(reply.trace, question) if reply.text == question.answer else None
            if looked:
                found[question.kind].append(looked)
    print("| kind | right answers | hits | share on the evidence | looking everywhere alike |")
    print("|---|---|---|---|---|")
    for kind, own in found.items():
        hits = sum(one.hit for one in own)
        share = statistics.mean(one.overall for one in own)
        uniform = statistics.mean(one.uniform for one in own)
        print(
            f"| {kind} | {len(own)} of {asked[kind]} "
            f"| {hits} of {len(own)} ({hits / len(own):.0%}) "
            f"| {share:.0%} | {uniform:.0%} |"
        )


if __name__ == "__main__":
    main()
