"""Which pages of a document are meant.

`report.pdf#page=3` chooses a page, as in a browser (RFC 8118); `#page=2-5,9` chooses several. What
else stands in a fragment (`zoom=100`, the name of a chapter) is for viewers, and ignored.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..errors import ImageError

MAX_PAGES = 100
"""At most this many pages of one document are read for one question."""

_ADDRESS = re.compile(r"\s*(https?|file|data):", re.IGNORECASE)
_LONGEST_PATH = 4096


def split_choice(source: Any) -> tuple[Any, str | None]:
    """A source without its fragment, and the pages that it chooses (what stands after `page=`), or
    None. A file whose name really holds a # is left alone."""
    if not isinstance(source, str | os.PathLike):
        return source, None
    text = os.fsdecode(source)
    start = _fragment_start(text)
    if start is None:
        return source, None
    place, choice = text[:start], _pages_in(text[start + 1 :])
    return (place if isinstance(source, str) else Path(place)), choice


def _fragment_start(text: str) -> int | None:
    """Where the # stands before a fragment, or None.

    It is the first of an address. Names of files may hold it too: there it is the last one before
    which a file is named, or, if there is no such file, the last of all, if pages stand behind it.
    """
    if _ADDRESS.match(text):
        return text.find("#") if "#" in text else None
    if len(text) > _LONGEST_PATH or "#" not in text or _exists(text):
        return None
    start = last = text.rindex("#")
    while start >= 0:
        if _exists(text[:start], os.path.isfile):
            return start
        start = text.rfind("#", 0, start)
    is_name = any(separator in text[last:] for separator in "/\\")
    return None if is_name or _pages_in(text[last + 1 :]) is None else last


def _exists(text: str, check: Callable[[str], bool] = os.path.exists) -> bool:
    return check(os.path.expanduser(text))


def _pages_in(fragment: str) -> str | None:
    """The value of `page` in a fragment, the last one that there is."""
    pages = None
    for parameter in fragment.split("&"):
        name, equals, value = parameter.partition("=")
        if equals and unquote(name).lower() == "page":
            pages = unquote(value)
    return pages


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
