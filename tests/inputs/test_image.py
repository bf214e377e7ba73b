"""Pictures from wherever a user has them: what opens, what is refused, and with which words."""

import base64
import logging
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from image_files import encoded, picture, refused, same
from PIL import Image

from pixtral_mlx.errors import ImageError
from pixtral_mlx.inputs import image_source
from pixtral_mlx.inputs.image import (
    FORMATS,
    ImageOptions,
    exif_orientation,
    open_image,
)
from pixtral_mlx.inputs.pixels import preprocess, to_rgb
from pixtral_mlx.model.config import PixtralConfig
from pixtral_mlx.model.prompt import patch_grid

VISION = PixtralConfig.from_params(checkpoints.official_params()).vision


# What opens -----------------------------------------------------------------------------------


def test_files_by_every_kind_of_name(tmp_path, monkeypatch):
    path = tmp_path / "Fähre 船 a%20b.png"
    picture().save(path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for source in (path, str(path), path.as_uri(), f"~/{path.name}", path.name):
        assert same(open_image(source), picture())
    assert same(open_image(path.as_uri().replace("file://", "file://localhost")), picture())


def test_a_file_without_ending_named_as_a_scheme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("data", "file", "http"):
        picture().save(name, "PNG")
        assert same(open_image(name), picture())


def test_bytes_and_data_urls():
    data = encoded(picture())
    payload = base64.b64encode(data).decode()
    for source in (data, bytearray(data), memoryview(data), f"data:image/png;base64,{payload}"):
        assert same(open_image(source), picture())


def test_pil_images_and_arrays():
    image = picture()
    pixels = np.asarray(image)
    for source in (image, pixels, pixels / 255, pixels.astype(np.float32) / 255, pixels[::-1]):
        assert open_image(source).size == image.size
    assert same(open_image(pixels), image)
    assert same(open_image(pixels / 255), image)
    assert open_image(pixels[..., 0]).mode == "L"
    assert open_image(np.dstack([pixels, pixels[..., :1]])).mode == "RGBA"


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_of_the_list_opens(kind):
    opened = open_image(encoded(picture(), kind))
    assert opened.size == (7, 5)
    assert preprocess(opened, VISION, ImageOptions()).shape == (3, 16, 16)


def test_the_two_pictures_of_a_phone_are_no_animation(caplog):
    data = encoded(picture(), "MPO", save_all=True, append_images=[picture(9, 9)])
    assert open_image(data).size == (7, 5)
    assert not caplog.records


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_show_their_first_frame_with_a_notice(kind, caplog):
    first, second = Image.new("RGB", (8, 6), "red"), Image.new("RGB", (8, 6), "blue")
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(first, kind, save_all=True, append_images=[second], **lossless)
    with caplog.at_level(logging.WARNING):
        assert open_image(data).convert("RGB").getpixel((3, 3)) == (255, 0, 0)
    said = "several pages" if kind == "TIFF" else "2 frames"
    assert f"has {said}; the first is used" in caplog.text


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied_unless_asked_not_to(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(32, 16), kind, exif=exif)
    turned = open_image(data)
    assert turned.size == ((16, 32) if orientation >= 5 else (32, 16))
    assert open_image(turned).size == turned.size  # not turned twice
    assert exif_orientation(turned) == 1
    assert open_image(data, ImageOptions(orient=False)).size == (32, 16)


def test_damaged_metadata_does_not_cost_the_picture():
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert open_image(data).size == (7, 5)
    assert exif_orientation(open_image(data)) == 1


@pytest.mark.parametrize(("width", "height"), [(1, 5000), (5000, 1), (3, 4096), (1, 1)])
def test_extreme_shapes(width, height):
    grid = patch_grid(width, height, VISION)
    pixels = preprocess(open_image(picture(width, height)), VISION, ImageOptions())
    assert pixels.shape == (3, 16 * grid.rows, 16 * grid.columns)
    assert max(grid) <= 64 and min(grid) == 1
    assert np.isfinite(pixels).all()


def test_sixteen_bit_grey_is_scaled_or_clipped_as_asked():
    values = np.array([[0, 200, 257], [32768, 65278, 65535]], dtype=np.uint16)
    opened = open_image(encoded(Image.fromarray(values)))
    scaled = np.asarray(to_rgb(opened, ImageOptions()))[..., 0]
    assert scaled.tolist() == [[0, 1, 1], [128, 254, 255]]
    clipped = np.asarray(to_rgb(opened, ImageOptions(grey16="clip")))[..., 0]
    assert clipped.tolist() == [[0, 200, 255], [255, 255, 255]]


def test_cmyk_pixels_are_those_of_mistral_common():
    from mistral_common.protocol.instruct.chunk import ImageChunk
    from mistral_common.tokens.tokenizers.image import ImageConfig, ImageEncoder, SpecialImageIDs

    pytest.importorskip("cv2")
    opened = open_image(encoded(picture(90, 50, "CMYK"), "JPEG"))
    assert opened.mode == "CMYK"
    reference = ImageEncoder(ImageConfig(16, 1024), SpecialImageIDs(10, 12, 13))
    expected = reference(ImageChunk(image=opened)).image
    assert np.abs(preprocess(opened, VISION, ImageOptions()) - expected).max() <= 2e-5


def test_transparent_is_white():
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert to_rgb(open_image(encoded(clear)), ImageOptions()).getpixel((1, 1)) == (255, 255, 255)


# What does not --------------------------------------------------------------------------------


def test_what_is_not_a_source():
    refused(5, "given as int; allowed: ")
    refused(["a.png"], "given as list")
    refused("", "empty file name")
    refused("ftp://host/a.png", "scheme 'ftp'; allowed: https")
    refused("file://host/a.png", "on the host 'host'")
    refused("data:image/png", "allowed: data:image/png;base64")
    refused("data:image/png,abc", "not a picture that can be read")
    refused("data:image/png;base64,!!!", "not valid base64")


class Unreadable:
    def __array__(self, dtype=None, copy=None):
        raise TypeError("on a device\nsecond line")


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((0, 4), np.uint8), "shape (0, 4)"),
        (np.zeros(4, np.uint8), "shape (4,)"),
        (np.zeros((4, 4, 2), np.uint8), "shape (4, 4, 2)"),
        (np.zeros((3, 4, 5), np.uint8), "channels come last, array.transpose(1, 2, 0)"),
        (np.zeros((1, 4, 5), np.uint8), "channels come last, array.transpose(1, 2, 0)"),
        (np.zeros((2, 4, 5, 3), np.uint8), "give the pictures one by one, list(array)"),
        (np.zeros((4, 4), complex), "is complex128; allowed: integers, floats from 0 to 1"),
        (np.array([["a"]]), "is <U1; allowed: integers"),
        (np.full((4, 4), -1), "holds -1 to -1; allowed: 0 to 255, or 0 to 65535"),
        (np.array([[0, 65536]]), "holds 0 to 65536"),
        (Unreadable(), "array of Unreadable cannot be read (on a device)"),
        (np.full((4, 4), np.nan), "within 0 and 1"),
        (np.full((4, 4), 2.0), "within 0 and 1"),
    ],
)
def test_arrays_of_other_shapes_and_kinds(array, said):
    refused(array, said)


def test_modes_that_have_no_meaning_here():
    with pytest.raises(ImageError, match="32-bit floats"):
        to_rgb(Image.new("F", (4, 4)), ImageOptions())
    with pytest.raises(ImageError, match="mode La"):
        to_rgb(Image.new("La", (4, 4)), ImageOptions())
    refused(Image.new("RGB", (0, 5)), "0x5 pixels")


def test_names_of_no_file(tmp_path):
    refused(tmp_path / "none.png", "none.png: no such file")
    refused(str(tmp_path), "is a folder")
    refused("a\0b.png", "no such file")
    refused("x" * 5000, "File name too long")
    refused("~nobody-of-this-name/a.png", "no such file")
    refused("/dev/zero", "not an ordinary file")
    refused("bell\x07\x1b[31m.png", "no such file")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    picture().save(tmp_path / "a.png")

    def closed(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", closed)
    refused(tmp_path / "a.png", "cannot be read (Permission denied)")


NOT_IMAGES = {
    "text": b"This is no picture.\r\n",
    "ico": encoded(picture(16, 16), "ICO"),
    "zeros": bytes(1000),
    "half a signature": b"\x89PNG",
}


@pytest.mark.parametrize("content", NOT_IMAGES.values(), ids=NOT_IMAGES)
def test_other_files_called_png(tmp_path, content):
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    line = refused(path, "not a picture that can be read; allowed: PNG, JPEG")
    assert "convert it" in line


def test_an_empty_file(tmp_path):
    (tmp_path / "a.jpg").touch()
    refused(tmp_path / "a.jpg", "empty, 0 bytes")
    refused(b"", "empty, 0 bytes")


@pytest.mark.parametrize("kind", FORMATS)
def test_cut_off_files(kind):
    data = encoded(picture(64, 64), kind)
    refused(data[: len(data) // 2], "image bytes: ")


def test_damaged_files_never_raise_anything_else():
    random = np.random.RandomState(0)
    kinds = [encoded(picture(20, 20), kind) for kind in (*FORMATS, "MPO")]
    for _ in range(400):
        data = bytearray(kinds[random.randint(len(kinds))])
        for place in random.randint(0, min(len(data), 200), size=4):
            data[place] = random.randint(256)
        try:
            preprocess(open_image(bytes(data)), VISION, ImageOptions())
        except ImageError as error:
            assert "\n" not in str(error)


def test_files_and_data_urls_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(image_source, "MAX_FILE_BYTES", 100)
    (tmp_path / "a.png").write_bytes(bytes(101))
    refused(tmp_path / "a.png", "more than 100 bytes")
    refused("data:image/png;base64," + "A" * 101, "101 characters; at most 100")


def test_image_options_are_checked():
    with pytest.raises(ValueError, match=r"^resize must be official or antialiased, got 'best'$"):
        ImageOptions(resize="best")
    with pytest.raises(ValueError, match=r"^grey16 must be scale or clip, got 'white'$"):
        ImageOptions(grey16="white")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_a_colour_that_stands_for_nothing_becomes_white(mode):
    """PNG's tRNS, in every mode that has it; what has another colour stays as it was."""
    left, right, key = {
        "1": (0, 1, 0), "L": (7, 90, 7), "P": (1, 0, 1), "RGB": ((9, 8, 7), (9, 8, 6), (9, 8, 7)),
        "I;16": (7 * 257, 90 * 257, 7 * 257),
    }[mode]  # fmt: skip
    image = Image.new(mode, (4, 2), right)
    if mode == "P":
        image.putpalette([200, 100, 50, 1, 2, 3])
    image.paste(left, (0, 0, 2, 2))
    options = ImageOptions()
    plain = np.asarray(to_rgb(open_image(encoded(image), options), options))
    marked = np.asarray(to_rgb(open_image(encoded(image, transparency=key), options), options))
    assert (marked[:, :2] == 255).all() and not (plain[:, :2] == 255).all()
    np.testing.assert_array_equal(marked[:, 2:], plain[:, 2:])


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("quality", [30, 95])
def test_a_jpeg_that_lacks_only_its_end_is_read_with_a_note(caplog, progressive, quality):
    data = encoded(picture(90, 70), "JPEG", progressive=progressive, quality=quality)
    right = open_image(data)
    assert not caplog.records
    for cut in (1, 2):
        assert same(open_image(data[:-cut]), right)
        assert "the mark at its end is missing" in caplog.records.pop().message
    for cut in (3, 4, 9, 60, len(data) // 2):
        refused(data[:-cut], "damaged or cut off")
    assert not caplog.records
