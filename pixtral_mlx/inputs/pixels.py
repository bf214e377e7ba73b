"""From a decoded picture to the numbers that the encoder takes: resize, normalise.

The arithmetic follows mistral-common 1.13 (`tokens/tokenizers/image.py`), pixel for pixel. A large
picture costs little beside itself: only the pixels that count are converted, a band at a time.
"""

import hashlib
import io
import platform
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from ..errors import ImageError
from ..model.config import VisionConfig
from ..model.prompt import patch_grid
from .depth import SIGNIFICANT_BITS, are_scaled, stated_bits
from .image_options import ImageOptions
from .resize import Taps, cubic_rows, cubic_taps

# CLIP's mean and standard deviation of RGB, as mistral-common has them.
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)

_TILE_PIXELS = 1 << 20
"""So much of a large picture is converted at once."""

_LONGEST = 1 << 17
"""Of a strip, the side that is resized with all its pixels."""

_WHOLE_PIXELS = 1 << 24
"""So much is resized at once by Pillow."""

_LOSSLESS_PIXELS = 400_000
"""A larger picture travels to a browser as JPEG."""

_DIM = 1 << 14
"""Values of 16 bits that all are below this may have 14 bits, or 12, or 10."""

# Where a target pixel lies in the source: OpenCV rounds that to float32, but its builds for Intel
# and AMD hand pictures of at least 4x4 to Intel's IPP, which does not. On a side of 2,000 pixels
# the two differ by up to 0.0004 after normalisation. We do as mistral-common does on the machine.
EXACT_CENTRES = platform.machine().lower() in ("x86_64", "amd64")


def preprocess(image: Image.Image, config: VisionConfig, options: ImageOptions) -> np.ndarray:
    """Resize once from the original to whole patches, normalise, channels first.

    Arguments:
        image: any mode; what is not RGB is pasted on white.

    Returns:
        float32, shape (3, rows * patch, columns * patch).
    """
    grid = patch_grid(image.width, image.height, config, options.image_budget)
    height, width = grid.rows * config.token_size, grid.columns * config.token_size
    if options.resize == "antialiased":
        return normalise(np.asarray(antialiased(image, options, width, height)))
    return _resize_cubic(image, options, height, width)


def normalise(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) of 0 to 255 -> float32 (3, H, W), CLIP's mean and deviation taken out."""
    found = np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)
    _normalise(found)
    return found


def _normalise(pixels: np.ndarray) -> None:
    """The same in place, of float32 with the colours in the third axis from the end."""
    pixels /= np.float32(255.0)
    pixels -= MEAN[:, None, None]
    pixels /= STD[:, None, None]


def to_pixels(image: np.ndarray) -> np.ndarray:
    """The inverse of `normalise`, for pictures: (3, H, W) -> uint8 (H, W, 3)."""
    pixels = (np.asarray(image).transpose(1, 2, 0) * STD + MEAN) * 255
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def picture_file(image: np.ndarray) -> dict[str, Any]:
    """A prepared picture, (3, H, W), as a file that browsers show: {"mime", "file"}."""
    pixels, file = to_pixels(image), io.BytesIO()
    lossless = pixels.shape[0] * pixels.shape[1] <= _LOSSLESS_PIXELS
    Image.fromarray(pixels).save(file, "PNG" if lossless else "JPEG", quality=90)
    return {"mime": "image/png" if lossless else "image/jpeg", "file": file.getvalue()}


def to_rgb(image: Image.Image, options: ImageOptions) -> Image.Image:
    """Three channels of 8 bits; transparent parts become white, also those of one colour (PNG's
    tRNS), which the reference leaves as they are in RGB and in 16-bit grey."""
    return _to_rgb(image, options, _white(image))


def _to_rgb(image: Image.Image, options: ImageOptions, white: int) -> Image.Image:
    """`to_rgb` a tile at a time: what it holds meanwhile takes several times the picture."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.width * image.height <= _TILE_PIXELS:
        return _tile_to_rgb(image, options, white)
    rgb = Image.new("RGB", image.size)
    for box in _tiles(*image.size):
        rgb.paste(_tile_to_rgb(image.crop(box), options, white), box)
    return rgb


def _tile_to_rgb(image: Image.Image, options: ImageOptions, white: int) -> Image.Image:
    """`to_rgb` of a part: what depends on the whole picture is given."""
    key = image.info.get("transparency")
    if image.mode == "RGB" and key is None:
        return image
    if _is_deep_grey(image) and options.grey16 == "scale":
        values = np.asarray(image)
        whole = np.clip(values, 0, white).astype(np.uint32 if white <= 65535 else np.uint64)
        image = Image.fromarray(((whole * 255 + white // 2) // white).astype(np.uint8))
        if isinstance(key, int):
            image.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    if image.mode == "F" and options.grey16 == "scale":
        raise ImageError(
            "a picture of 32-bit floats, whose range no file states: export it with 8 or 16 bits"
        )
    if _is_plain_grey(image):
        return image.convert("RGB")  # as below, in a fifth of the time
    if image.mode != "RGBA":
        try:
            image = image.convert("RGBA")
        except ValueError as error:
            raise ImageError(
                f"a picture of mode {image.mode}: {error}: export it as RGB"
            ) from error
    paper = Image.new("RGBA", image.size, "WHITE")
    paper.paste(image, (0, 0), image)
    return paper.convert("RGB")


def digest(image: Image.Image) -> bytes:
    """SHA-256 of what it shows, in its own mode."""
    found = hashlib.sha256()
    for box in _tiles(*image.size):
        found.update(image.crop(box).tobytes())
    return found.digest()


def _is_plain_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L") and "transparency" not in image.info


def _white(image: Image.Image) -> int:
    """What is white in more than 8 bits of grey."""
    if not _is_deep_grey(image):
        return 255
    brightest = _brightest(image)
    if white := _stated_white(image, brightest):
        return white
    # A 32-bit mode may hold 8-bit values.
    return 255 if image.mode == "I" and brightest <= 255 else 65535


def _stated_white(image: Image.Image, brightest: int) -> int | None:
    """The same, where the file says it and its pixels do not contradict."""
    bits = stated_bits(image)
    if bits is None:
        return None
    fits = brightest >> bits == 0
    # PNG asks for values that fill 16 bits, and those of a dark picture fit into fewer.
    if SIGNIFICANT_BITS in image.info and (
        not fits or all(are_scaled(values, bits) for values in _values(image))
    ):
        return 65535
    return (1 << bits) - 1 if fits else None


def dim_brightest(image: Image.Image) -> int | None:
    """The brightest value of grey that looks dark, and might do so only because nothing says how
    many bits it has; None of any other picture."""
    if not _is_deep_grey(image):
        return None
    brightest = _brightest(image)
    eight_bits = image.mode == "I" and brightest <= 255
    if eight_bits or not is_dim(brightest) or _stated_white(image, brightest):
        return None
    return brightest


def is_dim(brightest: int) -> bool:
    """Whether values of 16 bits up to this one look like values of fewer bits."""
    return 0 < brightest < _DIM


def _is_deep_grey(image: Image.Image) -> bool:
    return image.mode.startswith("I")


def _brightest(image: Image.Image) -> int:
    return max(int(values.max()) for values in _values(image))


def _values(image: Image.Image) -> Iterator[np.ndarray]:
    """Its pixels, a tile at a time."""
    return (np.asarray(image.crop(box)) for box in _tiles(*image.size))


def _tiles(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    """Boxes that make up a picture, small enough to be converted beside it."""
    across = min(width, _TILE_PIXELS)
    down = max(1, _TILE_PIXELS // across)
    for top in range(0, height, down):
        for left in range(0, width, across):
            yield left, top, min(left + across, width), min(top + down, height)


def _picked(image: Image.Image, rows: np.ndarray, columns: np.ndarray) -> Image.Image:
    """The pixels where these rows and columns cross (ascending, each once), in the mode of the
    picture, with its palette and what else belongs to its colours."""
    if (rows.size, columns.size) == (image.height, image.width):
        return image
    raw = "L" if image.mode == "1" else image.mode
    first = image.crop((0, 0, 1, 1))
    found = np.empty((rows.size, columns.size, len(first.tobytes("raw", raw))), np.uint8)
    for left, top, right, bottom in _tiles(*image.size):
        down = slice(*np.searchsorted(rows, (top, bottom)))
        across = slice(*np.searchsorted(columns, (left, right)))
        y, x = rows[down], columns[across]
        if y.size and x.size:
            tile = image.crop((int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1))
            pixels = np.frombuffer(tile.tobytes("raw", raw), np.uint8)
            pixels = pixels.reshape(tile.height, tile.width, -1)
            found[down, across] = pixels[np.ix_(y - y[0], x - x[0])]
    sample = first.resize((columns.size, rows.size), Image.Resampling.NEAREST)
    sample.frombytes(found.data, "raw", "1;8" if image.mode == "1" else raw)
    return sample


def antialiased(image: Image.Image, options: ImageOptions, width: int, height: int) -> Image.Image:
    """RGB of this size by Pillow's bicubic.

    A large picture is made narrow a band at a time, so that it is never held as RGB; the order of
    the two directions may make a value differ by its last bits from that of Pillow by itself.
    """
    white, grey, resample = _white(image), _is_plain_grey(image), Image.Resampling.BICUBIC
    image = _thinned(image)
    if image.width * image.height <= _WHOLE_PIXELS:
        return _to_rgb(image, options, white).resize((width, height), resample)
    narrow = Image.new("L" if grey else "RGB", (width, image.height))
    for box in _tiles(*image.size):
        tile = image.crop(box)
        band = tile.convert("L") if grey else _tile_to_rgb(tile, options, white)
        narrow.paste(band.resize((width, band.height), resample), (0, box[1]))
    return narrow.resize((width, height), resample).convert("RGB")


def shrunk(image: Image.Image, options: ImageOptions, longest: int) -> Image.Image:
    """RGB to be looked at, no side of it longer than this; what is smaller stays as it is."""
    if max(image.size) <= longest:
        return to_rgb(image, options)
    sizes = (max(1, side * longest // max(image.size)) for side in image.size)
    return antialiased(image, options, *sizes)


def _thinned(image: Image.Image) -> Image.Image:
    """A strip so long that nothing in it could be recognized, with fewer of its pixels."""
    rows, columns = (
        np.arange(min(side, _LONGEST)) * side // min(side, _LONGEST)
        for side in (image.height, image.width)
    )
    return _picked(image, rows, columns)


def _resize_cubic(image: Image.Image, options: ImageOptions, height: int, width: int) -> np.ndarray:
    """`normalise` of OpenCV's INTER_CUBIC on the float32 of `to_rgb(image)`: (3, height, width).

    It looks at four rows and four columns for each of its own, and no others are converted.
    """
    white, exact = _white(image), EXACT_CENTRES and min(image.size) >= 4
    rows = _taps(image.height, height, exact)
    columns = _taps(image.width, width, exact)
    used_rows, rows = _numbered(rows, height)
    used_columns, columns = _numbered(columns, width)
    sample = _picked(image, used_rows, used_columns)

    def read(top: int, bottom: int) -> np.ndarray:
        return np.asarray(_to_rgb(sample.crop((0, top, sample.width, bottom)), options, white))

    found = np.empty((3, height, width), np.float32)
    for part, block in cubic_rows(read, (sample.height, sample.width), rows, columns):
        _normalise(block[:, :, None])
        found[:, part] = block.transpose(1, 0, 2)
    return found


def _taps(old: int, new: int, exact: bool) -> Taps | None:
    return None if old == new else cubic_taps(old, new, exact)


def _numbered(taps: Taps | None, side: int) -> tuple[np.ndarray, Taps | None]:
    """The different places, ascending, and the taps with the numbers that they have there."""
    if taps is None:
        return np.arange(side), None
    used, numbers = np.unique(taps.places, return_inverse=True)
    return used, taps._replace(places=numbers.reshape(taps.places.shape))
