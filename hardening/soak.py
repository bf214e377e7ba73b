"""Thousands of mixed calls on one model: the same answers as from a fresh one, in as much memory.

    python hardening/soak.py [--calls 5000] [--seed N]

Answers with and without what earlier calls left, streams that are cut short, batches, traces,
edits, pictures of many sizes, PDFs and requests that are refused, in a random order. What is kept
between calls has a small bound, so that it is full after the warm-up, which is the first quarter.
"""

import argparse
import io
import random
import secrets
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import numpy as np
from levels import resident, verdict
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from pdfs import make_pdf

import pixtral_mlx as px
from pixtral_mlx.mini import scene

KEPT_BYTES = 20_000_000
SCENES, SIZES = 24, ((16, 16), (400, 60), (64, 512), (333, 222), (300, 300))
TOKENS = 12
BUDGET = 100
"""Tokens of a page: pixtral-mini knows no larger pictures."""


class Soak:
    """A model that answers for long, and what a fresh one says.

    Arguments:
        chance: decides what is asked.
    """

    def __init__(self, chance: random.Random):
        self._chance = chance
        self._model, self._fresh = (px.load("mini", dtype="float32") for _ in range(2))
        self._model.prompt_cache.max_bytes = KEPT_BYTES
        self._expected: dict[Hashable, list[int]] = {}
        self._pdfs = [make_pdf(pages, (40 * pages, 60)) for pages in (1, 2, 3)]
        self.wrong: list[str] = []

    def call(self) -> str:
        """Ask once, and compare; returns what kind of call it was."""
        kinds: dict[str, Callable[[], None]] = {
            "answer": self._answer, "cut": self._cut, "batch": self._batch, "trace": self._trace,
            "edit": self._edit, "size": self._size, "pdf": self._pdf, "error": self._error,
        }  # fmt: skip
        kind = self._chance.choice([*kinds, "answer", "answer", "size"])
        kinds[kind]()
        return kind

    def _check(self, key: Hashable, found: list[int], asked: Any, **options: Any) -> None:
        """Compare tokens with those of the fresh model, of which as many as there are count."""
        if key not in self._expected:
            reply = self._fresh.generate(asked, max_tokens=TOKENS, reuse=False, **options)
            self._expected[key] = reply.tokens
        expected = self._expected[key]  # with a head knocked out it may be nothing
        if found != expected[: len(found)] or bool(found) != bool(expected):
            self.wrong.append(f"{key}: {found} instead of {expected}")

    def _question(self) -> tuple[Hashable, str, list[Any]]:
        number = self._chance.randrange(SCENES)
        questions = scene(number).questions
        place = self._chance.randrange(len(questions))
        return (number, place), questions[place].text, list(questions[place].images)

    def _answer(self) -> None:
        key, text, images = self._question()
        reuse = self._chance.random() < 0.8
        found = self._model.generate(text, images=images, max_tokens=TOKENS, reuse=reuse)
        self._check(key, found.tokens, text, images=images)

    def _cut(self) -> None:
        key, text, images = self._question()
        stream = self._model.stream(text, images=images, max_tokens=TOKENS)
        for _ in range(self._chance.randint(1, 3)):
            next(stream, None)
        stream.interrupt()
        self._check(key, stream.reply.tokens, text, images=images)

    def _batch(self) -> None:
        asked = [self._question() for _ in range(4)]
        texts, images = [text for _, text, _ in asked], [images for _, _, images in asked]
        replies = self._model.generate_batch(texts, images=images, max_tokens=TOKENS, batch_size=3)
        for (key, text, pictures), reply in zip(asked, replies, strict=True):
            self._check(key, reply.tokens, text, images=pictures)

    def _trace(self) -> None:
        key, text, images = self._question()
        reply = self._model.generate(text, images=images, max_tokens=TOKENS, trace=True)
        self._check(key, reply.tokens, text, images=images)
        row = reply.trace.token_attention(0, 0)
        if abs(float(row.sum()) - 1) > 1e-3:
            self.wrong.append(f"{key}: a row of attention sums to {row.sum()}")

    def _edit(self) -> None:
        key, text, images = self._question()
        edit = self._chance.choice([
            px.edits.SkipLayers("text", [1]), px.edits.KnockOutHeads("text", 0, [0]),
            px.edits.MaskPatches([0, 1]), px.edits.NoBreakTokens(),
        ])  # fmt: skip
        options = {"images": images, "edits": [edit]}
        found = self._model.generate(text, max_tokens=TOKENS, **options)
        self._check((key, type(edit).__name__), found.tokens, text, **options)

    def _size(self) -> None:
        size, seed = self._chance.choice(SIZES), self._chance.randrange(3)
        noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
        images = [Image.fromarray(noise)]
        found = self._model.generate("Describe the picture.", images=images, max_tokens=TOKENS)
        self._check((size, seed), found.tokens, "Describe the picture.", images=images)

    def _pdf(self) -> None:
        number = self._chance.randrange(len(self._pdfs))
        options = {"images": [self._pdfs[number]], "image_budget": BUDGET}
        found = self._model.generate("Describe the pages.", max_tokens=TOKENS, **options)
        self._check(("pdf", number), found.tokens, "Describe the pages.", **options)

    def _error(self) -> None:
        file = io.BytesIO()
        Image.effect_noise((60, 60), 50).save(file, "PNG")
        wrong: dict[str, Any] = self._chance.choice([
            {"messages": "Hi", "images": [file.getvalue()[:200]]}, {"messages": [{"role": "x"}]},
            {"messages": "Hi", "temperature": -1}, {"messages": "Hi " * 9000},
            {"messages": "Hi", "images": [self._pdfs[0][:90]]},
            {"messages": "Hi", "response_format": {"type": "nothing"}},
        ])  # fmt: skip
        try:
            self._model.generate(**wrong)
        except (px.PixtralError, ValueError):
            return
        self.wrong.append(f"accepted: {str(wrong)[:100]}")


def main() -> int:
    """Call, and print a line of figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    soak, seen = Soak(random.Random(arguments.seed)), Counter[str]()
    levels, start = [], time.perf_counter()
    for number in range(arguments.calls):
        seen[soak.call()] += 1
        levels.append(resident())
        if (number + 1) % 250 == 0:
            level = statistics.median(levels[-100:]) / 1e6
            print(f"{number + 1} calls, {time.perf_counter() - start:.0f} s: {level:.1f} MB",
                  flush=True)  # fmt: skip
    for each in soak.wrong[:20]:
        print(each)
    memory, flat = verdict(levels)
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(seen.items()))
    print(f"{len(soak.wrong)} answers that differ in {arguments.calls} calls ({counted}); {memory}")
    return int(bool(soak.wrong) or not flat)


if __name__ == "__main__":
    import logging

    logging.disable()
    sys.exit(main())
