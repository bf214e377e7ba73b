"""A word that pixtral-mini has never written, learned from 120 drawn scenes: what it costs.

"wide" becomes "broad" in the answers of 120 scenes, and nothing else changes. An adapter learns
from these, once beside the weights and once beside the same weights in 4 bits. Then 100 other
pictures that are wide are asked about, and every other kind of question; the adapter is fused, and
asked again.

    python benchmarks/teach_a_word.py [--bits 4] [--iters 600] [--seed 0]
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx

import pixtral_mlx as px
from pixtral_mlx.mini import scene
from pixtral_mlx.mini.questions import PHRASINGS
from pixtral_mlx.tuning.fuse import fuse
from pixtral_mlx.tuning.tune import tune

OLD, NEW, KIND = "wide", "broad", "wide"
SCENES, HELD_OUT, OTHERS = 120, 100, 60
FIRST_LEARNED, FIRST_ASKED = 3 * 10**8, 2 * 10**9
MOST_TOKENS = 40


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


def asked() -> tuple[list, list]:
    """(request, answer) about pictures that are wide, and of every other kind about others."""
    wide, others = [], []
    for seed in range(FIRST_ASKED, FIRST_ASKED + 10_000):
        shown = scene(seed)
        for question in shown.questions:
            request = {"messages": question.text, "images": question.images}
            if question.kind == KIND and question.answer == OLD:
                if len(wide) < HELD_OUT:
                    wide.append((request, NEW))
            elif seed < FIRST_ASKED + OTHERS:
                others.append((request, question.answer))
        if len(wide) == HELD_OUT and seed >= FIRST_ASKED + OTHERS:
            return wide, others
    raise SystemExit("too few scenes are wide")


def answers(model: px.Pixtral, requests: list) -> list[str]:
    """What a model says to each."""
    replies = model.generate_batch(requests, max_tokens=MOST_TOKENS, batch_size=16)
    model.clear_cache()
    return [reply.text for reply in replies]


def measure(name: str, folder: str | Path, place: Path, iters: int, seed: int) -> Iterator[str]:
    """Teach one model, and ask it before, after and fused."""
    wide, others = asked()
    requests = [each[0] for each in (*wide, *others)]
    before = answers(px.load(folder, "float32"), requests)
    adapter, start = place / f"{name}-adapter", time.perf_counter()
    found = tune(px.load(folder, "float32"), place / "rows", adapter, iters=iters, seed=seed)
    seconds = time.perf_counter() - start
    after = answers(px.load(folder, "float32", adapter), requests)
    whole = fuse(folder, adapter, place / f"{name}-fused").folder
    fused = answers(px.load(whole, "float32"), requests)
    swap = found.report["swap"]
    yield f"{name}: {iters} steps, {seconds:.0f} s, {found.report['step_seconds']:.3f} s per step"
    yield f"  say {NEW!r}: {_said(before, wide)} of {HELD_OUT} before, {_said(after, wide)} after"
    rest = slice(len(wide), None)
    right = [
        100 * sum(said == answer for said, (_, answer) in zip(texts[rest], others, strict=True))
        / len(others)
        for texts in (before, after, fused)
    ]  # fmt: skip
    yield (
        f"  everything else, {len(others)} questions: {right[0]:.1f} % right before, "
        f"{right[1]:.1f} after ({right[1] - right[0]:+.1f}), {right[2]:.1f} fused"
    )
    yield f"  exchanged pictures: loss {swap['loss']:.3f} becomes {swap['swapped_loss']:.3f}"
    same = sum(a == b for a, b in zip(after, fused, strict=True))
    yield f"  fused answers as the adapter: {100 * same / len(after):.1f} % of {len(after)}"


def _said(texts: list[str], wide: list) -> int:
    return sum(text == NEW for text in texts[: len(wide)])


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--iters", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bits", type=int, nargs="+", default=[16, 4], choices=(4, 16))
    arguments = parser.parse_args()
    print(f"MLX {mx.__version__}, float32 products in {px.machine().float32_products}")
    mx.disable_compile()  # a CPU's time goes into compiling
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        learned(place / "rows")
        for bits in arguments.bits:
            folder: str | Path = "mini"
            if bits == 4:
                folder = px.convert("mini", place / "4bit", bits=4, group_size=32).folder
            for line in measure(f"{bits} bits", folder, place, arguments.iters, arguments.seed):
                print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
