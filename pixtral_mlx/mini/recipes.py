"""What pixtral-mini's adapters were taught with: pictures, questions and answers, drawn by chance.

    python -m pixtral_mlx.mini rows json DST
    pixtral-mlx tune --model mini --data DST -o ADAPTER

`RECIPES` names them; each gives one conversation for a seed, as chat messages.
"""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from ..files import new_folder
from .charts import chart, chart_questions
from .pages import ask_pages, document
from .questions import PHRASINGS, ask, outline
from .scene_layout import Layout, draw, make_layout, pick, shuffled

Turn = dict[str, Any]

PAGE_QUESTIONS = 6


def user(*parts: Any) -> Turn:
    """A question: pictures and texts."""
    listed = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": part}
        for part in parts
    ]
    return {"role": "user", "content": listed}


def answer(text: str) -> Turn:
    """What is to be said to it."""
    return {"role": "assistant", "content": text}


# json -------------------------------------------------------------------------------------------

DESCRIBE = (
    "Describe the picture as JSON.", "Describe the picture in JSON.", "Answer in JSON.",
    "What do you see? Answer in JSON.",
)  # fmt: skip


def described(layout: Layout) -> dict[str, Any]:
    """A scene as the object that `json` writes, its keys in this order."""
    code = "".join(thing.name for thing in layout.cells if thing.name and not thing.colour)
    first, last = (str(thing) for thing in (layout.cells[0], layout.cells[-1]))
    return {
        "outline": outline(layout), "rows": layout.rows, "columns": layout.columns,
        "first": first, "last": last, "code": code or None,
    }  # fmt: skip


def compact(value: Any) -> str:
    """JSON without spaces, as a grammar writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def json_lesson(random: Random) -> list[Turn]:
    """One picture, as JSON; sometimes an ordinary question comes first."""
    layout = make_layout(random)
    question, wanted = pick(random, DESCRIBE), compact(described(layout))
    before = _ordinary(random, layout) if random.random() < 0.2 else None
    if before is not None:
        text, said = before
        turns = [user(draw(layout), text), answer(said)]
        return turns if random.random() < 0.5 else [*turns, user(question), answer(wanted)]
    return [user(draw(layout), question), answer(wanted)]


def _ordinary(random: Random, layout: Layout) -> tuple[str, str] | None:
    """A question that pixtral-mini knows already."""
    kind = pick(random, tuple(kind for kind in PHRASINGS if kind != "which"))
    asked = ask(kind, layout, random, most=3)
    return None if asked is None else (asked.text, asked.answer)


# charts -----------------------------------------------------------------------------------------


def chart_lesson(random: Random) -> list[Turn]:
    """Three questions about one chart."""
    picture, bars = chart(random)
    found: list[Turn] = []
    for asked in shuffled(random, chart_questions(bars))[:3]:
        question = user(asked.text) if found else user(picture, asked.text)
        found += [question, answer(asked.answer)]
    return found


# pages ------------------------------------------------------------------------------------------


def pages_lesson(random: Random) -> list[Turn]:
    """One to four numbered pages, and several questions about one of them or all."""
    pages = document(random)
    parts: list[Any] = []
    for each in pages:
        parts += [f"Page {each.number}:", each.picture]
    found: list[Turn] = []
    for asked in ask_pages(random, pages, PAGE_QUESTIONS):
        found += [user(asked.text) if found else user(*parts, asked.text), answer(asked.answer)]
    return found


RECIPES: dict[str, Callable[[Random], list[Turn]]] = {
    "pages": pages_lesson, "json": json_lesson, "charts": chart_lesson,
}  # fmt: skip


def lesson(name: str, seed: int) -> list[Turn]:
    """One conversation."""
    return RECIPES[name](Random(f"{name} {seed}"))


def write_rows(name: str, folder: Path, counts: dict[str, int], first_seed: int = 0) -> None:
    """A folder of rows for `tune`: JSONL files and their pictures.

    Arguments:
        name: of a recipe.
        folder: must not exist.
        counts: {file without its ending: rows}; each goes on with the seeds of the one before.

    Raises:
        CheckpointError, CapacityError: as `files.new_folder`.
    """
    seed = first_seed
    with new_folder(folder) as hidden:
        for file, count in counts.items():
            with (hidden / f"{file}.jsonl").open("w", encoding="utf-8") as rows:
                for number in range(seed, seed + count):
                    turns = _saved(lesson(name, number), hidden, number)
                    rows.write(json.dumps({"messages": turns}) + "\n")
                seed += count


def _saved(turns: list[Turn], folder: Path, seed: int) -> list[Turn]:
    """The same turns with files in the place of pictures."""
    found, number = [], 0
    for turn in turns:
        if isinstance(turn["content"], str):
            found.append(turn)
            continue
        parts = []
        for part in turn["content"]:
            if part["type"] == "image":
                name = f"{seed}-{number}.png"
                part["image"].save(folder / name)
                part, number = {"type": "image", "image": name}, number + 1
            parts.append(part)
        found.append({**turn, "content": parts})
    return found
