"""PDFs: pages become pictures of the model's size, each after its number, and nothing unsafe."""

import base64
import io
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from checkpoints import make_official
from pdfs import COLOURS, make_blank, make_pdf
from PIL import Image

import pixtral_mlx as px
from pixtral_mlx import cli
from pixtral_mlx.cli import chat
from pixtral_mlx.inputs import size_limit
from pixtral_mlx.inputs.image import ImageOptions
from pixtral_mlx.inputs.page_choice import MAX_PAGES, split_choice
from pixtral_mlx.inputs.pdf import open_pages, page_numbers
from pixtral_mlx.inputs.pdf_process import Document
from pixtral_mlx.inputs.pixels import to_pixels
from pixtral_mlx.model.config import PIXTRAL_12B_VISION


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A model that looks at 64 pixels. Pages of letter size are 4 x 4 patches, and 20 tokens."""
    folder = tmp_path_factory.mktemp("pdf") / "model"
    return px.load(make_official(folder, vision={"image_size": 64}), dtype="float32")


@pytest.fixture
def report(tmp_path):
    path = tmp_path / "report.pdf"
    path.write_bytes(make_pdf(5))
    return path


def shown(model, prompt) -> str:
    """A prompt as text, each picture as its colour."""
    pictures, text = iter(prompt.images), ""
    starts = {span.start: span.stop for span in prompt.spans}
    position = 0
    while position < len(prompt.tokens):
        if position in starts:
            middle = to_pixels(next(pictures))[20, 20]
            text += f"<{COLOURS.index(tuple(int(v > 127) * 250 for v in middle)) + 1}>"
            position = starts[position]
        else:
            text += model.tokenizer.label(prompt.tokens[position])
            position += 1
    return text


def message(source, *texts, last=False):
    parts = [{"type": "image_url", "image_url": source}]
    said = [{"type": "text", "text": text} for text in texts]
    return [{"role": "user", "content": said + parts if last else parts + said}]


# Pages -----------------------------------------------------------------------------------------


def pages_of(data, side, choice=None, image_budget=None):
    """Pages for a model that looks at pictures of this size."""
    vision = replace(px.load("mini").config.vision, image_size=side)
    return open_pages(data, "x.pdf", vision, ImageOptions(image_budget=image_budget), choice)


@pytest.mark.parametrize(
    ("points", "pixels"),
    [
        ((612, 792), (792, 1024)),  # letter: 50 x 64 patches
        ((792, 612), (1024, 792)),
        ((595.276, 841.89), (725, 1024)),  # A4
        ((10, 10), (1024, 1024)),
        ((14400, 3), (1024, 1)),
        ((200, 14000), (15, 1024)),
        ((333.3333, 777.7777), (439, 1024)),
    ],
)
def test_a_page_has_the_models_longest_side_and_never_more(points, pixels):
    ((number, page),) = pages_of(make_blank(points), 1024)
    assert (number, page.size, page.mode) == (1, pixels, "RGB")
    assert page.getextrema() == ((255, 255),) * 3  # paper is white


@pytest.mark.parametrize("side", [16, 64, 999, 1024, 1540])
def test_rounding_never_adds_a_pixel(side):
    sizes = [(100 + n * 7.77, 100 + n * 13.13) for n in range(40)]
    pages = pages_of(make_blank(*sizes), side)
    assert {max(page.size) for _, page in pages} == {side}


def test_a_page_is_drawn_as_small_as_an_image_budget_asks():
    """Not drawn large and then made small, which leaves nothing of thin lines."""
    vision = px.load("mini").config.vision
    for size in ((612, 792), (1000, 100), (30, 40)):
        for budget in (20, 300, 450):
            ((_, page),) = pages_of(make_blank(size), 1024, image_budget=budget)
            tokens = px.patch_grid(*page.size, vision).tokens
            assert tokens <= budget
            wider = tuple(round(side * 1.05) + 1 for side in page.size)
            assert px.patch_grid(*wider, vision).tokens > 0.9 * budget
            assert max(page.size) / min(page.size) == pytest.approx(max(size) / min(size), rel=0.1)


def test_a_page_that_is_turned_is_drawn_turned():
    ((_, page),) = pages_of(make_blank((612, 792), extra=b"/Rotate 90"), 1024)
    assert page.size == (1024, 792)


@pytest.mark.parametrize(
    ("choice", "numbers"),
    [(None, [1, 2, 3, 4, 5]), ("3", [3]), ("2-4", [2, 3, 4]), ("5,1-2,1", [5, 1, 2])],
)
def test_pages_are_chosen_by_number(choice, numbers):
    data = make_pdf(5)
    assert page_numbers(data, "x.pdf", choice) == numbers
    pages = pages_of(data, 64, choice=choice)
    assert [number for number, _ in pages] == numbers
    for number, page in pages:
        np.testing.assert_allclose(page.getpixel((20, 20)), COLOURS[number - 1], atol=4)


@pytest.mark.parametrize(
    "choice", ["0", "6", "4-6", "3-2", "", "x", "1-", "-2", "1,,2", "²", "1.5"]
)
def test_choices_that_are_none_are_named(choice):
    with pytest.raises(px.ImageError, match=r"#page=.*(write #page=3|pages are 1 to 5)"):
        pages_of(make_pdf(5), 64, choice=choice)


def test_a_choice_stands_at_the_end_of_a_name(tmp_path):
    assert split_choice("a/b.pdf#page=2-3") == ("a/b.pdf", "2-3")
    assert split_choice("https://host/b.pdf?x=1#page=2") == ("https://host/b.pdf?x=1", "2")
    assert split_choice(tmp_path / "b.pdf#page=2") == (tmp_path / "b.pdf", "2")
    for fragment in (
        "page=2&zoom=150,0,7",
        "zoom=150&page=2",
        "Page=2",
        "view=FitH&page=2&x=",
        "page=2&x=a=b",
    ):
        assert split_choice(f"b.pdf#{fragment}") == ("b.pdf", "2")
    for source in ("a#page=2/b.pdf", "a#pages=2", b"x.pdf#page=2", "plain.pdf"):
        assert split_choice(source) == (source, None)
    for source, place in (("https://h/b.pdf#ch.1", "https://h/b.pdf"), ("data:,x#", "data:,x")):
        assert split_choice(source) == (place, None)
    assert split_choice("https://h/b.pdf#page=4&comment=1/2#") == ("https://h/b.pdf", "4")
    really = tmp_path / "odd.pdf#page=2"
    really.write_bytes(b"")
    assert split_choice(str(really)) == (str(really), None)


@pytest.mark.parametrize(
    ("fragment", "choice"),
    [
        ("", None), ("zoom=50", None), ("toolbar=0", None), ("chapter1", None), ("ch/1", None),
        ("nameddest=page", None), ("search=%22page%22", None), ("page=2&comment=1/2", "2"),
        ("view=FitH,1/2&page=2", "2"), ("page=%32", "2"), ("page=2%2C4", "2,4"), ("pag%65=3", "3"),
        ("page=", ""), ("page=1&page=2", "2"), ("chapter1&page=2", "2"), ("page", None),
    ],
)  # fmt: skip
def test_a_fragment_is_what_a_viewer_takes(fragment, choice, tmp_path, monkeypatch):
    """RFC 8118; what is not known of it is ignored, and a file of that very name goes before it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "C#"  # whose name is no fragment
    folder.mkdir()
    path = folder / "b.pdf"
    path.write_bytes(b"")
    for source, place in ((str(path), str(path)), (path, path), ("~/C#/b.pdf", "~/C#/b.pdf")):
        assert split_choice(source) == (source, None)
        whole = f"{source}#{fragment}"
        found, chosen = split_choice(whole if isinstance(source, str) else type(path)(whole))
        assert (found, chosen) == (place, choice)
    assert split_choice(f"https://h/b.pdf#{fragment}") == ("https://h/b.pdf", choice)
    really = tmp_path / f"C#/b.pdf#{fragment}"
    if "/" not in fragment and fragment:
        really.write_bytes(b"")
        for source in (str(really), really, f"~/C#/b.pdf#{fragment}"):
            assert split_choice(source) == (source, None)
            one = f"{source}#page=1"
            one = one if isinstance(source, str) else type(path)(one)
            assert split_choice(one) == (source, "1")


# Messages --------------------------------------------------------------------------------------


def test_each_page_stands_after_its_number(small, report):
    prompt = small.encode(message(f"{report}#page=2-4", "What?"))
    assert shown(small, prompt) == "<s>[INST]Page 2:<2>Page 3:<3>Page 4:<4>What?[/INST]"
    assert [tuple(grid) for grid in prompt.grids] == [(4, 4)] * 3
    last = small.encode(message(f"{report}#page=5,1", "What?", last=True))
    assert shown(small, last) == "<s>[INST]What?\n\nPage 5:<5>Page 1:<1>[/INST]"


def test_one_page_at_the_end_keeps_its_number_before_it(small, report):
    prompt = small.encode(message(f"{report}#page=3", "What?", last=True))
    assert shown(small, prompt) == "<s>[INST]Page 3:<3>What?[/INST]"
    before = message(f"{report}#page=3", last=True)
    before[0]["content"].insert(0, {"type": "image", "image": Image.new("RGB", (64, 64), "lime")})
    assert shown(small, small.encode(before)) == "<s>[INST]<2>Page 3:<3>[/INST]"


def test_a_pdf_may_come_from_wherever_a_picture_may(small, report):
    data = report.read_bytes()
    url = "data:application/pdf;base64," + base64.b64encode(data).decode()
    whole = small.encode("What?", [report]).tokens
    for source in (str(report), data, url, report.as_uri()):
        assert small.encode("What?", [source]).tokens == whole
    second = small.encode(message(report.as_uri() + "#page=2", "What?"))
    assert shown(small, second) == "<s>[INST]Page 2:<2>What?[/INST]"
    assert small.encode(message(url + "#page=2", "What?")).tokens == second.tokens


def test_twenty_pages_on_a_small_checkpoint(small):
    pages = make_pdf(20)
    reply = small.generate("Which page is red?", images=[pages], max_tokens=8, reuse=False)
    assert reply.stats.image_tokens == 20 * 20 and len(reply.tokens) == 8
    batched = small.generate_batch(
        [{"messages": "Which page is red?", "images": [pages]}, "Why?"], max_tokens=8, reuse=False
    )
    assert batched[0].tokens == reply.tokens


def test_letter_pages_at_full_size_are_about_65000_tokens():
    sizes = px.load("mini").config.vision
    ((_, page),) = pages_of(make_blank((612, 792)), sizes.image_size)
    assert 20 * px.patch_grid(*page.size, sizes).tokens == 65_280


# What goes wrong -------------------------------------------------------------------------------


def fails(data, match, **options):
    with pytest.raises(px.ImageError, match=match) as error:
        pages_of(data, 64, **options)
    assert "\n" not in str(error.value)


LOCKED = b"/Encrypt<</Filter/Standard/V 1/R 2/P -4/O(%s)/U(%s)>>/ID[(a)(a)]" % (
    b"x" * 32, b"y" * 32,
)  # fmt: skip


def test_damaged_and_empty_and_locked_are_three_things():
    """Whatever was said about the file before."""
    damaged, empty, locked = "a damaged PDF", "a PDF without pages", "locked: give its password"
    whole = make_pdf()
    for _ in range(2):
        fails(b"%PDF-1.4 and nothing more", damaged)
        fails(make_blank((5, 5), trailer=LOCKED), locked)
        fails(whole[:200], damaged)
        fails(make_blank(), empty)
        fails(make_blank((5, 5), trailer=LOCKED), locked)
        fails(b"%PDF-1.7" + bytes(100), damaged)


@pytest.mark.parametrize(
    "box", ["0 0", "-5 5", "1e30 7", "1e38 1e38", "1e-30 1e-30", "nan 4", "a b"]
)
def test_pages_of_an_impossible_size_stay_small(box):
    width, height = box.split()
    ((_, page),) = pages_of(make_blank((width, height)), 64)
    assert max(page.size) <= 64


def test_too_many_pages(small):
    data = make_blank(*[(50, 50)] * (MAX_PAGES + 1))
    fails(data, r"101 pages; at most 100 .*x\.pdf#page=1-20")
    assert len(pages_of(data, 16, choice="2-101")) == 100


def test_a_huge_picture_inside_is_refused_before_it_is_drawn(monkeypatch):
    monkeypatch.setattr(size_limit, "MAX_DECODED_BYTES", 170 * 220 * 3)
    pages_of(make_pdf(), 64)
    monkeypatch.setattr(size_limit, "MAX_DECODED_BYTES", 170 * 220 * 3 - 1)
    scan = io.BytesIO()
    Image.new("1", (340, 220)).save(scan, "PDF")
    pages_of(scan.getvalue(), 64)  # of one bit each, which takes less
    monkeypatch.setattr(Document, "draw", None)
    fails(make_pdf(), "page 1: a picture in it: 170x220 pixels take 112,200 bytes; at most 112,199")


def test_without_pypdfium2_the_extra_is_named(monkeypatch, small, report):
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(px.ImageError, match=r"report\.pdf: PDFs need .*\[pdf\]"):
        small.encode("What?", [report])


def test_a_choice_of_pages_of_a_picture(small, tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "photo.png")
    with pytest.raises(px.ImageError, match=r"photo\.png: #page=2 chooses pages, and"):
        small.encode("What?", [f"{tmp_path / 'photo.png'}#page=2"])


def test_where_one_picture_is_wanted_a_pdf_is_named(report):
    with pytest.raises(px.ImageError, match="a PDF, not one picture"):
        px.open_image(report)


# Commands --------------------------------------------------------------------------------------


def test_generate_takes_a_pdf(small, report, tmp_path, capsys):
    folder = make_official(tmp_path / "model", vision={"image_size": 64})
    words = ["generate", "--model", str(folder), "--prompt", "What?", "--max-tokens", "4"]
    assert cli.main([*words, "--image", f"{report}#page=2-3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stats"]["image_tokens"] == 2 * 20
    assert cli.main([*words, "--image", f"{report}#page=9"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_chat_takes_a_pdf(small, report, capsys):
    talk = chat.Chat(small, None, {"max_tokens": 3}, ImageOptions())
    talk.handle(f"/image {report}#page=4-5")
    assert "2 pages; 2 waiting" in capsys.readouterr().err
    talk.handle("What?")
    assert shown(small, small.encode(talk.messages[:1])).startswith("<s>[INST]Page 4:<4>Page 5:<5>")


def written_in(*fonts, pages=1) -> bytes:
    """Pages with a word in each of these fonts, none of which is in the file."""
    kinds = b"".join(
        b"/F%d<</Type/Font/Subtype/TrueType/BaseFont/%s/Encoding/WinAnsiEncoding>>" % (n, font)
        for n, font in enumerate(fonts)
    )
    text = b"".join(b"BT/F%d 9 Tf 5 %d Td(word)Tj ET " % (n, 20 * n) for n in range(len(fonts)))
    # The stream stands behind the last page, where `make_blank` counts on to.
    extra = b"/Resources<</Font<<%s>>>>/Contents %d 0 R" % (kinds, pages + 3)
    data = make_blank(*[(50, 90)] * pages, extra=extra)
    stream = b"%d 0 obj<</Length %d>>stream\n%s\nendstream endobj\n" % (pages + 3, len(text), text)
    start = data.index(b"xref\n")
    return data[:start] + stream + b"trailer<</Root 1 0 R>>\n%%EOF"  # its table is made anew


def test_missing_fonts_are_named_once(caplog):
    data = written_in(b"Frutiger-Bold", b"Helvetica", b"Times-Roman", b"MyriadPro", pages=2)
    assert len(open_pages(data, "a.pdf", SMALL, ImageOptions())) == 2
    (record,) = caplog.records
    assert "a.pdf: does not hold its fonts (Frutiger-Bold, MyriadPro); letters" in record.message
    for choice in ("1", "2"):  # each by itself, as `batch --per-page` has them
        assert open_pages(data, "a.pdf", SMALL, ImageOptions(), choice)
    assert len(caplog.records) == 1
    open_pages(data, "b.pdf", SMALL, ImageOptions())
    open_pages(written_in(b"Courier-Bold", b"ArialMT"), "c.pdf", SMALL, ImageOptions())
    assert [record.message[:5] for record in caplog.records] == ["a.pdf", "b.pdf"]


SMALL = replace(PIXTRAL_12B_VISION, image_size=64)
