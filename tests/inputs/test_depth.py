"""Grey of 10, 12 or 14 bits in 16: scaled by its real depth where the file says it, else noted."""

import io
import struct
import zlib

import numpy as np
import pytest
from checkpoints import official_params
from image_files import encoded
from PIL import Image

from pixtral_mlx.inputs import pixels
from pixtral_mlx.inputs.image import ImageOptions, open_image
from pixtral_mlx.inputs.pixels import preprocess, to_pixels, to_rgb
from pixtral_mlx.model.config import PixtralConfig

VISION = PixtralConfig.from_params(official_params()).vision


def ramp(bits: int) -> np.ndarray:
    """From black to white in so many bits: uint16, (32, 64)."""
    return np.linspace(0, (1 << bits) - 1, 32 * 64).reshape(32, 64).astype(np.uint16)


def png(values: np.ndarray, *chunks: bytes) -> bytes:
    """A PNG of 16-bit grey, with the data of chunks sBIT after its header."""
    data, made = encoded(Image.fromarray(values)), b""
    for held in chunks:
        check = struct.pack(">I", zlib.crc32(b"sBIT" + held))
        made += struct.pack(">I", len(held)) + b"sBIT" + held + check
    return data[:33] + made + data[33:]


def tiff(values: np.ndarray, bits=16, order="<", **tags: int) -> bytes:
    """A TIFF of grey, written by hand; `tags` as in MAX_281=4095."""
    height, width = values.shape
    if bits == 12:
        pairs = values.reshape(-1, 2).astype(int)
        left, right = pairs[:, 0], pairs[:, 1]
        body = np.stack([left >> 4, (left & 15) << 4 | right >> 8, right & 255], 1)
        body = body.astype(np.uint8).tobytes()
    else:
        body = values.astype(f"{order}u2").tobytes()
    known = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 277: 1, 278: height}
    known |= {273: 0, 279: len(body)} | {int(name[-3:]): value for name, value in tags.items()}
    place = 8 + 2 + 12 * len(known) + 4
    known[273] = place
    out = b"II*\0" if order == "<" else b"MM\0*"
    out += struct.pack(f"{order}IH", 8, len(known))
    for tag, value in sorted(known.items()):
        short = tag not in (273, 279)
        packed = struct.pack(f"{order}HH", value, 0) if short else struct.pack(f"{order}I", value)
        out += struct.pack(f"{order}HHI", tag, 3 if short else 4, 1) + packed
    return out + bytes(4) + body


def pgm(values: np.ndarray, most: int) -> bytes:
    return (
        f"P5 {values.shape[1]} {values.shape[0]} {most}\n".encode() + values.astype(">u2").tobytes()
    )


def seen(source, **options) -> np.ndarray:
    """The grey of a picture, uint8."""
    options = ImageOptions(**options)
    return np.asarray(to_rgb(open_image(source, options), options))[..., 0]


def in_eight_bits(values: np.ndarray, bits: int) -> np.ndarray:
    return np.round(values / ((1 << bits) - 1) * 255)


FILES = {
    "png-10": (10, png(ramp(10), b"\x0a")),
    "png-12": (12, png(ramp(12), b"\x0c")),
    "png-14": (14, png(ramp(14), b"\x0e")),
    "tiff-281": (12, tiff(ramp(12), MAX_281=4095)),
    "tiff-281-what-is-used": (12, tiff(ramp(12), MAX_281=3000)),
    "tiff-341": (14, tiff(ramp(14), S_MAX_341=16383)),
    "tiff-big-endian": (12, tiff(ramp(12), order=">", MAX_281=4095)),
    "tiff-12": (12, tiff(ramp(12), bits=12)),
    "pgm-12": (12, pgm(ramp(12), 4095)),
}


@pytest.mark.parametrize(("bits", "data"), FILES.values(), ids=FILES)
def test_white_is_what_the_file_says(bits, data, caplog):
    found = seen(data)
    assert (found.min(), found.max()) == (0, 255)
    assert np.abs(found - in_eight_bits(ramp(bits), bits)).max() <= 1
    assert not caplog.records
    for resize in ("official", "antialiased"):
        options = ImageOptions(resize=resize)
        prepared = to_pixels(preprocess(open_image(data), VISION, options)).transpose(2, 0, 1)[0]
        assert prepared.max() == 255 and abs(prepared.mean() - found.mean()) < 1


def test_a_large_picture_has_one_white(monkeypatch):
    """Though its tiles differ in brightness."""
    whole = [seen(data) for _, data in FILES.values()]
    monkeypatch.setattr(pixels, "_TILE_PIXELS", 50)
    for (_, data), found in zip(FILES.values(), whole, strict=True):
        assert np.array_equal(seen(data), found)


def test_an_opened_tiff_says_it_too():
    image = Image.open(io.BytesIO(tiff(ramp(12), MAX_281=4095)))
    assert seen(image).max() == 255


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15])
@pytest.mark.parametrize("share", [1, 1 / 32])
def test_a_png_that_fills_sixteen_bits_as_it_should_stays_as_it_is(bits, share, caplog):
    """sBIT says how many of them tell something, and a dark picture stays dark."""
    real = (ramp(bits) * share).astype(np.uint16)
    full = (1 << bits) - 1
    repeated = real << (16 - bits) | real >> max(2 * bits - 16, 0)
    for values in (real << (16 - bits), np.round(real / full * 65535), repeated):
        found = seen(png(values.astype(np.uint16), bytes([bits])))
        assert np.abs(found - np.round(values / 257)).max() <= 1
    assert not caplog.records


def test_pgm_is_scaled_by_its_own_white(caplog):
    """Also a dark one, which is no picture of 8 bits."""
    assert seen(pgm(ramp(12) // 100, 4095)).max() == round(40 / 4095 * 255)
    assert not caplog.records


# What says nothing, or nothing that is true ----------------------------------------------------

SILENT = {
    "png": png(ramp(12)),
    "png-no-bits": png(ramp(12), b"\0"),
    "png-too-many-bits": png(ramp(12), b"\x11"),
    "png-of-colour": png(ramp(12), b"\x0c\x0c\x0c"),
    "png-empty": png(ramp(12), b""),
    "png-late": encoded(Image.fromarray(ramp(12))) + png(ramp(12), b"\x0c")[33:46],
    "tiff": tiff(ramp(12)),
    "tiff-too-small": tiff(ramp(12), MAX_281=1),
    "tiff-none": tiff(ramp(12), MAX_281=0),
    "image": Image.fromarray(ramp(12)),
    "image-32": Image.fromarray(ramp(12).astype(np.int32)),
    "array": ramp(12),
}


@pytest.mark.parametrize("source", SILENT.values(), ids=SILENT)
def test_dim_grey_of_no_stated_depth_is_noted_once(source, caplog):
    assert seen(source).max() == 16
    (note,) = [record.message for record in caplog.records]
    said = "its brightest value is 4,095 of 65,535 and it states no depth, so it looks dark: if it"
    assert said in note and note.isprintable()
    caplog.clear()
    if not isinstance(source, np.ndarray):
        assert seen(source, grey16="clip").max() == 255
        assert not caplog.records


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15, 16])
def test_what_is_noted(bits, caplog):
    """Not what is bright enough to be of 16 bits, nor black, nor 8 bits in 32."""
    seen(Image.fromarray(ramp(bits)))
    assert len(caplog.records) == (bits <= 14)
    caplog.clear()
    black, eight = Image.fromarray(ramp(16) * 0), Image.fromarray(ramp(8).astype(np.int32))
    assert seen(black).max() == 0 and seen(eight).max() == 255
    assert seen(tiff(ramp(12), MAX_281=65535)).max() == 16  # which says that it is that dark
    assert not caplog.records


def test_many_chunks_are_not_looked_through():
    data = png(ramp(12), *[b""] * 2000, b"\x0c")
    assert seen(data).max() == 16
