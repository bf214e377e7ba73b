"""How the project speaks: one word for one thing, one way to count, and English by ear.

What is read here are the strings of the package and the widgets (messages, help, captions), the
docstrings of public names, and the documents. A phrase that is on the list was once in one of them.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pixtral_mlx as px

HOUSE = Path(__file__).parents[1]
SOURCES = sorted(
    file
    for folder in ("pixtral_mlx", "widgets/pixtral_mlx_widgets")
    for ending in ("py", "js")
    for file in (HOUSE / folder).rglob(f"*.{ending}")
)
DOCUMENTS = [*(HOUSE / name for name in ("README.md", "CONTRIBUTING.md", "BENCHMARKS.md"))]
DOCUMENTS += sorted((HOUSE / "docs").glob("*.md"))

TRANSLATED = (
    r"\busable are\b", r"\bfor who\b", r"\bjob in small\b", r"\bas ever\b", r"\bto draw from\b",
    r"\bignored is\b", r"\bneeded is\b", r"\blargest longest\b", r"\bmistake of usage\b",
    r"\bis no regular\b", r"\bgoes before it\b", r"\bcomputes right\b", r"\bcounted from 0\b",
    r"\bare known of\b", r"\btokens? from cache\b", r"\banswers? otherwise\b",
    r"\bcannot be promised\b", r"\btrain from nothing\b",
)  # fmt: skip
"""By ear: what a native writer would not have said."""

MACHINES = r"\b68\.72\b|\b51\.54\b|\b17\.18 GB|\b34\.36 GB|\bGiB\b|\bMiB\b"
"""Memory in units in which no machine is sold."""


def strings(file: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of everything between quotes; an f-string's fields are left as "{}"."""
    source = file.read_text(encoding="utf-8")
    if file.suffix == ".js":
        for found in re.finditer(r'"((?:[^"\\\n]|\\.)*)"|`((?:[^`\\]|\\.)*)`', source):
            text = re.sub(r"\$\{[^{}]*\}", "{}", found[1] or found[2] or "")
            yield source.count("\n", 0, found.start()) + 1, text
        return
    tree = ast.parse(source)
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
              for part in ast.walk(node) if part is not node}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
            yield node.lineno, "".join(map(str, parts))
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in inside
        ):
            yield node.lineno, node.value


def sentences() -> Iterator[tuple[str, str]]:
    """(where, text) of all that people read."""
    for file in SOURCES:
        for line, text in strings(file):
            if " " in text.strip():
                yield f"{file.relative_to(HOUSE)}:{line}", " ".join(text.split())
    for file in DOCUMENTS:
        for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            yield f"{file.relative_to(HOUSE)}:{number}", text


@pytest.fixture(scope="module")
def read() -> list[tuple[str, str]]:
    found = list(sentences())
    assert len(found) > 2000, "the strings are not found any more"
    return found


def containing(read, pattern: str) -> list[str]:
    return [f"{where}: {text[:160]}" for where, text in read if re.search(pattern, text)]


@pytest.mark.parametrize("phrase", TRANSLATED)
def test_nothing_sounds_translated(read, phrase):
    assert containing(read, phrase) == []


def test_memory_is_said_as_it_is_sold(read):
    aside = ("nobody calls it",)
    assert [one for one in containing(read, MACHINES) if not any(a in one for a in aside)] == []


WIDGETS = "widgets/pixtral_mlx_widgets/static/"


def test_a_picture_is_a_picture_in_every_widget(read):
    """ "Image" is what code calls it: traits, arguments and tokens."""
    captions = [
        (where, text) for where, text in read if where.startswith((WIDGETS, "pixtral_mlx/drawing"))
    ]
    said = [one for one in containing(captions, r"\b[Ii]mages?\b(?![/:]|\.$)") if "[IMG" not in one]
    assert [one for one in said if not re.search(r"change:image|^\S+: data:image|\$\{", one)] == []


def test_a_picture_is_a_picture_in_every_command(read):
    """Options and arguments keep their names: `--image`, `images=`."""
    told = [(where, text) for where, text in read if where.startswith("pixtral_mlx/cli/")]
    assert containing(told, r"\b(?:an?|the|no|of|about) images?\b") == []


def test_places_are_said_in_one_way(read):
    """Patches by row and column, never "row 2 column 3", "(2, 3)" or "r2c3" in a caption."""
    captions = [(where, text) for where, text in read if where.startswith(WIDGETS)]
    assert containing(captions, r"\brow \{\} column|\bpatch \(\{\}, \{\}\)|\br\{\}c\{\}") == []


def test_numbers_of_pictures_have_two_digits():
    """A widget asks `numbers.js` for what was measured; three digits or an exponent are its own."""
    more = re.compile(
        r"\.toExponential\(|\.toPrecision\((?:[3-9]|\d\d)\)|\.toFixed\((?:[3-9]|\d\d)\)"
    )
    wrong = [
        f"{file.name}: {found[0]}"
        for file in SOURCES
        if file.suffix == ".js"
        for found in more.finditer(file.read_text(encoding="utf-8"))
    ]
    assert wrong == []


def test_every_public_name_begins_with_a_sentence():
    for name in px.__all__:
        text = (getattr(px, name).__doc__ or "").strip()
        first = text.split("\n\n")[0]
        assert first[:1].isupper() or first.startswith(("`", "mistral-common", "pixtral")), name
        assert re.search(r"[.:;?)`]$", first.split("\n")[-1]), f"{name}: {first!r}"
