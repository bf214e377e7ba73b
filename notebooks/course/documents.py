"""What notebook 10 shares: forms about pictures, what a model fills in, and pictures of that."""

import html
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from random import Random
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

import pixtral_mlx as px
from pixtral_mlx.interpret.picture import INK, QUIET_INK
from pixtral_mlx.mini import Scene
from pixtral_mlx.mini.drawing import COLOURS, SHAPES
from pixtral_mlx.mini.questions import PLURALS
from pixtral_mlx.mini.scene_layout import Layout, Thing, draw

from .exercises import Verdict, numbers
from .figures import PAD, RULE, SERIES, WIDTH, _font, _page, axis, plane

RIGHT, INVENTED = SERIES[0], SERIES[1]
MOST_NINES = 5
"""Where the axis of confidences ends: 0.99999."""
ALLOWED = 0.05
"""Of the inventions so many may pass in the exercise."""
HEIGHT = 520
"""Of the review page's frame, in pixels."""


class Filled(NamedTuple):
    """A field that was filled in.

    Arguments:
        field: its JSON pointer.
        there: whether the picture has it.
        value: what it says; None: nothing.
        right: whether that is so.
        confidence: of the value.
    """

    field: str
    there: bool
    value: Any
    right: bool
    confidence: float

    @property
    def invented(self) -> bool:
        """Whether it says something where there is nothing."""
        return not self.there and self.value is not None


def colour_of(shape: str) -> dict[str, Any]:
    """A field for the colour of a shape that may be absent, with both of its questions."""
    return {
        "enum": [*COLOURS, None],
        "x-question": f"What colour is the {shape}?",
        "x-present": f"How many {PLURALS[shape]} are there?",
    }


def form(one: Scene) -> dict[str, Any]:
    """A schema that asks for the colour of each shape of which there is one, or none."""
    times = Counter(thing.name for thing in one.layout.cells)
    fields = {shape: colour_of(shape) for shape in SHAPES if times[shape] <= 1}
    return {"type": "object", "properties": fields, "required": [*fields]}


def fill(model: px.Pixtral, shown: Iterable[Scene], *, double_check: bool) -> list[Filled]:
    """The forms of some scenes, filled in by a question a field; no confidence is too low.

    Arguments:
        double_check: ask as well whether it is there at all.
    """
    found = []
    for one in shown:
        colours = {f"/{thing.name}": thing.colour for thing in one.layout.cells}
        read = px.extract(
            model, one.image, form(one), one_by_one=True, double_check=double_check,
            min_confidence=0,
        )  # fmt: skip
        for name, field in read.fields.items():
            right = field.value == colours.get(name)
            found.append(Filled(name, name in colours, field.value, right, field.confidence))
    return found


def told(filled: Sequence[Filled]) -> str:
    """What was filled in, counted."""
    there, absent = ([one for one in filled if one.there is whether] for whether in (True, False))
    right, nothing = sum(one.right for one in there), sum(one.right for one in absent)
    return (
        f"there: {len(there)} fields, {right} with the right colour\n"
        f"not there: {len(absent)} fields, {nothing} left empty, {len(absent) - nothing} invented"
    )


# A line drawn by confidence ------------------------------------------------------------------


def price(filled: Sequence[Filled], line: float) -> tuple[float, float]:
    """Where whatever is surer than a line passes: the share of right values that do not, and of
    inventions that do."""
    right = [one.confidence >= line for one in filled if one.there and one.right]
    invented = [one.confidence >= line for one in filled if one.invented]
    return 1 - float(np.mean(right or [1])), float(np.mean(invented or [0]))


def check_line(answer: Any, filled: Sequence[Filled]) -> Verdict:
    """The lowest confidence at which at most `ALLOWED` of the inventions pass."""
    found = numbers([answer], 1)
    if found is None or not 0 <= found[0] <= 1:
        return Verdict(False, "Give a number from 0 to 1, as in 0.9.")
    right = [one for one in filled if one.there and one.right]
    lines = sorted({one.confidence for one in filled} | {1.0})
    least = next(line for line in lines if price(filled, line)[1] <= ALLOWED)
    lost, passed = price(filled, found[0])
    review = f"{round(lost * len(right))} of {len(right)} right values need a look as well"
    if passed > ALLOWED:
        count = round(passed * sum(one.invented for one in filled))
        return Verdict(False, f"{count} inventions pass, {passed:.0%} of them.")
    if lost > price(filled, least)[0]:
        return Verdict(False, f"Few inventions pass, but {review}. A lower line does with fewer.")
    return Verdict(True, f"{passed:.0%} of the inventions pass, and {review}.")


def _nines(confidence: float) -> float:
    """0 for 0, 1 for 0.9, 2 for 0.99."""
    return float(np.clip(-np.log10(max(1 - confidence, 1e-12)), 0, MOST_NINES))


def confidences(filled: Sequence[Filled], line: float = 0.9) -> Image.Image:
    """A dot for each value, right ones above and inventions below, by how sure the model was.

    Arguments:
        line: is drawn; what is to the right of it is counted.
    """
    groups = {
        "right": (RIGHT, [one.confidence for one in filled if one.there and one.right]),
        "invented": (INVENTED, [one.confidence for one in filled if one.invented]),
    }
    left, right, step, bins = 110, 30, 9, 66
    wide = WIDTH - left - right
    stacks = {
        name: Counter(int(_nines(c) / MOST_NINES * (bins - 1)) for c in values)
        for name, (_, values) in groups.items()
    }
    heights = {
        name: max(step * max(stack.values(), default=1), 40) for name, stack in stacks.items()
    }
    page, pen = _page(WIDTH, 60 + sum(heights.values()) + 40 * len(groups) + 46)
    pen.text((PAD, PAD - 4), "How sure the model was of each value", fill=INK, font=_font(18))
    x = left + wide * _nines(line) / MOST_NINES
    bottom = 60
    for name, (colour, values) in groups.items():
        bottom += heights[name] + 30
        pen.line((left, bottom + 1, WIDTH - right, bottom + 1), fill=RULE)
        pen.text((left - 14, bottom - 8), name, fill=INK, font=_font(16), anchor="rm")
        for column, count in stacks[name].items():
            at = left + wide * column / (bins - 1)
            for number in range(count):
                y = bottom - step * number - 4
                pen.ellipse((at - 3.5, y - 3.5, at + 3.5, y + 3.5), fill=colour)
        above = sum(value >= line for value in values)
        said = f"{above} of {len(values)} at {line:g} or more"
        pen.text((x + 8, bottom - heights[name] - 12), said, fill=INK, font=_font(14), anchor="lm")
    for y in range(58, bottom, 8):
        pen.line((x, y, x, y + 4), fill=INK, width=1)
    for nines in range(MOST_NINES + 1):
        label = "0" if not nines else f"0.{'9' * nines}"
        place = (left + wide * nines / MOST_NINES, bottom + 16)
        pen.text(place, label, fill=QUIET_INK, font=_font(14), anchor="mm")
    pen.text((left + wide / 2, bottom + 38), "confidence", fill=INK, font=_font(15), anchor="mm")
    return page


def trade(filled: Sequence[Filled], asked: Sequence[Filled] = ()) -> Image.Image:
    """What every line by confidence lets pass and what it costs; and where a second question
    stands.

    Arguments:
        asked: the same forms with that question.
    """
    lines = sorted({0.0, 1.1, *(one.confidence for one in filled)})
    points = [tuple(100 * share for share in price(filled, line)) for line in lines]
    title = "Every line by confidence, from the lowest to the highest"
    names = ("right values that somebody has to look at, %", "inventions that pass, %")
    page, pen, place = plane(axis([0, 100]), axis([0, 100]), title, names)
    at = [place(point) for point in points]
    steps = [at[0]]
    for before, point in pairwise(at):
        steps += [(before[0], point[1]), point]
    pen.line(steps, fill=SERIES[0], width=3, joint="curve")
    for line in (0.5, 0.9, 0.99, 0.999):
        x, y = place([100 * share for share in price(filled, line)])
        pen.ellipse((x - 5, y - 5, x + 5, y + 5), fill=SERIES[0])
        pen.text((x + 10, y - 9), f"{line:g}", fill=INK, font=_font(14), anchor="lm")
    if asked:
        there, absent = ([one for one in asked if one.there is w] for w in (True, False))
        lost = 100 * float(np.mean([one.value is None for one in there]))
        passed = 100 * float(np.mean([one.invented for one in absent]))
        x, y = place((lost, passed))
        name = place((lost + 22, passed + 22))
        pen.line((x, y, name[0] - 8, name[1]), fill=SERIES[2], width=2)
        pen.ellipse((x - 8, y - 8, x + 8, y + 8), fill=SERIES[2])
        said = f"a second question: {lost:.0f} % and {passed:.0f} %"
        pen.text(name, said, fill=INK, font=_font(15), anchor="lm")
    return page


# A document ----------------------------------------------------------------------------------


def slip(total: int) -> tuple[Image.Image, dict[str, Any]]:
    """A picture of 3 rows and 4 columns that says in two digits how many cells it has, rightly or
    wrongly; and a schema with a rule about it."""
    random = Random(12)
    shapes = [shape for shape in SHAPES if shape not in ("heart", "ring")]
    cells = [Thing(random.choice(shapes), random.choice([*COLOURS])) for _ in range(12)]
    cells[2] = Thing("heart", "red")
    cells[5:7] = [Thing(digit) for digit in str(total)]
    size = {"type": "integer", "minimum": 1, "maximum": 5, "x-present": False}
    schema = {
        "type": "object",
        "properties": {
            "rows": {**size, "x-question": "How many rows are there?"},
            "columns": {**size, "x-question": "How many columns are there?"},
            "total": {
                "type": "integer", "maximum": 99, "x-question": "What is the code?",
                "x-present": False,
            },
            "heart": colour_of("heart"),
            "ring": colour_of("ring"),
        },
        "required": ["rows", "columns", "total", "heart", "ring"],
        "x-checks": ["total == rows * columns"],
    }  # fmt: skip
    return draw(Layout(3, 4, tuple(cells), 7)), schema


def boxes(picture: Image.Image, fields: dict[str, px.Field], height: int = 300) -> Image.Image:
    """Where each value of a picture stands, with its name."""
    scale = height / picture.height
    wide = round(picture.width * scale)
    page, pen = _page(wide + 2 * PAD + 260, height + 2 * PAD)
    page.paste(picture.resize((wide, height), Image.Resampling.LANCZOS), (PAD, PAD))
    top = PAD
    for number, (name, field) in enumerate(fields.items()):
        colour = SERIES[number % len(SERIES)]
        said = "nothing there" if field.value is None else f"{field.value}"
        pen.rectangle((wide + 2 * PAD, top + 4, wide + 2 * PAD + 12, top + 16), fill=colour)
        pen.text((wide + 2 * PAD + 22, top), f"{name[1:]}: {said}", fill=INK, font=_font(16))
        top += 32
        if field.box is not None:
            _ring(pen, field.box, (wide, height), colour)
    return page


def _ring(pen: ImageDraw.ImageDraw, box: Sequence[float], size: tuple[int, int], colour: str):
    x, y, width, height = (share * side for share, side in zip(box, size * 2, strict=True))
    place = (PAD + x + 2, PAD + y + 2, PAD + x + width - 3, PAD + y + height - 3)
    pen.rectangle(place, outline=colour, width=4)


class ReviewPage:
    """The page on which a person checks a document, in a frame; it is whole, and no file."""

    def __init__(self, found: px.Extraction):
        self._page = found.to_html(source="slip.png")

    def __repr__(self) -> str:
        return "ReviewPage: run this cell to see it"

    def _repr_html_(self) -> str:
        held = html.escape(self._page)
        return (
            f'<iframe srcdoc="{held}" width="100%" height="{HEIGHT}" style="border: 1px solid '
            '#ddd; border-radius: 6px" title="The review page"></iframe>'
        )
