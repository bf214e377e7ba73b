"""Lines that end between words, as wide as the terminal; elsewhere text stays as it is."""

import json
import os
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Callable
from typing import Any, TextIO

_CONTROL = re.compile(r"[^\n\t -~\xa0-\U0010ffff]|[\ud800-\udfff]")


def say(text: str = "", *, file: TextIO | None = None, **options: Any) -> None:
    """What every command prints with: `print`, and in a terminal `harmless`."""
    stream = sys.stdout if file is None else file
    print(harmless(text, stream), file=stream, **options)


def say_json(value: Any) -> None:
    """One JSON object on stdout; bytes of a name that are not UTF-8 are escaped."""
    say(json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace").decode())


def harmless(text: str, stream: TextIO) -> str:
    """Without what would steer a terminal: names come from anywhere, and so does what a model
    writes about a picture. Elsewhere text stays as it is."""
    return _CONTROL.sub("?", text) if stream.isatty() else text


def fitted(text: str, stream: TextIO) -> str:
    """One line, in as many as the terminal needs for it; what follows the first is indented."""
    if not stream.isatty():
        return text
    return textwrap.fill(
        text, _width(), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def writer(stream: TextIO) -> Callable[[str], None]:
    """What prints an answer piece by piece: each piece at once, and in a terminal with the ends of
    lines between words."""
    wrap = WordWrap(_width()) if stream.isatty() and os.environ.get("TERM") != "dumb" else None

    def write(piece: str) -> None:
        piece = harmless(piece, stream)
        print(piece if wrap is None else wrap.add(piece), end="", file=stream, flush=True)

    return write


class WordWrap:
    """Text that arrives in pieces. A word that turns out to be too long for its line is taken back
    and begun again on the next one.

    Arguments:
        width: of a line, in columns; less than the terminal's, which else breaks the line itself.
    """

    def __init__(self, width: int):
        self._width, self._column = width, 0
        self._word, self._word_columns = "", 0

    def add(self, piece: str) -> str:
        """What a terminal is to be sent for the next piece."""
        return "".join(map(self._one, piece))

    def _one(self, letter: str) -> str:
        if letter == "\n":
            return self._new_line()
        columns = _columns(letter)
        if letter.isspace():
            if self._column + columns > self._width:
                return self._new_line()  # the blank goes; the next word stands at the start
            self._word, self._word_columns = "", 0
            self._column += columns
            return letter
        before = ""
        if self._column + columns > self._width:
            word, size = self._word, self._word_columns
            # A word as long as a line, as in scripts without blanks, is cut where the line ends.
            taken = 0 < size < self._column
            before = f"\x1b[{size}D\x1b[K" * taken + self._new_line()
            if taken:
                before, self._word, self._word_columns = before + word, word, size
                self._column = size
        self._word += letter
        self._word_columns += columns
        self._column += columns
        return before + letter

    def _new_line(self) -> str:
        self._column, self._word, self._word_columns = 0, "", 0
        return "\n"


def _width() -> int:
    return max(shutil.get_terminal_size().columns - 1, 20)


def _columns(letter: str) -> int:
    """That a letter takes in a terminal."""
    if unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1
