"""Cubic interpolation as OpenCV does it, a few rows at a time.

What is held beside the picture are blocks that stay in the processor's cache, and an axis that
stays as long as it is costs nothing.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

_BLOCK_PIXELS = 1 << 16
"""So many pixels of the source's width make up the rows that are computed at once."""

_COLOURS = 3


class Taps(NamedTuple):
    """Which four places of the source each place of the target looks at, both of shape (4, new).

    Arguments:
        places: ascending in both directions, int64.
        weights: float32.
    """

    places: np.ndarray
    weights: np.ndarray


def cubic_taps(old: int, new: int, exact: bool) -> Taps:
    """Those of an axis: cubic, a = -0.75, edges repeated, no antialiasing.

    Arguments:
        exact: whether the centre of a target pixel is left as it is, or rounded to float32.
    """
    centre = (np.arange(new) + 0.5) * (old / new) - 0.5
    centre = centre if exact else centre.astype(np.float32)
    first = np.floor(centre)
    x = (centre - first).astype(np.float32)
    a, one = np.float32(-0.75), np.float32(1)
    far = x + one
    w0 = ((a * far - 5 * a) * far + 8 * a) * far - 4 * a
    w1 = ((a + 2) * x - (a + 3)) * x * x + one
    near = one - x
    w2 = ((a + 2) * near - (a + 3)) * near * near + one
    weights = np.stack([w0, w1, w2, one - w0 - w1 - w2]).astype(np.float32)
    taps = first.astype(np.int64) + np.arange(-1, 3)[:, None]
    return Taps(np.clip(taps, 0, old - 1), weights)


def cubic_rows(
    read: Callable[[int, int], np.ndarray],
    old: tuple[int, int],
    rows: Taps | None,
    columns: Taps | None,
) -> Iterator[tuple[slice, np.ndarray]]:
    """A picture in another size: first its rows are added up, then its columns.

    Arguments:
        read: rows of the source from one to another, uint8, shape (rows, W, 3).
        old: height and width of the source.
        rows, columns: what the target looks at; None is an axis that stays.

    Returns:
        The place of some rows, ascending, and the rows: float32 of 0 to 255 and what the weights
        make of it, shape (rows, 3, new W). The array is written to again for the next ones.
    """
    height = old[0] if rows is None else rows.places.shape[1]
    at_once = min(max(_BLOCK_PIXELS // old[1], 1), height)
    add_rows = _row_adder(rows, at_once, old[1])
    add_columns = _column_adder(columns, at_once, old[1])
    for start in range(0, height, at_once):
        part = slice(start, min(start + at_once, height))
        yield part, add_columns(add_rows(read, part))


def _row_adder(taps: Taps | None, at_once: int, width: int) -> Callable[..., np.ndarray]:
    """Gives float32 of shape (rows, W * 3) for a part of the target's rows."""
    tall = np.empty((at_once, width * _COLOURS), np.float32)
    term, picked = np.empty_like(tall), np.empty(tall.shape, np.uint8)

    def add(read: Callable[[int, int], np.ndarray], part: slice) -> np.ndarray:
        count = part.stop - part.start
        if taps is None:
            tall[:count] = read(part.start, part.stop).reshape(count, -1)
            return tall[:count]
        places = taps.places[:, part]
        top = int(places[0, 0])
        source = read(top, int(places[-1, -1]) + 1)
        source = source.reshape(len(source), -1)
        for number, weights in enumerate(taps.weights[:, part, None]):
            np.take(source, places[number] - top, axis=0, out=picked[:count], mode="clip")
            np.multiply(picked[:count], weights, out=term[:count] if number else tall[:count])
            if number:
                tall[:count] += term[:count]
        return tall[:count]

    return add


def _column_adder(taps: Taps | None, at_once: int, width: int) -> Callable[..., np.ndarray]:
    """Makes rows of pixels, (rows, W * 3), rows of colours, (rows, 3, new W)."""
    new = width if taps is None else taps.places.shape[1]
    wide = np.empty((at_once, _COLOURS * new), np.float32)
    if taps is None:

        def apart(tall: np.ndarray) -> np.ndarray:
            found = wide[: len(tall)].reshape(-1, _COLOURS, new)
            found[...] = tall.reshape(-1, new, _COLOURS).transpose(0, 2, 1)
            return found

        return apart
    term = np.empty_like(wide)
    places = taps.places[:, None] * _COLOURS + np.arange(_COLOURS)[:, None]
    places, weights = places.reshape(len(places), -1), np.tile(taps.weights, _COLOURS)

    def add(tall: np.ndarray) -> np.ndarray:
        count = len(tall)
        for number, (place, weight) in enumerate(zip(places, weights, strict=True)):
            into = term[:count] if number else wide[:count]
            # A mode other than "raise" lets NumPy write to `out` without a copy.
            np.take(tall, place, axis=1, out=into, mode="clip")
            into *= weight
            if number:
                wide[:count] += into
        return wide[:count].reshape(count, _COLOURS, new)

    return add
