"""What has pages, PDF or TIFF, and its pages as pictures."""

from PIL import Image

from ..errors import ImageError
from ..model.config import VisionConfig
from . import pdf
from .file_kind import is_pdf
from .image import decode_image
from .image_options import ImageOptions
from .page_choice import check_count, chosen_pages
from .size_limit import MAX_DECODED_BYTES, pixel_bytes
from .tiff import has_several_pages, is_tiff, page_alone, page_places, page_size

MAX_PAGES_BYTES = 4 * MAX_DECODED_BYTES
"""Of the pages of one TIFF for one question, once decoded."""


def has_pages(data: bytes, choice: str | None = None) -> bool:
    """Whether its pages are numbered: those of every PDF, and of a TIFF that has several, or of
    which one is chosen."""
    return is_pdf(data) or (is_tiff(data) if choice is not None else has_several_pages(data))


def page_numbers(
    data: bytes, name: str, choice: str | None = None, password: str | None = None
) -> list[int]:
    """Numbers of the pages that are chosen, from 1 on.

    Raises:
        ImageError: not readable, or the choice is not one.
    """
    if is_pdf(data):
        return pdf.page_numbers(data, name, choice, password)
    return chosen_pages(len(page_places(data, name)), name, choice)


def page_sizes(
    data: bytes, name: str, vision: VisionConfig, options: ImageOptions, choice: str | None = None
) -> list[tuple[int, tuple[int, int]]]:
    """What `open_pages` will give, by what is said of it: nothing is drawn or decoded.

    Returns:
        (number of the page, (width, height) of its picture), in the order of the choice.

    Raises:
        ImageError: not readable, or too many pages.
    """
    if is_pdf(data):
        return pdf.page_sizes(data, name, vision, options, choice)
    places = page_places(data, name)
    numbers = chosen_pages(len(places), name, choice)
    check_count(numbers, name)
    return [(number, page_size(data, places[number - 1])) for number in numbers]


def open_pages(
    data: bytes, name: str, vision: VisionConfig, options: ImageOptions, choice: str | None = None
) -> list[tuple[int, Image.Image]]:
    """Pages as pictures: of a PDF as `pdf` draws them, of a TIFF as `open_image` gives them.

    Returns:
        (number of the page, picture), in the order of the choice.

    Raises:
        ImageError: not readable, too many pages, or one that is too large, or all together.
    """
    if is_pdf(data):
        return pdf.open_pages(data, name, vision, options, choice)
    places = page_places(data, name)
    numbers = chosen_pages(len(places), name, choice)
    check_count(numbers, name)
    pages, held = [], 0
    for number in numbers:
        page = decode_image(page_alone(data, places[number - 1]), f"{name}, page {number}", options)
        held += page.width * page.height * pixel_bytes(page.mode)
        if held > MAX_PAGES_BYTES:
            raise ImageError(
                f"{name}: its pages take more than {MAX_PAGES_BYTES:,} bytes once decoded: choose "
                f"fewer, for example {name}#page={number}"
            )
        pages.append((number, page))
    return pages
