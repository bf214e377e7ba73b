"""Boxes: by attention, snapped to a PDF's own words, on the page as people see it."""

import io

import numpy as np
import pytest
from pdfs import make_text
from PIL import Image

import pixtral_mlx as px
from pixtral_mlx.extraction.documents import name_of, open_document
from pixtral_mlx.extraction.evidence import WHOLE, Look, place_of
from pixtral_mlx.inputs.image_options import ImageOptions
from pixtral_mlx.inputs.pdf import page_words
from pixtral_mlx.model.config import PIXTRAL_12B_VISION as VISION


def pages_of(data, **options):
    return open_document(data, ImageOptions(**options), VISION)


def look_at(page, x, y, rows=20, columns=20, others=0.0):
    """Attention on one patch of a page, and evenly on the others of all."""
    seen = np.full((rows, columns), others)
    seen[int(y * rows), int(x * columns)] = 1.0
    return seen


def dark_share(picture, box):
    """How much of the ink of a page lies in a box."""
    ink = 255 - np.asarray(picture.convert("L"), float)
    x, y, width, height = (
        round(side * n) for side, n in zip(box, (*picture.size,) * 2, strict=True)
    )
    return ink[y : y + height + 1, x : x + width + 1].sum() / ink.sum()


@pytest.mark.parametrize("extra", [b"", b"/CropBox[50 40 380 290]"])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_words_lie_where_the_drawn_page_has_them(turn, extra):
    """Turned and cropped pages too: all ink of the page is in the box of its only word."""
    data = make_text([(200, 100, 20, "4711")], extra=extra + b"/Rotate %d" % turn)
    (page,) = pages_of(data)
    ((word, (left, top, right, bottom)),) = page.words
    assert word == "4711"
    box = (left, top, right - left, bottom - top)
    assert dark_share(page.upright(), box) > 0.97
    assert box[2] * box[3] < 0.02


def test_a_value_snaps_to_the_words_that_say_it():
    (page,) = pages_of(
        make_text([(50, 200, 12, "Total: 1.234,50 EUR"), (50, 100, 12, "due 3.5.2024")])
    )
    seen = look_at(page, 0.9, 0.9)
    place = place_of(1234.5, Look([seen], [page]))
    assert (place.page, place.text, place.reasons) == (1, "1.234,50", ())
    assert 0.1 < place.box[0] < 0.4 and 0.25 < place.box[1] < 0.35
    assert place_of("2024-05-03", Look([seen], [page])).text == "3.5.2024"


@pytest.mark.parametrize("turn", [0, 90])
def test_of_several_places_attention_chooses(turn):
    lines = [(50, 250, 12, "5.00"), (50, 150, 12, "5.00"), (300, 50, 12, "5.00")]
    pages = pages_of(make_text(lines, lines, extra=b"/Rotate %d" % turn))
    for page, other in ((0, 1), (1, 0)):
        for _, (left, top, right, bottom) in pages[page].words:
            maps = [np.zeros((20, 20)), np.zeros((20, 20))]
            maps[page] = look_at(pages[page], (left + right) / 2, (top + bottom) / 2)
            maps[other] += 0.01
            place = place_of(5, Look(maps, pages))
            assert place.page == page + 1
            assert place.box[:2] == pytest.approx((left, top))


def test_a_value_that_the_text_does_not_say_has_a_reason():
    (page,) = pages_of(make_text([(50, 200, 12, "Total 17")]))
    look = Look([look_at(page, 0.5, 0.25)], [page])
    place = place_of(18, look)
    assert place.reasons == ("the text of the page does not say it",)
    assert place.box == pytest.approx((0.5, 0.25, 0.05, 0.05)) and place.text is None
    assert place_of("red", look, spelled=False).reasons == ()


def test_attention_that_is_flat_gives_the_whole_page():
    pages = pages_of([Image.new("RGB", (64, 64))] * 2)
    flat = Look([np.full((4, 4), 0.1), np.full((4, 4), 0.2)], pages)
    place = place_of("x", flat)
    assert (place.page, place.box) == (2, WHOLE) and "no place in particular" in place.reasons[0]
    assert place_of("x", None).reasons


def tagged(orientation):
    """A picture with ink in one corner, stored so that this orientation turns it upright."""
    upright = Image.new("RGB", (64, 32), "white")
    upright.paste((0, 0, 0), (48, 0, 64, 8))
    undo = {
        1: (), 2: (Image.Transpose.FLIP_LEFT_RIGHT,), 3: (Image.Transpose.ROTATE_180,),
        4: (Image.Transpose.FLIP_TOP_BOTTOM,), 5: (Image.Transpose.TRANSPOSE,),
        6: (Image.Transpose.ROTATE_90,), 7: (Image.Transpose.TRANSVERSE,),
        8: (Image.Transpose.ROTATE_270,),
    }  # fmt: skip
    stored = upright
    for turn in undo[orientation]:
        stored = stored.transpose(turn)
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    stored.save(file, "PNG", exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("orient", [True, False])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_is_on_the_picture_as_people_see_it(orientation, orient):
    """Whichever way the model saw it: its attention is on the ink, and so is the box."""
    (page,) = pages_of(tagged(orientation), orient=orient)
    stored = page.picture.image.convert("L")
    seen = 1 - np.asarray(stored.resize((stored.width // 8, stored.height // 8)), float) / 255
    place = place_of("x", Look([seen], [page]))
    assert page.upright().size == (64, 32)
    assert place.box == pytest.approx((0.75, 0, 0.25, 0.25))


def test_pages_are_counted_through_a_list_and_named_by_their_own_number_alone():
    pdf = make_text(*[[(50, 50, 12, str(n))] for n in range(1, 5)])
    alone = open_document([pdf], ImageOptions(), VISION)
    assert [page.number for page in alone] == [1, 2, 3, 4]
    assert [page.own for page in pages_of([Image.new("RGB", (8, 8)), pdf])] == [None, 1, 2, 3, 4]
    assert [page.number for page in pages_of([Image.new("RGB", (8, 8)), pdf])] == [1, 2, 3, 4, 5]


def test_a_choice_of_pages_keeps_their_numbers(tmp_path):
    path = tmp_path / "x.pdf"
    path.write_bytes(make_text(*[[(50, 50, 12, str(n))] for n in range(1, 5)]))
    pages = pages_of(f"{path}#page=2,4")
    assert [(page.number, page.words[0][0]) for page in pages] == [(2, "2"), (4, "4")]
    assert name_of([path, pages]).endswith("x.pdf, image")


def test_text_is_bounded_and_need_not_be_sound(monkeypatch):
    assert page_words(make_text([]), "x.pdf", 1) == []
    words = page_words(make_text([(0, 10, 0.5, "a " * 60_000)], size=(300, 20)), "x.pdf", 1)
    assert 0 < len(words) <= 50_000
    with pytest.raises(px.ImageError, match=r"^x\.pdf: a damaged PDF"):
        page_words(b"%PDF-1.4 nothing", "x.pdf", 1)


def test_no_document_and_too_many_pages():
    with pytest.raises(px.PromptError, match="there is no document"):
        pages_of([])
    with pytest.raises(px.ImageError, match="more than 100 pages"):
        pages_of([Image.new("RGB", (8, 8))] * 101)
    with pytest.raises(px.PromptError):
        open_document(Image.new("RGB", (8, 8)), ImageOptions(), None)
