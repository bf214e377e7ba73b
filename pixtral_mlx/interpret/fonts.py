"""Which font of this system has a letter: font files, as far as their tables of letters."""

import os
import re
import struct
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import BinaryIO

_MAC = ("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts", "/System/Library/AssetsV2")
_LINUX = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")
_ENDINGS = (".ttf", ".otf", ".ttc", ".otc")

# What goes with the sans serif letters that Pillow brings; any other font comes after these.
_LIKED = (
    "helveticaneue", "arialhb", "geezapro", "sfarabic", "kohinoor", "thonburi", "pingfang",
    "hiragino sans gb", "applesdgothicneo", "liberationsans-", "notosans-", "dejavusans", "lohit",
    "notosanscjk", "wqy-microhei", "droidsansfallback", "notosans", "loma", "waree", "arial",
)  # fmt: skip
_LESS_LIKED = re.compile(
    "bold|italic|oblique|mono|narrow|condensed|light|thin|black|heavy|serif|slab|script|nastaliq"
)
# These have a picture of a frame, or nothing, for every letter that there is.
_NO_LETTERS = re.compile("lastresort|blank|notdef")
_OUTLINES = {b"glyf", b"CFF ", b"CFF2"}
_BITMAPS = {b"sbix", b"CBDT"}


@cache
def font_files() -> tuple[str, ...]:
    """The font files of this system, the best to read among words first."""
    folders = _MAC if sys.platform == "darwin" else _LINUX
    found = {path for folder in folders for path in _files(os.path.expanduser(folder))}
    return tuple(sorted(found, key=_rank))


def _files(folder: str) -> Iterator[str]:
    for place, _, names in os.walk(folder):
        for name in names:
            if name.lower().endswith(_ENDINGS) and not _NO_LETTERS.search(name.lower()):
                yield os.path.join(place, name)


def _rank(path: str) -> tuple[bool, int, str]:
    name = Path(path).stem.lower()
    liked = (place for place, start in enumerate(_LIKED) if name.startswith(start))
    return bool(_LESS_LIKED.search(name)), next(liked, len(_LIKED)), path


def first_with(letters: Iterable[str]) -> str | None:
    """The best font file that has all of these letters; in a file of several fonts, the first."""
    codes = sorted({ord(letter) for letter in letters})
    return next((path for path in font_files() if all(map(table_of(path).has, codes))), None)


@cache
def table_of(path: str) -> "LetterTable":
    """Which letters the first font of a file has; none, if it is not a font."""
    try:
        with open(path, "rb") as file:
            return read_letters(file)
    except (OSError, struct.error, ValueError):  # not readable here, or not a font
        return LetterTable(b"")


def read_letters(file: BinaryIO) -> "LetterTable":
    """The table `cmap` of the first TrueType or OpenType font in a file: which letters it has.

    Raises:
        ValueError: not such a file.
        struct.error: it is cut off.
    """
    start = 0
    if file.read(4) == b"ttcf":
        file.seek(12)
        (start,) = struct.unpack(">I", file.read(4))
    file.seek(start + 4)
    (count,) = struct.unpack(">H6x", file.read(8))
    if count > 255:
        raise ValueError("not a font")
    tables = {}
    for _ in range(count):
        name, offset, size = struct.unpack(">4s4xII", file.read(16))
        tables[name] = offset, size
    # Pictures of one size (emoji) instead of outlines are not drawn at another.
    if not (_OUTLINES & tables.keys()) or _BITMAPS & tables.keys() or b"cmap" not in tables:
        return LetterTable(b"")
    offset, size = tables[b"cmap"]
    file.seek(offset)
    return LetterTable(_unicode_part(file.read(size)))


def _unicode_part(cmap: bytes) -> bytes:
    """Of the parts of a `cmap`, the one with the most of Unicode; empty if there is none."""
    (count,) = struct.unpack_from(">2xH", cmap)
    parts = {}
    for n in range(count):
        platform, encoding, offset = struct.unpack_from(">HHI", cmap, 4 + 8 * n)
        (kind,) = struct.unpack_from(">H", cmap, offset)
        if kind in (4, 12) and (platform == 0 or (platform == 3 and encoding in (1, 10))):
            parts[kind] = cmap[offset:]
    return parts.get(12) or parts.get(4) or b""


class LetterTable:
    """A part of a `cmap`, of format 12 or 4 (OpenType, "cmap"): from code points to glyphs."""

    def __init__(self, part: bytes):
        self._part = part
        self._kind = struct.unpack_from(">H", part)[0] if part else 0
        self._ranges = list(self._read()) if part else []

    def _read(self) -> Iterator[tuple[int, int, int, int]]:
        """First and last code point, what is added, and where glyphs are listed, if they are."""
        part = self._part
        if self._kind == 12:
            (count,) = struct.unpack_from(">12xI", part)
            for first, last, glyph in struct.iter_unpack(">III", part[16 : 16 + 12 * count]):
                yield first, last, glyph - first, 0
            return
        (count,) = struct.unpack_from(">6xH", part)
        count //= 2
        columns = [
            struct.unpack_from(f">{count}H", part, start)
            for start in (14, 16 + 2 * count, 16 + 4 * count, 16 + 6 * count)
        ]
        for n, (last, first, delta, offset) in enumerate(zip(*columns, strict=True)):
            yield first, last, delta, offset and 16 + 6 * count + 2 * n + offset

    def has(self, code: int) -> bool:
        """Whether there is a glyph for a code point. Glyph 0 says that there is none."""
        for first, last, delta, listed in self._ranges:
            if first <= code <= last:
                if not listed:
                    return bool((code + delta) % 65536)
                (glyph,) = struct.unpack_from(">H", self._part, listed + 2 * (code - first))
                return bool(glyph)
        return False
