"""VisionAttention, RopeExplorer and MaskView in one real notebook."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from pixtral_mlx.interpret.light import lit
from pixtral_mlx_widgets.page import find_browser

SETUP = """
import numpy as np
import pixtral_mlx_widgets as w
from PIL import Image
from pixtral_mlx.mini import scene
session = w.Session("mini", dtype="float32")
flat = Image.new("RGB", (160, 128), (128, 128, 128))
session.ask("How many rows are there?", images=[flat, scene(8, 2, 3).image])
session.wait(60)
def row(layer, patch, head=None, image=0):
    look = lambda _: session.trace.vision_attention(layer, tuple(patch), head, image)
    return session.look(look).result()
view = w.VisionAttention(session, layer=1, patch=(4, 7))
rope = w.RopeExplorer(rows=12, columns=16, patch=(3, 3), probe=(5, 9))
masks = w.MaskView(session)
"""
GRID = (8, 10)


@pytest.fixture(scope="module")
def page(lab):
    opened = lab.notebook("vision", [SETUP, "view", "rope", "masks"])
    opened.page.wait_for_function("document.querySelectorAll('.px-widget').length === 3")
    opened.page.wait_for_function("document.querySelector('canvas.px-patches').width > 100")
    opened.page.wait_for_timeout(500)
    yield opened
    opened.close()


def cividis(share):
    table = np.array([
        [0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115],
        [138, 134, 120], [165, 156, 116], [195, 179, 105], [225, 204, 85], [254, 232, 56],
    ], float)  # fmt: skip
    place = np.clip(share, 0, 1) * 9
    return np.array([np.interp(place, range(10), table[:, i]) for i in range(3)])


def check_map(page, canvas, expected, under=None, covered=()):
    """The colours of a map, at its brightest patches and at its corners."""
    rows, columns = expected.shape
    best = [divmod(int(i), columns) for i in np.argsort(-expected, axis=None)[:12]]
    best = [patch for patch in best if patch not in covered][:4]
    for row, column in [*best, (0, 0), (rows - 1, columns - 1), (0, columns - 1)]:
        share = expected[row, column] / expected.max()
        wanted = cividis(share) if under is None else lit(np.array([under] * 3), share)
        seen = np.array(page.patch_colour(canvas, (row, column), (rows, columns)))
        assert np.abs(seen - wanted).max() < 6, ((row, column), seen, wanted)


def says(page, number, text):
    page.page.wait_for_function(
        "([number, text]) => document.querySelectorAll('.px-widget')[number]"
        ".querySelector('.px-caption').textContent.includes(text)",
        arg=[number, text], timeout=15000,
    )  # fmt: skip


def attention(page, text):
    """The widget and its canvases, once its caption says something."""
    says(page, 0, text)
    page.page.wait_for_timeout(150)
    widget = page.widget(0)
    return widget.locator("canvas.px-patches"), widget.locator("canvas.px-heads")


def test_the_map_is_the_row_of_the_model(page):
    page.run_code("view.patch, view.layer, view.head = (4, 7), 1, None")
    canvas, _ = attention(page, "Layer 1, mean of all heads: patch row 5, column 8")
    check_map(page, canvas, np.array(page.kernel("row(1, (4, 7)).tolist()")), 128)


def test_a_click_and_the_keyboard_choose_the_patch(page):
    canvas, _ = attention(page, "Layer")
    page.click_patch(canvas, (2, 3), GRID)
    page.eventually("view.patch", [2, 3])
    assert page.kernel("session.selection['patch']") == [2, 3]
    attention(page, "patch row 3, column 4")
    check_map(page, canvas, np.array(page.kernel("row(view.layer, (2, 3)).tolist()")), 128)
    canvas.press("ArrowDown")
    page.eventually("view.patch", [3, 3])


def test_every_thumbnail_is_its_head_and_a_click_chooses_it(page):
    page.run_code("view.patch, view.layer, view.head = (4, 7), 2, None")
    canvas, heads = attention(page, "Layer 2, mean of all heads: patch row 5, column 8")
    box = heads.bounding_box()
    wide = heads.evaluate("c => Math.min(112, Math.max(40, Math.floor("
                          "(c.parentNode.clientWidth - 8 + 8) / 4) - 8))")  # fmt: skip
    tall = round(wide * 8 / 10)
    for head in (3, 1):
        row = np.array(page.kernel(f"row(2, (4, 7), {head}).tolist()"))
        for patch in (divmod(int(row.argmax()), 10), (0, 0), (7, 9)):
            x = 4 + head * (wide + 8) + (patch[1] + 0.5) / 10 * wide
            y = 4 + (patch[0] + 0.5) / 8 * tall
            seen = np.array(page.colour(heads, x / box["width"], y / box["height"]))
            assert np.abs(seen - cividis(row[patch] / row.max())).max() < 8, (head, patch, seen)
        heads.click(position={"x": 4 + head * (wide + 8) + wide / 2, "y": 4 + tall / 2})
        page.eventually("(view.head, view.mode)", [head, "head"])
        attention(page, f"Layer 2, head {head}: patch row 5, column 8")
        check_map(page, canvas, row, 128)
    ring = page.colour(heads, (4 + wide + 8 - 2) / box["width"], (4 + tall / 2) / box["height"])
    assert ring == (230, 0, 122)
    heads.press("ArrowRight")
    page.eventually("view.head", 2)
    heads.press("End")
    page.eventually("view.head", 3)
    heads.press("ArrowUp")  # the notebook's own shortcut would go to another cell
    assert heads.evaluate("canvas => canvas === document.activeElement")


def test_the_layer_slider_and_the_legend(page):
    page.run_code("view.patch, view.layer, view.head = (1, 1), 0, 2")
    attention(page, "Layer 0, head 2: patch row 2, column 2")
    page.widget(0).locator("input[type=range]").press("ArrowRight")
    page.eventually("view.layer", 1)
    canvas, _ = attention(page, "Layer 1, head 2: patch row 2, column 2")
    row = np.array(page.kernel("row(1, (1, 1), 2).tolist()"))
    check_map(page, canvas, row, 128)
    legend = page.widget(0).locator(".px-legend").text_content()
    percent = 100 * row.max()
    assert (f"{percent:.0f} %" if percent >= 9.95 else f"{percent:.1f} %") in legend


def test_rollout_and_the_other_picture(page):
    page.run_code("view.patch = (6, 2)")
    page.widget(0).get_by_role("button", name="rollout").click()
    page.eventually("view.rolled", [0, 6, 2])
    canvas, _ = attention(page, "Rollout through all layers: patch row 7, column 3")
    code = "session.look(lambda _: session.trace.vision_rollout((6, 2))).result().tolist()"
    check_map(page, canvas, np.array(page.kernel(code)), 128)
    page.widget(0).get_by_role("button", name="mean of heads").click()
    page.widget(0).get_by_role("button", name="2", exact=True).click()
    page.eventually("(view.image, view.patch)", [1, None])
    page.run_code("view.patch = (3, 5)")
    attention(page, "mean of all heads: patch row 4, column 6")
    page.run_code("view.image, view.patch = 0, (4, 7)")


def test_rope_map_and_moving_both(page):
    widget = page.widget(1)
    canvas = widget.locator("canvas.px-patches")
    code = "rope.ask('alike', rows=12, columns=16, patch=[3, 3])['map'].tolist()"
    named = [(3, 3), (3, 4), (5, 9), (5, 10)]  # A and B, and their letters
    check_map(page, canvas, np.array(page.kernel(code), float), covered=named)
    before = widget.locator(".px-score").text_content()
    score = page.kernel("rope.ask('score', rows=12, columns=16, patch=[3,3], probe=[5,9])['score']")
    assert before == f"score {score:.2f}"
    for name in ("move both down", "move both right", "move both right"):
        widget.get_by_role("button", name=name).click()
        page.page.wait_for_timeout(250)
    page.eventually("(rope.patch, rope.probe)", [[4, 5], [6, 11]])
    says(page, 1, "as before both moved")
    assert widget.locator(".px-score").text_content() == before
    widget.get_by_role("button", name="B", exact=True).click()
    page.click_patch(canvas, (0, 0), (12, 16))
    page.eventually("rope.probe", [0, 0])
    says(page, 1, "B is 4 up and 5 left of A")
    assert widget.locator(".px-score").text_content() != before
    widget.locator("input[type=range]").nth(1).fill("90")
    page.eventually("rope.columns", 90)
    says(page, 1, "B is 4 up")
    page.expect(widget).to_contain_text("made for 64 × 64")


def mask_colour(page, canvas, x, y):
    """At shares of the square, which stands beside an axis of 12 pixels."""
    side = canvas.bounding_box()["width"] - 12
    return page.colour(canvas, (12 + x * side) / (side + 12), (12 + y * side) / (side + 12))


def test_masks_are_blocks_and_a_triangle(page):
    encoder, decoder = (page.widget(2).locator("canvas.px-mask").nth(i) for i in (0, 1))
    sees, chip = (58, 110, 165), (238, 238, 238)
    # 80 and 24 patches: the border is at 0.769.
    assert mask_colour(page, encoder, 0.1, 0.7) == sees
    assert mask_colour(page, encoder, 0.7, 0.1) == sees
    assert mask_colour(page, encoder, 0.9, 0.81) == sees
    assert mask_colour(page, encoder, 0.9, 0.1) == mask_colour(page, encoder, 0.1, 0.9) == chip
    tokens = page.kernel("len(session.prompt.tokens)")
    at = [(n + 0.5) / tokens for n in range(tokens)]
    assert mask_colour(page, decoder, at[20], at[60]) == sees
    assert mask_colour(page, decoder, at[60], at[20]) == chip
    assert mask_colour(page, decoder, at[2 + 10], at[60]) == (230, 159, 0)  # [IMG_BREAK]
    assert mask_colour(page, decoder, at[2 + 87], at[100]) == (213, 94, 0)  # [IMG_END]


def test_pointing_tells_who_sees_whom(page):
    encoder, decoder = (page.widget(2).locator("canvas.px-mask").nth(i) for i in (0, 1))
    side = encoder.bounding_box()["width"] - 12
    encoder.hover(position={"x": 12 + (83.5 / 104) * side, "y": 12 + (11.5 / 104) * side})
    says(
        page,
        2,
        "Patch row 2, column 2 of picture 1 does not see patch row 1, column 4 of picture 2",
    )
    tokens = page.kernel("len(session.prompt.tokens)")
    decoder.hover(position={"x": 12 + 2.5 / tokens * side, "y": 12 + 13.5 / tokens * side})
    says(page, 2, "Token 14 (picture 1, patch row 2, column 1) sees token 3 ")
    decoder.press("ArrowDown")
    says(page, 2, "Token 15 (picture 1, patch row 2, column 2) sees token 3")


def test_breaking_the_mask_and_adding_an_image(page):
    widget = page.widget(2)
    encoder = widget.locator("canvas.px-mask").nth(0)
    page.page.mouse.move(0, 0)  # pointing redraws too: what is seen must be the button's doing
    page.page.wait_for_timeout(300)
    widget.get_by_role("button", name="break the mask").press("Enter")
    page.eventually("len(masks.leak.get('features', []))", 2)
    leak = page.kernel("masks.leak")
    worst = int(np.argmax(leak["features"]))
    says(page, 2, f"picture {worst + 1} change by {100 * leak['features'][worst]:.0f} %")
    assert mask_colour(page, encoder, 0.9, 0.1) == (179, 68, 108)
    widget.get_by_role("button", name="add a picture").click()
    page.eventually("len(masks.leak.get('features', []))", 3)
    assert page.kernel("(masks.added, len(session.prompt.images))") == [1, 2]
    page.expect(widget).to_contain_text(re.compile("(features change by.*){3}", re.DOTALL))
    widget.get_by_role("button", name="take added pictures away").click()
    page.eventually("masks.added", 0)
    widget.get_by_role("button", name="mend the mask").click()
    page.eventually("masks.broken", False)


def test_light_and_dark(page, lab):
    folder = os.environ.get("PIXTRAL_SCREENSHOTS")
    ink = {}
    pairs = page.widget(1).locator(".px-wide canvas")
    wide = pairs.bounding_box()["width"]
    page.run_code("rope.rows, rope.columns, rope.patch, rope.probe = 40, 52, (20, 20), (26, 33)")
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        lab.theme(theme)
        page.page.wait_for_timeout(900)
        assert pairs.bounding_box()["width"] == wide
        encoder = page.widget(2).locator("canvas.px-mask").nth(0)
        ink[theme] = mask_colour(page, encoder, 0.9, 0.1)
        for number, name in enumerate(("vision_attention", "rope_explorer", "mask_view")):
            if folder:
                shade = theme.split()[1].lower()
                page.widget(number).screenshot(path=Path(folder) / f"{name}-{shade}.png")
    assert sum(ink["JupyterLab Dark"]) < 300 < sum(ink["JupyterLab Light"])


def test_pages_work_without_a_kernel_and_load_nothing(page, tmp_path):
    from browsers import FLAGS
    from playwright.sync_api import sync_playwright

    page.run_code("view.image, view.patch, view.layer, view.head = 0, (4, 7), 1, 1")
    files = []
    for name in ("view", "rope", "masks"):
        files.append(tmp_path / f"{name}.html")
        page.run_code(f"{name}.to_html({str(files[-1])!r})")
    check_pages(page, files, sync_playwright, FLAGS)


def check_pages(page, files, sync_playwright, flags):
    own = page.page.context.browser.new_page(viewport={"width": 480, "height": 900})
    requests, errors = [], []
    own.on("request", lambda request: requests.append(request.url))
    own.on("pageerror", lambda error: errors.append(str(error)))
    for file in files:
        own.goto(file.as_uri())
        own.wait_for_timeout(500)
        assert own.evaluate("document.documentElement.scrollWidth") <= 480
        assert own.locator(".px-problem").is_hidden()
    own.goto(files[0].as_uri())
    own.wait_for_timeout(500)
    caption = own.locator(".px-caption")
    assert caption.text_content().startswith("Layer 1, head 1: patch row 5, column 8")
    own.locator("input[type=range]").press("ArrowRight")
    own.wait_for_timeout(300)
    assert caption.text_content().startswith("Layer 2, head 1: patch row 5, column 8")
    own.locator("canvas.px-patches").click(position={"x": 5, "y": 5})
    own.wait_for_timeout(300)
    assert caption.text_content().startswith("Layer 2, head 1: patch row 1, column 1")
    assert own.locator(".px-problem").is_hidden()
    assert own.get_by_role("button", name="rollout").is_hidden()
    own.close()
    assert not errors
    assert all(url.startswith(("file:", "blob:", "data:")) for url in requests), requests


def test_nothing_was_reported_as_an_error(page, lab):
    assert find_browser()
    assert page.kernel("[view.problem, rope.problem, masks.problem]") == ["", "", ""]
    ours = [message for message in lab.messages if "px-" in message or "render" in message]
    assert not ours, ours
