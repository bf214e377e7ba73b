"""What notebook 11 shares: rows to learn from, what is asked, and answers to its exercises."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pixtral_mlx as px
from pixtral_mlx.mini import Question, Scene
from pixtral_mlx.mini.evaluation import ANSWER_TOKENS
from pixtral_mlx.mini.questions import PHRASINGS

from .exercises import Verdict, numbers

OLD, NEW, KIND = "wide", "broad", "wide"
"""The word that changes, what it becomes, and the kind of question that it answers."""

BEGUN = Path(__file__).with_name("broad")
"""An adapter for pixtral-mini that was trained for a while: `python benchmarks/teach_a_word.py
--begun` wrote it."""

OTHERS = 2
"""Of each scene so many other questions are learned too, so that they are not forgotten."""


def write_rows(shown: Sequence[Scene], file: Path) -> Path:
    """Rows for `tune`: of each scene every wording of the question, and a few others as they are.

    Arguments:
        file: JSONL; the pictures go beside it.
    """
    with file.open("w") as rows:
        for one in shown:
            one.image.save(file.parent / f"{one.seed}.png")
            alone = [q for q in one.questions if len(q.images) == 1]
            asked = [(text, q.answer) for q in alone if q.kind == KIND for text in PHRASINGS[KIND]]
            asked += [(q.text, q.answer) for q in alone if q.kind != KIND][:OTHERS]
            for text, answer in asked:
                answer = NEW if answer == OLD else answer
                row = {"prompt": text, "answer": answer, "image": f"{one.seed}.png"}
                rows.write(json.dumps(row) + "\n")
    return file


def replies(model: px.Pixtral, asked: Sequence[Question]) -> list[str]:
    """What a model says, several answers at a time."""
    requests = [{"messages": q.text, "images": q.images} for q in asked]
    found = model.generate_batch(requests, max_tokens=ANSWER_TOKENS, batch_size=16)
    model.clear_cache()
    return [reply.text for reply in found]


@contextmanager
def without(module: Any) -> Iterator[None]:
    """Within `with`, what was learned beside the matrices of a module counts for nothing."""
    learned = [each for _, each in module.named_modules() if "lora_a" in each]
    before = [each.scale for each in learned]
    try:
        for each in learned:
            each.scale = 0.0
        yield
    finally:
        for each, scale in zip(learned, before, strict=True):
            each.scale = scale


def check_size(answer: Any, outputs: int, inputs: int, rank: int) -> Verdict:
    """How many numbers two small matrices hold."""
    found = numbers([answer], 1)
    if found is None:
        return Verdict(False, "Give a number, as in 1000.")
    right = rank * (outputs + inputs)
    wrong = {
        outputs * inputs: "That is the large matrix, which does not learn.",
        rank * outputs: "That is one of the two: the other has a column for each input.",
        rank * inputs: "That is one of the two: the other has a row for each output.",
        rank * outputs * inputs: f"The two have {rank} columns and {rank} rows: add, not multiply.",
    }
    if found[0] in wrong and found[0] != right:
        return Verdict(False, wrong[int(found[0])])
    if found[0] != right:
        return Verdict(False, f"One has {rank} numbers for each output, one {rank} for each input.")
    return Verdict(True, f"{right:,} beside {outputs * inputs:,}, {right / outputs / inputs:.0%}.")
