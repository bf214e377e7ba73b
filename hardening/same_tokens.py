"""The same tokens in every process: questions about scenes, alone and in a batch, greedy and drawn
with a seed, in five processes with hash seeds of their own.

    python hardening/same_tokens.py [--processes 5] [--questions 20] [--seed N]
"""

import argparse
import json
import os
import random
import secrets
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def answers(seed: int, count: int) -> list[list[int]]:
    """Tokens of some questions, each asked in several ways."""
    import pixtral_mlx as px
    from pixtral_mlx.mini import scene

    model, chance = px.load("mini", dtype="float32"), random.Random(seed)
    asked = [chance.choice(scene(chance.randrange(10**6)).questions) for _ in range(count)]
    found = []
    for number, question in enumerate(asked):
        for options in ({}, {"temperature": 1.0, "seed": number}):
            given = {"images": question.images, "max_tokens": 16, **options}
            found.append(model.generate(question.text, **given).tokens)
    texts, images = [q.text for q in asked], [list(q.images) for q in asked]
    batch = model.generate_batch(texts, images=images, max_tokens=16)
    return [*found, *(reply.tokens for reply in batch)]


def main() -> int:
    """Ask in each process, and print a line of figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)  # a child
    arguments = parser.parse_args()
    if arguments.answer:
        print(json.dumps(answers(arguments.seed, arguments.questions)))
        return 0
    print(f"seed {arguments.seed}", flush=True)
    words = ["--answer", "--seed", str(arguments.seed), "--questions", str(arguments.questions)]
    found = []
    for number in range(arguments.processes):
        environment = {**os.environ, "PYTHONHASHSEED": str(number), "PYTHONPATH": str(ROOT)}
        said = subprocess.run(
            [sys.executable, __file__, *words], env=environment, stdout=subprocess.PIPE, check=True
        )
        found.append(json.loads(said.stdout))
    first, *others = found
    differ = sum(a != b for other in others for a, b in zip(first, other, strict=True))
    print(
        f"{differ} answers that differ: {len(first)} answers of {sum(map(len, first))} tokens in "
        f"{arguments.processes} processes"
    )
    return int(bool(differ))


if __name__ == "__main__":
    sys.exit(main())
