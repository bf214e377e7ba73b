"""PDFs: each page a picture, drawn by pypdfium2 at the size at which the model looks at it."""

import re
import threading
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from typing import Any

from PIL import Image

from ..errors import ImageError, how_to_install
from ..model.config import VisionConfig
from ..model.prompt import patch_grid
from .image_options import ImageOptions
from .page_choice import check_count, chosen_pages
from .size_limit import check_size

_NO_PAGES = re.compile(rb"/Type\s*/Pages\b[^>]{0,200}/Count\s+0\b")
_PDFIUM = threading.Lock()  # PDFium must not be used by two threads at once


def page_numbers(
    data: bytes, name: str, choice: str | None = None, password: str | None = None
) -> list[int]:
    """Numbers of the pages that are chosen, from 1 on.

    Raises:
        ImageError: not readable, or the choice is not one.
    """
    with _opened(data, name, password) as document:
        return chosen_pages(len(document), name, choice)


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
        (number of the page, RGB picture), in the order of the choice.

    Raises:
        ImageError: not readable, too many pages, or a page that is too large; pypdfium2 is missing.
    """
    with _opened(data, name, options.pdf_password) as document:
        numbers = chosen_pages(len(document), name, choice)
        check_count(numbers, name)
        return [(n, _draw(document[n - 1], f"{name}, page {n}", vision, options)) for n in numbers]


@contextmanager
def _opened(data: bytes, name: str, password: str | None) -> Iterator[Any]:
    """The document, for as long as the block lasts; whatever PDFium says becomes one line."""
    try:
        import pypdfium2
    except ImportError as error:
        raise ImageError(f"{name}: PDFs need pypdfium2: {how_to_install('pdf')}") from error
    with _PDFIUM:
        document = None
        try:
            document = pypdfium2.PdfDocument(data, password=password)
            document.init_forms()
            yield document
        except pypdfium2.PdfiumError as error:
            # PDFium may repeat what it said about the file before, and says nothing of its own of
            # one that is sound but for its pages.
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
        finally:
            if document is not None:
                document.close()


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
