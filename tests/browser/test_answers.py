"""AnswerLens and Ablation in a real notebook: colours and bars are those of Python's numbers."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from pixtral_mlx.interpret.light import lit
from pixtral_mlx.interpret.picture import cividis

GRID = (8, 10)
COLOURS = np.random.RandomState(0).randint(40, 216, (*GRID, 3))
GREYS = np.round(COLOURS @ [0.299, 0.587, 0.114])[..., None]
STRENGTH = 0.65
SETUP = """
import numpy as np
import pixtral_mlx as px
import pixtral_mlx_widgets as w
from PIL import Image
# Each patch has one colour of its own, so that what light makes of it can be computed.
colours = np.random.RandomState(0).randint(40, 216, (8, 10, 3)).astype(np.uint8)
flat = Image.fromarray(colours.repeat(16, 0).repeat(16, 1))
session = w.Session("mini", dtype="float32")
session.ask("Describe the picture.", images=[flat])
session.wait(60)
def looked(token, layer=None, head=None):
    return lens.ask("look", token=token, layer=layer, head=head, image=0)["map"].tolist()
lens = w.AnswerLens(session, linked=False)
lens
"""


@pytest.fixture(scope="module")
def answers(lab):
    opened = lab.notebook(
        "answers", [SETUP, "ablation = w.Ablation(session, linked=False)\nablation"]
    )
    opened.widget(1)
    yield opened
    opened.close()


@pytest.fixture
def lens(answers):
    yield answers.widget(0)


@pytest.fixture
def ablation(answers):
    root = answers.widget(1)
    root.scroll_into_view_if_needed()
    yield root


def screenshot(answers, root, name):
    folder = os.environ.get("PIXTRAL_SCREENSHOTS")
    if folder:
        for theme in ("Dark", "Light"):
            answers.lab.theme(f"JupyterLab {theme}")
            answers.page.wait_for_timeout(300)
            root.screenshot(path=Path(folder) / f"{name}-{theme.lower()}.png")


def blended(colour):
    """A colour of a map as it lies on the grey picture."""
    return STRENGTH * np.asarray(colour, float) + (1 - STRENGTH) * GREYS


def differences(answers, canvas, expected):
    """The largest difference between each patch's colour and the expected one."""
    colours = canvas.evaluate(
        """(canvas, [rows, columns]) => {
            const pen = canvas.getContext('2d');
            const at = (row, column) => [...pen.getImageData(
                Math.floor((column + 0.4) / columns * canvas.width),
                Math.floor((row + 0.4) / rows * canvas.height), 1, 1).data].slice(0, 3);
            return Array.from({length: rows * columns},
                (_, i) => at(Math.floor(i / columns), i % columns));
        }""",
        list(GRID),
    )
    seen = np.array(colours, float).reshape(*GRID, 3)
    return np.abs(seen - expected).max(axis=-1).ravel().tolist()


def check_map(answers, canvas, values, seconds=15):
    """Every patch has its own colour in the light that its number implies."""
    check_colours(answers, canvas, lit(COLOURS, np.array(values, float) / 255), seconds)


def check_colours(answers, canvas, expected, seconds=15):
    end, far = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        far = sum(one > 6 for one in differences(answers, canvas, np.asarray(expected, float)))
        if far == 0:
            return
        answers.page.wait_for_timeout(250)
    raise AssertionError(f"{far} of {GRID[0] * GRID[1]} patches have another colour")


def heat(lens):
    return lens.locator("canvas.px-patches").first


def slide(root, label, steps):
    """Move a slider by the keyboard."""
    name = root.locator(".px-slider", has_text=label).first.locator("input")
    for _ in range(abs(steps)):
        name.press("ArrowRight" if steps > 0 else "ArrowLeft")


def test_the_word_that_leans_most_on_the_picture_is_lit_where_it_looked(answers, lens):
    words = answers.kernel("lens.words")
    assert lens.locator(".px-word").all_inner_texts() == [word["text"] for word in words]
    token = answers.kernel("lens.opening['token']")
    word = next(word["text"] for word in words if token in word["tokens"])
    answers.expect(lens.locator(".px-word.px-chosen")).to_have_text(word)
    check_map(answers, heat(lens), answers.kernel(f"looked({token})"))


def test_the_reader_may_want_a_map_of_colours(answers, lens):
    canvas, switch = heat(lens), lens.get_by_text("as a colour map").locator("input")
    values = np.array(answers.kernel("looked(lens.at())"), float)
    switch.check()
    answers.eventually("lens.plain", True)
    check_colours(answers, canvas, blended(cividis(values / 255)))
    answers.run_code("lens.plain = False")
    check_map(answers, canvas, values)
    answers.expect(switch).not_to_be_checked()


def test_a_click_on_a_word_chooses_it(answers, lens):
    lens.locator(".px-word").nth(3).click()
    token = answers.eventually("lens.token", answers.kernel("lens.words[3]['tokens'][0]"))
    check_map(answers, heat(lens), answers.kernel(f"looked({token})"))
    rivals = answers.kernel(f"lens.ask('token', token={token})['rivals']")
    shown = lens.locator(".px-rivals tbody tr")
    answers.expect(shown).to_have_count(len(rivals) + 1)
    first = shown.first.locator(".px-number").first.inner_text()
    assert float(first) == pytest.approx(rivals[0]["p"], abs=0.006)
    caption = lens.locator(".px-caption")
    share = answers.kernel(
        f"lens.ask('look', token={token}, layer=None, head=None, image=0)['shares'][0]"
    )
    assert f"gave {100 * share:.0f} % of its attention" in caption.inner_text()
    screenshot(answers, lens, "answer-lens")


def test_arrow_keys_go_from_word_to_word(answers, lens):
    lens.locator(".px-word").nth(3).press("ArrowRight")
    answers.eventually("lens.token", answers.kernel("lens.words[4]['tokens'][0]"))
    answers.page.keyboard.press("ArrowLeft")
    answers.eventually("lens.token", answers.kernel("lens.words[3]['tokens'][0]"))


def test_layer_and_head_are_those_of_the_sliders(answers, lens):
    slide(lens, "layer", 3)
    answers.eventually("lens.layer", 2)
    slide(lens, "head", 2)
    answers.eventually("lens.head", 1)
    check_map(answers, heat(lens), answers.kernel("looked(lens.token, 2, 1)"))
    slide(lens, "head", 1)
    answers.eventually("lens.head", 2)
    check_map(answers, heat(lens), answers.kernel("looked(lens.token, 2, 2)"))
    answers.run_code("lens.layer = lens.head = None")
    check_map(answers, heat(lens), answers.kernel("looked(lens.token)"))


def test_python_chooses_too(answers, lens):
    answers.run_code("lens.token = 1")
    check_map(answers, heat(lens), answers.kernel("looked(1)"))
    assert lens.locator(".px-word.px-chosen").inner_text() == answers.kernel(
        "lens.words[1]['text']"
    )


def test_the_logit_lens_names_each_layer(answers, lens):
    answers.run_code("lens.token = 1")
    rows = answers.kernel("lens.ask('lens', token=1)['layers']")
    lens.locator(".px-word.px-chosen", has_text=answers.kernel("lens.words[1]['text']")).wait_for()
    answers.page.wait_for_timeout(500)
    shown = lens.locator(".px-layer")
    assert shown.count() == len(rows)
    for row, one in zip(rows, shown.all(), strict=True):
        text = one.inner_text()
        assert text.startswith(f"L{row['layer']}")
        assert row["text"].strip() in text
        assert ("px-same" in one.get_attribute("class")) == row["same"]


def test_temperature_and_top_p_show_what_is_drawn_from(answers, lens):
    answers.run_code("lens.token = 1")
    slide(lens, "temperature", 20)
    answers.eventually("lens.temperature", 1.0)
    slide(lens, "temperature", 20)
    answers.eventually("lens.temperature", 2.0)
    after = answers.kernel("lens.ask('sampling', token=1, temperature=2, top_p=1)['after']")
    number = lens.locator(".px-rivals .px-after .px-number").first
    answers.page.wait_for_function(
        "([n, p]) => Math.abs(parseFloat(n.textContent) - p) < 0.006",
        arg=[number.element_handle(), after[0]],
    )
    slide(lens, "top-p", -2)
    answers.eventually("round(lens.top_p, 2)", 0.9)
    answers.run_code("lens.temperature, lens.top_p = 0.0, 1.0")


def test_hiding_what_it_looked_at_is_measured(answers, lens):
    answers.run_code("lens.token = 3")
    lens.get_by_text("Hide what it looked at").click()
    answers.eventually("'knock:3:0' in lens.known", True)
    found = answers.kernel("lens.ask('knocked', token=3, image=0)")
    said = lens.locator(".px-knocked")
    answers.page.wait_for_function(
        "e => e.textContent.includes('log-probability')", arg=said.element_handle()
    )
    way = "drops" if found["drop"] >= 0 else "rises"
    assert f"{way} by {abs(found['drop']):.2f} nats" in said.inner_text() or found["drop"] < 0.01
    canvas = lens.locator("canvas.px-patches").first
    (row, _), (column, _) = found["rows"], found["columns"]
    rows, columns = COLOURS.shape[:2]
    seen = answers.colour(canvas, (column + 0.02) / columns, (row + 0.5) / rows)
    assert seen == (0, 163, 196), "what was hidden is hatched as in every widget"


def test_hiding_block_by_block_has_the_colours_of_its_drops(answers, lens):
    answers.run_code("lens.token = 4")  # the number of rows: it depends on the picture
    lens.get_by_text("Hide block by block").click()
    answers.eventually("'occlude:4:0:1' in lens.known", True, 60)
    found = answers.kernel(
        "(lambda a: [a['drops'].tolist(), a['top'], a['rho']])"
        "(lens.ask('occluded', token=4, image=0, block=1, layer=None, head=None))"
    )
    drops, top, rho = np.array(found[0]), found[1], found[2]
    place = np.round(127 * drops / top) / 127
    ends = np.where(place[..., None] < 0, (0, 84, 147), (190, 70, 0))
    expected = blended(245 + (ends - 245) * np.abs(place)[..., None])
    canvas = lens.locator("canvas.px-patches").nth(1)
    answers.page.wait_for_timeout(800)
    assert max(differences(answers, canvas, expected)) < 6
    assert f"Rank correlation {rho:.2f}".replace("-", "−") in lens.inner_text()
    screenshot(answers, lens, "answer-lens-knock-out")


def test_a_click_is_answered_while_the_answer_is_written(answers, lens):
    """The kernel's main thread is free here, as after `session.ask` in a cell."""
    answers.run_code(
        "session.ask('Describe the picture.', images=[flat], max_tokens=3000, logit_bias={2: -1e9})"
    )
    answers.page.wait_for_function(
        "r => r.querySelectorAll('.px-word').length > 20", arg=lens.element_handle()
    )
    lens.locator(".px-word").nth(5).click()
    token = answers.eventually("lens.token", answers.kernel("lens.words[5]['tokens'][0]"))
    check_map(answers, heat(lens), answers.kernel(f"looked({token})"))
    assert answers.kernel("session.busy"), "the answer ended too soon for this test"
    assert lens.get_by_text("Hide what it looked at").is_disabled()
    lens.get_by_role("button", name="Follow the newest").click()
    answers.eventually("lens.token", None)
    lens.get_by_role("button", name="Stop").first.click()
    answers.eventually("session.busy", False)
    assert answers.kernel("session.reply.finish_reason") == "interrupted"
    answers.expect(lens).to_contain_text("stopped")


def test_run_again_asks_with_the_settings(answers, lens):
    # At such a temperature an answer may not end by itself for long.
    answers.run_code("session.ask('Describe the picture.', images=[flat], max_tokens=24)")
    answers.run_code("session.wait(60)")
    answers.run_code("lens.temperature, epoch = 1.5, session.epoch")
    lens.get_by_text("Run again with these").click()
    answers.eventually("session.epoch == epoch + 1 and not session.busy", True)
    assert answers.kernel("session.options['temperature']") == 1.5
    answers.run_code("session.again(temperature=0.0); session.wait(60)")


# Ablation --------------------------------------------------------------------------------------


def test_patches_are_painted_with_the_mouse(answers, ablation):
    easel = ablation.locator("canvas.px-patches").first
    easel.scroll_into_view_if_needed()
    box = easel.bounding_box()

    def middle(row, column):
        return (
            box["x"] + (column + 0.5) / GRID[1] * box["width"],
            box["y"] + (row + 0.5) / GRID[0] * box["height"],
        )

    mouse = answers.page.mouse
    mouse.move(*middle(2, 3))
    mouse.down()
    mouse.move(*middle(2, 4), steps=4)
    mouse.up()
    answers.eventually("sorted(ablation.patches)", [[0, 2, 3], [0, 2, 4]])
    answers.page.wait_for_timeout(300)
    hidden, shown = (answers.patch_colour(easel, at, GRID) for at in ((2, 3), (5, 5)))
    assert np.abs(np.array(shown) - COLOURS[5, 5]).max() < 4
    assert answers.kernel("[repr(e) for e in ablation.edits]") == [
        "MaskPatches(patches=((2, 3), (2, 4)), image=0)"
    ]
    del hidden
    mouse.move(*middle(2, 3))
    mouse.down()
    mouse.up()
    answers.eventually("ablation.patches", [[0, 2, 4]])


def test_painted_patches_are_hatched_and_no_others(answers, ablation):
    answers.run_code("ablation.patches = [[0, 1, 1]]")
    easel = ablation.locator("canvas.px-patches").first
    (rows, columns), hidden = COLOURS.shape[:2], (0, 163, 196)
    answers.page.wait_for_timeout(500)
    edges = {
        (row, column): answers.colour(easel, (column + 0.02) / columns, (row + 0.5) / rows)
        for row in range(rows)
        for column in range(columns)
    }
    assert [patch for patch, colour in edges.items() if colour == hidden] == [(1, 1)]
    swatch = ablation.locator(".px-key", has_text="hidden").locator(".px-swatch").first
    assert swatch.evaluate("e => getComputedStyle(e).backgroundColor") == f"rgb{hidden}"


def test_patches_are_painted_with_the_keyboard(answers, ablation):
    answers.run_code("ablation.patches = []")
    easel = ablation.locator("canvas.px-patches").first
    answers.page.mouse.move(5, 5)
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", " ", "ArrowDown", "Enter"):
        easel.press(key)
    answers.eventually("ablation.patches", [[0, 1, 1], [0, 2, 1]])


def test_the_second_run_is_shown_beside_the_first(answers, ablation):
    answers.run_code("ablation.patches = []")
    ablation.get_by_text("take the break tokens away").click()
    ablation.get_by_role("button", name="decoder").click()
    ablation.locator(".px-heads button").nth(2).click()
    answers.eventually("len(ablation.edits)", 2)
    assert answers.kernel("[repr(e) for e in ablation.edits]") == [
        "NoBreakTokens()", "KnockOutHeads(where='text', layer=0, heads=(2,))"
    ]  # fmt: skip
    ablation.get_by_role("button", name="Run without them").click()
    answers.eventually("bool(ablation.result)", True, 30)
    result = answers.kernel("ablation.result")
    second = ablation.locator(".px-words").nth(1).locator(".px-word")
    answers.expect(second).to_have_text([word["text"] for word in result["second_words"]])
    assert answers.kernel("session.reply.text") == result["first"]
    differs = ["px-differs" in one.get_attribute("class") for one in second.all()]
    at = result["first_difference"]
    assert differs == [at is not None and i >= at for i in range(len(differs))]
    numbers = ablation.locator(".px-words").first.locator(".px-number").all_inner_texts()
    assert len(numbers) == len(result["kl"])
    for number, value in zip(numbers, result["kl"], strict=True):
        if not number.startswith("<"):
            assert float(number) == pytest.approx(value, rel=0.5, abs=0.006)
    assert "KL divergence" in ablation.inner_text()
    screenshot(answers, ablation, "ablation")


def test_a_problem_is_one_line_and_goes_away(answers, ablation):
    answers.run_code("ablation.edits = [px.edits.SkipLayers('text', [9])]")
    ablation.get_by_role("button", name="Run without them").click()
    problem = ablation.locator(".px-problem")
    problem.wait_for()
    assert "text layer 9" in problem.inner_text()
    answers.run_code("ablation.edits = [px.edits.NoBreakTokens()]")
    ablation.get_by_role("button", name="Run without them").click()
    answers.eventually("ablation.result.get('names')", ["break tokens"])
    answers.expect(problem).to_be_hidden()


def test_narrow_cells_do_not_scroll_sideways(answers, lens, ablation):
    for root in (lens, ablation):
        root.evaluate("r => { r.style.width = '460px'; }")
        answers.page.wait_for_timeout(300)
        assert root.evaluate("r => r.scrollWidth <= r.clientWidth")
        root.evaluate("r => { r.style.width = ''; }")


def test_nothing_went_wrong_on_the_way(answers):
    assert [m for m in answers.lab.messages if "px-" in m or "TypeError" in m] == []


def test_the_page_works_without_a_network(answers, tmp_path):
    """Every word of the page can be clicked, and it says what is not in it."""
    path = tmp_path / "page.html"
    answers.run_code(f"lens.token = None; lens.to_html({str(path)!r})")
    page = answers.lab.page.context.browser.new_context(offline=True).new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_function("document.querySelector('canvas.px-patches').width > 100")
    page.locator(".px-word").nth(2).click()
    token = answers.kernel("lens.words[2]['tokens'][0]")
    expected = lit(COLOURS, np.array(answers.kernel(f"looked({token})"), float) / 255)
    page.wait_for_timeout(500)

    def colour(row, column):
        return page.locator("canvas.px-patches").first.evaluate(
            """(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(
                x * canvas.width, y * canvas.height, 1, 1).data].slice(0, 3)""",
            [(column + 0.4) / GRID[1], (row + 0.4) / GRID[0]],
        )

    for row in range(GRID[0]):
        for column in range(GRID[1]):
            assert (
                np.abs(np.array(colour(row, column)) - expected[row, column].astype(int)).max() < 6
            )
    assert not page.locator(".px-problem").is_visible()
    page.locator(".px-slider", has_text="layer").first.locator("input").press("ArrowRight")
    page.locator(".px-caption", has_text="layer 0").wait_for()
    page.wait_for_timeout(300)
    expected = lit(COLOURS, np.array(answers.kernel(f"looked({token}, 0)"), float) / 255)
    for row, column in ((0, 0), (3, 4), (7, 9), (5, 2)):
        assert np.abs(np.array(colour(row, column)) - expected[row, column].astype(int)).max() < 6
    assert not page.locator(".px-problem").is_visible()
    for name in ("temperature", "Run again with these", "Hide what it looked at"):
        assert not page.get_by_text(name).first.is_visible(), name
    assert problems == []
    page.context.close()
