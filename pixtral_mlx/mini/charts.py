"""Bar charts, their bars stacked of squares, and what is asked about them."""

from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import numpy as np
from PIL import Image

from .drawing import CHARACTERS, COLOURS, INK, ground, mask, paint
from .pages import CELL, PATCH
from .questions import NUMBERS
from .scene_layout import LARGEST, pick, shuffled

LETTERS = tuple(name for name in CHARACTERS if name.isalpha())
HIGHEST_BAR, GAP = LARGEST - 1, 4
"""The highest value: with the letters below, as many rows as pixtral-mini has learned to tell
apart; and what is left free, in pixels, around each of the squares that a bar is stacked of."""

Patch = tuple[int, int]


class Bar(NamedTuple):
    """One of a chart: its colour, and how many squares are stacked."""

    colour: str
    value: int


Bars = dict[str, Bar]
"""The bars of a chart by the letters below them, from left to right."""


@dataclass(frozen=True)
class ChartQuestion:
    """A question about a chart: its kind, the words, and the letter that it is about, if any."""

    kind: str
    text: str
    answer: str
    about: str | None = None


def chart(random: Random) -> tuple[Image.Image, Bars]:
    """A bar chart, in whole patches, and its bars, of which one is the tallest and one the
    smallest."""
    letters = shuffled(random, LETTERS)[: pick(random, range(2, LARGEST + 1))]
    colours = shuffled(random, COLOURS)
    values = [0, 0]
    while any(values.count(most) > 1 for most in (min(values), max(values))):
        values = [pick(random, range(1, HIGHEST_BAR + 1)) for _ in letters]
    bars = {
        letter: Bar(colour, value)
        for letter, colour, value in zip(letters, colours, values, strict=False)
    }
    tint = tuple(225 + int(random.random() * 25) for _ in range(3))
    noise = bytes(int(random.random() * 256) for _ in range(36))
    bottom = HIGHEST_BAR * CELL
    canvas = ground(len(bars) * CELL, bottom + CELL, tint, noise)
    square = np.full((CELL - 2 * GAP, CELL - 2 * GAP), 255, np.int32)
    for i, (letter, (colour, value)) in enumerate(bars.items()):
        for level in range(1, value + 1):
            place = (i * CELL + GAP, bottom - level * CELL + GAP)
            paint(canvas, COLOURS[colour], square, place)
        paint(canvas, INK, mask(letter, CELL, 98), (i * CELL, bottom))
    return Image.fromarray(canvas.astype("uint8")), bars


def chart_patches(bars: Bars, letter: str) -> tuple[list[Patch], list[Patch]]:
    """(row, column) of the patches of a letter, and of the highest square above it."""
    left, side = CELL // PATCH * [*bars].index(letter), range(CELL // PATCH)

    def cell(row: int) -> list[Patch]:
        return [(len(side) * row + i, left + j) for i in side for j in side]

    return cell(HIGHEST_BAR), cell(HIGHEST_BAR - bars[letter].value)


def chart_questions(bars: Bars) -> list[ChartQuestion]:
    """All that is asked about a chart, with the answers."""
    by_value = sorted(bars, key=lambda letter: bars[letter].value)
    least, most = by_value[0], by_value[-1]
    asked = [
        ChartQuestion("tallest", "Which bar is the tallest?", f"the letter {most}", most),
        ChartQuestion("smallest", "Which bar is the smallest?", f"the letter {least}", least),
        ChartQuestion("bars", "How many bars are there?", NUMBERS[len(bars)]),
    ]
    for letter, (colour, value) in bars.items():
        asked += [
            ChartQuestion("value", f"What is the value of {letter}?", NUMBERS[value], letter),
            ChartQuestion("colour", f"What colour is {letter}?", colour),
        ]
    return asked
