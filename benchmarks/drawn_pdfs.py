"""PDFs of drawn pictures, with words where something is seen, for the benchmarks of `extract`."""

import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from pdfs import joined, stream


class Sheet(NamedTuple):
    """One page.

    Arguments:
        picture: as large in points as in pixels.
        words: (text, x, y) of what it says, unseen; from the upper left corner, y of the base line.
    """

    picture: Image.Image
    words: Sequence[tuple[str, float, float]] = ()


def drawn_pdf(sheets: Sequence[Sheet], turned: int) -> bytes:
    """A page for each picture.

    Arguments:
        turned: the number of the page that is stored lying on its side, from 0 on.
    """
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"",
        b"<</Type/Font/Subtype/Type1/BaseFont/Courier>>",
    ]
    kids = []
    for number, (picture, words) in enumerate(sheets):
        width, height = picture.size
        at = len(objects) + 1
        kids.append(b"%d 0 R" % at)
        # Stored on its side, the page is turned by its reader, and so are picture and words.
        lies = number == turned
        box = (height, width) if lies else (width, height)
        turn = b"0 1 -1 0 %d 0 cm" % height if lies else b"1 0 0 1 0 0 cm"
        drawn = [turn, b"q %d 0 0 %d 0 0 cm /I Do Q" % (width, height)]
        for text, x, y in words:
            drawn.append(f"BT 3 Tr /F 2.4 Tf {x:.2f} {height - y:.2f} Td ({text}) Tj ET".encode())
        objects += [
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 %d %d]%s/Resources<</Font<</F 3 0 R>>"
            b"/XObject<</I %d 0 R>>>>/Contents %d 0 R>>"
            % (*box, b"/Rotate 90" if lies else b"", at + 2, at + 1),
            stream(b"", b"\n".join(drawn)),
            stream(
                b"/Type/XObject/Subtype/Image/ColorSpace/DeviceRGB/BitsPerComponent 8"
                b"/Filter/FlateDecode/Width %d/Height %d" % (width, height),
                zlib.compress(picture.tobytes()),
            ),
        ]  # fmt: skip
    objects[1] = b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(kids), b" ".join(kids))
    return joined(objects)
