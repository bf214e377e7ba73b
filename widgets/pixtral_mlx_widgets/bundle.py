"""From a widget's modules in `static/` to the one module that a notebook loads.

A widget is loaded from a blob, where a relative import finds nothing. So what it imports from its
neighbours is put in front of it; the files stay plain ES modules that node can test.
"""

import re
from functools import cache
from pathlib import Path

STATIC = Path(__file__).parent / "static"

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?function|const|class)", re.MULTILINE)


@cache
def module(name: str) -> str:
    """The source of `static/NAME.js` with everything it imports, as one module."""
    parts: list[str] = []
    _collect(name, parts, set())
    return "\n".join(parts)


@cache
def style() -> str:
    """The style sheet that all widgets share."""
    return (STATIC / "widgets.css").read_text(encoding="utf-8")


def _collect(name: str, parts: list[str], seen: set[str]) -> None:
    seen.add(name)
    source = (STATIC / f"{name}.js").read_text(encoding="utf-8")
    for imported in _IMPORT.findall(source):
        if imported not in seen:
            _collect(imported, parts, seen)
    parts.append(_EXPORT.sub("", _IMPORT.sub("", source)))
