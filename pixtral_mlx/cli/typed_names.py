"""Names of files as people type them, and as terminals write what is dragged into them."""

import os
import shlex
import urllib.parse
import urllib.request
from pathlib import Path

from ..inputs.image_source import SUFFIXES
from ..inputs.page_choice import split_choice

_ADDRESSES = ("http:", "https:", "data:")


def typed_names(text: str) -> list[str]:
    """The names in a line: one with blanks in it as it stands, or several as a shell writes them.

    Terminals escape what is dragged (`My\\ Photo\\ \\(1\\).png`) or put it into quotes; some give
    `file://` addresses; and a blank follows.

    Returns:
        Names without quotes and escapes; addresses as they are. None of them need exist.
    """
    text = text.strip()
    if not text or text.lower().startswith(_ADDRESSES) or _file(text):
        return [text] if text else []
    try:
        words = shlex.split(text)
    except ValueError:  # a quote that is part of the name
        return [text]
    return words if len(words) == 1 or any(map(_file, words)) else [text]


def dragged_names(line: str) -> list[str]:
    """The names in a line that is nothing but files: pictures and PDFs by their endings, or
    whatever a path from the root or from home leads to. None in a line that says anything else."""
    names = typed_names(line)
    return names if all(map(_is_dragged, names)) else []


def _is_dragged(name: str) -> bool:
    rooted = name.startswith(("/", "~/")) or name.lower().startswith("file:")
    ends_well = _path(name).suffix.lower() in SUFFIXES
    return (rooted and ends_well) or (_file(name) and (rooted or ends_well))


def _file(name: str) -> bool:
    """Whether there is such a file, its `#page=` aside."""
    try:
        return _path(name).is_file()
    except (OSError, ValueError):  # too long, or with a zero in it
        return False


def _path(name: str) -> Path:
    place, _ = split_choice(name)
    if place.lower().startswith("file:"):
        place = urllib.request.url2pathname(urllib.parse.urlsplit(place).path)
    return Path(os.path.expanduser(place))
