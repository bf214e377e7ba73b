"""The page on which a person checks a document, in a browser and as a file."""

import json

import numpy as np
import pytest
from browsers import FLAGS, needed_browser
from pdfs import make_text

import pixtral_mlx as px
from pixtral_mlx.extraction.documents import open_document
from pixtral_mlx.extraction.evidence import Look, place_of
from pixtral_mlx.extraction.review import page_name
from pixtral_mlx.inputs.image_options import ImageOptions
from pixtral_mlx.model.config import PIXTRAL_12B_VISION

HOSTILE = (
    "</script><script>document.title='taken'</script><img src=x onerror=document.title='taken'>"
)


@pytest.fixture(scope="module")
def extraction():
    """Five fields on two pages, two of which need review."""
    lines = [(40, 250, 12, "No. 17-B"), (40, 200, 12, "Total 93.65")]
    pages = open_document(
        make_text(lines, [(40, 250, 12, "End 4711")]), ImageOptions(), PIXTRAL_12B_VISION
    )
    look = Look([np.ones((4, 4)), np.ones((4, 4))], pages)

    def field(value, *reasons, **more):
        place = place_of(value, look)
        return px.Field(
            value, 0.99, 1.0, place.page, place.box, place.text, reasons=reasons, **more
        )  # fmt: skip

    fields = {
        "/number": field("17-B"), "/total": field(93.65, "confidence 0.50 is below 0.9"),
        "/end": field("4711"), "/note": px.Field(None, 0.9, present=False),
        "/odd~1name": px.Field(HOSTILE, reasons=(HOSTILE,)),
    }  # fmt: skip
    return px.Extraction({}, fields, (HOSTILE,), pages, source=f"in/{HOSTILE}.pdf")


@pytest.fixture
def page(extraction, tmp_path, playwright):
    """The page, opened from its file."""
    extraction.to_html(tmp_path / "r.html")
    browser = playwright.chromium.launch(executable_path=needed_browser(), args=FLAGS)
    try:
        opened = browser.new_page(viewport={"width": 1200, "height": 700})
        opened.errors = []
        opened.on("pageerror", lambda error: opened.errors.append(str(error)))
        opened.on("console", lambda m: opened.errors.append(m.text) if m.type == "error" else None)
        opened.on(
            "request", lambda r: opened.errors.append(r.url) if r.url.startswith("http") else None
        )
        opened.goto((tmp_path / "r.html").as_uri())
        opened.wait_for_selector(".field.chosen")
        yield opened
        assert opened.errors == []
    finally:
        browser.close()


def chosen(page):
    return page.get_attribute(".field.chosen", "data-pointer")


def saved(page):
    with page.expect_download() as download:
        page.click(".save")
    return json.loads(download.value.path().read_text())


def test_a_document_is_checked_by_keys_alone(page):
    """From need to need: accept, correct, nothing there, undo; each beside the original value."""
    assert page.title().startswith("in/</script>") and chosen(page) == "/total"
    assert page.inner_text(".counted") == "2 of 5 to review, 0 decided"
    page.keyboard.press("e")
    page.keyboard.type("ninety")
    page.keyboard.press("Enter")
    assert page.is_visible(".field.chosen .edit")  # a number stays a number
    page.fill(".field.chosen .edit", "92.65")
    page.keyboard.press("Enter")
    assert chosen(page) == "/odd~1name"  # the next one that needs it
    page.keyboard.press("Delete")
    assert page.inner_text(".counted") == "0 of 5 to review, 2 decided"
    page.keyboard.press("ArrowUp")
    assert chosen(page) == "/note"
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.keyboard.press("u")
    assert "was 93.65" in page.inner_text('[data-pointer="/total"] .was')
    found = saved(page)
    assert found["source"] == f"in/{HOSTILE}.pdf"
    assert found["decisions"] == {
        "/total": {"decision": "correct", "value": 92.65, "original": 93.65},
        "/odd~1name": {"decision": "null", "value": None, "original": HOSTILE},
        "/note": {"decision": "accept", "value": None, "original": None},
    }


def test_decisions_outlive_the_page(page):
    page.keyboard.press("Enter")
    assert page.inner_text(".counted") == "1 of 5 to review, 1 decided"
    page.wait_for_timeout(500)  # another process of the browser keeps it
    page.once("dialog", lambda dialog: dialog.accept())
    page.reload()
    page.wait_for_selector(".field.chosen")
    assert page.inner_text(".counted") == "1 of 5 to review, 1 decided"
    assert saved(page)["decisions"]["/total"]["decision"] == "accept"


def test_a_chosen_field_zooms_to_its_box_and_a_box_chooses_its_field(page):
    """The box of the chosen field is in the middle of the pages, larger than before."""
    page.wait_for_timeout(400)
    pages = page.locator(".pages").bounding_box()
    zoomed = page.locator(".box.chosen").bounding_box()
    assert pages["y"] < zoomed["y"] < pages["y"] + pages["height"]
    page.keyboard.press("z")
    page.wait_for_timeout(400)
    plain = page.locator(".box.chosen").bounding_box()
    assert zoomed["width"] > 1.9 * plain["width"]
    page.locator('.page[data-page="2"] .box').click()
    assert chosen(page) == "/end"
    assert page.locator(".box.chosen").bounding_box()["y"] < pages["y"] + pages["height"]


def test_it_is_written_whole_or_not_at_all(extraction, tmp_path):
    text = extraction.to_html(tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text() == text and "//" not in text.split("<style>")[0]
    assert HOSTILE not in text
    with pytest.raises(px.ImageError, match=r"r\.html"):
        extraction.to_html(tmp_path / "r.html")


def test_pages_of_different_documents_have_different_names():
    names = {
        page_name(s) for s in ("a/x.pdf", "b/x.pdf", "a/x.pdf#page=2", "../..", "ü", "x" * 900)
    }
    assert len(names) == 6
    assert all(name.endswith(".html") and "/" not in name and len(name) < 90 for name in names)
    assert not any(name.startswith(".") for name in names)
