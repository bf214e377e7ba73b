"""How often pixtral-mini is right, measured by asking it.

Every answer is generated greedily through `Pixtral.generate`, from pictures and questions of seeds
that training never uses, and counts only if it is right letter by letter.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ..interpret.edits import NoBreakTokens
from ..interpret.recorder import TraceOptions
from ..model.prompt import ImageSpan, PatchGrid, Prompt, image_tokens
from ..pixtral import Pixtral, load
from ..quantization.conversion import convert
from .looking import Looked, look
from .processes import worker_processes
from .questions import NUMBERS, outline
from .scene_layout import Layout
from .scenes import Question, Scene, scene

FIRST_SEED = 10**9
"""Evaluation counts up from here; training draws its scenes in another way altogether."""

GRID_KINDS = ("rows", "columns", "wide")
"""What only the break tokens tell."""

IN_TURN = ("second turn", "conversation")
"""Questions about a picture that was asked about before."""

ANSWER_TOKENS = 40
"""More than the longest answer has."""

QUANTIZED = {"4-bit/64": 64, "4-bit/32": 32}
"""Conversions that are asked too: the size of their groups."""

_Folders = tuple[tuple[str, Path], ...]
"""A checkpoint for each variant."""


@dataclass
class Findings:
    """What some questions found.

    Arguments:
        asked, right: answers, and exact ones, for each (kind of question, variant). Variants are
            "stored"; those of `QUANTIZED`; and for `GRID_KINDS` "no breaks" (the prompt without
            break tokens) and "transposed" (with break tokens where the transposed picture has them;
            only pictures that are not square; what follows the breaks counts as right); and those
            of `IN_TURN`, for questions about one picture: after the question before it and what was
            answered, and after all questions before it and what was answered to each.
        looked: for each kind, where right answers of "stored" looked.
    """

    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    right: Counter[tuple[str, str]] = field(default_factory=Counter)
    looked: dict[str, list[Looked]] = field(default_factory=dict)

    def count(self, kind: str, variant: str, right: bool) -> None:
        """Add one answer."""
        self.asked[kind, variant] += 1
        self.right[kind, variant] += right

    def add(self, other: "Findings") -> None:
        """Add those of other questions."""
        self.asked.update(other.asked)
        self.right.update(other.right)
        for kind, looked in other.looked.items():
            self.looked.setdefault(kind, []).extend(looked)


def evaluate(
    folder: Path,
    scenes: int = 1000,
    *,
    first_seed: int = FIRST_SEED,
    quantized: bool = True,
    dtype: str | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Findings:
    """Ask every question of `scenes` scenes.

    Arguments:
        folder: of the checkpoint.
        scenes: how many.
        first_seed: of the first scene; the others follow.
        quantized: whether to ask the conversions of `QUANTIZED` too.
        dtype: that is computed in; None for the stored one. float32 is faster on a CPU.
        workers: processes that ask; what is found does not depend on their number.
        progress: called with (scenes done, scenes).
    """
    with tempfile.TemporaryDirectory(prefix="pixtral-mini-") as place:
        folders = [("stored", folder)]
        for variant, group_size in QUANTIZED.items() if quantized else ():
            folders.append((variant, Path(place, str(group_size))))
            convert(folder, folders[-1][1], bits=4, group_size=group_size)
        examine = partial(_examine, tuple(folders), dtype)
        seeds, found = range(first_seed, first_seed + scenes), Findings()
        for number, part in enumerate(_in_processes(examine, seeds, workers)):
            found.add(part)
            if progress:
                progress(number + 1, scenes)
    return found


def _in_processes(
    examine: Callable[[int], Findings], seeds: range, workers: int
) -> Iterator[Findings]:
    """`map`, by several processes if `workers` is more than 1."""
    if workers < 2:
        yield from map(examine, seeds)
        return
    with worker_processes(workers) as pool:
        yield from pool.map(examine, seeds)


@lru_cache(maxsize=1)
def _models(folders: _Folders, dtype: str | None) -> dict[str, Pixtral]:
    """Loaded once a process."""
    return {variant: load(folder, dtype) for variant, folder in folders}


def _examine(folders: _Folders, dtype: str | None, seed: int) -> Findings:
    """All questions of one scene. One variant after the other: neighbouring requests then begin
    alike, and `generate` need not read the picture again."""
    shown, models, found = scene(seed), _models(folders, dtype), Findings()
    stored = models["stored"]
    asked = [(q, stored.encode(q.text, q.images)) for q in shown.questions]
    for variant, model in models.items():
        trace = variant == "stored" and TraceOptions(vision_layers=())
        for question, prompt in asked:
            reply = model.generate(prompt, max_tokens=ANSWER_TOKENS, trace=trace)
            right = reply.text == question.answer
            found.count(question.kind, variant, right)
            looked = look(reply.trace, question) if right and reply.trace else None
            if looked:
                found.looked.setdefault(question.kind, []).append(looked)
    about_grid = [(q, prompt) for q, prompt in asked if q.kind in GRID_KINDS]
    for question, prompt in about_grid:
        reply = stored.generate(prompt, max_tokens=ANSWER_TOKENS, edits=[NoBreakTokens()])
        found.count(question.kind, "no breaks", reply.text == question.answer)
    if shown.layout.rows != shown.layout.columns:
        expected = transposed_answers(shown.layout)
        for question, prompt in about_grid:
            turned = transposed(prompt, stored.tokenizer.image_ids)
            reply = stored.generate(turned, max_tokens=ANSWER_TOKENS)
            found.count(question.kind, "transposed", reply.text == expected[question.kind])
    for question, variant, text in _in_turn(stored, shown):
        found.count(question.kind, variant, text == question.answer)
    for model in models.values():
        model.clear_cache()  # no other scene has these pictures
    return found


def _in_turn(model: Pixtral, shown: Scene) -> Iterator[tuple[Question, str, str]]:
    """(question, variant of `IN_TURN`, answer) for all but the first question about the picture."""
    questions = [question for question in shown.questions if len(question.images) == 1]
    for variant, turns in zip(IN_TURN, (2, len(questions)), strict=True):
        for start in range(len(questions) - turns + 1):
            messages: list[dict[str, Any]] = []
            for question in questions[start : start + turns]:
                images = [] if messages else [{"type": "image", "image": shown.image}]
                text = {"type": "text", "text": question.text}
                messages.append({"role": "user", "content": [*images, text]})
                answer = model.generate(messages, max_tokens=ANSWER_TOKENS).text
                if len(messages) > 1:
                    yield question, variant, answer
                messages.append({"role": "assistant", "content": answer})


def transposed(prompt: Prompt, image_ids: tuple[int, int, int]) -> Prompt:
    """The prompt of one picture with its break tokens where those of the transposed picture are.

    Arguments:
        prompt: with one picture; its patches stay in their order.
        image_ids: of `[IMG]`, `[IMG_BREAK]` and `[IMG_END]`.
    """
    (span,) = prompt.spans
    grid = PatchGrid(span.grid.columns, span.grid.rows)
    tokens = list(prompt.tokens)
    tokens[span.start : span.stop] = image_tokens(grid, image_ids)
    return replace(prompt, tokens=tokens, grids=[grid], spans=[ImageSpan(span.start, grid)])


def transposed_answers(layout: Layout) -> dict[str, str]:
    """What the questions of `GRID_KINDS` would be answered with if rows were columns."""
    turned = replace(layout, rows=layout.columns, columns=layout.rows)
    return {
        "rows": NUMBERS[turned.rows], "columns": NUMBERS[turned.columns], "wide": outline(turned)
    }  # fmt: skip
