"""Small pages, as of a document: a scene on a white sheet each, and what is asked about them."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from PIL import Image

from .drawing import COLOURS, SHAPES
from .questions import NUMBERS, PHRASINGS, PLURALS, ask
from .scene_layout import Layout, Thing, draw, make_layout, pick

PATCH, CELL = 16, 32
"""Sides in pixels."""

MOST_PAGES = 4
MOST_ROWS, MOST_COLUMNS = 2, 3
"""Of cells on a page."""
MARGINS = (0, 1, 2)
"""White on each side, in patches."""
LAST_PAGE = 20
"""The highest number of a first page."""
MOST_COUNTED = 4

KINDS = (
    "is there", "is there", "is there", "page", "read", "read", "count", "count", "colour", "shape",
)  # fmt: skip
"""What is asked, as often as it stands here."""

FROM_ELSEWHERE, NOT_SHOWN = 0.3, 0.05
"""How often a page is asked about what another one has, and how often that page is not there: else
that it may not look elsewhere is hardly ever seen."""


@dataclass(frozen=True)
class Page:
    """One page.

    Arguments:
        number: that stands before it.
        layout: of the scene on it.
        left, top: white beside and above the scene, in patches.
        picture: in whole patches, so that nothing is resized.
    """

    number: int
    layout: Layout
    left: int
    top: int
    picture: Image.Image

    def patches(self, cell: int) -> list[tuple[int, int]]:
        """(row, column) of the patches of a cell."""
        return [(row + self.top, column + self.left) for row, column in self.layout.patches(cell)]


@dataclass(frozen=True)
class PageQuestion:
    """A question about pages.

    Arguments:
        kind: one of `KINDS`.
        text: names a page ("Page 3: ...") unless it is about all; one that is not there has nothing
            on it.
        answer: in words.
        cells: (index of the page, cell), of what the answer is seen in, in its order; none where
            nothing is there.
        page: the number of the one that it names; None: it is about all.
    """

    kind: str
    text: str
    answer: str
    cells: tuple[tuple[int, int], ...] = ()
    page: int | None = None


def page(random: Random, number: int = 1) -> Page:
    """A small scene on a white sheet."""
    rows, columns = pick(random, range(1, MOST_ROWS + 1)), pick(random, range(1, MOST_COLUMNS + 1))
    layout = make_layout(random, rows, columns)
    inner = draw(layout).resize((columns * CELL, rows * CELL))
    left, top, right, bottom = (pick(random, MARGINS) for _ in range(4))
    size = (inner.width + PATCH * (left + right), inner.height + PATCH * (top + bottom))
    sheet = Image.new("RGB", size, (255, 255, 255))
    sheet.paste(inner, (PATCH * left, PATCH * top))
    return Page(number, layout, left, top, sheet)


def document(random: Random) -> list[Page]:
    """One to four pages, numbered from 1 or from somewhere."""
    first = pick(random, range(1, LAST_PAGE + 1)) if random.random() < 0.5 else 1
    count = pick(random, (1, 1, 2, 2, 3, MOST_PAGES))
    return [page(random, number) for number in range(first, first + count)]


def ask_pages(
    random: Random, pages: Sequence[Page], count: int, *, numbered: bool = True
) -> list[PageQuestion]:
    """So many questions, each about one of the pages, which it then names, or about all.

    Arguments:
        numbered: whether the numbers of pages are known, so that questions may say them.
    """
    found: list[PageQuestion] = []
    while len(found) < count:
        kind = pick(random, KINDS)
        if kind == "page" and not numbered:
            continue
        number = _page_number(random, pages) if numbered and random.random() < 0.5 else None
        asked = _which_page(random, pages) if kind == "page" else _ask(random, kind, pages, number)
        found += [asked] if asked is not None else []
    return found


def _page_number(random: Random, pages: Sequence[Page]) -> int:
    """Of a page to ask about, which need not be there."""
    numbers = [each.number for each in pages]
    if random.random() < NOT_SHOWN:
        numbers = [n for n in range(1, LAST_PAGE + MOST_PAGES) if n not in numbers]
    return pick(random, numbers)


def _ask(
    random: Random, kind: str, pages: Sequence[Page], number: int | None
) -> PageQuestion | None:
    """A question about the page with a number, or about all; None where there is none."""
    shown = [i for i, each in enumerate(pages) if number in (None, each.number)]
    if kind == "read":
        shown = [i for i in shown if _codes(pages[i].layout)]
        if len(shown) != 1:
            return None
    places = [(i, cell) for i in shown for cell in range(len(pages[i].layout.cells))]
    # What needs no place is asked about all cells as if they stood in one row.
    things = tuple(pages[i].layout.cells[cell] for i, cell in places)
    row = Layout(1, len(things), things, 0)
    others = [
        thing
        for i, each in enumerate(pages) if i not in shown
        for thing in each.layout.cells if thing.colour
    ]  # fmt: skip
    chance = FROM_ELSEWHERE if shown else 1.0
    like = pick(random, others) if others and random.random() < chance else None
    if not shown and (like is None or kind not in ("is there", "count")):
        return None
    if kind == "is there":
        text, answer, cells = _is_there(random, row, like)
    elif kind == "count" and like is not None:
        text, answer, cells = _count_of(random, row, like)
    else:
        most = MOST_COUNTED if random.random() < 0.65 else 0
        asked = ask(kind, row, random, most=most)
        if asked is None:
            return None
        text, answer, cells = asked.text, asked.answer, asked.cells
    text = text if number is None else f"Page {number}: {text}"
    return PageQuestion(kind, text, answer, tuple(places[i] for i in cells), number)


def _which_page(random: Random, pages: Sequence[Page]) -> PageQuestion | None:
    """Which one holds a thing that the others do not."""
    index = pick(random, range(len(pages)))
    thing = pick(random, pages[index].layout.cells)
    holders = [i for i, each in enumerate(pages) if thing in each.layout.cells]
    if not thing.name or len(holders) != 1:
        return None
    cells = tuple((index, i) for i, each in enumerate(pages[index].layout.cells) if each == thing)
    return PageQuestion("page", f"Which page has {thing}?", str(pages[index].number), cells)


def _count_of(random: Random, row: Layout, like: Thing) -> tuple[str, str, tuple[int, ...]]:
    """(question, answer, cells), of the shape or the colour of a thing."""
    what, words = pick(random, (("name", PLURALS[like.name]), ("colour", f"{like.colour} things")))
    cells = tuple(
        i for i, each in enumerate(row.cells) if getattr(each, what) == getattr(like, what)
    )
    return pick(random, PHRASINGS["count"]).format(things=words), NUMBERS[len(cells)], cells


def _is_there(
    random: Random, row: Layout, like: Thing | None = None
) -> tuple[str, str, tuple[int, ...]]:
    """(question, answer, cells). Half of what is not there is like something that is.

    Arguments:
        like: asked about itself; None: chosen here.
    """
    chance = 1.0 if like else random.random()
    if chance < 0.2:
        return _said("a code", _codes(row))
    coloured = [thing for thing in row.cells if thing.colour]
    thing = like or (pick(random, coloured) if coloured else Thing("star", "red"))
    if chance < 0.6:
        kept = random.random()
        thing = Thing(
            thing.name if kept < 0.25 else pick(random, SHAPES),
            thing.colour if kept > 0.75 else pick(random, [*COLOURS]),
        )
    if random.random() < 0.4:
        same = tuple(i for i, each in enumerate(row.cells) if each.name == thing.name)
        return _said(f"a {thing.name}", same)
    return _said(str(thing), tuple(i for i, each in enumerate(row.cells) if each == thing))


def _said(what: str, cells: tuple[int, ...]) -> tuple[str, str, tuple[int, ...]]:
    return f"Is there {what}?", "yes" if cells else "no", cells


def _codes(layout: Layout) -> tuple[int, ...]:
    """The cells of characters."""
    return tuple(i for i, each in enumerate(layout.cells) if each.name and not each.colour)
