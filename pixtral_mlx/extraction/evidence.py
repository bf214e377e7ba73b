"""Where a value stands: the model's attention chooses the page and the patches, and where the page
has text of its own the box is that of the words that say the value."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.reply import Reply
from ..interpret.maps import find_evidence
from .documents import Page, Word
from .fields import Box
from .spelling import Span, find_value

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
FLAT = 2.0
"""Attention is flat where the strongest patch has less than so many times the mean of its page."""


@dataclass(frozen=True, eq=False)
class Look:
    """Where the tokens of a value looked, mean over tokens, layers and heads.

    Arguments:
        maps: one a page, shape (rows, columns), not renormalised.
        pages: those that the model saw.
    """

    maps: Sequence[np.ndarray]
    pages: Sequence[Page]


@dataclass(frozen=True)
class Place:
    """Where a value stands.

    Arguments:
        page, box, text: as of `Field`.
        reasons: why that is not certain.
    """

    page: int | None = None
    box: Box | None = None
    text: str | None = None
    reasons: tuple[str, ...] = ()


def look_of(reply: Reply, tokens: Iterable[int], pages: Sequence[Page]) -> Look | None:
    """Where some tokens of an answer looked; only on the model's thread. None without a trace."""
    chosen = list(tokens)
    if reply.trace is None or not chosen:
        return None
    trace, sums = (
        reply.trace,
        [np.zeros(tuple(grid), np.float64) for grid in reply.trace.prompt.grids],
    )
    places = [span.patch_positions() for span in trace.prompt.spans]
    layers = trace.text_layers
    for token in chosen:
        for layer in layers:
            row = trace.token_attention(token, layer)
            for whole, at in zip(sums, places, strict=True):
                whole += row[at].reshape(whole.shape)
    return Look([whole / (len(chosen) * len(layers)) for whole in sums], pages)


def place_of(value: Any, look: Look | None, *, spelled: bool = True) -> Place:
    """The page and the box of a value that is not null.

    Arguments:
        look: where its tokens looked; None: not known.
        spelled: whether a page that has text should say the value in words: not of a choice that
            the schema words itself.
    """
    if look is None or not look.pages:
        return Place(reasons=("nothing is known of where it stands",))
    said = [(page, number, page.words) for number, page in enumerate(look.pages)]
    hits = [
        (page, number, words, span)
        for page, number, words in said
        for span in find_value(value, words)
    ]
    if hits:
        best = max(hits, key=lambda hit: _strength(look.maps[hit[1]], _box(hit[2], hit[3]), hit[0]))
        page, _, words, span = best
        return Place(page.number, _box(words, span), " ".join(t for t, _ in words[slice(*span)]))
    number = int(np.argmax([seen.sum() for seen in look.maps]))
    page, seen = look.pages[number], look.maps[number]
    reasons = []
    if spelled and page.words:
        reasons.append("the text of the page does not say it")
    if seen.max() < FLAT * seen.mean() or not seen.any():
        return Place(
            page.number, WHOLE, None, (*reasons, "the model looked at no place in particular")
        )
    found = find_evidence(seen)
    rows, columns = seen.shape
    (top, bottom), (left, right) = found.rows, found.columns
    box = (left / columns, top / rows, (right - left) / columns, (bottom - top) / rows)
    return Place(page.number, turned_upright(box, page.orientation), None, tuple(reasons))


def _box(words: Sequence[Word], span: Span) -> Box:
    sides = [box for _, box in words[slice(*span)]]
    left, top = min(side[0] for side in sides), min(side[1] for side in sides)
    right, bottom = max(side[2] for side in sides), max(side[3] for side in sides)
    return left, top, right - left, bottom - top


def _strength(seen: np.ndarray, box: Box, page: Page) -> float:
    """The strongest attention on a patch that a box touches, or on a neighbour of one."""
    x, y, width, height = turned_back(box, page.orientation)
    rows, columns = seen.shape
    top, bottom = int(y * rows) - 1, int((y + height) * rows) + 2
    left, right = int(x * columns) - 1, int((x + width) * columns) + 2
    return float(seen[max(top, 0) : bottom, max(left, 0) : right].max(initial=0.0))


def turned_upright(box: Box, orientation: int) -> Box:
    """A box of a picture as it is stored, on the same picture turned by its EXIF orientation."""
    x, y, width, height = box
    left, top, right, bottom = x, y, 1 - x - width, 1 - y - height
    found = {
        2: (right, top, width, height), 3: (right, bottom, width, height),
        4: (left, bottom, width, height), 5: (top, left, height, width),
        6: (bottom, left, height, width), 7: (bottom, right, height, width),
        8: (top, right, height, width),
    }  # fmt: skip
    return found.get(orientation, box)


def turned_back(box: Box, orientation: int) -> Box:
    """The opposite: from the picture as it is seen to the picture as it is stored."""
    return turned_upright(box, {6: 8, 8: 6}.get(orientation, orientation))
