"""How often pixtral-mini is right, measured by asking it.

Every answer is generated greedily through `Pixtral.generate`, from pictures and questions of seeds
that training never uses, and counts only if it is right letter by letter.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..checkpoint import load
from ..convert import convert
from ..model import Pixtral
from ..tables import format_table
from ..tokenizer import Prompt
from .questions import KINDS
from .scenes import Question, scene

FIRST_SEED = 10**9
"""Evaluation counts up from here; training draws its scenes in another way altogether."""

GRID_KINDS = ("rows", "columns", "wide")
"""What only the break tokens tell."""

ANSWER_TOKENS = 40
"""More than the longest answer has."""


@dataclass
class Tally:
    """Right answers of one kind.

    Arguments:
        asked: questions.
        right: exact matches, for each variant of the model.
    """

    asked: int = 0
    right: dict[str, int] = field(default_factory=dict)

    def share(self, variant: str) -> float:
        """Right answers among those asked, 0 to 1."""
        return self.right.get(variant, 0) / max(self.asked, 1)


def without_breaks(prompt: Prompt, break_id: int) -> Prompt:
    """The prompt as it were if rows of patches followed one another without a break."""
    kept = [token for token in prompt.tokens if token != break_id]
    return replace(prompt, tokens=kept, spans=[])


def answer(model: Pixtral, question: Question, *, breaks: bool = True) -> str:
    """What the model answers, greedily.

    Arguments:
        breaks: False leaves the break tokens out of the prompt.
    """
    prompt = model.encode(question.text, question.images)
    if not breaks:
        prompt = without_breaks(prompt, model.tokenizer.image_ids[1])
    return model.generate(prompt, max_tokens=ANSWER_TOKENS).text


def evaluate(
    folder: Path,
    scenes: int = 1000,
    *,
    first_seed: int = FIRST_SEED,
    quantized: bool = True,
    dtype: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tally]:
    """Ask every question of `scenes` scenes.

    Arguments:
        folder: of the checkpoint.
        scenes: how many.
        first_seed: of the first scene.
        quantized: whether to ask a 4-bit conversion (groups of 64) too.
        dtype: that is computed in; None for the stored one. float32 is faster on a CPU.
        progress: called with (scenes done, scenes).

    Returns:
        A tally for each kind of question; its variants are "stored", "4-bit", and "no breaks" for
        the kinds of `GRID_KINDS`.
    """
    with tempfile.TemporaryDirectory(prefix="pixtral-mini-") as place:
        models = {"stored": load(folder, dtype)}
        if quantized:
            convert(folder, Path(place, "4bit"), bits=4, group_size=64)
            models["4-bit"] = load(Path(place, "4bit"), dtype)
        tallies = {kind: Tally() for kind in KINDS}
        for number in range(scenes):
            for question in scene(first_seed + number).questions:
                _ask(models, question, tallies[question.kind])
            if progress:
                progress(number + 1, scenes)
    return tallies


def _ask(models: dict[str, Pixtral], question: Question, tally: Tally) -> None:
    answers = {name: answer(model, question) for name, model in models.items()}
    if question.kind in GRID_KINDS:
        answers["no breaks"] = answer(models["stored"], question, breaks=False)
    tally.asked += 1
    for variant, text in answers.items():
        tally.right[variant] = tally.right.get(variant, 0) + (text == question.answer)


def table(tallies: dict[str, Tally]) -> list[str]:
    """The tallies as lines: one a kind, and all questions together."""
    asked = [tally for tally in tallies.values() if tally.asked]
    variants = list(dict.fromkeys(name for tally in asked for name in tally.right))
    rows: list[Sequence[str]] = [("kind", "questions", *variants)]
    for kind, tally in tallies.items():
        if tally.asked:
            cells = [_percent(tally, name) for name in variants]
            rows.append((kind, str(tally.asked), *cells))
    total = Tally(sum(tally.asked for tally in asked))
    for tally in asked:
        for name, right in tally.right.items():
            total.right[name] = total.right.get(name, 0) + right
    total.right.pop("no breaks", None)
    rows.append(("all", str(total.asked), *(_percent(total, name) for name in variants)))
    return format_table(rows)


def _percent(tally: Tally, variant: str) -> str:
    return f"{100 * tally.share(variant):.1f} %" if variant in tally.right else ""
