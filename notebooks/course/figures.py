"""The course's figures, drawn with Pillow: plain charts that a notebook keeps as pictures."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pixtral_mlx.interpret.picture import BREAK_COLOUR, END_COLOUR, INK, PAPER, QUIET_INK, cividis

SERIES = ("#0072b2", BREAK_COLOUR, "#009e73", "#cc79a7", "#56b4e9", END_COLOUR)
"""Colours of several things in one chart; safe for colour-blind readers (Okabe and Ito)."""

PATCH_COLOUR, TEXT_COLOUR, RULE = "#0072b2", "#c8ccd2", "#dddddd"
PAD, WIDTH = 16, 720
INKS = ("#ffffff", INK)


def table(header: Sequence[str], *rows: Sequence[object]) -> "Markdown":
    """A table that a notebook shows; numbers should come formatted."""
    lines = [header, ["---"] * len(header), *rows]
    return Markdown(
        "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
    )


class Markdown(str):
    """Text that a notebook shows as Markdown."""

    def _repr_markdown_(self) -> str:
        return str(self)


def bars(
    values: Mapping[str, float], title: str = "", unit: str = "%", chance: float | None = None
):
    """Horizontal bars, one a name, with their numbers; `chance` draws a dashed line.

    Arguments:
        values: shares from 0 to 1 where the unit is "%", else any numbers from 0.
    """
    font, line = _font(16), 34
    left = PAD + max(int(font.getlength(name)) for name in values) + 12
    width = max(WIDTH, left + 380)
    top = PAD + (32 if title else 0)
    page, pen = _page(width, top + line * len(values) + PAD + (24 if chance is not None else 0))
    pen.text((PAD, PAD - 2), title, fill=INK, font=_font(18))
    most = 1.0 if unit == "%" else max([*values.values(), 1e-12])
    room = width - left - 110
    for i, (name, value) in enumerate(values.items()):
        y = top + i * line
        pen.text((left - 12, y + 15), name, fill=INK, font=font, anchor="rm")
        pen.rectangle((left, y + 4, left + max(1, round(room * value / most)), y + 26), SERIES[0])
        number = f"{value:.0%}" if unit == "%" else f"{short(value)} {unit}".strip()
        pen.text((left + room * value / most + 8, y + 15), number, fill=INK, font=font, anchor="lm")
    if chance is not None:
        x, bottom = left + room * chance / most, top + line * len(values)
        for y in range(top, bottom, 8):
            pen.line((x, y, x, y + 4), fill=END_COLOUR, width=2)
        pen.text(
            (x, bottom + 12), f"chance {chance:.0%}", fill=END_COLOUR, font=_font(14), anchor="mm"
        )
    return page


class Axis(NamedTuple):
    """From `low` to `high`, with marks; powers of ten where `log`."""

    low: float
    high: float
    marks: list[float]
    log: bool = False

    def share(self, value: float) -> float:
        """How far along the axis a value lies, 0 to 1; none lies below the lowest power of ten."""
        value = max(self.low, float(np.log10(max(value, LEAST)))) if self.log else value
        return (value - self.low) / (self.high - self.low)

    def label(self, mark: float) -> str:
        """What is written at a mark."""
        return _power(mark) if self.log else f"{mark:,.4g}"


def _power(mark: float) -> str:
    """Of ten: 0.01, 1, 100; and 10^-5, which Pillow's font has no small digits for."""
    return f"{10**mark:g}" if abs(mark) < 4 else f"10^{mark:.0f}"


LEAST = 1e-7
"""What an axis of powers of ten shows: less is rounding."""


def axis(values: Iterable[float], log: bool = False) -> Axis:
    """An axis for some values: from zero, with a mark at every whole number if they are few whole
    numbers, else at quarters of a round number; or, with `log`, at powers of ten."""
    every = list(values)
    low, high = min([*every, 0]), max([*every, 0])
    if log:
        low = np.floor(np.log10(max(LEAST, min([v for v in every if v > 0], default=0.1))))
        high = max(np.ceil(np.log10(max(high, LEAST))), low + 1)
        return Axis(low, high, list(np.arange(low, high + 1, 1 + (high - low) // 7)), True)
    if all(value == int(value) for value in every) and 0 < high - low <= 8:
        return Axis(low, high, list(range(int(low), int(high) + 1)))
    low, high = -ceiling(-low) if low < 0 else 0, ceiling(high) if high > 0 or low == 0 else 0
    step = max(high, -low) / 4
    return Axis(low, high, [step * i for i in range(-4, 5) if low <= step * i <= high])


def plane(x: Axis, y: Axis, title: str, names: tuple[str, str], height: int = 400):
    """An empty chart: (page, pen, place), where `place` turns a point into pixels.

    Arguments:
        names: what the axes are, with units.
    """
    left, right, top, bottom = 90, 24, 68, 60
    page, pen = _page(WIDTH, height)

    def place(point: Sequence[float]) -> tuple[float, float]:
        across, up = x.share(point[0]), y.share(point[1])
        return (
            left + across * (WIDTH - left - right),
            height - bottom - up * (height - top - bottom),
        )

    pen.text((PAD, PAD - 4), title, fill=INK, font=_font(18))
    for mark in y.marks:
        at = height - bottom - (mark - y.low) / (y.high - y.low) * (height - top - bottom)
        pen.line((left, at, WIDTH - right, at), fill=RULE)
        pen.text((left - 8, at), y.label(mark), fill=QUIET_INK, font=_font(14), anchor="rm")
    for mark in x.marks:
        at = left + (mark - x.low) / (x.high - x.low) * (WIDTH - left - right)
        below = (at, height - bottom + 14)
        pen.text(below, x.label(mark), fill=QUIET_INK, font=_font(14), anchor="mm")
    middle = ((left + WIDTH - right) / 2, height - 18)
    pen.text(middle, names[0], fill=INK, font=_font(15), anchor="mm")
    pen.text((PAD, top - 24), names[1], fill=INK, font=_font(15), anchor="lm")
    return page, pen, place


def legend(pen: "_Pen", series: Iterable[str], after: str) -> None:
    """The names of several things and their colours, behind the name of the axis."""
    x = PAD + _font(15).getlength(after) + 28
    for colour, name in zip(SERIES, series, strict=False):
        pen.ellipse((x, 39, x + 10, 49), fill=colour)
        pen.text((x + 16, 44), name, fill=INK, font=_font(15), anchor="lm")
        x += 36 + _font(15).getlength(name)


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    title: str,
    x: str,
    y: str,
    log: bool = False,
):
    """Lines through points (x, y), with a legend; axes begin at zero.

    Arguments:
        x, y: what the axes are, with units.
        log: powers of ten upwards.
    """
    points = [point for one in series.values() for point in one]
    across, up = axis(p[0] for p in points), axis((p[1] for p in points), log)
    page, pen, place = plane(across, up, title, (x, y))
    for colour, one in zip(SERIES, series.values(), strict=False):
        at = [place(point) for point in one]
        pen.line(at, fill=colour, width=3, joint="curve")
        for cx, cy in at if len(at) < 40 else ():
            pen.ellipse((cx - 4, cy - 4, cx + 4, cy + 4), fill=colour)
    legend(pen, series, y)
    return page


def heat(values: np.ndarray, title: str = "", marks: Mapping[tuple[int, int], str] | None = None):
    """A matrix as colours (cividis), with a legend that gives its least and greatest value.

    Arguments:
        marks: {(row, column): letter} to write on cells.
    """
    values = np.asarray(values, np.float64)
    rows, columns = values.shape
    low, high = float(values.min()), float(values.max())
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    cell = max(2, min(40, 420 // max(rows, columns)))
    picture = Image.fromarray(cividis(share)).resize((columns * cell, rows * cell), 0)
    page, pen = _page(max(columns * cell, 320) + 2 * PAD, rows * cell + 92)
    pen.text((PAD, PAD - 6), title, fill=INK, font=_font(16))
    page.paste(picture, (PAD, 40))
    for (row, column), letter in (marks or {}).items():
        at = (PAD + (column + 0.5) * cell, 40 + (row + 0.5) * cell)
        colour = INKS[int(share[row, column] > 0.5)]
        pen.text(at, letter, fill=colour, font=_font(max(12, cell // 2)), anchor="mm")
    bar = Image.fromarray(cividis(np.tile(np.linspace(0, 1, 120), (12, 1))))
    top = 40 + rows * cell + 14
    for x, text, anchor in ((PAD, short(low), "lm"), (PAD + 190, short(high), "lm")):
        pen.text((x, top + 6), text, fill=QUIET_INK, font=_font(14), anchor=anchor)
    page.paste(bar, (PAD + 60, top))
    return page


def side_by_side(pictures: Mapping[str, Image.Image], height: int = 200):
    """Pictures in a row, each above its name, all of one height unless `height` is 0."""
    shown = {}
    for name, picture in pictures.items():
        picture = picture.convert("RGB")
        if height:
            width = max(1, round(picture.width * height / picture.height))
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        shown[name] = picture
    font = _font(16)
    widths = [max(p.width, int(font.getlength(name))) for name, p in shown.items()]
    tallest = max(p.height for p in shown.values())
    page, pen = _page(sum(widths) + PAD * (len(widths) + 1), tallest + 28 + 2 * PAD)
    left = PAD
    for width, (name, picture) in zip(widths, shown.items(), strict=True):
        page.paste(picture, (left, PAD))
        pen.text((left, PAD + tallest + 8), name, fill=INK, font=font)
        left += width + PAD
    return page


def token_line(sequences: Mapping[str, Sequence[int]], image_ids: Sequence[int]):
    """Token ids as squares in a line: patches, breaks, ends, and grey for text.

    Arguments:
        image_ids: of [IMG], [IMG_BREAK] and [IMG_END].
    """
    colours = dict(zip(image_ids, (PATCH_COLOUR, BREAK_COLOUR, END_COLOUR), strict=True))
    longest = max(map(len, sequences.values()))
    cell = max(4, min(18, 1000 // longest))
    page, pen = _page(max(longest * cell, 420) + 2 * PAD, len(sequences) * (cell + 40) + 50)
    top = PAD
    for name, ids in sequences.items():
        pen.text((PAD, top), name, fill=INK, font=_font(15))
        for i, token in enumerate(ids):
            box = (PAD + i * cell, top + 22, PAD + (i + 1) * cell - 2, top + 20 + cell)
            pen.rectangle(box, fill=colours.get(token, TEXT_COLOUR))
        top += cell + 40
    x = float(PAD)
    names = (("[IMG]", PATCH_COLOUR), ("[IMG_BREAK]", BREAK_COLOUR), ("[IMG_END]", END_COLOUR))
    for name, colour in names:
        pen.rectangle((x, top + 4, x + 12, top + 16), fill=colour)
        pen.text((x + 18, top), name, fill=QUIET_INK, font=_font(14))
        x += 40 + _font(14).getlength(name)
    return page


def _page(width: int, height: int):
    page = Image.new("RGB", (width, height), PAPER)
    return page, _Pen(page)


class _Pen(ImageDraw.ImageDraw):
    """Pillow's own font has no multiplication sign and no arrows."""

    def text(self, xy, text, **options):
        for sign, plain in (("×", "x"), ("→", "to"), ("·", "."), ("✓", "yes")):
            text = text.replace(sign, plain)
        super().text(xy, text, **options)


def _font(size: int):
    return ImageFont.load_default(size)


def short(value: float) -> str:
    """A number for a picture, in two digits: 0.13, 12, 420, 1,300; what is under a thousandth is
    said to be so."""
    if 0 < abs(value) < 0.001:
        return "under 0.001" if value > 0 else "above -0.001"
    if abs(value) < 10:
        return f"{value:.2g}"
    return f"{round(value, 1 - int(np.floor(np.log10(abs(value))))):,.0f}"


def ceiling(value: float) -> float:
    """The next round number, so that quarters of an axis are round too."""
    if value <= 0:
        return 1.0
    step = 10 ** np.floor(np.log10(value))
    return float(
        next(step * m for m in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if step * m >= value * 0.999)
    )
