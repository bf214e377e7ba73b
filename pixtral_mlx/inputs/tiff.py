"""TIFFs of several pages, as scanners and fax programs write them: where each page is.

That is read here and not by Pillow, which reads everything of all pages before the one that is
wanted. Smaller copies of a picture and masks are no pages, though they have directories
like pages.
"""

import ctypes
import ctypes.util
import struct
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path

import PIL

from ..errors import ImageError

MAX_DIRECTORIES = 50_000
"""Of a TIFF whose pages are counted."""

_SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT = 254, 255, 256, 257
_NO_PAGE = {_SUBFILE: lambda value: value & 5, _OLD_SUBFILE: lambda value: value == 2}


def is_tiff(data: bytes) -> bool:
    """Whether this is a TIFF, or a BigTIFF, by its first bytes."""
    return data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))


@cache
def quiet_libtiff() -> None:
    """From now on it says nothing about damaged files on stderr, which it does by itself beside the
    errors that Pillow raises. Only the copy that Pillow brings is spoken to, or the system's where
    Pillow brings none."""
    home = Path(PIL.__file__).parent
    brought = [*home.parent.glob("pillow.libs/libtiff*"), *home.glob(".dylibs/libtiff*")]
    for library in (*map(str, brought), ctypes.util.find_library("tiff")):
        with suppress(OSError, AttributeError):  # None is the program itself, which may have it too
            held = ctypes.CDLL(library)
            held.TIFFSetErrorHandler(None)
            held.TIFFSetWarningHandler(None)
            return


def has_several_pages(data: bytes) -> bool:
    """Whether this is a TIFF of more than one page; no further page is looked for."""
    return len(list(islice(_pages(data), 2))) == 2


def first_page(data: bytes) -> bytes:
    """The file, beginning with its first page, before which a smaller copy of it may stand."""
    place = next(_pages(data), None)
    if place is None or place == _start(data, *_header(data)):
        return data
    return page_alone(data, place)


def page_places(data: bytes, name: str) -> list[int]:
    """Where the directory of each page begins.

    Raises:
        ImageError: too many pages.
    """
    places = list(islice(_pages(data), MAX_DIRECTORIES))
    if len(places) == MAX_DIRECTORIES:
        raise ImageError(f"{name}: {MAX_DIRECTORIES:,} pages or more: split it first")
    return places


def page_size(data: bytes, place: int) -> tuple[int, int]:
    """Width and height of a page, by the place of its directory; (1, 1) where they are not said."""
    order, big = _header(data)
    found = {_WIDTH: 1, _HEIGHT: 1}
    with suppress(struct.error):
        entries = _entries(place, _end(data, order, big, place), big)
        found |= {tag: value for tag, value in _values(data, order, big, entries) if tag in found}
    return max(found[_WIDTH], 1), max(found[_HEIGHT], 1)


def page_alone(data: bytes, place: int) -> bytes:
    """A file of one page of a file, by the place of its directory."""
    order, big = _header(data)
    held, end = memoryview(data), _end(data, order, big, place)
    size = 8 if big else 4
    start = place.to_bytes(size, "little" if order == "<" else "big")
    return b"".join((held[:size], start, held[2 * size : end], bytes(size), held[end + size :]))


def _header(data: bytes) -> tuple[str, bool]:
    """Order of bytes, and whether places have 64 bits."""
    return ("<" if data[:1] == b"I" else ">"), 43 in data[2:4]


def _start(data: bytes, order: str, big: bool) -> int:
    return struct.unpack_from(f"{order}Q" if big else f"{order}I", data, 8 if big else 4)[0]


def _end(data: bytes, order: str, big: bool, place: int) -> int:
    """Where a directory says which is the next."""
    (count,) = struct.unpack_from(f"{order}Q" if big else f"{order}H", data, place)
    return place + (8 + 20 * count if big else 2 + 12 * count)


def _pages(data: bytes) -> Iterator[int]:
    if not is_tiff(data):
        return
    order, big = _header(data)
    seen: set[int] = set()
    try:
        place = _start(data, order, big)
        while place and place not in seen and len(seen) < 2 * MAX_DIRECTORIES:
            seen.add(place)
            end = _end(data, order, big, place)
            if _is_page(data, order, big, _entries(place, end, big)):
                yield place
            (place,) = struct.unpack_from(f"{order}Q" if big else f"{order}I", data, end)
    except (struct.error, OverflowError):  # it ends too early: Pillow says what is left of it
        return


def _entries(place: int, end: int, big: bool) -> range:
    """Where the entries of a directory stand."""
    return range(place + (8 if big else 2), end, 20 if big else 12)


def _values(data: bytes, order: str, big: bool, entries: range) -> Iterator[tuple[int, int]]:
    """Tag and number of the first entries of a directory, which are sorted by their tags."""
    for at in entries[:8]:
        tag, kind = struct.unpack_from(f"{order}HH", data, at)
        short = order + ("H" if kind == 3 else "I")
        (value,) = struct.unpack_from(short, data, at + (12 if big else 8))
        yield tag, value


def _is_page(data: bytes, order: str, big: bool, entries: range) -> bool:
    """By the entries that tell, which stand at its start."""
    for tag, value in _values(data, order, big, entries):
        if tag in _NO_PAGE:
            return not _NO_PAGE[tag](value)
    return True
