"""How patches, words and numbers are drawn in a browser: the script that all pages share.

Widgets, the page of `explain` and any other page draw with the same plain ES modules, so that a
picture under its patches looks and behaves the same everywhere. They lie here as they are, to be
tested by node; a page gets them joined into one module. This room imports nothing but Python.

`elements.js`: elements and controls, redraws once a frame, light and dark
`labels.js`: what controls say
`numbers.js`: numbers, sizes and places as a reader wants them
`colours.js`: maps of colours and their legends
`patches.js`: a picture under its patches: spotlight, zoom, loupe, rings
`files.js`: files that people drop, paste or choose
`grouping.js`: which tokens are a word
`light.js`: the light that goes from word to word
`drawing.css`: how all of it looks

`live/`: Pixtral itself in JavaScript, and the page in which it runs; see `live/network.js`

`bundle`: from modules and style sheets to the one text that a page loads
"""

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
    from .bundle import FOLDER, joined, styled

__all__ = ["FOLDER", "joined", "styled"]

__getattr__, __dir__ = lazily(__name__, {"bundle": "FOLDER joined styled"})
