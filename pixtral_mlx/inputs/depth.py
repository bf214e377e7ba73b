"""How many bits a grey picture really has, where its file says so.

Cameras, scanners and X-ray machines measure 10, 12 or 14 bits and save them in 16.
"""

import math
from typing import Any

import numpy as np
from PIL import Image

SIGNIFICANT_BITS = "sBIT"
"""The key in `image.info` under which a PNG's chunk of that name is kept, which Pillow drops."""

_MOST_CHUNKS = 1000
_BITS_PER_SAMPLE, _MAX_SAMPLE, _S_MAX_SAMPLE = 258, 281, 341
_MOST_BITS = 31  # of a pixel in Pillow


def png_significant_bits(data: bytes) -> int | None:
    """What the chunk sBIT of a grey PNG says, which stands before the pixels; None without one."""
    at = 8
    for _ in range(_MOST_CHUNKS):
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if name in (b"IDAT", b"IEND", b""):
            return None
        if name == b"sBIT":
            bits = data[at + 8] if length == 1 and at + 8 < len(data) else 0
            return bits if 1 <= bits <= 16 else None
        at += 12 + length
    return None


def stated_bits(image: Image.Image) -> int | None:
    """The bits of a grey value that its file states, or None.

    Of a TIFF it is `BitsPerSample`, if that is not the room that the values have, or the bits
    of the largest value that it names. What is read from PGM and HEIC has been scaled to 16 bits.
    """
    if image.format in ("PPM", "HEIF"):
        return 16
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return image.info.get(SIGNIFICANT_BITS)
    bits = int(_largest(tags.get(_BITS_PER_SAMPLE)))
    if bits not in (16, 32):
        return bits or None
    bits = int(max(_largest(tags.get(tag)) for tag in (_MAX_SAMPLE, _S_MAX_SAMPLE))).bit_length()
    return bits if 1 <= bits <= _MOST_BITS else None


def are_scaled(values: np.ndarray, bits: int) -> bool:
    """Whether values fill 16 bits, as PNG asks for it, though only so many of them say anything."""
    values = values.astype(np.int64)
    held, full = values >> (16 - bits), (1 << bits) - 1
    shifted, stretched = held << (16 - bits), (held * 65535 + full // 2) // full
    return bool(((values == shifted) | (values == stretched)).all())


def _largest(value: Any) -> float:
    """Of what stands in a tag; 0 if that is no number."""
    try:
        return max((float(each) for each in np.atleast_1d(value) if math.isfinite(each)), default=0)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return 0
