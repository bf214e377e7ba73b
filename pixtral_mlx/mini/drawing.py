"""How the things in a scene look: shapes and characters as masks, and a canvas to put them on.

Everything is drawn four times as large and averaged down, and painted in whole numbers, so that a
scene has the same pixels on every machine.
"""

from functools import lru_cache
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

SCALE = 4
"""How much larger a mask is drawn than it is used."""

COLOURS = {
    "red": (214, 40, 40), "yellow": (250, 200, 20), "green": (40, 150, 60),
    "blue": (30, 90, 200), "purple": (130, 50, 170), "pink": (246, 130, 180),
    "brown": (130, 80, 35), "black": (35, 35, 40),
}  # fmt: skip
"""Names and values; far enough from one another for a small pair of eyes."""

INK = (60, 66, 80)
"""What characters are written in."""

# Strokes on a grid 4 wide and 6 high, y downwards; each inner tuple is one polyline.
_GLYPHS = {
    "0": (((1, 0), (3, 0), (4, 1), (4, 5), (3, 6), (1, 6), (0, 5), (0, 1), (1, 0)),),
    "1": (((0.5, 1.5), (2, 0), (2, 6)), ((0.5, 6), (3.5, 6))),
    "2": (((0, 1), (1, 0), (3, 0), (4, 1), (4, 2), (0, 6), (4, 6)),),
    "3": (((0, 0), (4, 0), (1.8, 2.5), (3, 2.5), (4, 3.5), (4, 5), (3, 6), (1, 6), (0, 5)),),
    "4": (((3, 6), (3, 0), (0, 4), (4, 4)),),
    "5": (((4, 0), (0, 0), (0, 2.5), (3, 2.5), (4, 3.5), (4, 5), (3, 6), (0, 6)),),
    "6": (
        ((3.5, 0), (1.5, 0.5), (0, 3), (0, 5), (1, 6), (3, 6), (4, 5), (4, 4), (3, 3), (0.3, 3)),
    ),
    "7": (((0, 0), (4, 0), (1.5, 6)),),
    "8": (
        ((1, 0), (3, 0), (4, 1), (4, 2), (3, 2.8), (1, 2.8), (0, 2), (0, 1), (1, 0)),
        ((1, 2.8), (3, 2.8), (4, 3.8), (4, 5), (3, 6), (1, 6), (0, 5), (0, 3.8), (1, 2.8)),
    ),
    "9": (
        ((0.5, 6), (2.5, 5.5), (4, 3), (4, 1), (3, 0), (1, 0), (0, 1), (0, 2), (1, 3), (3.7, 3)),
    ),
    "A": (((0, 6), (2, 0), (4, 6)), ((0.8, 4), (3.2, 4))),
    "C": (((4, 1), (3, 0), (1, 0), (0, 1), (0, 5), (1, 6), (3, 6), (4, 5)),),
    "E": (((4, 0), (0, 0), (0, 6), (4, 6)), ((0, 3), (3, 3))),
    "F": (((4, 0), (0, 0), (0, 6)), ((0, 3), (3, 3))),
    "H": (((0, 0), (0, 6)), ((4, 0), (4, 6)), ((0, 3), (4, 3))),
    "K": (((0, 0), (0, 6)), ((4, 0), (0, 3.5)), ((1.4, 2.6), (4, 6))),
    "L": (((0, 0), (0, 6), (4, 6)),),
    "P": (((0, 6), (0, 0), (3, 0), (4, 1), (4, 2.4), (3, 3.4), (0, 3.4)),),
    "T": (((0, 0), (4, 0)), ((2, 0), (2, 6))),
    "X": (((0, 0), (4, 6)), ((4, 0), (0, 6))),
}  # fmt: skip

CHARACTERS = tuple(_GLYPHS)
"""Digits, and capitals that no digit looks like."""

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "moon", "ring")
"""Names of the shapes."""

Point = tuple[float, float]


def _ellipse(pen: ImageDraw.ImageDraw, centre: Point, radius: float, fill: int = 255) -> None:
    x, y = centre
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def _draw_shape(pen: ImageDraw.ImageDraw, name: str, middle: float, r: float) -> None:
    """One shape of about radius `r` around (middle, middle)."""

    def points(*pairs: Point) -> list[Point]:
        return [(middle + x * r, middle + y * r) for x, y in pairs]

    if name == "circle":
        _ellipse(pen, (middle, middle), r)
    elif name == "square":
        pen.polygon(points((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)), fill=255)
    elif name == "triangle":
        pen.polygon(points((0, -1), (1.05, 0.85), (-1.05, 0.85)), fill=255)
    elif name == "star":
        turns = [(pi * i / 5, 1.15 if i % 2 == 0 else 0.48) for i in range(10)]
        pen.polygon(points(*((sin(a) * d, 0.08 - cos(a) * d) for a, d in turns)), fill=255)
    elif name == "heart":
        _ellipse(pen, (middle - 0.5 * r, middle - 0.4 * r), 0.56 * r)
        _ellipse(pen, (middle + 0.5 * r, middle - 0.4 * r), 0.56 * r)
        pen.polygon(points((-0.99, -0.12), (0, -0.5), (0.99, -0.12), (0, 1.05)), fill=255)
    elif name == "cross":
        pen.polygon(points((-0.33, -1), (0.33, -1), (0.33, 1), (-0.33, 1)), fill=255)
        pen.polygon(points((-1, -0.33), (1, -0.33), (1, 0.33), (-1, 0.33)), fill=255)
    elif name == "moon":
        _ellipse(pen, (middle, middle), 1.05 * r)
        _ellipse(pen, (middle + 0.5 * r, middle - 0.15 * r), 0.85 * r, fill=0)
    else:
        _ellipse(pen, (middle, middle), 1.05 * r)
        _ellipse(pen, (middle, middle), 0.55 * r, fill=0)


def _draw_glyph(pen: ImageDraw.ImageDraw, name: str, middle: float, r: float) -> None:
    """One character about 2.2 `r` high around (middle, middle), with round ends."""
    unit, thick = 0.36 * r, 0.34 * r
    for stroke in _GLYPHS[name]:
        line = [(middle + (x - 2) * unit, middle + (y - 3) * unit) for x, y in stroke]
        pen.line(line, fill=255, width=round(thick))
        for point in line:
            _ellipse(pen, point, thick / 2)


@lru_cache(maxsize=2048)
def mask(name: str, side: int, tenths: int) -> np.ndarray:
    """Where a thing covers its cell.

    Arguments:
        name: a shape or a character.
        side: of the cell, in pixels.
        tenths: radius of the thing in tenths of a pixel.

    Returns:
        int32, shape (side, side), 0 to 255; not to be changed.
    """
    image = Image.new("L", (side * SCALE, side * SCALE), 0)
    draw = _draw_glyph if name in _GLYPHS else _draw_shape
    draw(ImageDraw.Draw(image), name, side * SCALE / 2, tenths * SCALE / 10)
    return _shrink(image, side)


@lru_cache(maxsize=64)
def tile_mask(side: int) -> np.ndarray:
    """The rounded tile that fills a cell but for its rim; as `mask`."""
    image = Image.new("L", (side * SCALE, side * SCALE), 0)
    rim, last = round(1.2 * SCALE), side * SCALE - 1
    box = (rim, rim, last - rim, last - rim)
    ImageDraw.Draw(image).rounded_rectangle(box, radius=4 * SCALE, fill=255)
    return _shrink(image, side)


def _shrink(image: Image.Image, side: int) -> np.ndarray:
    blocks = np.asarray(image, np.int32).reshape(side, SCALE, side, SCALE).sum(axis=(1, 3))
    return blocks // (SCALE * SCALE)


def paint(canvas: np.ndarray, colour: tuple[int, ...], cover: np.ndarray, at: Point) -> None:
    """Lay a colour over part of a canvas.

    Arguments:
        canvas: int32, shape (H, W, 3), changed in place.
        colour: red, green, blue.
        cover: a mask, 0 to 255.
        at: (x, y) of the mask's top left corner, whole numbers; what falls outside is cut off.
    """
    x, y = int(at[0]), int(at[1])
    top, left = max(-y, 0), max(-x, 0)
    part = canvas[max(y, 0) : y + cover.shape[0], max(x, 0) : x + cover.shape[1]]
    weight = cover[top : top + part.shape[0], left : left + part.shape[1], None]
    part += ((np.array(colour, np.int32) - part) * weight + 127) // 255


def ground(width: int, height: int, tint: tuple[int, ...], noise: bytes) -> np.ndarray:
    """A light ground with soft clouds.

    Arguments:
        width, height: in pixels.
        tint: its colour.
        noise: 36 bytes, the clouds.

    Returns:
        int32, shape (height, width, 3).
    """
    clouds = Image.frombytes("L", (6, 6), noise).resize((width, height), Image.Resampling.BICUBIC)
    lightness = np.asarray(clouds, np.int32) // 12 - 10
    return np.clip(np.array(tint, np.int32) + lightness[:, :, None], 0, 255)
