"""How much a picture may take in memory once it is decoded, known before it is.

What counts is bytes and not pixels: a scan of one bit takes a third of a photo of its size.
"""

import struct
from dataclasses import dataclass

from ..errors import ImageError

MAX_DECODED_BYTES = 400_000_000
"""Of one picture: 133 million pixels in colour, 400 million in black and white."""

MAX_JPEG_PIXELS = 1_000_000_000
"""Of a JPEG that is decoded at a smaller scale: reading its file still takes its time."""

MAX_COEFFICIENT_BYTES = 600_000_000
"""What libjpeg keeps beside the picture of a JPEG that comes in several scans."""

_BYTES = {"1": 1, "L": 1, "P": 1, "RGB": 3, "YCbCr": 3, "LAB": 3, "HSV": 3}
_ROW_BYTES = 8  # where a row begins, for each
_JPEG_SCALES = (1, 2, 4, 8)


def pixel_bytes(mode: str) -> int:
    """Bytes of a pixel in a mode of Pillow, which holds bits as bytes; what it adds to the three
    of a colour does not count."""
    return 2 if mode.startswith("I;16") else _BYTES.get(mode, 4)


def check_size(width: int, height: int, name: str, bytes_each: int) -> None:
    """Whether a picture may be decoded.

    Raises:
        ImageError: it has no pixels, or too many bytes.
    """
    if width < 1 or height < 1:
        raise ImageError(f"{name}: {width}x{height} pixels: nothing to look at")
    held = max(width * height * bytes_each, height * _ROW_BYTES)
    if held > MAX_DECODED_BYTES:
        raise ImageError(
            f"{name}: {width}x{height} pixels take {held:,} bytes; at most "
            f"{MAX_DECODED_BYTES:,} are decoded: shrink it first"
        )


def jpeg_scale(width: int, height: int, name: str, bytes_each: int) -> int:
    """By how much libjpeg makes a JPEG smaller while it decodes it, so that it may be decoded.

    No side of a JPEG has more than 65,535 pixels, so that its longest still has over 4,000.

    Raises:
        ImageError: as `check_size`.
    """
    if width * height > MAX_JPEG_PIXELS:
        raise ImageError(
            f"{name}: {width}x{height} is {width * height:,} pixels; at most {MAX_JPEG_PIXELS:,} "
            "of a JPEG are read: shrink it first"
        )
    for scale in _JPEG_SCALES:
        if -(-width // scale) * -(-height // scale) * bytes_each <= MAX_DECODED_BYTES:
            return scale
    return _JPEG_SCALES[-1]


def check_scans(data: bytes, name: str) -> None:
    """Whether libjpeg may read a JPEG, of whose scans it holds all coefficients if there are
    several: progressive ones, and those that have each colour by itself.

    Raises:
        ImageError: they would take too much.
    """
    frame = _jpeg_frame(data)
    if frame is None or not frame.many_scans:
        return
    held = frame.coefficients * 2
    if held > MAX_COEFFICIENT_BYTES:
        raise ImageError(
            f"{name}: a progressive JPEG of {frame.width}x{frame.height} pixels takes {held:,} "
            f"bytes to decode; at most {MAX_COEFFICIENT_BYTES:,} are allowed: save it as baseline "
            "JPEG, or shrink it first"
        )


def check_webp(data: bytes, name: str) -> None:
    """Whether a WebP may be opened, which makes room for it twice.

    Raises:
        ImageError: as `check_size`.
    """
    kind, size = data[12:16], data[20:30]
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(size) < 10:
        return
    if kind == b"VP8X":
        width, height = (int.from_bytes(size[at : at + 3], "little") + 1 for at in (4, 7))
    elif kind == b"VP8L":
        bits = int.from_bytes(size[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (int.from_bytes(size[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    check_size(width, height, name, pixel_bytes("RGB"))


@dataclass(frozen=True)
class _Frame:
    """What a JPEG says of itself before its first scan."""

    width: int
    height: int
    coefficients: int
    many_scans: bool


def _jpeg_frame(data: bytes) -> _Frame | None:
    """None where it cannot be read, which libjpeg will say in its way."""
    at, found = 2, None
    try:
        while at + 4 <= len(data):
            if data[at] != 0xFF:
                return None
            marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
            if marker == 0xFF:  # filling
                at += 1
                continue
            if marker == 0xDA:
                if found is None:
                    return None
                width, height, coefficients, progressive, colours = found
                return _Frame(width, height, coefficients, progressive or data[at + 4] < colours)
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                height, width, colours = struct.unpack(">HHB", data[at + 5 : at + 10])
                factors = [data[at + 11 + 3 * i] for i in range(colours)]
                most = [max(f >> 4 for f in factors), max(f & 15 for f in factors)]
                share = sum((f >> 4) * (f & 15) for f in factors) / (most[0] * most[1])
                progressive = marker not in (0xC0, 0xC1)
                found = width, height, int(width * height * share), progressive, colours
            at += 2 + length
    except (IndexError, struct.error, ValueError, ZeroDivisionError):
        pass
    return None
