"""Pictures that have been found: their sizes are known, and nothing of them is decoded yet."""

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL import Image

from ..errors import PromptError
from ..model.config import VisionConfig
from ..model.prompt import patch_grid
from ..model.vision_language_model import NO_VISION
from .image import EncodedImage, open_image
from .image_options import ImageOptions
from .image_source import is_file, read_source
from .page_choice import check_no_choice, split_choice
from .pages import has_pages, open_pages, page_sizes


@dataclass(frozen=True)
class Found:
    """A picture that can be opened.

    Arguments:
        size: width and height, before it is turned upright.
        open: gives the picture, once.
        page: its number, if it is a page.
        file_bytes: what it holds in memory until then, the pages of a file in equal parts.
        content: tells what it shows from what others show: the hash of its file, and its page; None
            of a picture in memory, which may change.
    """

    size: tuple[int, int]
    open: Callable[[], Image.Image]
    page: int | None = None
    file_bytes: int = 0
    content: Hashable = None

    def least_tokens(self, vision: VisionConfig, image_budget: int | None) -> int:
        """So many tokens it takes at least, whichever way up it is."""
        width, height = self.size
        sides = (width, height), (height, width)
        return min(patch_grid(*each, vision, image_budget).tokens for each in sides)


@dataclass(frozen=True)
class Opened:
    """A picture that has been decoded and is not going to change.

    Arguments:
        image: itself.
        content: as of `Found`.
    """

    image: Image.Image
    content: Hashable


def find_pictures(source: Any, options: ImageOptions, vision: VisionConfig | None) -> list[Found]:
    """A picture, or the pages of a PDF or of a TIFF that has several.

    Arguments:
        source: as for `open_image`, or `Opened`; also what has pages, of which `#page=2-5` after
            its name chooses some.
        vision: of the model, for the size of a PDF's pages; None if it has none.

    Raises:
        PromptError: pages for a model without a vision encoder.
        ImageError: as `open_image` and `open_pages`, as far as nothing is decoded.
    """
    if isinstance(source, Opened):
        return [Found(source.image.size, lambda: source.image, content=source.content)]
    if not is_file(source):
        image = open_image(source, options)
        return [Found(image.size, lambda: image)]
    place, choice = split_choice(source)
    data, name = read_source(place, options.sources)
    if not has_pages(data, choice):
        check_no_choice(name, choice)
        encoded = EncodedImage(data, name, options)
        content = hashlib.sha256(data).digest()
        return [Found(encoded.size, encoded.decoded, file_bytes=len(data), content=content)]
    if vision is None:
        raise PromptError(NO_VISION)
    sizes = page_sizes(data, name, vision, options, choice)
    pages = cache(lambda: dict(open_pages(data, name, vision, options, choice)))
    each, content = len(data) // max(len(sizes), 1), hashlib.sha256(data).digest()
    return [
        Found(size, lambda n=number: pages().pop(n), number, each, (content, number))
        for number, size in sizes
    ]
