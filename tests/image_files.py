"""Small pictures as files, and how a source of one is refused."""

import io
import struct
import zlib

import pytest
from PIL import Image
from questions import noise

from pixtral_mlx.errors import ImageError
from pixtral_mlx.inputs.image import ImageOptions, open_image


def picture(width=7, height=5, mode="RGB") -> Image.Image:
    """Noise, the same every time."""
    return noise(0, width, height).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    """A file of a picture."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def same(image: Image.Image, other: Image.Image) -> bool:
    """Whether two pictures show the same."""
    return image.size == other.size and image.convert("RGB").tobytes() == other.tobytes()


def refused(source, said: str, options: ImageOptions | None = None) -> str:
    """The one line with which a source is refused; `said` must be in it."""
    with pytest.raises(ImageError) as caught:
        open_image(source, options)
    line = str(caught.value)
    assert said in line
    assert line.isprintable() and len(line) < 400
    return line


def png_header(width, height, bits=8, kind=2) -> bytes:
    """A PNG that claims a size and holds a few bytes: whoever decodes it finds it damaged."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")
