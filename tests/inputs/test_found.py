"""Pictures before they are decoded: what they will take, and what is refused by that."""

import base64

import pytest
from image_files import encoded, picture, png_header
from pdfs import make_pdf
from PIL import Image

import pixtral_mlx as px
from pixtral_mlx.errors import CapacityError, ImageError, PromptError
from pixtral_mlx.inputs import messages as messages_module
from pixtral_mlx.inputs.found import find_pictures
from pixtral_mlx.inputs.image import EncodedImage
from pixtral_mlx.inputs.image_options import ImageOptions
from pixtral_mlx.model.config import PIXTRAL_12B_VISION

TURNED = Image.Exif()
TURNED[0x0112] = 6
PAGES = {"save_all": True, "append_images": [picture(70, 500), picture(33, 17)]}
FILES = {
    "png": encoded(picture(300, 120)),
    "webp": encoded(picture(31, 170), "WEBP"),
    "turned": encoded(picture(300, 120), "JPEG", exif=TURNED),
    "turned-tiff": encoded(picture(300, 120), "TIFF", exif=TURNED),
    "tiff": encoded(picture(300, 120), "TIFF", **PAGES),
    "big-tiff": encoded(picture(300, 120), "TIFF", big_tiff=True, **PAGES),
    "pdf": make_pdf(2),
}


@pytest.mark.parametrize("budget", [None, 50])
@pytest.mark.parametrize("name", FILES)
def test_what_a_picture_takes_is_known_before_it_is_decoded(name, budget):
    options = ImageOptions(image_budget=budget)
    found = find_pictures(FILES[name], options, PIXTRAL_12B_VISION)
    assert len(found) == {"tiff": 3, "big-tiff": 3, "pdf": 2}.get(name, 1)
    for each in found:
        width, height = each.open().size
        sides = (width, height), (height, width)
        tokens = [px.patch_grid(*side, PIXTRAL_12B_VISION, budget).tokens for side in sides]
        assert each.least_tokens(PIXTRAL_12B_VISION, budget) == min(tokens)


def test_pictures_that_are_too_many_are_refused_before_one_is_decoded(mini, monkeypatch):
    """Decoded, they would be damaged ones."""
    file, context = png_header(1024, 1024), mini.config.text.max_seq_len
    each = px.patch_grid(1024, 1024, mini.config.vision).tokens
    count = context // each + 1
    parts = [{"type": "image", "image": file}] * count
    content = [*parts, {"type": "text", "text": "What?"}]
    for given in (
        {"messages": [{"role": "user", "content": content}]},
        {"messages": "What?", "images": [file] * count},
    ):
        with pytest.raises(CapacityError) as caught:
            mini.encode(**given)
        text = f"the pictures alone take {count * each:,} tokens; the context holds {context:,}"
        assert text in str(caught.value) and f"the first {count - 1} of" in str(caught.value)
        with pytest.raises(ImageError, match="damaged"):
            mini.encode(**given, image_budget=context // count)
    monkeypatch.setattr(EncodedImage, "decoded", lambda _: pytest.fail("decoded"))
    with pytest.raises(CapacityError):
        mini.encode("?", images=[encoded(Image.new("1", (1024, 1024)))] * count)


def test_files_that_hold_much_are_not_kept_for_later(mini, monkeypatch):
    opened = []
    decoded = EncodedImage.decoded
    monkeypatch.setattr(EncodedImage, "decoded", lambda e: opened.append(1) or decoded(e))
    files = [encoded(picture(40, 30 + n)) for n in range(5)]
    expected = mini.encode("What?", images=files)
    monkeypatch.setattr(messages_module, "MOST_HELD_BYTES", sum(map(len, files[:2])))
    seen = []

    def found(*arguments):
        seen.append(len(opened))
        return find_pictures(*arguments)

    opened.clear()
    mini.clear_cache()
    monkeypatch.setattr(messages_module, "find_pictures", found)
    again = mini.encode("What?", images=files)
    assert seen == [0, 0, 0, 3, 3]
    assert again.tokens == expected.tokens and again.grids == expected.grids
    assert all((a == b).all() for a, b in zip(again.images, expected.images, strict=True))


def low(file: bytes, detail, kind: str = "image_url"):
    url = "data:image/png;base64," + base64.b64encode(file).decode()
    image = {"url": url, "detail": detail} if kind == "image_url" else url
    part = {"type": kind, "image_url": image, **({} if kind == "image_url" else {"detail": detail})}
    return [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}]


@pytest.mark.parametrize("kind", ["image_url", "input_image"])
def test_low_detail_is_a_budget(mini, kind):
    file = encoded(Image.new("L", (1024, 1024)))
    for detail, tokens in (("low", 1056), ("high", 4160), ("auto", 4160), (None, 4160)):
        (span,) = mini.encode(low(file, detail, kind)).spans
        assert span.stop - span.start == tokens
    (span,) = mini.encode(low(file, "low", kind), image_budget=100).spans
    assert span.stop - span.start <= 100
    small = encoded(picture(64, 32))
    assert mini.encode(low(small, "low", kind)).grids == [(2, 4)]
    both = low(file, "low", kind)[0]["content"][:1] + low(file, "high", kind)[0]["content"]
    grids = mini.encode([{"role": "user", "content": both}]).grids
    assert grids == [(32, 32), (64, 64)]
    for wrong in ("tiny", 1, ["low"]):
        with pytest.raises(PromptError, match=r"content\[0\]: detail .*; allowed: low, high, auto"):
            mini.encode(low(file, wrong, kind))


def test_a_page_of_low_detail_is_drawn_small(mini):
    """And not drawn large and made small: letters are legible longer so."""
    url = "data:application/pdf;base64," + base64.b64encode(make_pdf(1)).decode()
    part = {"type": "input_file", "file_data": url, "detail": "low"}
    prompt = mini.encode([{"role": "user", "content": [part, {"type": "text", "text": "?"}]}])
    budgeted = mini.encode("?", images=[make_pdf(1)], image_budget=1056)
    assert prompt.grids == budgeted.grids and 900 < prompt.grids[0].tokens <= 1056
    assert (prompt.images[0] == budgeted.images[0]).all()
