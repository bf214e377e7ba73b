"""Questions about scenes: their words, their answers, and where in the picture the evidence is."""

from collections import Counter
from dataclasses import dataclass, field
from random import Random

from .drawing import COLOURS, SHAPES
from .scene_layout import Layout, Thing, pick

NUMBERS = ("none", "one", "two", "three", "four", "five", "six")
"""How numbers are written in answers."""

HIGHEST = len(NUMBERS) - 1

ORDINALS = ("first", "second", "third", "fourth", "fifth")
PLURALS = {name: f"{name}es" if name.endswith("ss") else f"{name}s" for name in SHAPES}

PHRASINGS = {
    "colour": (
        "What colour is the {shape}?", "Which colour does the {shape} have?",
        "The {shape} is of which colour?", "Name the colour of the {shape}.",
    ),
    "shape": (
        "What shape is the {colour} thing?", "Which shape does the {colour} thing have?",
        "The {colour} thing is of which shape?", "Name the shape of the {colour} thing.",
    ),
    "at": (
        "What is in row {row}, column {column}?", "What do you see in row {row}, column {column}?",
        "Name the thing in row {row}, column {column}.",
        "What is in the {nth_row} row, {nth_column} column?",
    ),
    "where": (
        "Where is {thing}?", "Where do you see {thing}?", "In which row and column is {thing}?",
    ),
    "read": (
        "What does it say?", "What is written in the picture?", "Read the code.",
        "What is the code?",
    ),
    "rows": (
        "How many rows are there?", "How many rows does the picture have?", "Count the rows.",
    ),
    "columns": (
        "How many columns are there?", "How many columns does the picture have?",
        "Count the columns.",
    ),
    "wide": (
        "Is the picture wide, tall or square?", "Is this wide, tall or square?",
        "Wide, tall or square?",
    ),
    "next": (
        "What is {side} {thing}?", "Name the thing {side} {thing}.",
        "What do you see {side} {thing}?",
    ),
    "count": (
        "How many {things} are there?", "How many {things} do you see?", "Count the {things}.",
        "How many {things} does the picture have?",
    ),
    "which": (
        "Which picture has {a_thing}, the first or the second?",
        "Where is there {a_thing}, in the first or the second picture?",
        "Do you see {a_thing} in the first or the second picture?",
    ),
    "describe": (
        "Describe the picture.", "What do you see?", "What is in the picture?",
    ),
}  # fmt: skip
"""Several wordings for each kind of question."""

KINDS = tuple(PHRASINGS)
"""The kinds of questions."""

SIDES = {
    "to the right of": (0, 1), "right of": (0, 1), "to the left of": (0, -1), "left of": (0, -1),
    "above": (-1, 0), "below": (1, 0), "under": (1, 0),
}  # fmt: skip
"""Ways to say where a neighbour is, and its (rows, columns) from the thing."""


@dataclass(frozen=True)
class Asked:
    """A question before the pictures are drawn.

    Arguments:
        kind: one of `KINDS`.
        text: the question.
        answer: its answer, in words.
        cells: indices of the cells that hold the evidence; none where it is the grid itself.
        second: whether these cells are in the second of two pictures.
    """

    kind: str
    text: str
    answer: str
    cells: tuple[int, ...] = field(default=())
    second: bool = False


def ask(
    kind: str,
    layout: Layout,
    random: Random,
    other: Layout | None = None,
    *,
    most: int = HIGHEST,
) -> Asked | None:
    """Ask something about a scene.

    Arguments:
        kind: one of `KINDS`.
        layout: the scene.
        random: chooses what is asked for, and the wording.
        other: the second picture; needed for "which".
        most: counts go up to this number.

    Returns:
        None where the scene allows no such question: a code that is not there cannot be read.
    """
    if kind == "which":
        return _ask_which(layout, other, random) if other else None
    if kind == "count":
        return _ask_count(layout, random, most)
    return _ASKERS[kind](layout, random)


def _asked(random: Random, kind: str, answer: str, cells: tuple[int, ...] = (), **blanks) -> Asked:
    return Asked(kind, pick(random, PHRASINGS[kind]).format(**blanks), answer, cells)


def _unique(layout: Layout, key) -> list[int]:
    """Cells whose thing shares `key` with no other; a key that is empty does not count."""
    times = Counter(key(thing) for thing in layout.cells)
    return [i for i, thing in enumerate(layout.cells) if key(thing) and times[key(thing)] == 1]


def _named(thing: Thing) -> str:
    """The thing as a question names it: "the red star"; "" for an empty cell."""
    return f"the {thing.colour} {thing.name}" if thing.colour else str(thing) if thing.name else ""


def _ask_colour(layout: Layout, random: Random) -> Asked | None:
    found = _unique(layout, lambda thing: thing.colour and thing.name)
    if not found:
        return None
    cell = pick(random, found)
    thing = layout.cells[cell]
    return _asked(random, "colour", thing.colour, (cell,), shape=thing.name)


def _ask_shape(layout: Layout, random: Random) -> Asked | None:
    found = _unique(layout, lambda thing: thing.colour)
    if not found:
        return None
    cell = pick(random, found)
    thing = layout.cells[cell]
    return _asked(random, "shape", thing.name, (cell,), colour=thing.colour)


def _ask_at(layout: Layout, random: Random) -> Asked:
    cell = int(random.random() * len(layout.cells))
    row, column = layout.place(cell)
    return _asked(
        random, "at", str(layout.cells[cell]), (cell,), row=row + 1, column=column + 1,
        nth_row=ORDINALS[row], nth_column=ORDINALS[column],
    )  # fmt: skip


def _ask_where(layout: Layout, random: Random) -> Asked | None:
    found = _unique(layout, _named)
    if not found:
        return None
    cell = pick(random, found)
    row, column = layout.place(cell)
    answer = f"row {NUMBERS[row + 1]}, column {NUMBERS[column + 1]}"
    return _asked(random, "where", answer, (cell,), thing=_named(layout.cells[cell]))


def _ask_read(layout: Layout, random: Random) -> Asked | None:
    cells = tuple(i for i, thing in enumerate(layout.cells) if thing.name and not thing.colour)
    if not cells:
        return None
    return _asked(random, "read", "".join(layout.cells[i].name for i in cells), cells)


def _ask_rows(layout: Layout, random: Random) -> Asked:
    return _asked(random, "rows", NUMBERS[layout.rows])


def _ask_columns(layout: Layout, random: Random) -> Asked:
    return _asked(random, "columns", NUMBERS[layout.columns])


def outline(layout: Layout) -> str:
    """ "wide", "tall" or "square"."""
    if layout.rows == layout.columns:
        return "square"
    return "wide" if layout.columns > layout.rows else "tall"


def _ask_wide(layout: Layout, random: Random) -> Asked:
    return _asked(random, "wide", outline(layout))


def _ask_next(layout: Layout, random: Random) -> Asked | None:
    side = pick(random, tuple(SIDES))
    down, right = SIDES[side]
    found = []
    for cell in _unique(layout, _named):
        row, column = layout.place(cell)
        if layout.cell(row + down, column + right) is not None:
            found.append(cell)
    if not found:
        return None
    cell = pick(random, found)
    neighbour = cell + down * layout.columns + right
    answer, name = str(layout.cells[neighbour]), _named(layout.cells[cell])
    return _asked(random, "next", answer, (cell, neighbour), side=side, thing=name)


def _ask_count(layout: Layout, random: Random, most: int) -> Asked | None:
    """Numbers come up equally often as far as the scene has them; "none" more rarely."""
    by_number: dict[int, list[tuple[str, tuple[int, ...]]]] = {}
    names = [(f"{colour} things", "colour", colour) for colour in COLOURS]
    names += [(PLURALS[shape], "name", shape) for shape in SHAPES]
    for words, kind, value in names:
        cells = tuple(i for i, t in enumerate(layout.cells) if getattr(t, kind) == value)
        by_number.setdefault(len(cells), []).append((words, cells))
    numbers = [n for n in by_number if 0 < n <= most]
    if 0 in by_number and (not numbers or random.random() < 0.1):
        numbers = [0]
    if not numbers:
        return None
    number = pick(random, sorted(numbers))
    words, cells = pick(random, by_number[number])
    return _asked(random, "count", NUMBERS[number], cells, things=words)


def _ask_which(layout: Layout, other: Layout, random: Random) -> Asked | None:
    second = random.random() < 0.5
    here, there = (other, layout) if second else (layout, other)
    elsewhere = {_named(thing) for thing in there.cells}
    found = [i for i, t in enumerate(here.cells) if _named(t) and _named(t) not in elsewhere]
    if not found:
        return None
    thing = here.cells[pick(random, found)]
    cells = tuple(i for i, t in enumerate(here.cells) if t == thing)
    asked = _asked(random, "which", f"the {ORDINALS[second]}", cells, a_thing=thing)
    return Asked(asked.kind, asked.text, asked.answer, cells, second)


def _ask_describe(layout: Layout, random: Random) -> Asked:
    first, last = layout.cells[0], layout.cells[-1]
    if len(layout.cells) == 1:
        return _asked(random, "describe", f"A square picture of {first}.", (0,))
    rows = f"{NUMBERS[layout.rows]} row{'s' * (layout.rows > 1)}"
    columns = f"{NUMBERS[layout.columns]} column{'s' * (layout.columns > 1)}"
    answer = f"A {outline(layout)} picture, {rows} and {columns}, from {first} to {last}."
    return _asked(random, "describe", answer, (0, len(layout.cells) - 1))


_ASKERS = {
    "colour": _ask_colour, "shape": _ask_shape, "at": _ask_at, "where": _ask_where,
    "read": _ask_read, "rows": _ask_rows, "columns": _ask_columns, "wide": _ask_wide,
    "next": _ask_next, "describe": _ask_describe,
}  # fmt: skip
