"""Text in pictures, in every script: with the letters that Pillow brings, else the system's."""

import logging
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from io import BytesIO
from typing import Any, NamedTuple

from PIL import ImageDraw, ImageFont, features

from .fonts import LetterTable, first_with, read_letters, table_of

log = logging.getLogger(__name__)

BROUGHT = ""
"""In place of a font file: the letters that Pillow brings (ASCII and a few more)."""

_CJK = re.compile("[\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
# Letters whose shapes depend on their neighbours, so that a font alone does not draw them right.
_SHAPED = re.compile("[\u0590-\u08ff\u0900-\u0dff\u0f00-\u109f\u1780-\u17ff\ufb1d-\ufefc]")


class Run(NamedTuple):
    """Letters that one font draws; without one, a letter that no font has."""

    text: str
    font: str | None


class Lettering:
    """How the words of one picture are drawn.

    Arguments:
        words: all of them. What no font has is said once, in a note (`logging`).
    """

    def __init__(self, words: Iterable[str]):
        text = "".join(words)
        latin = {letter for letter in text if _is_latin(letter) and not _unseen(letter)}
        # So that a word with an accent looks like its neighbours.
        self._first = _font_with(latin) or BROUGHT
        lacking = sorted({run.text for run in self._runs(text) if run.font is None})
        if lacking:
            log.warning(_lacking(lacking))
        if not _shapes() and _SHAPED.search(text):
            log.warning(_unshaped())

    def width(self, text: str, size: int) -> float:
        """In pixels."""
        return sum(_length(run, size) for run in self._runs(text))

    def draw(
        self, pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, fill: str
    ) -> None:
        """Draw a text on one line.

        Arguments:
            at: left, and top of the letters that Pillow brings: all stand on their line.
            size: pixels from one line to the next, about.
        """
        x, y = at
        baseline = y + _font(BROUGHT, size).getmetrics()[0]
        runs = list(self._runs(text))
        for run in reversed(runs) if right_to_left(text) else runs:
            if run.font is None:
                _draw_code(pen, (x, baseline), run.text, size, fill)
            else:
                font = _font(run.font, size)
                pen.text((x, baseline), _as_shown(run), fill=fill, font=font, anchor="ls")
            x += _length(run, size)

    def shortened(self, text: str, width: float, size: int) -> str:
        """A text that is no wider: cut behind a whole character, with an ellipsis, where it is."""
        if self.width(text, size) <= width:
            return text
        characters = _characters(text)
        low, high = 0, len(characters)
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.width("".join(characters[:middle]) + "…", size) <= width
            low, high = (middle, high) if fits else (low, middle)
        return "".join(characters[:low]) + "…"

    def _runs(self, text: str) -> Iterator[Run]:
        """One font for all if there is one, so that what belongs together is shaped together."""
        text = " ".join(text.split())
        whole = self._font_of(text)
        if whole is not None:
            yield Run(text, whole)
            return
        begun: list[str] = []
        font = None
        for character in _characters(text):
            own = self._font_of(character)
            if begun and (own is None or own != font):
                yield Run("".join(begun), font)
                begun = []
            if own is None:
                yield from (Run(letter, None) for letter in character if not _unseen(letter))
                continue
            begun, font = [*begun, character], own
        if begun:
            yield Run("".join(begun), font)

    def _font_of(self, text: str) -> str | None:
        letters = {letter for letter in text if not _unseen(letter)}
        return self._first if _has(self._first, letters) else _font_with(letters)


def right_to_left(text: str) -> bool | None:
    """Whether the first letter with a direction is of such a script; None: none has one."""
    kinds = (unicodedata.bidirectional(letter) for letter in text)
    return next((kind != "L" for kind in kinds if kind in ("L", "R", "AL")), None)


def _characters(text: str) -> list[str]:
    """Letters with their marks, which are drawn together."""
    found: list[str] = []
    for letter in text:
        if found and (unicodedata.category(letter)[0] == "M" or _unseen(letter)):
            found[-1] += letter
        else:
            found.append(letter)
    return found


def _unseen(letter: str) -> bool:
    """Joiners, marks of direction and variation selectors: they shape others."""
    return unicodedata.category(letter) == "Cf" or "\ufe00" <= letter <= "\ufe0f"


def _is_latin(letter: str) -> bool:
    return ord(letter) < 0x250 or 0x2010 <= ord(letter) < 0x2100


@lru_cache(maxsize=4096)
def _search(letters: frozenset[str]) -> str | None:
    return BROUGHT if _has(BROUGHT, letters) else first_with(letters)


def _font_with(letters: Iterable[str]) -> str | None:
    return _search(frozenset(letters))


def _has(font: str, letters: Iterable[str]) -> bool:
    table = _brought() if font == BROUGHT else table_of(font)
    return all(table.has(ord(letter)) for letter in letters)


@cache
def _brought() -> LetterTable:
    font: Any = ImageFont.load_default(10)
    return read_letters(BytesIO(font.font_bytes))


@lru_cache(maxsize=256)
def _font(name: str, size: int) -> Any:
    return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)


def _length(run: Run, size: int) -> float:
    if run.font is None:
        return _font(BROUGHT, _code_size(size)).getlength(_code(run.text)) + 10
    return _font(run.font, size).getlength(_as_shown(run))


def _as_shown(run: Run) -> str:
    """What Pillow has to be given: the text, or, where nothing shapes it, its letters as seen."""
    if _shapes() and run.font != BROUGHT:
        return run.text
    text = "".join(letter for letter in run.text if not _unseen(letter))
    return "".join(reversed(_characters(text))) if right_to_left(text) else text


@cache
def _shapes() -> bool:
    return bool(features.check("raqm"))


def _code(letter: str) -> str:
    return f"U+{ord(letter):04X}"


def _code_size(size: int) -> int:
    return max(9, round(0.6 * size))


def _draw_code(
    pen: ImageDraw.ImageDraw, at: tuple[float, float], letter: str, size: int, fill: str
) -> None:
    """A letter that no font has: its code point in a box."""
    x, baseline = at
    font, text = _font(BROUGHT, _code_size(size)), _code(letter)
    right = x + font.getlength(text)
    middle = baseline - 0.36 * size
    pen.rounded_rectangle(
        (x + 1, middle - 0.46 * size, right + 8, middle + 0.46 * size), 3, outline=fill
    )
    pen.text((x + 5, middle), text, fill=fill, font=font, anchor="lm")


def _lacking(letters: list[str]) -> str:
    """Which letters no font has, and what to do."""
    named = ", ".join(map(_code, letters[:3])) + (", ..." if len(letters) > 3 else "")
    said = f"no font of this system has {named}: drawn as code points"
    if sys.platform == "darwin" or not any(unicodedata.category(c)[0] in "LMNPS" for c in letters):
        return said
    packages = ["fonts-noto-cjk"] if any(map(_CJK.match, letters)) else []
    packages += ["fonts-noto-core"] if not all(map(_CJK.match, letters)) else []
    return f"{said}; install {' '.join(packages)} (names of Debian and Ubuntu; macOS has them)"


def _unshaped() -> str:
    """What to do where letters are not joined as their script wants it."""
    install = "apt install libfribidi0"
    if sys.platform == "darwin":
        install = "brew install fribidi, and set DYLD_FALLBACK_LIBRARY_PATH=/opt/homebrew/lib"
    return f"letters are drawn one by one, not joined: Pillow finds no FriBiDi; {install}"
