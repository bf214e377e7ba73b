"""PDFs: each page a picture, drawn by pypdfium2 at the size at which the model looks at it."""

import logging
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from math import ceil

from PIL import Image

from ..errors import ImageError, how_to_install
from ..model.config import VisionConfig
from ..model.prompt import patch_grid
from .image_options import ImageOptions
from .image_source import short_name
from .page_choice import check_count, chosen_pages
from .pdf_process import Document, DrawingError, opened
from .size_limit import check_size

_NO_PAGES = re.compile(rb"/Type\s*/Pages\b[^>]{0,200}/Count\s+0\b")
_STANDARD_FONTS = re.compile(r"(Courier|Helvetica|Times|Symbol|ZapfDingbats|Arial)(-|,|$|New|MT)")
_POINTS = 72  # an inch, the unit of a PDF's lengths

log = logging.getLogger(__name__)


def page_numbers(
    data: bytes, name: str, choice: str | None = None, password: str | None = None
) -> list[int]:
    """Numbers of the pages that are chosen, from 1 on.

    Raises:
        ImageError: not readable, or the choice is not one.
    """
    with _opened(data, name, password) as document:
        return chosen_pages(document.pages, name, choice)


def page_sizes(
    data: bytes, name: str, vision: VisionConfig, options: ImageOptions, choice: str | None = None
) -> list[tuple[int, tuple[int, int]]]:
    """What `open_pages` will give, without drawing it.

    Returns:
        (number of the page, (width, height) of its picture), in the order of the choice.

    Raises:
        ImageError: not readable, or too many pages; pypdfium2 is missing.
    """
    with _opened(data, name, options.pdf_password) as document:
        numbers = chosen_pages(document.pages, name, choice)
        check_count(numbers, name)
        found = []
        for number, sides in zip(numbers, document.sizes(numbers), strict=True):
            scale = _scale(sides, vision, options)
            found.append((number, (ceil(sides[0] * scale), ceil(sides[1] * scale))))
        return found


def open_pages(
    data: bytes, name: str, vision: VisionConfig, options: ImageOptions, choice: str | None = None
) -> list[tuple[int, Image.Image]]:
    """Draw pages, on white, with their annotations and the contents of forms.

    Arguments:
        data, name: the file, and what it is called in messages.
        vision, options: the longest side of each picture is the model's `image_size`, or shorter
            where an image budget asks for it: letters drawn small are legible longer than letters
            made small. The password is there too.
        choice: "3", "2-5" or "1,4-6"; None is all pages.

    Returns:
        (number of the page, RGB picture that states its dpi), in the order of the choice.

    Raises:
        ImageError: not readable, too many pages, or a page that is too large or takes too long or
            too much memory to draw; pypdfium2 is missing.
    """
    with _opened(data, name, options.pdf_password) as document:
        numbers = chosen_pages(document.pages, name, choice)
        check_count(numbers, name)
        pages, fonts = [], dict[str, None]()
        for number in numbers:
            held = document.look(number)
            _check_pictures(held["pictures"], f"{name}, page {number}")
            pages.append((number, _drawn(document, number, _scale(held["size"], vision, options))))
            fonts |= dict.fromkeys(f for f in held["fonts"] if not _STANDARD_FONTS.match(f))
    missing = [font for font in fonts if _is_news(name, len(data), font)]
    if missing:
        log.warning(
            "%s: does not hold its fonts (%s); letters are drawn with others, and may be wrong or "
            "missing: export it again with its fonts", name, short_name(", ".join(missing)),
        )  # fmt: skip
    return pages


def page_words(
    data: bytes, name: str, number: int, password: str | None = None
) -> list[tuple[str, tuple[float, float, float, float]]]:
    """The text that a page has of its own, word by word, in the order of the file.

    Returns:
        (word, (left, top, right, bottom) as shares of the page as it is drawn); none for a scan.

    Raises:
        ImageError: not readable, or too much of it; pypdfium2 is missing.
    """
    with _opened(data, name, password) as document:
        return [(text, (x0, y0, x1, y1)) for text, x0, y0, x1, y1 in document.words(number)]


@contextmanager
def _opened(data: bytes, name: str, password: str | None) -> Iterator[Document]:
    """The document, for as long as the block lasts; whatever PDFium says becomes one line."""
    if find_spec("pypdfium2") is None:
        raise ImageError(f"{name}: PDFs need pypdfium2: {how_to_install('pdf')}")
    try:
        with opened(data, name, password) as document:
            yield document
    except DrawingError as error:
        # PDFium may repeat what it said about the file before, and says nothing of its own of one
        # that is sound but for its pages.
        if "password" in str(error).lower() and b"/Encrypt" in data:
            text = (
                "locked: give its password by pdf_password= or --pdf-password-file"
                if password is None
                else "locked, and the password that was given does not open it: check it"
            )
        elif b"%%EOF" in data[-1024:] and _NO_PAGES.search(data):
            text = "a PDF without pages: export or download it again"
        else:
            text = "a damaged PDF: export or download it again"
        raise ImageError(f"{name}: {text}") from error


@lru_cache(maxsize=1024)
def _first_time(name: str, size: int, font: str) -> list[bool]:
    return [True]


def _is_news(name: str, size: int, font: str) -> bool:
    """Whether this was not said of the document yet, whose pages may be opened one by one."""
    said = _first_time(name, size, font)
    return bool(said) and said.pop()


def _check_pictures(pictures: Iterable[tuple[int, int, int]], name: str) -> None:
    """Whether the pictures in a page may be decoded, which drawing does."""
    for width, height, stated_bits in pictures:
        bits = stated_bits or 32  # nothing is stated
        check_size(width, height, f"{name}: a picture in it", 1 if bits <= 8 else ceil(bits / 8))


def _drawn(document: Document, number: int, scale: float) -> Image.Image:
    picture = Image.frombytes("RGB", *document.draw(number, scale))
    picture.info["dpi"] = (_POINTS * scale,) * 2
    return picture


def _scale(sides: tuple[float, float], vision: VisionConfig, options: ImageOptions) -> float:
    """Pixels a point at which a page is drawn."""
    budget = options.image_budget

    def scale(pixels: int) -> float:
        # PDFium rounds sides up: a little less, or rounding may give a pixel more.
        return (pixels - 1e-3) / max(sides)

    def too_many(pixels: int) -> bool:
        width, height = (ceil(side * scale(pixels)) for side in sides)
        return budget is not None and patch_grid(width, height, vision).tokens > budget

    return scale(bisect_left(range(1, vision.image_size + 1), True, key=too_many))  # most that fit
