"""The offline pages in WebKit, Safari's engine: no script error, everything drawn, clicks heard."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import webkit
from browsers import needed_webkit
from PIL import Image

from pixtral_mlx.cli import main
from pixtral_mlx.mini import scene
from pixtral_mlx_widgets.page import decoded

reason = "the pages need the extra: pip install -e '.[lab]'"
w = pytest.importorskip("pixtral_mlx_widgets", reason=reason)
pages = pytest.importorskip("pages", reason=reason)
run = pytest.importorskip("run", reason=reason)

KINDS = (
    "Ablation", "AnswerLens", "MaskView", "MemoryView", "PatchGrid", "QuantizationView",
    "RopeExplorer", "SequenceStrip", "Studio", "VisionAttention",
)  # fmt: skip
ROWS, COLUMNS = 8, 10
CAPTION = "return document.querySelector('.px-caption')?.textContent"
COLOURS = """return [...document.querySelectorAll('canvas')].filter(one => one.clientWidth).map(
    one => new Set(new Uint32Array(one.getContext('2d').getImageData(
        0, 0, one.width, one.height).data.buffer)).size)"""
"""How many colours each canvas has that is seen."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    needed_webkit()
    with webkit.WebKit(tmp_path_factory.mktemp("webkit")) as browser:
        yield browser


@pytest.fixture(scope="module")
def written(browser, tmp_path_factory):
    """The page of each widget, of `explain`, and of one notebook."""
    folder = tmp_path_factory.mktemp("pages")
    scene(3, 4, 5).image.save(folder / "scene.png")
    session = w.Session("mini", dtype="float32")
    session.ask("Describe the picture.", images=[folder / "scene.png"])
    session.wait(60)
    session.select(patch=(2, 3), token=4)
    views = {kind: getattr(w, kind)(session) for kind in KINDS}
    views["QuantizationView"].do_measure()
    views["QuantizationView"].wait(60)
    for kind, view in views.items():
        view.to_html(folder / f"{kind}.html")
    session.close()
    words = ["explain", "--image", str(folder / "scene.png"), "--prompt", "Describe the picture."]
    assert main([*words, "-o", str(folder / "explain.html"), "--dtype", "float32"]) == 0
    pages.build([path for path in run.notebooks() if path.name[0] == "5"], folder / "course")
    return folder


def screenshot(browser, name):
    shots = os.environ.get("PIXTRAL_SCREENSHOTS")
    if shots:
        browser.screenshot(Path(shots) / f"webkit-{name}.png")


@pytest.mark.parametrize("kind", [*KINDS, "explain"])
def test_every_page_is_drawn_without_an_error(browser, written, kind):
    browser.open(written / f"{kind}.html")
    assert browser.wait(CAPTION)
    browser.wait(f"{COLOURS}.map((number) => number > 1).join().match(/^true(,true)*$/)")
    screenshot(browser, kind)
    assert browser.run("return document.querySelectorAll('.px-problem:not([hidden])').length") == 0
    assert browser.troubles() == []


def test_the_colours_are_those_of_the_image_and_a_click_chooses_a_patch(browser, written):
    browser.open(written / "PatchGrid.html")
    assert browser.wait(CAPTION).startswith(
        "Patch row 3, column 4 (in Python: 2, 3): patch 24 of 80, token 28 "
    )
    browser.wait(f"{COLOURS}[0] > 100")
    width, height, *data = browser.run(
        "const one = document.querySelector('canvas.px-patches');"
        "const {data} = one.getContext('2d').getImageData(0, 0, one.width, one.height);"
        "return [one.width, one.height, ...data]"
    )
    check_patches(np.array(data).reshape(height, width, 4))
    browser.click("canvas.px-patches", 2.5 / COLUMNS, 5.5 / ROWS)
    says = "Patch row 6, column 3 (in Python: 5, 2): patch 53 of 80, token 60 "
    browser.wait(CAPTION + ".startsWith(arguments[0])", says)
    assert browser.troubles() == []


def test_a_picture_of_a_widget_shows_what_the_page_shows(browser, written):
    """What `to_png` asks for: Safari is strict about what may be drawn on a canvas."""
    browser.open(written / "PatchGrid.html")
    browser.wait(f"{COLOURS}[0] > 100")
    left, top, width, height = browser.run(
        "const root = document.querySelector('.px-widget').getBoundingClientRect();"
        "const one = document.querySelector('canvas.px-patches').getBoundingClientRect();"
        "return [one.left - root.left, one.top - root.top, one.width, one.height]"
    )
    url = browser.run("return document.querySelector('.px-widget').picture()")
    picture = Image.open(io.BytesIO(decoded(url)))
    box = [round(2 * side) for side in (left, top, left + width, top + height)]
    check_patches(np.asarray(picture.convert("RGB").crop(box)))


def check_patches(seen):
    """Pixels are those of the image, looked at a little aside of the middle: no line is there."""
    there = np.asarray(scene(3, 4, 5).image.convert("RGB").resize((160, 128)), int)
    for row, column in ((0, 6), (1, 4), (1, 7), (3, 7), (7, 3)):
        y, x = int((row + 0.4) / ROWS * len(seen)), int((column + 0.4) / COLUMNS * len(seen[0]))
        pixel = there[16 * row + 6, 16 * column + 6]
        assert np.abs(seen[y, x, :3] - pixel).max() < 40, (row, column)


def test_a_click_chooses_a_word_of_explain(browser, written):
    browser.open(written / "explain.html")
    word = browser.wait("return document.querySelector('.px-word:nth-child(4)')?.textContent")
    browser.click(".px-word:nth-child(4)", 0.5, 0.5)
    browser.wait(CAPTION + ".startsWith(`“${arguments[0].trim()}” `)", word)
    assert browser.troubles() == []


def test_a_page_of_the_course_is_whole(browser, written):
    (page,) = (written / "course").iterdir()
    browser.open(page)
    sizes = browser.run("return [...document.images].map(one => one.naturalWidth)")
    assert len(sizes) >= 3 and all(sizes)
    heading = "return document.querySelector('h1').textContent"
    assert browser.run(heading).startswith(page.stem[0])
    screenshot(browser, "course")
    assert browser.troubles() == []


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("<script>missing()</script>", "error: Script error."),
        ("<script>Promise.reject('no')</script>", "unhandledrejection: no"),
        ("<script>console.error('oh', 1)</script>", "console.error: oh 1"),
        ("<script type=module>let let</script>", "error: SyntaxError"),
        ("<script src=none.js></script>", "error: "),
        (f"<meta http-equiv=Content-Security-Policy content=\"{pages.POLICY}\">"
         "<script>1</script>", "securitypolicyviolation: script-src"),
    ],
)  # fmt: skip
def test_every_kind_of_trouble_is_noticed(browser, tmp_path, head, said):
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><html><head>{head}</head><body></body></html>")
    browser.open(page)
    browser.wait("return troubles.some(one => one.startsWith(arguments[0]))", said)


def test_a_widget_that_fails_is_noticed(browser, written, tmp_path):
    text = (written / "PatchGrid.html").read_text()
    start = "function render({ model, el }) {"
    assert text.count(start) == 1
    (tmp_path / "page.html").write_text(text.replace(start, f"{start} model.missing();"))
    browser.open(tmp_path / "page.html")
    assert "model.missing" in browser.wait("return troubles[0]")
