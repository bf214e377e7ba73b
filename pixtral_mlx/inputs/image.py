"""Pictures: open, check, orient.

Everything is checked before it is decoded.
"""

import io
import logging
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import numpy as np
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from ..errors import ImageError, how_to_install
from .depth import SIGNIFICANT_BITS, png_significant_bits
from .file_kind import ON_A_MAC, is_heic, is_pdf, what_else
from .image_options import ImageOptions
from .image_source import read_source
from .pixels import digest, dim_brightest, is_dim
from .size_limit import (
    check_scans,
    check_size,
    check_webp,
    jpeg_scale,
    no_memory_for,
    pixel_bytes,
)
from .tiff import first_page, has_several_pages, is_tiff, quiet_libtiff

# Pillow's JPEG reader opens MPO, the two pictures in one file of some phones, as well.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")  # and HEIC by pillow-heif

# The boxes in a HEIF container that state the size of each picture and tile in it.
_HEIC_SIZES = re.compile(rb"ispe\0{4}(.{8})", re.DOTALL)

_JPEG_END = b"\xff\xd9"

log = logging.getLogger(__name__)


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
        return decode_image(*read_source(source, options.sources), options)
    return _decoded(image, name, options)


def decode_image(data: bytes, name: str, options: ImageOptions) -> Image.Image:
    """The same for the bytes of a file; `name` is for messages."""
    return EncodedImage(data, name, options).decoded()


class EncodedImage:
    """A picture of which the header has been read, and nothing decoded.

    Arguments:
        data, name: the bytes of a file, and what it is called in messages.

    Raises:
        ImageError: as `open_image`, as far as the header tells.
    """

    def __init__(self, data: bytes, name: str, options: ImageOptions):
        self._data, self._name, self._options = data, name, options
        try:
            self._image, _ = _identify(data, name)
        except _DamagedError as error:
            self._image = self._mended(error)
        _check_size(self._image, name)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height at which it will be decoded, before it is turned upright."""
        return self._image.size

    def decoded(self) -> Image.Image:
        """The picture itself.

        Raises:
            ImageError: as `open_image`.
        """
        try:
            return _decoded(self._image, self._name, self._options)
        except _DamagedError as error:
            return _decoded(self._mended(error), self._name, self._options)

    def _mended(self, error: Exception) -> Image.Image:
        """The picture with the mark at its end, if nothing else is missing."""
        whole = _with_end(self._data)
        if whole is None:
            raise error
        log.warning("%s: the mark at its end is missing, but none of the picture is", self._name)
        return _identify(whole, self._name)[0]


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
            tried = begun + between + _JPEG_END
            with JpegImageFile(io.BytesIO(tried)) as image:
                _open_smaller(image, tried, "")
                _check_size(image, "")
                seen.add(digest(image))
        except Exception:  # whatever else is wrong with it has been said
            return None
    return begun + _JPEG_END if len(seen) == 1 else None


def _decoded(image: Image.Image, name: str, options: ImageOptions) -> Image.Image:
    _check_size(image, name)
    with _damage_named(name):
        if isinstance(image, TiffImageFile) and image._im is None:
            # Or it asks, when it makes room, for the limit of the whole process.
            image.im = Image.new(image.mode, image._tile_size).im
        image.load()
    if options.grey16 == "scale" and (brightest := dim_brightest(image)):
        _note_dim(name, brightest)
    return upright(image) if options.orient else image


def _note_dim(name: str, brightest: int) -> None:
    log.warning(
        "%s: its brightest value is %s of 65,535 and it states no depth, so it looks dark: if it "
        "has fewer bits, scale it to 16 first", name, f"{brightest:,}",
    )  # fmt: skip


def _identify(data: bytes, name: str) -> tuple[Image.Image, str]:
    """Read the header only; nothing is decoded."""
    if not data:
        raise ImageError(f"{name}: empty, 0 bytes: give a picture")
    if is_pdf(data):
        raise ImageError(f"{name}: a PDF, not one picture: generate, chat and batch read its pages")
    if is_tiff(data):
        quiet_libtiff()
        if has_several_pages(data):  # to count them takes longer
            log.warning("%s: has several pages; the first is used", name)
        return _open(first_page(data), name), name
    image = _open_heic(data, name) if is_heic(data) else _open(data, name)
    with _damage_named(name):
        frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        used = "main one" if image.format == "HEIF" else "first"
        log.warning("%s: has %d frames; the %s is used", name, frames, used)
    return image, name


def _open(data: bytes, name: str) -> Image.Image:
    """As `Image.open`, without its limit of pixels, which is that of the whole process."""
    check_webp(data, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on metadata are of no use
            image = _first_that_opens(data)
    except MemoryError as error:
        raise no_memory_for(name) from error
    except Image.DecompressionBombError as error:  # WebP makes room when it is opened
        raise ImageError(f"{name}: {str(error).split(',')[0]}: shrink it first") from error
    except Exception as error:  # damaged headers raise nearly anything in Pillow
        image, why = None, error
    else:
        why = None
    if image is None:
        what, advice = what_else(data)
        if what:
            raise ImageError(f"{name}: {what}, not a picture that can be read: {advice}") from why
        raise ImageError(
            f"{name}: not a picture that can be read; allowed: {', '.join(FORMATS)} and HEIC: "
            "convert it to one of them"
        ) from why
    if image.format == "PNG" and (bits := png_significant_bits(data)):
        image.info[SIGNIFICANT_BITS] = bits
    if isinstance(image, JpegImageFile):
        width, height = image.size
        scale = _open_smaller(image, data, name)
        if scale > 1:
            log.warning(
                "%s: %dx%d pixels are too many; read at 1/%d of that, %dx%d",
                name, width, height, scale, *image.size,
            )  # fmt: skip
    return image


def _first_that_opens(data: bytes) -> Image.Image | None:
    Image.preinit()
    for kind in FORMATS:
        if kind not in Image.OPEN:
            Image.init()
        if kind not in Image.OPEN:
            continue  # this Pillow was built without it
        factory, accept = Image.OPEN[kind]
        accepted = accept is None or accept(data[:16])
        if accepted and not isinstance(accepted, str):  # which is why it cannot be used here
            with suppress(SyntaxError, IndexError, TypeError, struct.error):
                return cast("Image.Image", factory(io.BytesIO(data), ""))
    return None


def _open_smaller(image: JpegImageFile, data: bytes, name: str) -> int:
    """A JPEG too large to be decoded as it is: at the scale that libjpeg can do and we allow."""
    check_scans(data, name)
    width, height = image.size
    scale = jpeg_scale(width, height, name, pixel_bytes(image.mode))
    image.draft(None, (width // scale, height // scale))
    return scale


def _open_heic(data: bytes, name: str) -> Image.Image:
    """pillow-heif's class itself, so that what Pillow opens elsewhere stays as it is.

    It turns the picture as its container says and sets the orientation in EXIF to upright. libheif
    refuses pictures that are larger than the size stated for them.
    """
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise ImageError(
            f"{name}: HEIC needs pillow-heif: {how_to_install('heic')}; {ON_A_MAC}"
        ) from error
    with _damage_named(name):
        image = HeifImageFile(io.BytesIO(data))
    # More may be decoded than is shown: edges are cut off, tiles put together.
    sizes = [struct.unpack(">II", size) for size in _HEIC_SIZES.findall(data)]
    if tiling := image.info.get("tiling"):
        sizes.append((tiling["image_width"], tiling["image_height"]))
    for width, height in sizes:
        check_size(width, height, name, pixel_bytes(image.mode))
    return image


@contextmanager
def _damage_named(name: str) -> Iterator[None]:
    """Whatever Pillow raises while it decodes becomes one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except MemoryError as error:
        raise no_memory_for(name) from error
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


def upright(image: Image.Image) -> Image.Image:
    """As its EXIF orientation says; the same object where nothing has to be turned."""
    if exif_orientation(image) == 1:
        return image
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ImageOps.exif_transpose(image)
    except Exception:  # damaged metadata in a sound picture: there is no orientation to apply
        return image


def _check_size(image: Image.Image, name: str) -> None:
    check_size(*image.size, name, pixel_bytes(image.mode))


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
        hint = ""
        if len(shape) == 3 and shape[0] in (1, 3, 4):
            hint = ": channels come last, array.transpose(1, 2, 0)"
        elif len(shape) == 4:
            hint = ": give the pictures one by one, list(array)"
        raise ImageError(
            f"an image array has shape {shape}; allowed: (H, W), (H, W, 1), (H, W, 3) and "
            f"(H, W, 4){hint}"
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
    if is_dim(highest):
        _note_dim("array", highest)
    return ((array.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8)
