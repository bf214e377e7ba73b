"""Does pixtral-mini look at the evidence? The pointing game, per kind of question.

    python benchmarks/pointing_game.py [--scenes 50]

Questions of scenes that training never saw are answered with a trace. A hit: the patch that the
words of a right answer look at most, mean over layers and heads, is one of those that hold the
evidence. Beside it the share of the attention on the image that falls on the evidence, and both
for a model that looks everywhere alike. Kinds whose evidence is the grid itself have no patches.
"""

import argparse
import statistics
from collections import defaultdict

import numpy as np
from tqdm import tqdm

import pixtral_mlx as px
from pixtral_mlx.mini import Question, scene
from pixtral_mlx.mini.evaluation import FIRST_SEED


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=50)
    model = px.load("mini", dtype="float32")
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for number in tqdm(range(parser.parse_args().scenes), leave=False):
        for question in scene(FIRST_SEED + number).questions:
            if question.patches:
                result = play(model, question)
                if result is not None:
                    found[question.kind].append(result)
    print("| kind | right answers | hits | share on the evidence | looking everywhere alike |")
    print("|---|---|---|---|---|")
    for kind, results in found.items():
        hits, shares, uniform = (statistics.mean(column) for column in zip(*results, strict=True))
        print(f"| {kind} | {len(results)} | {hits:.0%} | {shares:.0%} | {uniform:.0%} |")


def play(model: px.Pixtral, question: Question) -> tuple[float, float, float] | None:
    """(hit, share of attention, share of area) for one question; None for a wrong answer."""
    reply = model.generate(question.text, images=question.images, trace=True)
    if reply.text != question.answer or reply.trace is None:
        return None
    image, trace = question.evidence_image, reply.trace
    words = [trace.image_attention(token, image=image) for token in range(len(reply.tokens))]
    looked = np.mean(words, axis=0)
    evidence = np.zeros(looked.shape, bool)
    for patch in question.patches:
        evidence[patch] = True
    peak = np.unravel_index(int(looked.argmax()), looked.shape)
    return float(evidence[peak]), float(looked[evidence].sum() / looked.sum()), evidence.mean()


if __name__ == "__main__":
    main()
