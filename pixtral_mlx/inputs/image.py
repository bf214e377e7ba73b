"""Pictures: open, check, orient, resize, normalise.

The arithmetic follows mistral-common 1.13 (`tokens/tokenizers/image.py`), pixel for pixel.
Everything is checked before it is decoded.
"""

import hashlib
import io
import logging
import platform
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..errors import ImageError
from ..model.config import VisionConfig
from ..model.prompt import patch_grid
from .file_kind import ON_A_MAC, is_heic, is_pdf, what_else
from .image_options import ImageOptions
from .image_source import read_source

# Pillow's JPEG reader opens MPO, the two pictures in one file of some phones, as well.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")  # and HEIC by pillow-heif
MAX_PIXELS = 100_000_000  # 300 MB once decoded; a full-frame camera has 60 million

# The boxes in a HEIF container that state the size of each picture and tile in it.
_HEIC_SIZES = re.compile(rb"ispe\0{4}(.{8})", re.DOTALL)

# CLIP's mean and standard deviation of RGB, as mistral-common has them.
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)

# Where a target pixel lies in the source: OpenCV rounds that to float32, but its builds for Intel
# and AMD hand pictures of at least 4x4 to Intel's IPP, which does not. On a side of 2,000 pixels
# the two differ by up to 0.0004 after normalisation. We do as mistral-common does on the machine.
EXACT_CENTRES = platform.machine().lower() in ("x86_64", "amd64")

_JPEG_END = b"\xff\xd9"

log = logging.getLogger(__name__)


def preprocess(image: Image.Image, config: VisionConfig, options: ImageOptions) -> np.ndarray:
    """Resize once from the original to whole patches, normalise, channels first.

    Arguments:
        image: any mode; what is not RGB is pasted on white.

    Returns:
        float32, shape (3, rows * patch, columns * patch).
    """
    grid = patch_grid(image.width, image.height, config, options.image_budget)
    height, width = grid.rows * config.patch_size, grid.columns * config.patch_size
    rgb = to_rgb(image, options)
    if options.resize == "antialiased":
        resized = np.asarray(rgb.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    else:
        resized = _resize_cubic(np.asarray(rgb), height, width)
    return normalise(resized)


def normalise(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) of 0 to 255, float32 -> (3, H, W), CLIP's mean and deviation taken out."""
    return ((pixels / np.float32(255.0) - MEAN) / STD).transpose(2, 0, 1)


def to_pixels(image: np.ndarray) -> np.ndarray:
    """The inverse of `normalise`, for pictures: (3, H, W) -> uint8 (H, W, 3)."""
    pixels = (np.asarray(image).transpose(1, 2, 0) * STD + MEAN) * 255
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def to_rgb(image: Image.Image, options: ImageOptions) -> Image.Image:
    """Three channels of 8 bits; transparent parts become white, also those of one colour (PNG's
    tRNS), which the reference leaves as they are in RGB and in 16-bit grey."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    key = image.info.get("transparency")
    if image.mode.startswith("I") and options.grey16 == "scale":
        values, image = np.asarray(image), _grey16_to_8(image)
        if isinstance(key, int):
            image.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    if image.mode == "F" and options.grey16 == "scale":
        raise ImageError(
            "image of 32-bit floats, whose range no file states: export it with 8 or 16 bits"
        )
    if image.mode != "RGBA":
        try:
            image = image.convert("RGBA")
        except ValueError as error:
            raise ImageError(f"image of mode {image.mode}: {error}: export it as RGB") from error
    white = Image.new("RGBA", image.size, "WHITE")
    white.paste(image, (0, 0), image)
    return white.convert("RGB")


def _grey16_to_8(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if image.mode == "I" and values.max(initial=0) <= 255:
        return image  # a 32-bit mode that holds 8-bit values
    return Image.fromarray(np.clip((values * 255 + 32767) // 65535, 0, 255).astype(np.uint8))


def _resize_cubic(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Separable cubic interpolation, a = -0.75, edges repeated, no antialiasing.

    OpenCV's INTER_CUBIC on float32: `pixels` uint8 (H, W, 3) -> float32 (height, width, 3). Only
    the rows that are needed are turned to float32, so a large photo stays cheap.
    """
    exact = EXACT_CENTRES and min(pixels.shape[:2]) >= 4
    rows, row_weights = _cubic_taps(pixels.shape[0], height, exact)
    columns, column_weights = _cubic_taps(pixels.shape[1], width, exact)
    tall = np.zeros((height, *pixels.shape[1:]), np.float32)
    for row, weight in zip(rows, row_weights, strict=True):
        tall += weight[:, None, None] * pixels[row]
    resized = np.zeros((height, width, pixels.shape[2]), np.float32)
    for column, weight in zip(columns, column_weights, strict=True):
        resized += weight[:, None] * tall[:, column]
    return resized


def _cubic_taps(old: int, new: int, exact: bool) -> tuple[np.ndarray, np.ndarray]:
    """Four source indices and weights for each target index, both of shape (4, new)."""
    centre = (np.arange(new) + 0.5) * (old / new) - 0.5
    centre = centre if exact else centre.astype(np.float32)
    first = np.floor(centre)
    x = (centre - first).astype(np.float32)
    a, one = np.float32(-0.75), np.float32(1)
    far = x + one
    w0 = ((a * far - 5 * a) * far + 8 * a) * far - 4 * a
    w1 = ((a + 2) * x - (a + 3)) * x * x + one
    near = one - x
    w2 = ((a + 2) * near - (a + 3)) * near * near + one
    weights = np.stack([w0, w1, w2, one - w0 - w1 - w2]).astype(np.float32)
    taps = first.astype(np.int64) + np.arange(-1, 3)[:, None]
    return np.clip(taps, 0, old - 1), weights


def open_image(source: Any, options: ImageOptions | None = None) -> Image.Image:
    """Open a picture from wherever a user has it, safely.

    Arguments:
        source: a path, a `file://`, `data:` or `https://` URL, base64, bytes, an open file, a PIL
            image, or an array (NumPy's, MLX's, or what NumPy reads) of shape (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4): integers from 0 to 255 (or to 65535, which is then white),
            floats from 0 to 1, or booleans.
        options: `ImageOptions`; only `orient` is read here.

    Returns:
        The decoded first frame (of HEIC the main one), in its own mode.

    Raises:
        ImageError: not found, not an image of an allowed format, empty, truncated, too large,
            not fetched within the limits, or pillow-heif is missing.
    """
    options = options or ImageOptions()
    if isinstance(source, Image.Image):
        image, name = source, "image"
    elif hasattr(source, "__array__"):
        image, name = _from_array(_as_numpy(source)), "array"
    else:
        return decode_image(*read_source(source), options)
    return _decoded(image, name, options)


def decode_image(data: bytes, name: str, options: ImageOptions) -> Image.Image:
    """The same for the bytes of a file; `name` is for messages."""
    try:
        return _decoded(*_identify(data, name), options)
    except _DamagedError:
        whole = _with_end(data)
        if whole is None:
            raise
        log.warning("%s: the mark at its end is missing, and nothing of the picture", name)
        return _decoded(*_identify(whole, name), options)


class _DamagedError(ImageError):
    """Pillow could not decode it."""


def _with_end(data: bytes) -> bytes | None:
    """A JPEG that lacks only its end mark, with one; None if it lacks more.

    Where pixels are missing, what follows in the file is taken for them: so with the mark alone and
    with something before it the picture must be the same.
    """
    begun = data.removesuffix(_JPEG_END[:1])
    if not data.startswith(b"\xff\xd8\xff") or data.endswith(_JPEG_END):
        return None
    seen = set()
    for between in (b"", b"\x55\xaa" * 512, b"\xcc\x33" * 512):
        try:
            with Image.open(io.BytesIO(begun + between + _JPEG_END), formats=("JPEG",)) as image:
                _check_size(*image.size, "")
                seen.add(hashlib.sha256(image.tobytes()).digest())
        except Exception:  # whatever else is wrong with it has been said
            return None
    return begun + _JPEG_END if len(seen) == 1 else None


def _decoded(image: Image.Image, name: str, options: ImageOptions) -> Image.Image:
    _check_size(*image.size, name)
    with _damage_named(name):
        image.load()
    return _upright(image) if options.orient else image


def _identify(data: bytes, name: str) -> tuple[Image.Image, str]:
    """Read the header only; nothing is decoded."""
    if not data:
        raise ImageError(f"{name}: empty, 0 bytes: give an image file")
    if is_pdf(data):
        raise ImageError(f"{name}: a PDF, not one picture: generate, chat and batch read its pages")
    image = _open_heic(data, name) if is_heic(data) else _open(data, name)
    with _damage_named(name):
        frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        used = "main one" if image.format == "HEIF" else "first"
        log.warning("%s: has %d frames; the %s is used", name, frames, used)
    return image, name


def _open(data: bytes, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are ours to check, remarks on metadata no use
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name}: {str(error).split(',')[0]}; at most {MAX_PIXELS:,} are decoded: shrink it "
            "first"
        ) from error
    except Exception as error:  # damaged headers raise nearly anything in Pillow
        what, advice = what_else(data)
        if what:
            raise ImageError(f"{name}: {what}, not an image that is read here: {advice}") from error
        raise ImageError(
            f"{name}: not an image that is read here; allowed: {', '.join(FORMATS)} and HEIC: "
            "convert it to one of them"
        ) from error


def _open_heic(data: bytes, name: str) -> Image.Image:
    """pillow-heif's class itself, so that what Pillow opens elsewhere stays as it is.

    It turns the picture as its container says and sets the orientation in EXIF to upright. libheif
    refuses pictures that are larger than the size stated for them.
    """
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise ImageError(
            f'{name}: HEIC needs pillow-heif: install it with pip install "pixtral-mlx[heic]"; '
            f"{ON_A_MAC}"
        ) from error
    with _damage_named(name):
        image = HeifImageFile(io.BytesIO(data))
    # More may be decoded than is shown: edges are cut off, tiles put together.
    sizes = [struct.unpack(">II", size) for size in _HEIC_SIZES.findall(data)]
    if tiling := image.info.get("tiling"):
        sizes.append((tiling["image_width"], tiling["image_height"]))
    for width, height in sizes:
        _check_size(width, height, name)
    return image


@contextmanager
def _damage_named(name: str) -> Iterator[None]:
    """Whatever Pillow raises while it decodes becomes one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise _DamagedError(
            f"{name}: damaged or cut off ({reason}): export or download it again"
        ) from error


def exif_orientation(image: Image.Image) -> int:
    """1 to 8 (EXIF tag 0x0112); 1 is upright, also where none is stated or it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stated = image.getexif().get(0x0112, 1)
    except Exception:  # damaged metadata raises nearly anything in Pillow
        return 1
    return stated if stated in range(1, 9) else 1


def _upright(image: Image.Image) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ImageOps.exif_transpose(image)
    except Exception:  # damaged metadata in a sound picture: there is no orientation to apply
        return image


def _check_size(width: int, height: int, name: str) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name}: {width}x{height} pixels: nothing to look at")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {width}x{height} is {width * height:,} pixels; at most {MAX_PIXELS:,} are "
            "decoded: shrink it first"
        )


def _as_numpy(array: Any) -> np.ndarray:
    """What has `__array__`: NumPy's, MLX's and other programs' arrays."""
    try:
        if str(getattr(array, "dtype", "")) == "mlx.core.bfloat16":  # which NumPy does not know
            import mlx.core as mx

            array = array.astype(mx.float32)
        return np.asarray(array)
    except Exception as error:  # on a device, with gradients, or damaged: each in its own words
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ImageError(
            f"an image array of {type(array).__name__} cannot be read ({reason}): make it a NumPy "
            "array"
        ) from error


def _from_array(array: np.ndarray) -> Image.Image:
    shape = array.shape
    if array.size == 0 or not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))):
        raise ImageError(
            f"an image array has shape {shape}; allowed: (H, W), (H, W, 1), (H, W, 3) and (H, W, 4)"
        )
    pixels = _eight_bits(array[..., 0] if shape[2:] == (1,) else array)
    return Image.fromarray(np.ascontiguousarray(pixels))


def _eight_bits(array: np.ndarray) -> np.ndarray:
    """Values as uint8; of wider integers it is their range that says what is white."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "b":
        return array.astype(np.uint8) * 255
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ImageError("an image array of floats must lie within 0 and 1: scale it first")
        return np.round(array * 255).astype(np.uint8)
    if array.dtype.kind not in "iu":
        raise ImageError(
            f"an image array is {array.dtype}; allowed: integers, floats from 0 to 1 and booleans"
        )
    lowest, highest = int(array.min()), int(array.max())
    if lowest < 0 or highest > 65535:
        raise ImageError(
            f"an image array holds {lowest} to {highest}; allowed: 0 to 255, or 0 to 65535: scale "
            "it first"
        )
    if highest <= 255:
        return array.astype(np.uint8)
    return ((array.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8)
