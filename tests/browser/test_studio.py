"""Studio in a real notebook, and what holds for every widget."""

import os
import re
from pathlib import Path

import pytest

SETUP = """
import pixtral_mlx_widgets as w
from pixtral_mlx.mini import scene
session = w.Session("mini", dtype="float32")
studio = w.Studio(session)
studio
"""


@pytest.fixture(scope="module")
def studio(lab):
    lab.requests.clear()  # other modules may have served pages of their own
    lab.messages.clear()
    opened = lab.notebook("studio", [SETUP])
    yield opened
    opened.close()


def screenshot(studio, name):
    folder = os.environ.get("PIXTRAL_SCREENSHOTS")
    if folder:
        studio.page.screenshot(path=Path(folder) / f"{name}.png")


def ask(studio, text):
    root = studio.widget()
    root.locator(".px-question").fill(text)
    root.locator(".px-question").press("Enter")


def new_conversation(studio):
    studio.eventually("session.busy", False)
    studio.widget().get_by_role("button", name="New conversation").click()
    studio.eventually("len(session.messages)", 0)


def test_a_sample_is_asked_with_one_click(studio):
    root = studio.widget()
    screenshot(studio, "studio-empty")
    assert root.locator(".px-sample").count() == 3
    root.locator(".px-sample").nth(1).click()
    studio.eventually("session.reply is not None and not session.busy", True, 60)
    answer = root.locator(".px-said-assistant").last
    studio.expect(answer).to_have_text(studio.kernel("session.reply.text"))
    assert root.locator(".px-said-user img").count() == 1
    screenshot(studio, "studio-answered")


def test_the_keyboard_asks_and_the_conversation_goes_on(studio):
    """The follow-up keeps the picture without anything being ticked."""
    root = studio.widget()
    before = root.locator(".px-said-assistant").count()
    ask(studio, "How many columns are there?")
    studio.page.wait_for_function(
        f"document.querySelectorAll('.px-said-assistant').length > {before}"
    )
    studio.eventually("session.busy", False)
    assert studio.kernel("[m['role'] for m in session.messages]") == ["user", "assistant"] * 2
    assert studio.kernel("len(session.prompt.images)") == 1
    answer = studio.kernel("session.messages[-1]['content']")
    studio.expect(root.locator(".px-said-assistant").last).to_have_text(answer)


def test_a_new_conversation_is_a_button_and_says_that_it_has_no_picture(studio):
    root = studio.widget()
    new_conversation(studio)
    studio.eventually("len(session.messages)", 0)
    studio.expect(root.locator(".px-sample")).to_have_count(3)
    ask(studio, "How many rows are there?")
    studio.eventually("[m['role'] for m in session.messages]", ["user", "assistant"])
    assert studio.kernel("len(session.prompt.images)") == 0
    says = root.locator("> .px-caption")
    studio.expect(says).to_contain_text("without a picture: this conversation has none")


def test_enter_during_an_answer_queues(studio):
    """What is asked meanwhile waits where it can be seen and taken back, and has its turn."""
    root = studio.widget()
    new_conversation(studio)
    studio.run_code(
        "import threading\ngate = threading.Event()\n"
        "held = session.worker.submit(lambda model: gate.wait(60))"
    )
    root.locator(".px-sample").nth(0).click()
    studio.eventually("session.busy", True)
    for question in ("How many rows are there?", "not this one", "How many columns are there?"):
        ask(studio, question)
    queued = root.locator(".px-queued")
    studio.expect(queued).to_have_count(3)
    queued.nth(1).get_by_role("button", name="Take back").click()
    studio.expect(queued).to_have_count(2)
    screenshot(studio, "studio-queued")
    studio.run_code("gate.set()")
    studio.eventually("len(session.messages)", 6)
    asked = studio.kernel("[m['content'][-1]['text'] for m in session.messages[2::2]]")
    assert asked == ["How many rows are there?", "How many columns are there?"]
    studio.expect(queued).to_have_count(0)


def test_a_pdf_is_a_strip_of_pages_to_choose_from(studio, tmp_path):
    from pixtral_mlx.mini import scene

    pages = [scene(7, 2, 3).image.resize((96, 64)), scene(8, 1, 4).image, scene(9, 3, 2).image]
    pages[0].save(tmp_path / "report.pdf", save_all=True, append_images=pages[1:])
    root = studio.widget()
    new_conversation(studio)
    root.locator("input[type=file]").set_input_files([tmp_path / "report.pdf"])
    leaves = root.locator(".px-leaf")
    studio.expect(leaves).to_have_count(3)
    studio.expect(root.locator(".px-leaf img")).to_have_count(3)
    screenshot(studio, "studio-pdf")
    leaves.nth(0).click()
    leaves.nth(2).click()
    studio.expect(root.locator(".px-book")).to_contain_text("1 of 3 pages")
    ask(studio, "What do you see?")
    studio.eventually("session.prompt is not None and len(session.prompt.images)", 1)
    rows, columns = studio.kernel("list(session.prompt.grids[0])")
    assert rows > columns, "the third page is the tall one"
    studio.expect(root.locator(".px-book")).to_have_count(0)
    studio.run_code("session.stop()")  # a page is large, and nothing that mini knows


LIT = """(lambda look, pixels: {{
    "peak": look["peak"], "dark": (dark := divmod(int(look["map"].argmin()), pixels.shape[1])),
    "grid": pixels.shape[:2], "own": pixels[tuple(look["peak"])].tolist(),
    "dim": [0.4 * float(pixels[dark] @ [0.299, 0.587, 0.114])] * 3,
}})(
    studio.lens.ask("look", token=studio.lens.words[{step}]["tokens"][0], layer=None, head=None,
        image=0),
    (lambda pixels: pixels.reshape(
        pixels.shape[0] // 16, 16, pixels.shape[1] // 16, 16, 3
    )[:, 4:12, :, 4:12].mean((1, 3)))(
        __import__("pixtral_mlx.inputs").inputs.to_pixels(session.prompt.images[0])
    ),
)"""
"""Of a word: the patches that it looks at most and least, and the mean colours of their inner
quarters: the picture's own, and what is left of them where no light falls."""

INNER = """(canvas, [row, column, rows, columns]) => {
    const [wide, high] = [canvas.width / columns, canvas.height / rows];
    const { data } = canvas.getContext("2d").getImageData(
        Math.round((column + 0.25) * wide), Math.round((row + 0.25) * high),
        Math.round(wide / 2), Math.round(high / 2));
    return [0, 1, 2].map((c) => data.reduce((sum, v, i) => i % 4 === c ? sum + v : sum, 0)
        / (data.length / 4));
}"""
"""The mean colour that is drawn on the inner quarter of a patch."""


def test_the_stage_follows_each_word_and_steps_through_them(studio):
    """The words come one by one, the light of each is that of its attention, arrows step and
    a replay begins anew."""
    root = studio.widget()
    new_conversation(studio)
    root.locator(".px-sample").nth(0).click()
    studio.eventually("len(session.messages)", 2)
    root.get_by_role("button", name="Stage", exact=True).click()
    words = root.locator(".px-stage-word")
    studio.expect(root.locator(".px-talk")).to_be_hidden()
    count = studio.kernel("len(studio.lens.words)")
    studio.expect(words).to_have_count(count, timeout=30_000)
    box = root.bounding_box()
    picture = root.locator(".px-stage-picture canvas.px-patches").bounding_box()
    assert picture["width"] > 0.4 * box["width"]
    size = words.first.evaluate("word => parseFloat(getComputedStyle(word).fontSize)")
    assert size >= 30
    canvas = root.locator(".px-stage-picture canvas.px-patches")
    words.nth(3).click()
    for step in (4, 5):
        studio.page.keyboard.press("ArrowRight")
        found = studio.kernel(LIT.format(step=step))
        (row, column), (rows, columns) = found["peak"], found["grid"]
        studio.expect(root.locator(".px-stage-caption")).to_contain_text(
            f"patch row {row + 1}, column {column + 1}"
        )
        assert words.nth(step).get_attribute("aria-pressed") == "true"
        studio.page.wait_for_timeout(600)  # one light fades into the next
        for (row, column), wanted in ((found["peak"], "own"), (found["dark"], "dim")):
            seen = canvas.evaluate(INNER, [row, column, rows, columns])
            assert max(abs(a - b) for a, b in zip(seen, found[wanted], strict=True)) < 14, wanted
    screenshot(studio, "stage")
    root.get_by_role("button", name="Replay").click()
    assert words.count() < 4
    root.get_by_role("button", name="Leave the stage").click()
    studio.expect(root.locator(".px-talk")).to_be_visible()
    studio.eventually("studio.stage", False)


def test_seven_tabs_stand_on_one_line(studio):
    tops = (
        studio.widget()
        .locator("[role=tab]")
        .evaluate_all("tabs => tabs.map((tab) => Math.round(tab.getBoundingClientRect().top))")
    )
    assert len(tops) == 7
    assert len(set(tops)) == 1


def test_one_screen_needs_no_scrolling(studio):
    studio.page.set_viewport_size({"width": 1440, "height": 900})
    studio.page.wait_for_timeout(300)
    height = studio.widget().bounding_box()["height"]
    studio.page.set_viewport_size({"width": 1280, "height": 900})
    assert height <= 770, "what a notebook has left of 900"


def test_an_empty_question_is_refused_in_words(studio):
    ask(studio, "  ")
    assert "empty" in studio.widget().locator(".px-problem").first.text_content()


def test_picked_files_are_sent_and_others_refused(studio, tmp_path):
    from pixtral_mlx.mini import scene

    picture = scene(7, 2, 3).image
    picture.save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("no picture")
    root = studio.widget()
    new_conversation(studio)
    root.locator("input[type=file]").set_input_files([tmp_path / "notes.txt", tmp_path / "a.png"])
    assert (
        "notes.txt is neither a picture nor a PDF"
        in root.locator(".px-problem").first.text_content()
    )
    assert root.locator(".px-pending").count() == 1
    ask(studio, "How many columns are there?")
    studio.eventually("session.reply is not None and session.reply.text", "three")
    studio.expect(root.locator(".px-pending")).to_have_count(0)


def test_a_broken_picture_is_one_sentence_and_the_studio_goes_on(studio, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no png at all")
    root = studio.widget()
    root.locator("input[type=file]").set_input_files([tmp_path / "broken.png"])
    ask(studio, "How many rows are there?")
    studio.page.wait_for_function(
        "/not a picture|cannot|allowed/.test(document.querySelector('.px-problem').textContent)"
    )
    studio.expect(root.locator(".px-question")).to_have_value("How many rows are there?")
    studio.expect(root.locator(".px-pending")).to_have_count(1)  # nothing is lost
    root.locator(".px-pending button").click()
    root.locator(".px-question").fill("")
    studio.run_code("session.ask('How many rows are there?', images=[scene(7, 2, 3).image])")
    studio.eventually("not session.busy and session.reply.text", "two")
    assert studio.kernel("studio.problem") == ""


def test_settings_reach_python(studio):
    root = studio.widget()
    root.locator("input[type=range]").first.fill("0.7")
    studio.eventually("studio.temperature", 0.7)
    root.locator("input[type=number]").first.fill("5")
    root.locator("input[type=number]").first.press("Tab")
    studio.eventually("studio.seed", 5)
    root.locator("input[type=range]").first.fill("0")


def test_html_of_the_model_is_shown_without_scripts(studio):
    page = (
        "```html\\n<h1>Hi</h1><script>document.title='bad'</script>"
        "<img src='http://127.0.0.1:9/x.png'>\\n```"
    )
    studio.run_code(
        "session.messages = [{'role': 'user', 'content': 'write a page'}, "
        f"{{'role': 'assistant', 'content': '''{page}'''}}]"
    )
    root = studio.widget()
    root.get_by_text("Preview this page").click()
    frame = root.locator("iframe")
    assert frame.get_attribute("sandbox") == ""
    assert "default-src 'none'" in frame.get_attribute("srcdoc")
    studio.page.frame_locator("iframe.px-preview").get_by_text("Hi").wait_for()
    assert studio.page.title() != "bad"
    assert not [r for r in studio.lab.requests if ":9/x.png" in r]


@pytest.mark.parametrize("theme", ["Dark", "Light"])
def test_both_themes(studio, theme):
    studio.run_code("session.ask('Describe the picture.', images=[scene(11, 3, 4).image])")
    studio.eventually("session.busy", False)
    studio.lab.theme(f"JupyterLab {theme}")
    paper = studio.widget().evaluate("root => getComputedStyle(root).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", paper)[:3])) > 384
    assert light == (theme == "Light")
    screenshot(studio, f"studio-{theme.lower()}")


def test_every_tab_opens_and_draws(studio):
    root = studio.widget()
    titles = studio.kernel("[pane['title'] for pane in studio.panes]")
    for title in titles:
        root.get_by_role("tab", name=title).click()
        studio.eventually("studio.tab", title)
        open_pane = root.locator("[role=tabpanel]:not([hidden])")
        open_pane.locator(".px-widget").first.wait_for()
        assert open_pane.locator(".px-problem:not([hidden])").count() == 0
        studio.page.wait_for_timeout(500)
        screenshot(studio, f"studio-tab-{titles.index(title)}")


def test_a_narrow_panel_needs_no_sideways_scrolling(studio):
    studio.page.set_viewport_size({"width": 700, "height": 900})
    studio.page.wait_for_timeout(300)
    wide = studio.widget().evaluate("root => root.scrollWidth - root.clientWidth")
    screenshot(studio, "studio-narrow")
    studio.page.set_viewport_size({"width": 1280, "height": 900})
    assert wide <= 1


def test_nothing_was_fetched_from_elsewhere_and_nothing_failed(studio):
    here = studio.lab.url
    allowed = (here, here.replace("http", "ws"), "data:", "blob:")
    outside = [address for address in studio.lab.requests if not address.startswith(allowed)]
    assert outside == []
    own = [m for m in studio.lab.messages if "px" in m or "anywidget" in m.lower()]
    assert own == []
