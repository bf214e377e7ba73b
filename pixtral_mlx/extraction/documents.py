"""A document: its pages, as the model sees them and with the words that a PDF has itself."""

import hashlib
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from PIL import Image

from ..errors import ImageError, PromptError
from ..inputs.file_kind import is_pdf
from ..inputs.found import Opened
from ..inputs.image import decode_image, exif_orientation, open_image
from ..inputs.image_options import ImageOptions
from ..inputs.image_source import is_file, read_source, short_name
from ..inputs.page_choice import MAX_PAGES, check_no_choice, split_choice
from ..inputs.pages import MAX_PAGES_BYTES, has_pages, open_pages, page_numbers
from ..inputs.pdf import page_words
from ..inputs.size_limit import pixel_bytes
from ..model.config import PIXTRAL_12B_VISION, VisionConfig
from ..model.vision_language_model import NO_VISION

Word = tuple[str, tuple[float, float, float, float]]
"""A word, and left, top, right and bottom as shares of the page as it is seen."""


@dataclass(frozen=True, eq=False)
class Page:
    """One page of a document.

    Arguments:
        number: in the document, from 1 on: of a document that is one file, that file's own number;
            of several files together, counted through all of them.
        source: how its file is called.
        picture: what the model looks at.
        own: its number in that file, if that has pages.
        orientation: that the model does not see undone, as EXIF counts (1 is upright).
    """

    number: int
    source: str
    picture: Opened
    own: int | None = None
    orientation: int = 1
    _pdf: tuple[bytes, str, str | None] | None = field(default=None, repr=False)

    @cached_property
    def words(self) -> list[Word]:
        """The text that its PDF has, where it is one; a scan has none.

        Raises:
            ImageError: the text takes too long to read.
        """
        if self._pdf is None or self.own is None:
            return []
        data, name, password = self._pdf
        return page_words(data, name, self.own, password)

    def seen(self, longest: int) -> Image.Image:
        """Its picture as people see it, a page of a PDF drawn anew with sides of at most so many
        pixels; it may be larger otherwise.

        Raises:
            ImageError: the page cannot be drawn.
        """
        if self._pdf is None:
            return self.upright()
        data, name, password = self._pdf
        large, options = (
            replace(PIXTRAL_12B_VISION, image_size=longest),
            ImageOptions(pdf_password=password),
        )
        ((_, picture),) = open_pages(data, name, large, options, str(self.own))
        return picture

    def upright(self) -> Image.Image:
        """What the model looks at, turned as people see it."""
        picture = self.picture.image
        turns = {
            2: [Image.Transpose.FLIP_LEFT_RIGHT], 3: [Image.Transpose.ROTATE_180],
            4: [Image.Transpose.FLIP_TOP_BOTTOM], 5: [Image.Transpose.TRANSPOSE],
            6: [Image.Transpose.ROTATE_270], 7: [Image.Transpose.TRANSVERSE],
            8: [Image.Transpose.ROTATE_90],
        }  # fmt: skip
        for turn in turns.get(self.orientation, ()):
            picture = picture.transpose(turn)
        return picture

    def row(self) -> dict[str, Any]:
        """{"page", "source", "number"}; its number in its own file, or None."""
        return {"page": self.number, "source": self.source, "number": self.own}


def open_document(
    sources: Any,
    options: ImageOptions,
    vision: VisionConfig | None,
    check: Callable[[int], None] = lambda pages: None,
) -> tuple[Page, ...]:
    """The pages of a document.

    Arguments:
        sources: an image or a PDF, as for `generate`, or a list of them.
        check: called with how many pages there are at least, before more of them are drawn or
            decoded; what it raises ends it all.

    Raises:
        PromptError: there is none, or the model has no vision encoder.
        ImageError: one cannot be read, or all together are too many or too large.
    """
    if vision is None:
        raise PromptError(NO_VISION)
    listed = list(sources) if isinstance(sources, list | tuple) else [sources]
    if not listed:
        raise PromptError("there is no document: give an image, a PDF, or a list of them")
    check(len(listed))
    pages, held = [], 0
    for source in listed:
        for page in _pages(source, options, vision, lambda more: check(len(pages) + more)):
            image = page.picture.image
            held += image.width * image.height * pixel_bytes(image.mode)
            _check(len(pages) + 1, held)
            number = len(pages) + 1 if len(listed) > 1 else page.own or 1
            pages.append(Page(number, *_rest(page)))
    return tuple(pages)


def _rest(page: Page) -> tuple[Any, ...]:
    return page.source, page.picture, page.own, page.orientation, page._pdf


def _check(count: int, held: int) -> None:
    if count > MAX_PAGES:
        raise ImageError(
            f"the document has more than {MAX_PAGES} pages: choose some, as in x.pdf#page=1-20"
        )
    if held > MAX_PAGES_BYTES:
        raise ImageError(
            f"the pages of the document take more than {MAX_PAGES_BYTES:,} bytes once decoded: "
            "give fewer at a time"
        )


def _pages(
    source: Any, options: ImageOptions, vision: VisionConfig, check: Callable[[int], None]
) -> Iterator[Page]:
    if not is_file(source):
        image = open_image(source, options)
        content = hashlib.sha256(image.tobytes()).digest(), image.size, image.mode
        yield Page(1, "image", Opened(image, content), None, _left(image, options))
        return
    place, choice = split_choice(source)
    data, name = read_source(place, options.sources)
    content: Hashable = hashlib.sha256(data).digest()
    if not has_pages(data, choice):
        check_no_choice(name, choice)
        image = decode_image(data, name, options)
        yield Page(1, name, Opened(image, content), None, _left(image, options))
        return
    check(len(page_numbers(data, name, choice, options.pdf_password)))
    pdf = (data, name, options.pdf_password) if is_pdf(data) else None
    for number, image in open_pages(data, name, vision, options, choice):
        turned = 1 if pdf else _left(image, options)
        yield Page(number, name, Opened(image, (content, number)), number, turned, pdf)


def _left(image: Image.Image, options: ImageOptions) -> int:
    """The orientation that is still to be undone."""
    return 1 if options.orient else exif_orientation(image)


def name_of(sources: Any) -> str:
    """How a document is called in its row."""
    listed = list(sources) if isinstance(sources, list | tuple) else [sources]
    named = [
        short_name(os.fsdecode(each)) if isinstance(each, str | os.PathLike) else "image"
        for each in listed
    ]
    return ", ".join(named)


def parts_of(pages: Sequence[Page]) -> list[dict[str, Any]]:
    """Pages as parts of a message, each after its number if there are several."""
    parts: list[dict[str, Any]] = []
    for page in pages:
        if len(pages) > 1:
            parts.append({"type": "text", "text": f"Page {page.number}:"})
        parts.append({"type": "image", "image": page.picture})
    return parts
