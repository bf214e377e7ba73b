"""README and the pages of docs/: where they are, and what stands in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.stem.lower(): page.read_text(encoding="utf-8") for page in PAGES}
"""{"readme" or the name of a page: its text}."""
FLAT = {name: " ".join(text.split()) for name, text in TEXTS.items()}
"""The same with all of it on one line, for phrases that a line may break."""

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(name: str, language: str | None = None) -> list[str]:
    """The fenced blocks of a page: those of a language ("" for none), or all."""
    found = _BLOCK.findall(TEXTS[name])
    return [text for kind, text in found if language in (None, kind)]


def prose(name: str) -> str:
    """A page without its fenced blocks."""
    return _BLOCK.sub("", TEXTS[name])


def with_blocks(language: str) -> list[str]:
    """The pages that have some in this language."""
    return [name for name in TEXTS if blocks(name, language)]
