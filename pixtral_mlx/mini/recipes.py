"""What pixtral-mini's adapters were taught with: pictures, questions and answers, drawn by chance.

    python -m pixtral_mlx.mini rows json DST
    pixtral-mlx tune --model mini --data DST -o ADAPTER

`RECIPES` names them; each gives one conversation for a seed, as chat messages.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from ..files import new_folder
from .drawing import CHARACTERS, COLOURS, INK, ground, mask, paint
from .questions import NUMBERS, PHRASINGS, ask, outline
from .scene_layout import Layout, Thing, draw, make_layout, pick, shuffled

Turn = dict[str, Any]

LETTERS = tuple(name for name in CHARACTERS if name.isalpha())
HIGHEST_BAR = 6
BAR, UNIT, LABEL = 32, 16, 32
"""Of charts, in pixels: the width that a bar has, what one more makes it taller, its label."""

MOST_PAGES = 4
LARGEST_PAGE = 3
"""Most rows and columns of cells on a page."""


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


def chart(random: Random) -> tuple[Image.Image, dict[str, tuple[str, int]]]:
    """A bar chart, and {its letters: (colour, height)}, from left to right."""
    letters = shuffled(random, LETTERS)[: pick(random, (2, 3, 4, 5))]
    colours = shuffled(random, COLOURS)
    heights = shuffled(random, range(1, HIGHEST_BAR + 1))
    bars = {
        letter: (colour, height)
        for letter, colour, height in zip(letters, colours, heights, strict=False)
    }
    tint = tuple(225 + int(random.random() * 25) for _ in range(3))
    noise = bytes(int(random.random() * 256) for _ in range(36))
    bottom = HIGHEST_BAR * UNIT
    canvas = ground(len(bars) * BAR, bottom + LABEL, tint, noise)
    for i, (letter, (colour, height)) in enumerate(bars.items()):
        bar = np.full((height * UNIT, BAR - 8), 255, np.int32)
        paint(canvas, COLOURS[colour], bar, (i * BAR + 4, bottom - height * UNIT))
        paint(canvas, INK, mask(letter, LABEL, 98), (i * BAR, bottom))
    return Image.fromarray(canvas.astype("uint8")), bars


def chart_questions(bars: dict[str, tuple[str, int]]) -> list[tuple[str, str]]:
    """All that is asked about a chart, with the answers."""
    by_height = sorted(bars, key=lambda letter: bars[letter][1])
    asked = [
        ("Which bar is the tallest?", f"the letter {by_height[-1]}"),
        ("Which bar is the smallest?", f"the letter {by_height[0]}"),
        ("How many bars are there?", NUMBERS[len(bars)]),
    ]
    for letter, (colour, height) in bars.items():
        asked += [
            (f"How many rows does {letter} have?", NUMBERS[height]),
            (f"What colour is the letter {letter}?", colour),
        ]
    return asked


def chart_lesson(random: Random) -> list[Turn]:
    """Three questions about one chart."""
    picture, bars = chart(random)
    found: list[Turn] = []
    for text, said in shuffled(random, chart_questions(bars))[:3]:
        found += [user(text) if found else user(picture, text), answer(said)]
    return found


# pages ------------------------------------------------------------------------------------------


def page(random: Random) -> tuple[Layout, Image.Image]:
    """A small scene on a white sheet, in whole patches, so that nothing is resized."""
    rows, columns = (pick(random, range(1, LARGEST_PAGE + 1)) for _ in range(2))
    layout = make_layout(random, rows, columns)
    inner = draw(layout).resize((columns * BAR, rows * BAR))
    left, top = (UNIT * pick(random, (0, 1, 2)) for _ in range(2))
    right, bottom = (UNIT * pick(random, (0, 1, 2)) for _ in range(2))
    size = (inner.width + left + right, inner.height + top + bottom)
    sheet = Image.new("RGB", size, (255, 255, 255))
    sheet.paste(inner, (left, top))
    return layout, sheet


def pages_lesson(random: Random) -> list[Turn]:
    """One to four numbered pages, and up to three questions about them."""
    pages = [page(random) for _ in range(pick(random, (1, 2, 2, 3, MOST_PAGES)))]
    start = pick(random, (1, 1, 1, 2, 5))
    numbered = {start + i: each for i, each in enumerate(pages)}
    parts: list[Any] = []
    for number, (_, sheet) in numbered.items():
        parts += [f"Page {number}:", sheet]
    found: list[Turn] = []
    for text, said in _page_questions(random, {n: p[0] for n, p in numbered.items()}):
        found += [user(text) if found else user(*parts, text), answer(said)]
    return found


def _page_questions(random: Random, layouts: dict[int, Layout]) -> Iterator[tuple[str, str]]:
    for _ in range(3):
        kind = pick(random, ("presence", "presence", "which", "at", "at", "own"))
        number = pick(random, tuple(layouts))
        layout = layouts[number]
        things = {str(thing) for each in layouts.values() for thing in each.cells}
        thing = pick(random, layout.cells)
        if kind == "presence":
            other = str(
                Thing(pick(random, ("star", "heart", "ring", "moon")), pick(random, [*COLOURS]))
            )
            if random.random() < 0.5 and thing.name:
                yield f"Is there {thing}?", "yes"
            else:
                yield f"Is there {other}?", "yes" if other in things else "no"
        elif kind == "which" and thing.name:
            holders = [n for n, each in layouts.items() if thing in each.cells]
            if len(holders) == 1:
                yield f"Which page has {thing}?", str(number)
        elif kind == "at":
            row, column = pick(random, range(layout.rows)), pick(random, range(layout.columns))
            place = f"row {row + 1}, column {column + 1}"
            yield f"Page {number}: what is in {place}?", str(layout.cell(row, column))
        elif kind == "own":
            asked = ask(pick(random, ("colour", "shape", "read")), layout, random)
            if asked is not None:
                yield f"Page {number}: {asked.text}", asked.answer


RECIPES: dict[str, Callable[[Random], list[Turn]]] = {
    "pages": pages_lesson, "json": json_lesson, "charts": chart_lesson,
}  # fmt: skip


def lesson(name: str, seed: int) -> list[Turn]:
    """One conversation; some seeds of `pages` have none."""
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
                while count:
                    if turns := lesson(name, seed):
                        rows.write(json.dumps({"messages": _saved(turns, hidden, seed)}) + "\n")
                        count -= 1
                    seed += 1


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
