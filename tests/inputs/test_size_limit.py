"""How large a picture may be: by its bytes once decoded, known before; and what it costs."""

import subprocess
import sys
import tracemalloc
import weakref

import numpy as np
import pytest
from checkpoints import official_params
from image_files import encoded, picture, png_header, refused, same
from PIL import Image

from pixtral_mlx.errors import ImageError
from pixtral_mlx.inputs import pixels, size_limit, tokenizer
from pixtral_mlx.inputs.image import FORMATS, EncodedImage, ImageOptions, open_image
from pixtral_mlx.inputs.pixels import preprocess, shrunk, to_rgb
from pixtral_mlx.model.config import PixtralConfig

VISION = PixtralConfig.from_params(official_params()).vision


# (bits of a channel, kind of colour, pixels that are the most): 1 bit, palette, grey, 16-bit grey,
# colour, colour with transparency.
MOST = [
    (1, 0, 400_000_000), (1, 3, 400_000_000), (8, 3, 400_000_000), (8, 0, 400_000_000),
    (16, 0, 200_000_000), (8, 2, 133_333_333), (16, 2, 133_333_333), (8, 6, 100_000_000),
]  # fmt: skip


@pytest.mark.parametrize(("bits", "kind", "most"), MOST)
def test_bytes_count_and_not_pixels(bits, kind, most, monkeypatch):
    # Decoding is not tried: the header is believed, and what follows it is too short.
    monkeypatch.setattr(Image.Image, "load", _broken)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", _broken)
    refused(png_header(10_000, most // 10_000, bits, kind), "damaged or cut off (stopped here)")
    line = refused(png_header(10_000, most // 10_000 + 1, bits, kind), "at most 400,000,000 are")
    assert f"10000x{most // 10_000 + 1} pixels take 400," in line or bits == 16


def _broken(self):
    raise OSError("stopped here")


@pytest.mark.parametrize("size", [(15_000, 15_000), (50_000, 50_000), (2**31 - 1, 2**31 - 1)])
def test_decompression_bombs_are_refused_by_their_header(size):
    refused(png_header(*size), "bytes; at most 400,000,000 are decoded: shrink it first")


def test_rows_count_too():
    """Pillow keeps eight bytes for each."""
    refused(png_header(1, 50_000_001, 1, 0), "1x50000001 pixels take 400,000,008 bytes")


@pytest.mark.parametrize("kind", ["VP8X", "VP8L", "VP8 "])
def test_a_webp_is_refused_before_it_makes_room(kind):
    """Its reader makes room for it when it is opened."""
    image = picture(40, 30, "RGBA" if kind == "VP8X" else "RGB")
    if kind == "VP8X":
        image.putpixel((0, 0), (0, 0, 0, 0))
    data = bytearray(encoded(image, "WEBP", lossless=kind == "VP8L"))
    assert data[12:16] == kind.encode() and open_image(bytes(data)).size == (40, 30)
    if kind == "VP8X":
        data[24:30] = (16_383 - 1).to_bytes(3, "little") * 2
    elif kind == "VP8L":
        data[21:25] = (16_382 | 16_382 << 14).to_bytes(4, "little")
    else:
        data[26:30] = (16_383).to_bytes(2, "little") * 2
    tracemalloc.start()
    refused(bytes(data), "a WebP of 16383x16383 pixels takes 3,220,832,268 bytes to decode; at mos")
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(("mode", "lossless"), [("RGB", False), ("RGB", True), ("RGBA", False)])
def test_what_a_webp_takes_beside_its_picture_is_counted_first(mode, lossless, monkeypatch):
    data = encoded(picture(70, 50, mode), "WEBP", lossless=lossless)
    monkeypatch.setattr(size_limit, "MAX_BESIDE_BYTES", 70 * 50 * 12)
    assert open_image(data).size == (70, 50)
    monkeypatch.setattr(size_limit, "MAX_BESIDE_BYTES", 70 * 50 * 12 - 1)
    refused(data, "a WebP of 70x50 pixels takes 42,000 bytes to decode; at most 41,999 are spent")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc")
@pytest.mark.parametrize("lossless", [False, True])
def test_no_webp_takes_more_beside_its_picture(lossless, tmp_path):
    """In a process of its own, whose most memory is asked for."""
    path = tmp_path / "large.webp"
    Image.new("RGB", (4000, 3000), (200, 30, 40)).save(path, lossless=lossless, method=0)
    code = r"""if True:
        import re, sys
        from pathlib import Path
        from pixtral_mlx.inputs.image import open_image
        def most():
            return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])
        before = most()
        open_image(sys.argv[1])
        print((most() - before) * 1024)"""
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60
    )
    taken = int(done.stdout) / (4000 * 3000)
    assert 8 < taken < 4 + size_limit._WEBP_BYTES + 1


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "WEBP"])
def test_the_limit_of_pillow_is_the_users(kind, monkeypatch):
    """It is neither asked, since it would refuse what is read here, nor changed."""
    data = encoded(picture(70, 50), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert open_image(data).size == (70, 50)
    assert Image.MAX_IMAGE_PIXELS == 1000


# JPEGs that are decoded at a smaller scale -----------------------------------------------------


@pytest.mark.parametrize(("most", "scale"), [(30, 1), (29, 2), (8, 2), (7, 4), (2, 4), (1, 8)])
def test_a_large_jpeg_is_read_smaller_with_a_note(caplog, monkeypatch, most, scale):
    data = encoded(Image.new("RGB", (1000, 800), (200, 30, 40)), "JPEG")
    monkeypatch.setattr(size_limit, "MAX_DECODED_BYTES", most * 80_000)
    opened = open_image(data)
    assert opened.size == (1000 // scale, 800 // scale)
    assert all(abs(a - b) < 4 for a, b in zip(opened.getpixel((9, 9)), (200, 30, 40), strict=True))
    notes = [record.message for record in caplog.records]
    said = f"image bytes: 1000x800 pixels are too many; read at 1/{scale} of that, %dx%d"
    assert notes == ([] if scale == 1 else [said % opened.size])
    caplog.clear()
    assert same(open_image(data[:-2]), opened.convert("RGB"))  # without its end, too


def test_no_jpeg_is_read_at_less_than_twice_what_the_model_sees():
    for width, height in ((65_535, 15_000), (15_000, 65_535), (31_000, 32_000), (12_032, 9_024)):
        for mode in ("L", "RGB", "CMYK"):
            scale = size_limit.jpeg_scale(width, height, "x", size_limit.pixel_bytes(mode))
            assert max(width, height) // scale >= 2 * 1540  # the largest image_size there is
            assert width * height * size_limit.pixel_bytes(mode) // scale**2 <= 400_000_000
    assert size_limit.jpeg_scale(12_032, 9_024, "x", 3) == 1  # a phone's 108 million
    with pytest.raises(ImageError, match="65535x65535 is 4,294,836,225 pixels; at most 1,000,0"):
        size_limit.jpeg_scale(65_535, 65_535, "x", 3)


def test_what_a_progressive_jpeg_takes_is_counted_first(monkeypatch):
    image = picture(160, 80)
    plain = encoded(image, "JPEG")
    for subsampling, channels in (("4:4:4", 3), ("4:2:0", 1.5)):
        held = int(160 * 80 * channels) * 2
        data = encoded(image, "JPEG", progressive=True, subsampling=subsampling)
        monkeypatch.setattr(size_limit, "MAX_BESIDE_BYTES", held)
        assert open_image(data).size == (160, 80)
        monkeypatch.setattr(size_limit, "MAX_BESIDE_BYTES", held - 1)
        refused(data, f"a progressive JPEG of 160x80 pixels takes {held:,} bytes to decode")
        assert open_image(plain).size == (160, 80)


def many_scans(scans: int, between=b"") -> bytes:
    """A progressive JPEG, its last scan repeated until there are so many, all in one colour so that
    each is short."""
    data = encoded(Image.new("RGB", (64, 48), (200, 30, 40)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + (between + last) * (scans - data.count(b"\xff\xda")) + data[-2:]


def test_scans_of_a_jpeg_are_counted_first(caplog):
    after = encoded(picture(), "JPEG") * 200  # as phones put a second picture
    assert same(open_image(many_scans(size_limit.MAX_SCANS) + after), open_image(many_scans(0)))
    hidden = b"\xff\xfe\0\x06\xff\xd9\xff\xda"  # a comment that holds an end and a scan
    assert open_image(many_scans(50, hidden)).size == (64, 48)
    said = "a JPEG of more than 50 scans; about ten are usual, and at most 50 are read: save it"
    for data in (many_scans(51), many_scans(51, hidden), many_scans(5000), many_scans(51)[:-2]):
        refused(data, said)
    refused(many_scans(12, b"\xff\xfe\0\2" * 10_000), said)


# What a large picture costs --------------------------------------------------------------------


def strange(mode: str, size: tuple[int, int]) -> Image.Image:
    """Noise in a mode, with a palette and a transparent colour where it may have them."""
    values = np.random.RandomState(5).randint(0, 65536, size[::-1]).astype(np.uint16)
    if mode == "I;16":
        image = Image.fromarray(values)
    elif mode == "I":
        image = Image.fromarray(values.astype(np.int32))
    else:
        image = picture(*size, "RGB" if mode == "P" else mode)
    if mode == "P":
        image = image.quantize(60)
    if mode in ("1", "L", "P", "I;16", "I"):
        image.info["transparency"] = image.getpixel((0, 0))
    return image


@pytest.mark.parametrize("size", [(130, 90), (3, 5000), (5000, 3), (1, 700)])
@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I;16", "I"])
def test_a_tile_at_a_time_gives_the_same_to_the_last_bit(mode, size, monkeypatch):
    image = strange(mode, size)
    vision = PixtralConfig.from_params(official_params(vision={"image_size": 64})).vision
    whole = [to_rgb(image, ImageOptions()).tobytes(), preprocess(image, vision, ImageOptions())]
    everything = np.asarray(to_rgb(image, ImageOptions()))
    assert np.array_equal(preprocess(Image.fromarray(everything), vision, ImageOptions()), whole[1])
    monkeypatch.setattr(pixels, "_TILE_PIXELS", 50)
    assert to_rgb(image, ImageOptions()).tobytes() == whole[0]
    assert np.array_equal(preprocess(image, vision, ImageOptions()), whole[1])


@pytest.mark.parametrize("mode", ["1", "L", "RGBA", "I;16"])
def test_the_smooth_resize_of_a_large_picture_is_nearly_that_of_pillow(mode, monkeypatch):
    image, options = strange(mode, (400, 230)), ImageOptions()
    pillows = to_rgb(image, options).resize((40, 23), Image.Resampling.BICUBIC)
    assert same(shrunk(image, options, 40), pillows)
    monkeypatch.setattr(pixels, "_WHOLE_PIXELS", 100)
    monkeypatch.setattr(pixels, "_TILE_PIXELS", 1000)
    found = np.asarray(shrunk(image, options, 40)).astype(int)
    assert np.abs(found - np.asarray(pillows)).max() <= 2
    assert same(shrunk(image, options, 400), to_rgb(image, options))


@pytest.mark.parametrize("resize", ["official", "antialiased"])
@pytest.mark.parametrize("size", [(20_000_000, 1), (1, 20_000_000), (5000, 5000)])
def test_the_numbers_of_a_large_picture_take_little_beside_it(size, resize):
    image = Image.new("1", size, 1)
    tracemalloc.start()
    found = preprocess(image, VISION, ImageOptions(resize=resize))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    white = pixels.normalise(np.full((1, 1, 3), 255, np.uint8))
    assert np.abs(found - white).max() < 1e-4 and peak < 250_000_000


def test_pictures_of_a_message_are_decoded_one_after_the_other(mini, monkeypatch):
    """Each may go when its numbers are there; decoded, many would be held at once."""
    files = [encoded(picture(40 + 16 * n, 40), "PNG") for n in range(4)]
    decoded, held = [], []

    decode = EncodedImage.decoded

    def decoding(encoded):
        held.append(sum(each() is not None for each in decoded))
        image = decode(encoded)
        decoded.append(weakref.ref(image))
        return image

    parts = [{"type": "image", "image": file} for file in files]
    message = [{"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}]
    expected = [preprocess(open_image(file), mini.config.vision, ImageOptions()) for file in files]
    monkeypatch.setattr(EncodedImage, "decoded", decoding)
    mini.clear_cache()
    once = mini.encode(message)
    mini.clear_cache()
    for prompt in (once, mini.encode("What?", images=files)):
        assert len(prompt.images) == 4
        for found, right in zip(prompt.images, expected, strict=True):
            assert np.array_equal(found, right)
    assert held == [0] * 8


def test_where_memory_runs_out_is_a_sentence(mini, monkeypatch):
    file = encoded(picture(50, 40))

    def full(*arguments):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(tokenizer, "preprocess", full)
        with pytest.raises(ImageError, match="a picture: not enough memory for it: shrink it"):
            mini.encode("?", images=[file, file])
    monkeypatch.setattr(Image.core, "new", full)
    with pytest.raises(ImageError, match="image bytes: not enough memory for it: shrink it, or"):
        open_image(file)
