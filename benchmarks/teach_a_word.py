"""A word that pixtral-mini has never written, learned from 120 drawn scenes: what it costs.

"wide" becomes "broad" in the answers of 120 scenes, and nothing else changes. An adapter learns
from these, once beside the weights and once beside the same weights in 4 bits. Then 100 other
pictures that are wide are asked about, and every other kind of question; the adapter is fused, into
4 bits in several ways, and asked again.

    python benchmarks/teach_a_word.py [--bits 4] [--iters 600] [--seed 0]
    python benchmarks/teach_a_word.py --adapter FOLDER
    python benchmarks/teach_a_word.py --begun FOLDER

`--adapter` only fuses an adapter that was taught the word, into a model of 4 bits. `--begun` keeps
the adapter of the first 250 of 600 steps: notebook 11 goes on from it.
"""

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

import pixtral_mlx as px
from pixtral_mlx.checkpoint.adapter_files import SETTINGS, WEIGHTS
from pixtral_mlx.files import refuse_existing
from pixtral_mlx.mini import scene
from pixtral_mlx.mini.questions import PHRASINGS
from pixtral_mlx.tuning.fuse import fuse
from pixtral_mlx.tuning.low_rank import whole_weight
from pixtral_mlx.tuning.tune import tune

OLD, NEW, KIND = "wide", "broad", "wide"
SCENES, HELD_OUT = 120, 100
FIRST_LEARNED, FIRST_ASKED = 3 * 10**8, 2 * 10**9
MOST_TOKENS = 40
BEGUN_STEPS = 250
WAYS = ({"bits": 4}, {"bits": 5}, {"bits": 6}, {"bits": 8}, {"dequantize": True})
"""How the adapter of a model in 4 bits is fused; 8 is what `fuse` does unless told otherwise."""


def learned(folder: Path) -> None:
    """The rows: of each scene every wording of the question, and what else can be asked."""
    folder.mkdir()
    with (folder / "train.jsonl").open("w") as file:
        for seed in range(FIRST_LEARNED, FIRST_LEARNED + SCENES):
            shown = scene(seed)
            shown.image.save(folder / f"{seed}.png")
            for question in shown.questions:
                if len(question.images) > 1:
                    continue
                texts = PHRASINGS[KIND] if question.kind == KIND else [question.text]
                answer = NEW if question.answer == OLD else question.answer
                for text in texts:
                    row = {"prompt": text, "answer": answer, "image": f"{seed}.png"}
                    file.write(json.dumps(row) + "\n")


def asked(scenes: int) -> tuple[list, list]:
    """(request, answer) about pictures that are wide, and of every other kind about so many."""
    wide, others = [], []
    for seed in range(FIRST_ASKED, FIRST_ASKED + 10_000):
        shown = scene(seed)
        for question in shown.questions:
            request = {"messages": question.text, "images": question.images}
            if question.kind == KIND and question.answer == OLD:
                if len(wide) < HELD_OUT:
                    wide.append((request, NEW))
            elif seed < FIRST_ASKED + scenes:
                others.append((request, question.answer))
        if len(wide) == HELD_OUT and seed >= FIRST_ASKED + scenes:
            return wide, others
    raise SystemExit("too few scenes are wide")


def answers(model: px.Pixtral, requests: list) -> list[str]:
    """What a model says to each."""
    replies = model.generate_batch(requests, max_tokens=MOST_TOKENS, batch_size=16)
    model.clear_cache()
    return [reply.text for reply in replies]


def measure(name: str, folder: str | Path, place: Path, how: argparse.Namespace) -> Iterator[str]:
    """Teach one model, and ask it before, after and fused."""
    iters = how.iters
    wide, others = asked(how.scenes)
    requests = [each[0] for each in (*wide, *others)]
    before = answers(px.load(folder, "float32"), requests)
    adapter, start = place / f"{name}-adapter", time.perf_counter()
    found = tune(px.load(folder, "float32"), place / "rows", adapter, iters=iters, seed=how.seed)
    seconds = time.perf_counter() - start
    after = answers(px.load(folder, "float32", adapter), requests)
    swap = found.report["swap"]
    yield f"{name}: {iters} steps, {seconds:.0f} s, {found.report['step_seconds']:.3f} s per step"
    yield f"  say {NEW!r}: {_said(before, wide)} of {HELD_OUT} before, {_said(after, wide)} after"
    rest = slice(len(wide), None)
    right = [_right(texts[rest], others) for texts in (before, after)]
    yield (
        f"  everything else, {len(others)} questions: {right[0]:.1f} % right before, "
        f"{right[1]:.1f} after ({right[1] - right[0]:+.1f})"
    )
    yield f"  exchanged pictures: loss {swap['loss']:.3f} becomes {swap['swapped_loss']:.3f}"
    ways = [{}] if name == "16 bits" else WAYS
    yield from fused_lines(folder, adapter, place, ways, (wide, others))


def fused_lines(
    folder: str | Path, adapter: Path, place: Path, ways: Sequence, about: tuple[list, list]
) -> Iterator[str]:
    """Fuse an adapter, and ask the result what the adapter was asked."""
    wide, others = about
    requests = [each[0] for each in (*wide, *others)]
    after = answers(unpacked(px.load(folder, "float32", adapter)), requests)
    for number, how in enumerate(ways):
        done = fuse(folder, adapter, place / f"fused-{number}", **how)
        fused = answers(unpacked(px.load(done.folder, "float32")), requests)
        shutil.rmtree(done.folder)
        same = sum(a == b for a, b in zip(after, fused, strict=True))
        yield (
            f"  fused {how or ''}: {done.plan.nbytes / 1e6:.2f} MB, "
            f"{100 * same / len(after):.1f} % of {len(after)} answers are the adapter's, "
            f"{_said(fused, wide)} say {NEW!r} ({_said(after, wide)} with the adapter), "
            f"{_right(fused[len(wide) :], others):.1f} % of the others are right"
        )


def unpacked(model: px.Pixtral) -> px.Pixtral:
    """The same function with whole matrices: a CPU multiplies these many times faster."""
    pairs = []
    for path, module in model.named_modules():
        if isinstance(module, nn.QuantizedLinear):
            whole = nn.Linear(1, 1, bias=False)
            whole.weight = whole_weight(module)
            if "bias" in module:
                whole.bias = module.bias
            pairs.append((path, whole))
    model.update_modules(tree_unflatten(pairs))
    return model


def begun(place: Path, folder: Path) -> None:
    """Keep the adapter of the first steps of a training.

    Raises:
        CheckpointError: the folder exists.
    """
    refuse_existing(folder)

    def stop(what: str, done: int, *_: object) -> None:
        if what == "training" and done > BEGUN_STEPS:
            raise Enough

    with contextlib.suppress(Enough):
        tune(
            px.load("mini", "float32"), place / "rows", place / "begun", progress=stop, base="mini"
        )
    folder.mkdir(parents=True)
    for file in (WEIGHTS, SETTINGS):
        shutil.copy(place / "begun" / file, folder)


class Enough(Exception):
    """The steps that are kept are done."""


def _right(texts: list[str], asked: list) -> float:
    """Per cent."""
    return 100 * sum(a == b for a, (_, b) in zip(texts, asked, strict=True)) / len(asked)


def _said(texts: list[str], wide: list) -> int:
    return sum(text == NEW for text in texts[: len(wide)])


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--iters", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=60, help="that everything is asked about")
    parser.add_argument("--bits", type=int, nargs="+", default=[16, 4], choices=(4, 16))
    parser.add_argument("--adapter", type=Path, metavar="FOLDER")
    parser.add_argument("--begun", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    print(f"MLX {mx.__version__}, float32 products in {px.machine().float32_products}")
    mx.disable_compile()  # a CPU's time goes into compiling
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        if arguments.adapter:
            folder = px.convert("mini", place / "4bit", bits=4, group_size=32).folder
            print(f"{arguments.adapter.name}, beside 4 bits:")
            for line in fused_lines(
                folder, arguments.adapter, place, WAYS, asked(arguments.scenes)
            ):
                print(line, flush=True)
            return
        learned(place / "rows")
        if arguments.begun:
            begun(place, arguments.begun)
            return
        for bits in arguments.bits:
            folder: str | Path = "mini"
            if bits == 4:
                folder = px.convert("mini", place / "4bit", bits=4, group_size=32).folder
            for line in measure(f"{bits} bits", folder, place, arguments):
                print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
