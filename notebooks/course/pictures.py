"""Maps, points and words as pictures: the figures of notebooks 5 to 9 beside those of `figures`."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pixtral_mlx.interpret.picture import INK, PAPER, QUIET_INK, cividis

from .figures import PAD, RULE, SERIES, axis, legend, plane, short


def sheet(
    maps: Mapping[str, np.ndarray],
    columns: int,
    *,
    ring: tuple[int, int] | None = None,
    width: int = 960,
):
    """Maps as colours (cividis), each scaled to its own greatest value, which stands beside its
    name.

    Arguments:
        maps: {name: (rows, columns) numbers from 0}, line by line.
        columns: maps in a line.
        ring: a (row, column) to mark in each.
    """
    tallest, widest = np.max([one.shape for one in maps.values()], axis=0)
    cell = max(2, min(28, (width // columns - PAD) // int(widest)))
    step = (max(int(widest) * cell, 118) + PAD, int(tallest) * cell + 24 + PAD)
    lines = -(-len(maps) // columns)
    page = Image.new("RGB", (columns * step[0] + PAD, lines * step[1] + PAD), PAPER)
    pen = ImageDraw.Draw(page)
    for number, (name, values) in enumerate(maps.items()):
        left, top = PAD + number % columns * step[0], PAD + number // columns * step[1]
        most = float(values.max())
        size = (values.shape[1] * cell, values.shape[0] * cell)
        lit = Image.fromarray(cividis(np.clip(values / max(most, 1e-12), 0, 1))).resize(size, 0)
        pen.text((left, top), f"{name}: {short(most)}", fill=INK, font=_font(13))
        page.paste(lit, (left, top + 20))
        if ring is not None:
            x, y = left + ring[1] * cell, top + 20 + ring[0] * cell
            pen.rectangle((x, y, x + cell - 1, y + cell - 1), outline="#ffffff", width=2)
    return page


def points(
    groups: Mapping[str, Sequence[tuple[float, float]]],
    title: str,
    x: str,
    y: str,
    log: bool = False,
):
    """Points (x, y), a colour a group, with a legend.

    Arguments:
        x, y: what the axes are, with units.
        log: powers of ten upwards.
    """
    every = [point for group in groups.values() for point in group]
    across, up = axis(float(p[0]) for p in every), axis((float(p[1]) for p in every), log)
    page, pen, place = plane(across, up, title, (x, y), 420)
    if up.low < 0 and not log:
        pen.line((*place((across.low, 0)), *place((across.high, 0))), fill=QUIET_INK)
    for colour, group in zip(SERIES, groups.values(), strict=False):
        for cx, cy in map(place, group):
            pen.ellipse((cx - 4, cy - 4, cx + 4, cy + 4), fill=colour)
    legend(pen, groups, y)
    return page


def words_on(picture: Image.Image, words: np.ndarray, marked: np.ndarray):
    """A word on every patch of a faded picture.

    Arguments:
        words: shape (rows, columns), text.
        marked: the same shape; True is written in ink, the others in grey.
    """
    rows, columns = words.shape
    wide = max(72, 720 // columns)
    high = wide * 2 // 3
    page = picture.convert("RGB").resize((columns * wide, rows * high), Image.Resampling.BICUBIC)
    page = Image.blend(page, Image.new("RGB", page.size, PAPER), 0.72)
    pen = ImageDraw.Draw(page)
    for (row, column), word in np.ndenumerate(words):
        box = (column * wide, row * high, (column + 1) * wide, (row + 1) * high)
        pen.rectangle(box, outline=RULE)
        at = (box[0] + wide / 2, box[1] + high / 2)
        colour = INK if marked[row, column] else QUIET_INK
        pen.text(at, str(word), fill=colour, font=_font(14), anchor="mm")
    return page


def _font(size: int):
    return ImageFont.load_default(size)
