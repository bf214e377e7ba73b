"""TIFFs of several pages: as PDFs, by their numbers."""

import io
import json
import struct
import time

import pytest
from checkpoints import make_official
from image_files import encoded
from PIL import Image

import pixtral_mlx as px
from pixtral_mlx import cli
from pixtral_mlx.cli.batch import find_items
from pixtral_mlx.inputs import pages as pages_module
from pixtral_mlx.inputs.image_options import ImageOptions
from pixtral_mlx.inputs.page_choice import MAX_PAGES
from pixtral_mlx.inputs.pages import has_pages, open_pages, page_numbers
from pixtral_mlx.inputs.tiff import MAX_DIRECTORIES
from pixtral_mlx.model.config import PIXTRAL_12B_VISION

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250)]
LAYOUTS = {"little": {}, "big-tiff": {"big_tiff": True}, "packed": {"compression": "tiff_lzw"}}


def make_tiff(count=5, **options) -> bytes:
    """Pages of one colour each."""
    images = [Image.new("RGB", (40, 30), COLOURS[n % len(COLOURS)]) for n in range(count)]
    return encoded(images[0], "TIFF", save_all=True, append_images=images[1:], **options)


def big_endian() -> bytes:
    """Two pages of two grey pixels, written by hand in the order of bytes MM."""
    file = io.BytesIO()
    entries = [(256, 3, 2), (257, 3, 1), (258, 3, 8), (262, 3, 1), (273, 4, 8), (279, 4, 2)]
    file.write(b"MM\0*" + struct.pack(">I", 10) + b"\x07\xf0")
    for number in range(2):
        place = file.tell()
        file.write(struct.pack(">H", len(entries)))
        for tag, kind, value in entries:
            packed = struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value)
            file.write(struct.pack(">HHI", tag, kind, 1) + packed)
        after = 0 if number else place + 2 + 12 * len(entries) + 4
        file.write(struct.pack(">I", after))
    return file.getvalue()


def shown(data, choice=None, **options):
    """{number: colour} of the pages."""
    found = open_pages(data, "x.tif", PIXTRAL_12B_VISION, ImageOptions(**options), choice)
    return {number: page.convert("RGB").getpixel((5, 5)) for number, page in found}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_pages_are_chosen_by_number(layout, caplog):
    data = make_tiff(**layout)
    assert has_pages(data) and page_numbers(data, "x.tif") == [1, 2, 3, 4, 5]
    assert shown(data) == dict(enumerate(COLOURS, 1))
    assert list(shown(data, "4,1-2").items()) == [(n, COLOURS[n - 1]) for n in (4, 1, 2)]
    with pytest.raises(px.ImageError, match=r"x\.tif: #page=6, but its pages are 1 to 5"):
        shown(data, "6")
    assert not caplog.records


def test_the_other_order_of_bytes():
    data = big_endian()
    found = open_pages(data, "x.tif", PIXTRAL_12B_VISION, ImageOptions(), "2")
    assert [(number, list(page.tobytes())) for number, page in found] == [(2, [7, 240])]


def test_smaller_copies_and_masks_are_no_pages():
    """NewSubfileType 1 is a smaller copy of a picture, 4 a mask; 2 is a page of several."""
    data = bytearray(make_tiff(4))
    places = directories(data)
    for place, kind in zip(places, (1, 2, 4, 0), strict=True):
        (count,) = struct.unpack_from("<H", data, place)
        # The first entry becomes NewSubfileType, and the next entry the width that it was.
        entries = bytes(data[place + 2 : place + 2 + 12 * count])
        new = struct.pack("<HHII", 254, 4, 1, kind)
        moved = struct.pack("<H", count + 1) + new + entries + data[place + 2 + 12 * count :][:4]
        at = len(data)
        data += moved
        repoint(data, place, at)
    assert shown(bytes(data)) == {1: COLOURS[1], 2: COLOURS[3]}
    # One picture behind its smaller copy is that picture, and has no number.
    cut = bytearray(data)
    place = directories(cut)[1]
    (count,) = struct.unpack_from("<H", cut, place)
    cut[place + 2 + 12 * count :][:4] = bytes(4)
    struct.pack_into("<I", cut, place + 2 + 12 * count, 0)
    assert not has_pages(bytes(cut))
    assert px.open_image(bytes(cut)).getpixel((5, 5)) == COLOURS[1]


def directories(data) -> list[int]:
    """Places of the directories of a small TIFF in little order."""
    places, (place,) = [], struct.unpack_from("<I", data, 4)
    while place:
        places.append(place)
        (count,) = struct.unpack_from("<H", data, place)
        (place,) = struct.unpack_from("<I", data, place + 2 + 12 * count)
    return places


def repoint(data, old: int, new: int) -> None:
    """Whatever leads to a directory leads to another."""
    at = 4
    for place in directories(data):
        if place == old:
            break
        (count,) = struct.unpack_from("<H", data, place)
        at = place + 2 + 12 * count
    struct.pack_into("<I", data, at, new)


def test_one_page_is_a_picture_unless_it_is_chosen():
    data = make_tiff(1)
    assert not has_pages(data) and has_pages(data, "1")
    assert shown(data, "1") == {1: COLOURS[0]}


def test_messages_have_their_numbers(tmp_path):
    model = px.load(make_official(tmp_path / "m", vision={"image_size": 64}), dtype="float32")
    path = tmp_path / "fax.tif"
    path.write_bytes(make_tiff(3))
    text = "".join(map(model.tokenizer.label, model.encode("?", [f"{path}#page=2-3"]).tokens))
    assert text.count("[IMG_END]") == 2 and "Page 2:" in text and "Page 3:" in text
    assert len(model.encode("?", [path]).images) == 3


def test_commands_take_them(tmp_path, capsys):
    path = tmp_path / "fax.tif"
    path.write_bytes(make_tiff(3))
    items = find_items([str(path)], per_page=True)
    assert [(item.page, item.file) for item in items] == [(n, str(path)) for n in (1, 2, 3)]
    assert cli.main(["inspect", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(page["page"], page["width"], page["tokens"]) for page in report["pages"]] == [
        (n, 40, 8) for n in (1, 2, 3)
    ]
    picture = tmp_path / "grid.png"
    assert cli.main(["inspect", f"{path}#page=2", "-o", str(picture)]) == 0
    assert "fax.tif: 8 tokens" in capsys.readouterr().out and picture.exists()


def test_many_pages_cost_a_moment(monkeypatch):
    tail = bytearray(make_tiff(1))
    (place,) = directories(tail)
    (count,) = struct.unpack_from("<H", tail, place)
    directory, link = tail[place : place + 2 + 12 * count], place + 2 + 12 * count
    for _ in range(40_000):
        struct.pack_into("<I", tail, link, len(tail))
        tail += directory + bytes(4)
        link = len(tail) - 4
    data, start = bytes(tail), time.process_time()
    assert has_pages(data) and page_numbers(data, "x.tif")[-1] == 40_001
    assert shown(data, "39999") == {39_999: COLOURS[0]}
    with pytest.raises(px.ImageError, match="40,001 pages; at most 100 are read at once"):
        shown(data)
    assert time.process_time() - start < 3
    monkeypatch.setattr("pixtral_mlx.inputs.tiff.MAX_DIRECTORIES", 40_001)
    with pytest.raises(px.ImageError, match="40,001 pages or more: split it first"):
        page_numbers(data, "x.tif")
    assert MAX_DIRECTORIES >= 40_000 and MAX_PAGES == 100


def test_pages_that_are_too_large_together(monkeypatch):
    monkeypatch.setattr(pages_module, "MAX_PAGES_BYTES", 2 * 40 * 30 * 3)
    assert len(shown(make_tiff(2))) == 2
    with pytest.raises(px.ImageError, match=r"its pages take more than 7,200 bytes once decoded"):
        shown(make_tiff(3))


def test_a_chain_that_bites_its_tail_ends():
    data = bytearray(make_tiff(3))
    place = directories(data)[-1]
    (count,) = struct.unpack_from("<H", data, place)
    struct.pack_into("<I", data, place + 2 + 12 * count, directories(data)[0])
    assert page_numbers(bytes(data), "x.tif") == [1, 2, 3]
    struct.pack_into("<I", data, place + 2 + 12 * count, 2**31)
    assert page_numbers(bytes(data), "x.tif") == [1, 2, 3]


def test_libtiff_says_nothing_by_itself(capfd):
    whole, refused = encoded(Image.effect_noise((64, 64), 90), "TIFF", compression="tiff_lzw"), 0
    for n in range(20):
        damaged = bytearray(whole)
        damaged[200 + 50 * n : 210 + 50 * n] = bytes(10)
        try:
            px.open_image(bytes(damaged))
        except px.ImageError:
            refused += 1
    assert refused >= 5  # of which it said each, "LZWDecode: ..."
    assert capfd.readouterr().err == ""
