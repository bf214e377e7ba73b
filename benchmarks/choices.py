"""pixtral-mini held to a form: choosing a word, the word inside JSON, and JSON of a whole scene.

    python benchmarks/choices.py [--scenes 200] [--first-seed 500000]

Every scene is drawn anew. Of each, the questions whose answer is one of a few words are asked three
times: the answer as a choice (`{"type": "regex", "regex": "one|two|three"}`), as `{"v": ...}` with
the same words as an enum, and all of them at once, as one JSON object with a field for each
question. Beside each stands the mean of `allowed_mass` at the first token: how much of the
probability was on what the form allows there.
"""

import argparse
import os
import re
from collections import Counter, defaultdict
from typing import Any

os.environ["MLX_ENABLE_TF32"] = "0"  # the same answers on every machine

import mlx.core as mx

import pixtral_mlx as px
from pixtral_mlx.mini import Scene, scene
from pixtral_mlx.mini.drawing import COLOURS, SHAPES
from pixtral_mlx.mini.questions import NUMBERS

CHOICES = {
    "colour": [*COLOURS],
    "shape": [*SHAPES],
    "rows": NUMBERS[1:6],
    "columns": NUMBERS[1:6],
    "wide": ["wide", "tall", "square"],
    "count": NUMBERS,
}
"""Kinds of questions, and all words that can answer them."""
WAYS = ("choice", '{"v": ...}', "one JSON a scene")


def main() -> None:
    """Ask, and print how many answers are right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--first-seed", type=int, default=500_000)
    arguments = parser.parse_args()
    print(f"pixtral-mlx {px.__version__}, MLX {mx.__version__}, {mx.default_device()}", flush=True)
    model = px.load("mini", dtype="float32")
    right: dict[str, Counter[str]] = defaultdict(Counter)
    asked, first = Counter(), defaultdict(list)
    for number in range(arguments.scenes):
        drawn = scene(arguments.first_seed + number)
        fields = {q.kind: q for q in drawn.questions if q.kind in CHOICES}
        asked.update(fields.keys())
        for way, found in answers(model, drawn, fields).items():
            for kind, (value, mass) in found.items():
                right[way][kind] += value == fields[kind].answer
                first[way].append(mass)
    total = sum(asked.values())
    print(f"{total:,} questions about {arguments.scenes} scenes; right of them:\n")
    print(f"| {'':16} | {'all':>7} | {'first allowed mass':>18} |", end="")
    print(*(f" {kind:>7} |" for kind in CHOICES), sep="")
    print("|---|---|---|" + "---|" * len(CHOICES))
    for way in WAYS:
        share, mass = sum(right[way].values()) / total, sum(first[way]) / len(first[way])
        print(f"| {way:16} | {share:7.1%} | {mass:18.3f} |", end="")
        print(*(f" {right[way][kind] / asked[kind]:7.1%} |" for kind in CHOICES), sep="")


def answers(model: px.Pixtral, drawn: Scene, fields: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{way: {kind: (answer, allowed mass at its first token)}}."""
    found: dict[str, dict[str, Any]] = {way: {} for way in WAYS}
    for kind, question in fields.items():
        pattern = "|".join(map(re.escape, CHOICES[kind]))
        for way, form in (
            (WAYS[0], {"type": "regex", "regex": pattern}),
            (WAYS[1], object_of({"v": kind})),
        ):
            reply = model.generate(
                question.text, images=question.images, response_format=form, max_tokens=40
            )
            value = reply.parsed["v"] if isinstance(reply.parsed, dict) else reply.parsed
            found[way][kind] = value, reply.allowed_mass[0]
    names = {question.text: kind for kind, question in fields.items()}
    reply = model.generate(
        "What do you see?", images=[drawn.image], response_format=object_of(names), max_tokens=600
    )
    for name, kind in names.items():
        found[WAYS[2]][kind] = (reply.parsed or {}).get(name), reply.allowed_mass[0]
    return found


def object_of(names: dict[str, str]) -> dict[str, Any]:
    """A schema with a field for each name, of the words that answer its kind."""
    properties = {name: {"enum": list(CHOICES[kind])} for name, kind in names.items()}
    return {"type": "object", "properties": properties, "required": [*properties]}


if __name__ == "__main__":
    main()
