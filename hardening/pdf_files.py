"""PDFs that are damaged, absurd or made to harm, from the file to its first pages.

    python hardening/pdf_files.py [--tries 1000] [--seed N]

Sound files of text, pictures and forms with bytes changed or references turned to other objects,
and forms that draw one another without end. The process that draws them has limits of its own; the
figures are those of the one that asks.
"""

import io
import random
import re
import sys
from functools import cache
from pathlib import Path

from PIL import Image
from tries import damaged, drive

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from pdfs import joined, stream

PAGES = 3


def make(chance: random.Random) -> tuple[str, bytes]:
    """A file, and what kind of one."""
    way = chance.randrange(20)
    if way == 0:
        levels, times = chance.randrange(1, 30), chance.randrange(1, 12)
        return f"{levels} forms, each {times} times", forms(levels, times)
    name, data = chance.choice(sound())
    if way < 8:
        return f"{name}, references turned", turned(data, chance)
    if way < 12:
        return f"{name}, numbers changed", numbers(data, chance)
    return f"{name}, damaged", damaged(data, chance)


@cache
def sound() -> list[tuple[str, bytes]]:
    """Files that are drawn as they are."""
    scan, image = io.BytesIO(), Image.effect_noise((170, 220), 60).convert("RGB")
    image.save(scan, "PDF", save_all=True, append_images=[image.convert("1")], resolution=20)
    font = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
    lines = b"".join(b"(line %d of some text)' " % n for n in range(40))
    drawing = b"".join(b"%d %d m %d %d l S " % (n, 2 * n, 600 - n, 9) for n in range(200))
    text = page(b"BT /F 10 Tf 50 800 Td 13 TL " + lines + b"ET", b"/Font<</F 5 0 R>>", font)
    return [("scan", scan.getvalue()), ("text", text), ("lines", page(drawing, b"")),
            ("form", forms(2, 2))]  # fmt: skip


def page(content: bytes, resources: bytes, *others: bytes) -> bytes:
    """A file of one page; other objects are numbered from 5 on."""
    return joined([
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count 1/Kids[3 0 R]>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R/Resources<<%s>>>>"
        % resources,
        stream(b"", content),
        *others,
    ])  # fmt: skip


def forms(levels: int, times: int) -> bytes:
    """Each form draws the next so many times, and the last one the first."""
    head = b"/Type/XObject/Subtype/Form/BBox[0 0 600 800]/Resources<</XObject<</X %d 0 R>>>>"
    chain = [
        stream(head % (5 + (n + 1) % levels), b"0 0 5 5 re f " + b"/X Do " * times)
        for n in range(levels)
    ]
    return page(b"/X Do", b"/XObject<</X 5 0 R>>", *chain)


def turned(data: bytes, chance: random.Random) -> bytes:
    """Some references lead to other objects."""

    def other(found: re.Match) -> bytes:
        return b"%d 0 R" % chance.randrange(12) if chance.random() < 0.3 else found[0]

    return re.sub(rb"\d+ 0 R", other, data)


def numbers(data: bytes, chance: random.Random) -> bytes:
    """Some numbers are others, absurd ones too."""
    absurd = [b"0", b"-1", b"1e38", b"99999999999", b"2147483647", b"0.0000001", b"nan"]

    def other(found: re.Match) -> bytes:
        return chance.choice(absurd) if chance.random() < 0.05 else found[0]

    return re.sub(rb"(?<=[ \[/])\d+(?=[ \]/>])", other, data)


def look(data: bytes) -> int:
    """Its pages are counted, and the first ones drawn; nothing of that stays in this process."""
    from pixtral_mlx.inputs.image_options import ImageOptions
    from pixtral_mlx.inputs.pdf import open_pages, page_numbers
    from pixtral_mlx.model.config import PIXTRAL_12B_VISION

    for number in page_numbers(data, "x.pdf")[:PAGES]:
        ((_, drawn),) = open_pages(data, "x.pdf", PIXTRAL_12B_VISION, ImageOptions(), str(number))
        if max(drawn.size) > PIXTRAL_12B_VISION.image_size:
            raise RuntimeError(f"drawn too large: {drawn.size}")
    return 0


if __name__ == "__main__":
    import logging

    logging.disable()
    sys.exit(drive(__file__, __doc__.splitlines()[0], make, look))
