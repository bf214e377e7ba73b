"""PDFs: each page a picture, drawn by pypdfium2 at the size at which the model looks at it.

`report.pdf#page=3` chooses a page, as in a browser (RFC 8118); `#page=2-5,9` chooses several. Other
parameters of a fragment (`&zoom=100`) are for viewers, and ignored.
"""

import os
import re
import threading
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import ImageError
from ..model.config import VisionConfig
from ..model.prompt import patch_grid
from .image_options import ImageOptions
from .size_limit import check_size

MAX_PAGES = 100
"""At most this many pages of one PDF are drawn for one question."""

_FRAGMENT = re.compile(r"#(\w+=[^#/\\&]*(?:&\w+=[^#/\\&]*)*)$", re.ASCII)
_NO_PAGES = re.compile(rb"/Type\s*/Pages\b[^>]{0,200}/Count\s+0\b")
_PDFIUM = threading.Lock()  # PDFium must not be used by two threads at once


def split_choice(source: Any) -> tuple[Any, str | None]:
    """A source without its fragment, and the pages that it chooses (what stands after `page=`), or
    None.

    A file whose name really ends so is left alone, and so is a fragment that names no page: it may
    be of another kind of address.
    """
    if not isinstance(source, str | os.PathLike):
        return source, None
    text = os.fsdecode(source)
    found = _FRAGMENT.search(text)
    parameters = [] if found is None else [each.split("=") for each in found[1].split("&")]
    pages = [value for name, value in parameters if name.lower() == "page"]
    if found is None or not pages or (len(text) < 1000 and os.path.exists(text)):
        return source, None
    place = text[: found.start()]
    return (place if isinstance(source, str) else Path(place)), pages[-1]


def check_no_choice(name: str, choice: str | None) -> None:
    """What is no PDF has no pages to choose.

    Raises:
        ImageError: some were chosen.
    """
    if choice is not None:
        raise ImageError(f"{name}: #page={choice} chooses pages of a PDF, and this is none")


def page_numbers(data: bytes, name: str, choice: str | None = None) -> list[int]:
    """Numbers of the pages that are chosen, from 1 on.

    Raises:
        ImageError: not readable, or the choice is not one.
    """
    with _opened(data, name) as document:
        return _chosen(len(document), name, choice)


def open_pages(
    data: bytes, name: str, vision: VisionConfig, options: ImageOptions, choice: str | None = None
) -> list[tuple[int, Image.Image]]:
    """Draw pages, on white, with their annotations and the contents of forms.

    Arguments:
        data, name: the file, and what it is called in messages.
        vision, options: the longest side of each picture is the model's `image_size`, or shorter
            where an image budget asks for it: letters drawn small are legible longer than letters
            made small.
        choice: "3", "2-5" or "1,4-6"; None is all pages.

    Returns:
        (number of the page, RGB picture), in the order of the choice.

    Raises:
        ImageError: not readable, too many pages, or a page that is too large; pypdfium2 is missing.
    """
    with _opened(data, name) as document:
        numbers = _chosen(len(document), name, choice)
        if len(numbers) > MAX_PAGES:
            raise ImageError(
                f"{name}: {len(numbers):,} pages; at most {MAX_PAGES} are read at once: choose "
                f"some, for example {name}#page=1-20"
            )
        return [(n, _draw(document[n - 1], f"{name}, page {n}", vision, options)) for n in numbers]


@contextmanager
def _opened(data: bytes, name: str) -> Iterator[Any]:
    """The document, for as long as the block lasts; whatever PDFium says becomes one line."""
    try:
        import pypdfium2
    except ImportError as error:
        raise ImageError(
            f'{name}: PDFs need pypdfium2: install it with pip install "pixtral-mlx[pdf]"'
        ) from error
    with _PDFIUM:
        document = None
        try:
            document = pypdfium2.PdfDocument(data)
            document.init_forms()
            yield document
        except pypdfium2.PdfiumError as error:
            # PDFium may repeat what it said about the file before, and says nothing of its own of
            # one that is sound but for its pages.
            if "password" in str(error).lower() and b"/Encrypt" in data:
                text = "needs a password: save a copy without one"
            elif b"%%EOF" in data[-1024:] and _NO_PAGES.search(data):
                text = "a PDF without pages: export or download it again"
            else:
                text = "a damaged PDF: export or download it again"
            raise ImageError(f"{name}: {text}") from error
        finally:
            if document is not None:
                document.close()


def _chosen(count: int, name: str, choice: str | None) -> list[int]:
    if choice is None:
        return list(range(1, count + 1))
    numbers: dict[int, None] = {}
    for part in choice.split(","):
        found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part.strip(), re.ASCII)
        if found is None:
            raise ImageError(
                f"{name}: #page={choice} is no choice of pages: write #page=3, or #page=2-5,9"
            )
        first, last = int(found[1]), int(found[2] or found[1])
        if not 1 <= first <= last <= count:
            raise ImageError(
                f"{name}: #page={choice}, but its pages are 1 to {count}: choose among them"
            )
        numbers |= dict.fromkeys(range(first, last + 1))
    return list(numbers)


def _draw(page: Any, name: str, vision: VisionConfig, options: ImageOptions) -> Image.Image:
    """One page; sizes are checked before anything is drawn."""
    from pypdfium2.raw import FPDF_PAGEOBJ_IMAGE

    for part in page.get_objects(filter=[FPDF_PAGEOBJ_IMAGE]):
        held = part.get_metadata()
        bits = held.bits_per_pixel or 32  # nothing is stated
        bytes_each = 1 if bits <= 8 else ceil(bits / 8)
        check_size(held.width, held.height, f"{name}: a picture in it", bytes_each)
    sides, budget = page.get_size(), options.image_budget

    def scale(pixels: int) -> float:
        # PDFium rounds sides up: a little less, or rounding may give a pixel more.
        return (pixels - 1e-3) / max(sides)

    def too_many(pixels: int) -> bool:
        width, height = (ceil(side * scale(pixels)) for side in sides)
        return budget is not None and patch_grid(width, height, vision).tokens > budget

    pixels = bisect_left(range(1, vision.image_size + 1), True, key=too_many)  # most that fit
    return page.render(scale=scale(pixels)).to_pil()
