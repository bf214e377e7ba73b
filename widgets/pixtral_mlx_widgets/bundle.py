"""From a widget's modules in `static/` to the one module that a notebook loads."""

from functools import cache
from pathlib import Path

from pixtral_mlx.drawing import joined, styled

STATIC = Path(__file__).parent / "static"


@cache
def module(name: str) -> str:
    """The source of `static/NAME.js` with everything it imports, as one module."""
    return joined(name, [STATIC])


@cache
def style() -> str:
    """The style sheet that all widgets share."""
    return styled(STATIC / "widgets.css")
