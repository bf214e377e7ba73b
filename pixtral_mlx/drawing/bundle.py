"""From ES modules to the one text that a page or a notebook loads.

A widget is loaded from a blob, where a relative import finds nothing. So what a module imports from
its neighbours is put in front of it; the files stay plain ES modules that node can test.
"""

import re
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
"""Where the shared modules lie."""

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?function|const|class)", re.MULTILINE)


def joined(name: str, folders: Sequence[Path] = ()) -> str:
    """A module with everything it imports, as one module.

    Arguments:
        name: of the file, without its ending.
        folders: where to look for files before `FOLDER`.

    Raises:
        FileNotFoundError: there is no such file, or none of a name that is imported.
    """
    parts: list[str] = []
    _collect(name, (*folders, FOLDER), parts, set())
    return "\n".join(parts)


def styled(*more: Path) -> str:
    """The style sheet of what is drawn, and what a page adds to it."""
    sheets = (FOLDER / "drawing.css", *more)
    return "\n".join(sheet.read_text(encoding="utf-8") for sheet in sheets)


def _collect(name: str, folders: Sequence[Path], parts: list[str], seen: set[str]) -> None:
    seen.add(name)
    paths = [folder / f"{name}.js" for folder in folders]
    source = next((p for p in paths if p.is_file()), paths[-1]).read_text(encoding="utf-8")
    for imported in _IMPORT.findall(source):
        if imported not in seen:
            _collect(imported, folders, parts, seen)
    parts.append(_EXPORT.sub("", _IMPORT.sub("", source)))
