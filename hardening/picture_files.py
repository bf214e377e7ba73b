"""Pictures that are damaged, absurd or made to harm, from the file to the prompt.

    python hardening/picture_files.py [--tries 5000] [--seed N]

Files of every format with bytes changed, and files that are sound and extreme: millions of pixels
long and one wide, 16 bits, many pages, many scans.
"""

import io
import random
import sys
import zlib
from functools import cache
from typing import Any

from PIL import Image
from tries import damaged, drive

EXTREME = {
    "long": (3_000_000, 1, "L"), "tall": (1, 3_000_000, "L"), "long, 1 bit": (100_000_000, 1, "1"),
    "16 bits": (4000, 3000, "I;16"), "large": (9000, 7000, "RGB"), "palette": (20_000, 900, "P"),
}  # fmt: skip


def make(chance: random.Random) -> tuple[str, bytes]:
    """A file, and what kind of one."""
    if chance.randrange(100) == 0:
        name = chance.choice(list(EXTREME))
        return name, extreme(name)
    name, data = chance.choice(sound())
    return f"damaged {name}", damaged(data, chance)


@cache
def sound() -> list[tuple[str, bytes]]:
    """Files of every format, small."""
    found = []
    for mode in ("RGB", "L", "RGBA", "P", "1", "CMYK", "I;16"):
        noise = Image.effect_noise((90, 70), 80)
        image = noise.convert("L" if mode == "I;16" else mode)
        image = image.convert("I;16") if mode == "I;16" else image
        for kind, options in (
            ("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("GIF", {}),
            ("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {}), ("PPM", {}), ("AVIF", {}),
            ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "tiff_adobe_deflate"}),
            ("TIFF", {"save_all": True, "append_images": [image] * 3}),
        ):  # fmt: skip
            file = io.BytesIO()
            try:
                image.save(file, kind, **options)
            except (OSError, ValueError, KeyError):
                continue  # the format does not have this mode
            found.append((f"{kind} {mode}", file.getvalue()))
    return found


@cache
def extreme(name: str) -> bytes:
    """A PNG of zeros that is sound; packed row by row, so that making it takes little."""
    width, height, mode = EXTREME[name]
    bits, kind = {"L": (8, 0), "1": (1, 0), "I;16": (16, 0), "RGB": (8, 2), "P": (8, 3)}[mode]
    row = bytes(1 + -(-width * bits * (3 if mode == "RGB" else 1) // 8))
    packer, packed = zlib.compressobj(9), []
    for _ in range(height):
        packed.append(packer.compress(row))
    packed.append(packer.flush())
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([bits, kind, 0, 0, 0])
    palette = chunk(b"PLTE", bytes(768)) if mode == "P" else b""
    body = chunk(b"IHDR", head) + palette + chunk(b"IDAT", b"".join(packed))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def chunk(name: bytes, data: bytes) -> bytes:
    """A part of a PNG."""
    check = zlib.crc32(name + data).to_bytes(4, "big")
    return len(data).to_bytes(4, "big") + name + data + check


def look(data: bytes) -> int:
    """Prepare it; the bytes that it takes decoded."""
    from pixtral_mlx.inputs.image import EncodedImage
    from pixtral_mlx.inputs.image_options import ImageOptions
    from pixtral_mlx.inputs.size_limit import pixel_bytes

    prompt = tokenizer().encode("?", [data])
    if len(prompt.images) != len(prompt.grids):
        raise RuntimeError("a picture without its grid")
    try:
        image = EncodedImage(data, "", ImageOptions())._image
    except Exception:  # pages
        return 0
    return image.width * image.height * max(4, pixel_bytes(image.mode)) + image.height * 8


@cache
def tokenizer() -> Any:
    """Pixtral 12B's."""
    import logging

    from pixtral_mlx.inputs.tokenizer import Tokenizer
    from pixtral_mlx.inputs.tokenizer_file import shipped_tekken
    from pixtral_mlx.model.config import PIXTRAL_12B

    logging.disable()
    found = Tokenizer(shipped_tekken(), PIXTRAL_12B.vision)
    found.encode("?", [Image.new("RGB", (1024, 1024))])
    return found


if __name__ == "__main__":
    if "--serve" in sys.argv:
        tokenizer()
    sys.exit(drive(__file__, __doc__.splitlines()[0], make, look))
