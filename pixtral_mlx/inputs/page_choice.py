"""Which pages of a document are meant.

`report.pdf#page=3` chooses a page, as in a browser (RFC 8118); `#page=2-5,9` chooses several. Other
parameters of a fragment (`&zoom=100`) are for viewers, and ignored.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ImageError

MAX_PAGES = 100
"""At most this many pages of one document are read for one question."""

_FRAGMENT = re.compile(r"#(\w+=[^#/\\&]*(?:&\w+=[^#/\\&]*)*)$", re.ASCII)


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
    parameters = [] if found is None else [each.split("=", 1) for each in found[1].split("&")]
    pages = [value for name, value in parameters if name.lower() == "page"]
    if found is None or not pages or (len(text) < 1000 and os.path.exists(text)):
        return source, None
    place = text[: found.start()]
    return (place if isinstance(source, str) else Path(place)), pages[-1]


def chosen_pages(count: int, name: str, choice: str | None) -> list[int]:
    """Numbers of pages, from 1 to `count`, in the order of the choice, each once.

    Raises:
        ImageError: what is chosen is not there, or no choice.
    """
    if choice is None:
        return list(range(1, count + 1))
    numbers: dict[int, None] = {}
    for part in choice.split(","):
        found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part.strip(), re.ASCII)
        if found is None:
            raise ImageError(
                f"{name}: #page={choice} does not choose pages: write #page=3, or #page=2-5,9"
            )
        first, last = int(found[1]), int(found[2] or found[1])
        if not 1 <= first <= last <= count:
            raise ImageError(
                f"{name}: #page={choice}, but its pages are 1 to {count}: choose among them"
            )
        numbers |= dict.fromkeys(range(first, last + 1))
    return list(numbers)


def check_no_choice(name: str, choice: str | None) -> None:
    """What is one picture has no pages to choose.

    Raises:
        ImageError: some were chosen.
    """
    if choice is not None:
        raise ImageError(f"{name}: #page={choice} chooses pages, and this has none")


def check_count(numbers: Sequence[int], name: str) -> None:
    """Whether so many pages are read for one question.

    Raises:
        ImageError: they are too many.
    """
    if len(numbers) > MAX_PAGES:
        raise ImageError(
            f"{name}: {len(numbers):,} pages; at most {MAX_PAGES} are read at once: choose some, "
            f"for example {name}#page=1-20"
        )
