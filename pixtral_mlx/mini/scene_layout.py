"""What is where in a scene: a grid of cells, each with a shape, a character or nothing in it."""

from dataclasses import dataclass
from random import Random

from PIL import Image

from .drawing import CHARACTERS, COLOURS, INK, SHAPES, ground, mask, paint, tile_mask

LARGEST = 5
"""Most rows and most columns of cells."""

PATCHES = 2
"""Patches along one side of a cell."""

CELL_SIDES = (32, 32, 32, 31, 30, 29)
"""Sides of a cell in pixels. Below 32 the picture's sides are no multiples of 16, and the official
resize brings a cell to whole patches; below 29, five of them would need one patch less."""


@dataclass(frozen=True)
class Thing:
    """What is in one cell: a coloured shape, a character (no colour), or nothing (neither)."""

    name: str = ""
    colour: str = ""

    def __str__(self) -> str:
        """As answers say it: "a red star", "the letter K", "the digit 7", "nothing"."""
        if self.colour:
            return f"a {self.colour} {self.name}"
        if not self.name:
            return "nothing"
        return f"the {'digit' if self.name.isdigit() else 'letter'} {self.name}"


@dataclass(frozen=True)
class Layout:
    """A scene before it is drawn.

    Arguments:
        rows, columns: of cells.
        cells: row by row.
        look: seed of everything that does not change an answer.
    """

    rows: int
    columns: int
    cells: tuple[Thing, ...]
    look: int

    def cell(self, row: int, column: int) -> Thing | None:
        """What is in a cell, counted from zero; None outside the picture."""
        if 0 <= row < self.rows and 0 <= column < self.columns:
            return self.cells[row * self.columns + column]
        return None

    def place(self, index: int) -> tuple[int, int]:
        """(row, column) of a cell."""
        return divmod(index, self.columns)

    def patches(self, *indices: int) -> tuple[tuple[int, int], ...]:
        """(row, column) of every patch of these cells."""
        corners = [(PATCHES * row, PATCHES * column) for row, column in map(self.place, indices)]
        steps = [(down, right) for down in range(PATCHES) for right in range(PATCHES)]
        return tuple(
            (row + down, column + right) for row, column in corners for down, right in steps
        )


def pick(random: Random, options):
    """One of several, through `Random.random`, whose numbers never change between versions."""
    return options[int(random.random() * len(options))]


def shuffled(random: Random, options) -> list:
    """All of them in another order; see `pick`."""
    return sorted(options, key=lambda _: random.random())


def make_layout(random: Random, rows: int | None = None, columns: int | None = None) -> Layout:
    """Draw lots for a scene.

    Arguments:
        random: where chance comes from.
        rows, columns: 1 to 5 each; None for any.
    """
    rows = rows or pick(random, range(1, LARGEST + 1))
    columns = columns or pick(random, range(1, LARGEST + 1))
    # A few shapes and colours only in some scenes, so that there is something to count.
    shapes = shuffled(random, SHAPES)[: pick(random, (2, 3, 4, 6, 8))]
    colours = shuffled(random, COLOURS)[: pick(random, (2, 3, 4, 6, 8))]
    cells = [_thing(random, shapes, colours) for _ in range(rows * columns)]
    if columns > 1 and random.random() < 0.4:
        _write_code(random, cells, rows, columns)
    return Layout(rows, columns, tuple(cells), int(random.random() * 2**32))


def _thing(random: Random, shapes: list[str], colours: list[str]) -> Thing:
    if random.random() < 0.06:
        return Thing()
    return Thing(pick(random, shapes), pick(random, colours))


def _write_code(random: Random, cells: list[Thing], rows: int, columns: int) -> None:
    """Two to four different characters side by side."""
    length = 2 + int(random.random() * min(columns - 1, 3))
    start = int(random.random() * rows) * columns + int(random.random() * (columns - length + 1))
    characters = shuffled(random, CHARACTERS)
    cells[start : start + length] = [Thing(name) for name in characters[:length]]


def draw(layout: Layout) -> Image.Image:
    """The picture of a scene: RGB, `columns` x `rows` cells of 29 to 32 pixels."""
    random = Random(layout.look)
    side = pick(random, CELL_SIDES)
    tint = tuple(206 + int(random.random() * 30) for _ in range(3))
    noise = bytes(int(random.random() * 256) for _ in range(36))
    canvas = ground(layout.columns * side, layout.rows * side, tint, noise)
    card = tuple(240 + int(random.random() * 13) for _ in range(3))
    for index, thing in enumerate(layout.cells):
        row, column = layout.place(index)
        corner = (column * side, row * side)
        paint(canvas, card, tile_mask(side), corner)
        if thing.name:
            _put(canvas, thing, side, corner, random)
    return Image.fromarray(canvas.astype("uint8"))


def _put(canvas, thing: Thing, side: int, corner: tuple[int, int], random: Random) -> None:
    """Draw one thing somewhere near the middle of its cell, with a darker rim."""
    colour = COLOURS.get(thing.colour, INK)
    light = 94 + int(random.random() * 13)
    fill = tuple(min(value * light // 100, 255) for value in colour)
    size = pick(random, (90, 98, 106))
    x, y = (start + int(random.random() * 5) - 2 for start in corner)
    if thing.colour:
        rim = tuple(value * 7 // 10 for value in fill)
        paint(canvas, rim, mask(thing.name, side, size + 8), (x, y))
    paint(canvas, fill, mask(thing.name, side, size), (x, y))
