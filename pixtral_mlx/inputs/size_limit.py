"""How much a picture may take in memory once it is decoded, known before it is.

What counts is bytes and not pixels: a scan of one bit takes a third of a photo of its size.
"""

import re
import struct
from dataclasses import dataclass

from ..errors import ImageError

MAX_DECODED_BYTES = 400_000_000
"""Of one picture: 133 million pixels in colour, 400 million in black and white."""

MAX_JPEG_PIXELS = 1_000_000_000
"""Of a JPEG that is decoded at a smaller scale: reading its file still takes its time."""

MAX_BESIDE_BYTES = 600_000_000
"""What decoding may take beside the picture: libjpeg keeps the coefficients of a JPEG that comes in
several scans, and the reader of WebP keeps three pictures with transparency."""

MAX_SCANS = 50
"""Of a JPEG: each goes through the whole picture again, and programs write about ten."""

MAX_REQUEST_SECONDS = 4.0
"""Of the processor, for opening a PDF, and for drawing one of its pages."""

MAX_REQUEST_BYTES = 1_000_000_000
"""What the process may take that does it."""

_MOST_MARKERS = 128 * MAX_SCANS  # between scans stand tables and comments
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_WEBP_BYTES = 12  # of a pixel, beside the picture
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


def no_memory_for(name: str) -> ImageError:
    """The error for a picture within the limits for which this machine has no room now."""
    return ImageError(f"{name}: not enough memory for it: shrink it, or close other programs")


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
        ImageError: they would take too much, or they are too many.
    """
    frame = _jpeg_frame(data)
    if frame is None or not frame.many_scans:
        return
    what = f"{name}: a progressive JPEG of {frame.width}x{frame.height} pixels"
    _check_beside(frame.coefficients * 2, what, "a baseline JPEG")
    if _scans(data, frame.first_scan) > MAX_SCANS:
        raise ImageError(
            f"{name}: a JPEG of more than {MAX_SCANS} scans; about ten are usual, and at most "
            f"{MAX_SCANS} are read: save it as a baseline JPEG"
        )


def _check_beside(held: int, what: str, other: str) -> None:
    if held > MAX_BESIDE_BYTES:
        raise ImageError(
            f"{what} takes {held:,} bytes to decode; at most {MAX_BESIDE_BYTES:,} are spent: save "
            f"it as {other}, or shrink it first"
        )


def check_webp(data: bytes, name: str) -> None:
    """Whether a WebP may be opened, which makes room for it several times.

    Raises:
        ImageError: it would take too much.
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
    what = f"{name}: a WebP of {width}x{height} pixels"
    _check_beside(width * height * _WEBP_BYTES, what, "JPEG or PNG")


@dataclass(frozen=True)
class _Frame:
    """What a JPEG says of itself before its first scan."""

    width: int
    height: int
    coefficients: int
    many_scans: bool
    first_scan: int  # where its marker stands


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
                many_scans = progressive or data[at + 4] < colours
                return _Frame(width, height, coefficients, many_scans, at)
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


def _scans(data: bytes, at: int) -> int:
    """How many scans a JPEG has from here to its end; one more than are allowed, if there are
    more, or if what stands between them cannot be counted."""
    scans = 0
    for _ in range(_MOST_MARKERS):
        found = _MARKER.search(data, at)
        if found is None or found[0] == b"\xff\xd9":
            return scans
        scans += found[0] == b"\xff\xda"
        if scans > MAX_SCANS:
            return scans
        at = found.end()
        if found[0] != b"\xff\x01":  # which is alone
            at += int.from_bytes(data[at : at + 2], "big")
    return MAX_SCANS + 1
