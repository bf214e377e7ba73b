"""The page on which a person checks a document: its pages with boxes, its fields, their decisions.

One HTML text with its style, its script and its pictures; it asks no other host for anything.
"""

import base64
import hashlib
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

from ..drawing import joined, styled
from ..errors import ImageError
from ..files import expanded, new_file
from ..inputs.image_options import ImageOptions
from ..inputs.pixels import shrunk
from .documents import Page

STATIC = Path(__file__).parent / "static"
LONGEST_SIDE = 1600
"""Of a page as it is shown, in pixels."""
LOSSLESS_PIXELS = 100_000
"""A picture that is not larger is a PNG, any other a JPEG."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{style}</style>
</head>
<body class="px-widget">
<main id="review"></main>
<script type="application/json" id="document">{held}</script>
<script type="module">{script}</script>
</body>
</html>
"""


@cache
def _parts() -> tuple[str, str]:
    """The style and the script."""
    return styled(STATIC / "review.css"), joined("review", [STATIC])


def _policy() -> str:
    style, script = _parts()
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def review_page(row: Mapping[str, Any], pages: Sequence[Page]) -> str:
    """The page of one document.

    Arguments:
        row: as `Extraction.row` has it.
        pages: those that it was read from.
    """
    held = {
        "source": row["source"], "reasons": row["reasons"], "fields": row["fields"],
        "pages": [_shown(page) for page in pages],
    }  # fmt: skip
    style, script = _parts()
    return _PAGE.format(
        policy=_policy(),
        title=html.escape(f"{row['source']}: review"),
        style=style,
        held=json.dumps(held, ensure_ascii=False).replace("<", "\\u003c"),
        script=script,
    )


def _shown(page: Page) -> dict[str, Any]:
    picture, file = shrunk(page.seen(LONGEST_SIDE), ImageOptions(), LONGEST_SIDE), io.BytesIO()
    kind = "png" if picture.width * picture.height <= LOSSLESS_PIXELS else "jpeg"
    picture.save(file, kind, quality=88)
    address = f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"number": page.number, "source": page.source, "url": address, "size": picture.size}


def page_name(source: str) -> str:
    """How the page of a document is called: by its name, and so that no two have one."""
    name = Path(source.partition("#")[0]).name
    stem = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip(".-")[:60]
    digest = hashlib.sha256(source.encode(errors="surrogateescape")).hexdigest()
    return f"{stem or 'document'}-{digest[:8]}.html"


def write_page(text: str, path: "str | PathLike[str]", *, replace: bool = False) -> None:
    """Write a page, complete or not at all.

    Arguments:
        replace: an older one.

    Raises:
        ImageError: there is such a file, or it cannot be written.
    """
    with new_file(expanded(path), replace=replace, error=ImageError) as hidden:
        hidden.write_text(text, encoding="utf-8", errors="backslashreplace")
