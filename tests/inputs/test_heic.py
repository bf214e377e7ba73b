"""HEIC, what every iPhone makes: as safe as other pictures, and upright exactly once."""

import io
import json
import logging
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from pixtral_mlx import cli
from pixtral_mlx.cli.batch import find_items
from pixtral_mlx.cli.chat import Chat
from pixtral_mlx.errors import ImageError
from pixtral_mlx.inputs.file_kind import is_heic
from pixtral_mlx.inputs.image import ImageOptions, exif_orientation, open_image
from pixtral_mlx.inputs.pixels import to_rgb

RED, BLUE = (255, 0, 0), (0, 0, 255)
MISSING = (
    'HEIC needs pillow-heif: in your clone of pixtral-mlx, run pip install ".[heic]"; on a Mac, '
    "`sips -s format jpeg FILE --out FILE.jpg` converts it"
)


def flag(width=64, height=32, mode="RGB"):
    """Blue above, red below."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (0, 0, width, height // 4))
    return image.convert(mode)


def heic(*images, exif=None, **options):
    """A file that pillow-heif writes, nearly lossless."""
    file = pillow_heif.from_pillow(images[0])
    for image in images[1:]:
        file.add_from_pillow(image)
    if exif is not None:
        file.info["exif"] = exif.tobytes()
    out = io.BytesIO()
    file.save(out, quality=-1, chroma=444, **options)
    return out.getvalue()


def stated_as(width, height, data):
    """The file with another size in its header than in its picture."""
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]


def near(image, place, colour):
    found = to_rgb(image, ImageOptions()).getpixel(place)
    return max(abs(a - b) for a, b in zip(found, colour, strict=True)) <= 3


def refused(source, *said):
    with pytest.raises(ImageError) as caught:
        open_image(source)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 400
    assert all(words in line for words in said), line
    return line


@pytest.fixture
def photos(tmp_path):
    """A folder with a photo of a phone, and a PNG."""
    (tmp_path / "photo.HEIC").write_bytes(heic(flag()))
    (tmp_path / "other.heif").write_bytes(heic(flag()))
    flag().save(tmp_path / "plain.png")
    return tmp_path


# What opens -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"tile_size": 64}, {"thumbnails": [32]}], ids=str)
def test_a_photo_opens(photos, options):
    data = heic(flag(160, 96), **options)
    opened = open_image(data)
    assert (opened.size, opened.mode) == ((160, 96), "RGB")
    assert near(opened, (80, 3), BLUE) and near(opened, (80, 90), RED)
    assert open_image(photos / "photo.HEIC").size == (64, 32)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_upright_once(orientation):
    # What a camera that was held so stores: turning it as EXIF says gives `flag`.
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = flag() if orientation == 1 else flag().transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = heic(stored, exif=exif)
    for options in (ImageOptions(), ImageOptions(orient=False)):
        opened = open_image(data, options)
        assert opened.size == (64, 32) and exif_orientation(opened) == 1
        assert near(opened, (32, 3), BLUE) and near(opened, (32, 28), RED)
    assert open_image(open_image(data)).size == (64, 32)


def test_transparent_is_white():
    image = Image.new("RGBA", (64, 32), (0, 0, 0, 0))
    image.paste((*RED, 255), (0, 0, 32, 32))
    opened = open_image(heic(image))
    assert near(opened, (60, 16), (255, 255, 255)) and near(opened, (8, 16), RED)


@pytest.mark.parametrize("mode", ["RGB;16", "L;16"])
def test_ten_bits_keep_their_brightness(mode):
    values = np.linspace(0, 65535, 64 * 32).reshape(32, 64).astype(np.uint16)
    pixels = np.dstack([values] * 3) if mode == "RGB;16" else values
    out = io.BytesIO()
    file = pillow_heif.from_bytes(mode, (64, 32), np.ascontiguousarray(pixels).tobytes())
    file.save(out, quality=-1, chroma=444)
    assert pillow_heif.open_heif(out.getvalue()).info["bit_depth"] == 10
    seen = np.asarray(to_rgb(open_image(out.getvalue()), ImageOptions()))[..., 0]
    assert np.abs(seen - values / 257).max() <= 3


def test_the_main_picture_of_several_is_used(caplog):
    with caplog.at_level(logging.WARNING):
        opened = open_image(heic(Image.new("RGB", (80, 80), BLUE), flag(), primary_index=1))
    assert opened.size == (64, 32) and near(opened, (32, 28), RED)
    assert "has 2 frames; the main one is used" in caplog.text


def test_pillow_stays_as_it_is():
    open_image(heic(flag()))
    assert "HEIF" not in Image.OPEN and ".heic" not in Image.registered_extensions()


def test_avif_is_left_to_pillow(monkeypatch):
    out = io.BytesIO()
    flag().save(out, "AVIF")
    data = out.getvalue()
    assert b"mif1" in data[:40] and not is_heic(data)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert open_image(data).size == (64, 32)
    assert open_image(data.replace(b"ftypavif", b"ftypmif1", 1)).size == (64, 32)


# What does not ----------------------------------------------------------------------------------


def test_without_the_package_the_line_says_what_to_install(photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert refused(photos / "photo.HEIC").endswith(f"photo.HEIC: {MISSING}")
    assert open_image(photos / "plain.png").size == (64, 32)


@pytest.mark.parametrize("lying", ["header", "cut", "tiles"])
def test_sizes_are_checked_before_anything_is_decoded(monkeypatch, lying):
    data = heic(flag(256, 256), tile_size=64) if lying == "tiles" else heic(flag(63, 33))
    if lying == "tiles":
        at = data.index(b"idat") + 8  # of a grid: width and height in 16 bits
        data = data[:at] + struct.pack(">HH", 16_000, 16_000) + data[at + 4 :]
    else:
        data = stated_as(16_000, 16_000, data)
    if lying == "header":
        data = data.replace(b"clap", b"free")
    shown = pillow_heif.open_heif(data).size
    assert shown == {"header": (16_000, 16_000), "cut": (63, 33), "tiles": (256, 256)}[lying]
    monkeypatch.setattr(pillow_heif.HeifImageFile, "load", None)
    refused(data, "16000x16000 pixels take 768,000,000 bytes; at most 400,000,000 are decoded")


@pytest.mark.parametrize("size", [(8, 8), (4000, 4000), (2**31, 2**31), (0, 0)])
def test_sizes_that_are_not_true(size):
    refused(stated_as(*size, heic(flag(512, 512))), "image bytes: ")


def test_cut_off_files():
    data = heic(flag(200, 200))
    assert is_heic(data)
    for length in [*range(12, 400, 29), len(data) // 2, len(data) - 20]:
        refused(data[:length], "damaged or cut off (")
    refused(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "damaged or cut off (")


def test_damaged_files_never_raise_anything_else():
    random = np.random.RandomState(0)
    whole = heic(flag(), tile_size=64)
    outcomes = set()
    for _ in range(200):
        data = bytearray(whole)
        for place in random.randint(12, len(data), size=4):
            data[place] = random.randint(256)
        try:
            outcomes.add(to_rgb(open_image(bytes(data)), ImageOptions()).mode)
        except ImageError as error:
            assert "\n" not in str(error)
            outcomes.add("refused")
    assert outcomes == {"RGB", "refused"}


# Where it is used -------------------------------------------------------------------------------


def test_inspect_shows_its_grid(photos, capsys):
    assert cli.main(["inspect", str(photos / "photo.HEIC"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["width"], report["height"], report["tokens"]) == (64, 32, 10)
    assert cli.main(["inspect", str(photos / "none.heic")]) == 1
    assert "none.heic: no such file" in capsys.readouterr().err


def test_batch_takes_it_from_a_folder(photos):
    names = [item.source.name for item in find_items([str(photos)])]
    assert names == ["other.heif", "photo.HEIC", "plain.png"]


def test_chat_adds_it(photos, capsys):
    model = SimpleNamespace(config=SimpleNamespace(vision=None))
    chat = Chat(model, None, {}, ImageOptions())
    chat.handle(f"/image {photos / 'photo.HEIC'}")
    assert [part["image"].image.size for part in chat.waiting] == [(64, 32)]
    assert "64 x 32 pixels; 1 waiting" in capsys.readouterr().err
