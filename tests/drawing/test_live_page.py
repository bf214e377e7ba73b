"""The live page in real browsers: the same answers as Python's, and the colours that follow."""

import importlib.util
import re
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import pytest
import webkit
from browsers import FLAGS, needed_browser, needed_webkit
from checkpoints import make_hf
from views import ADDRESS, EXTERNAL, eventually

import pixtral_mlx as px
from pixtral_mlx.checkpoint.checkpoint import open_checkpoint
from pixtral_mlx.cli import live_page, main
from pixtral_mlx.mini import CHECKPOINT
from pixtral_mlx.mini.scene_layout import draw, make_layout

HOUSE = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("answers", HOUSE / "scripts" / "live_answers.py")
answers = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(answers)

LARGEST = 5_000_000
SHOWN = draw(make_layout(Random(149), 3, 4))
"""The scene that the page opens with."""

QUESTION, SAID = "What is in row 2, column 2?", "a purple star"
GRID = (6, 8)
STOPS = ("Picture", "Patches", "RoPE-2D", "Attention", "Projector", "Break tokens", "Decoder",
         "Answer", "Break it", "The code")  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    page = tmp_path_factory.mktemp("live") / "live.html"
    assert main(["live", "-o", str(page)]) == 0
    return page


@pytest.fixture(scope="module")
def reply(mini):
    """What Python answers to the first question, and saw on the way."""
    return mini.generate(QUESTION, images=[SHOWN], trace=True)


@pytest.fixture(scope="module")
def chromium(playwright):
    browser = playwright.chromium.launch(executable_path=needed_browser(), args=FLAGS)
    yield browser
    browser.close()


class Reader:
    """Someone who has opened the page.

    Attributes:
        asked: addresses that were asked for.
        troubles: errors of the script and violations of the policy.
    """

    def __init__(self, browser, page, width=1280, **options):
        self.asked, self.troubles = [], []
        options = {"reduced_motion": "reduce", **options}
        size = {"width": width, "height": 900}
        self.context = browser.new_context(viewport=size, **options)
        self.context.set_default_timeout(20_000)
        self.page = self.context.new_page()
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("console", self._hear)
        self.page.goto(page.as_uri())

    def _hear(self, message):
        if message.type == "error":
            self.troubles.append(message.text)

    def answered(self):
        self.page.wait_for_selector("#page[data-ready]")
        return self

    def go(self, stop):
        self.page.locator(".px-stops button", has_text=stop).click()

    def click(self, patch, grid=GRID):
        box = self.page.locator("canvas.px-patches").bounding_box()
        y, x = (
            (place + 0.5) / count * side
            for place, count, side in zip(patch, grid, (box["height"], box["width"]), strict=True)
        )
        self.page.mouse.click(box["x"] + x, box["y"] + y)

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    def words(self):
        return self.page.locator(".px-w").all_text_contents()

    def caption(self):
        return self.page.locator(".px-sight").text_content()

    def pixels(self) -> np.ndarray:
        """Of the picture on the page: near the middle of each patch, row by row."""
        found = self.page.locator("canvas.px-patches").evaluate(
            """(canvas, [rows, columns]) => {
                const pen = canvas.getContext('2d'), found = [];
                for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) {
                    const [x, y] = [(c + 0.4) / columns * canvas.width, (r + 0.4) / rows * canvas.height];
                    found.push([...pen.getImageData(x, y, 1, 1).data].slice(0, 3));
                }
                return found;
            }""",  # noqa: E501
            GRID,
        )
        return np.array(found, float)

    def shows(self, values) -> bool:
        """Whether the picture is lit by these shares: its own colours where they are largest."""
        values = np.asarray(values, float).ravel()
        rows, columns = GRID
        whole = np.asarray(SHOWN, float)
        near = []
        for number in range(rows * columns):
            row, column = divmod(number, columns)
            y, x = (
                int((row + 0.4) / rows * len(whole)),
                int((column + 0.4) / columns * len(whole[0])),
            )
            part = whole[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3)
            near.append(part[4] if np.ptp(part, axis=0).max() <= 6 else np.full(3, np.nan))
        colours = np.array(near)
        dim = 0.4 * (colours @ [0.299, 0.587, 0.114])[:, None]
        light = np.sqrt(np.clip(values / values.max(), 0, 1))[:, None]
        wanted = dim + (colours - dim) * light
        flat = ~np.isnan(wanted[:, 0])
        assert flat.sum() >= 12
        return bool(np.abs(self.pixels() - wanted)[flat].max() <= 8)


@pytest.fixture
def read(chromium, written):
    """Opens the page; nothing may go wrong in it, and nothing may be fetched."""
    opened = []

    def open_page(page=written, **options):
        opened.append(Reader(chromium, page, **options))
        return opened[-1].answered()

    yield open_page
    for reader in opened:
        reader.context.close()
        assert reader.troubles == []
        assert all(re.match(r"file:|blob:|data:", url) for url in reader.asked), reader.asked
        assert sum(url.startswith("file:") for url in reader.asked) == 1


def test_the_page_is_one_file_that_asks_nobody(written):
    text = written.read_text(encoding="utf-8")
    assert len(text.encode()) <= LARGEST
    assert not EXTERNAL.search(text) and not ADDRESS.search(text)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    parts = dict(part.split(" ", 1) for part in policy.split("; "))
    assert parts["default-src"] == parts["base-uri"] == parts["form-action"] == "'none'"
    assert set(parts) == {"default-src", "style-src", "script-src", "worker-src", "img-src",
                          "base-uri", "form-action"}  # fmt: skip
    assert parts["worker-src"] == "blob:" and parts["img-src"] == "data:"
    for kind in ("script-src", "style-src"):
        assert re.fullmatch(r"'sha256-[\w+/]{43}='( blob:)?", parts[kind]), parts


def test_the_page_in_docs_is_what_the_command_writes(written):
    """Shorter to compare than the difference would be to read."""
    same = (HOUSE / "docs" / "live.html").read_bytes() == written.read_bytes()
    assert same, "remove docs/live.html and run: pixtral-mlx live -o docs/live.html"


def test_the_same_answers_as_python(read, mini):
    """A hundred questions; `scripts/live_answers.py` asks a thousand."""
    reader, found = read(), answers.Comparison()
    for asked in islice(answers.questions(), 100):
        answers.compare(mini, asked, lambda told: reader.page.evaluate(answers.ASK, told), found)
    assert found.good and found.questions == 100, f"{found} {found.different}"


def test_the_first_answer_is_there_soon(read):
    """Much sooner than this on an idle machine: 0.8 s."""
    assert int(read().page.locator("#page").get_attribute("data-ready")) < 6000


def test_a_word_lights_the_picture_where_it_looked(read, reply):
    reader = read()
    assert " ".join(reader.words()) == reply.text == SAID
    reader.go("Answer")
    for number in (1, 2):
        reader.page.locator(".px-w").nth(number).click()
        attention = reply.trace.image_attention(number)
        eventually(lambda attention=attention: reader.shows(attention))
        row, column = np.unravel_index(attention.argmax(), GRID)
        assert f"looks most at patch row {row + 1}, column {column + 1};" in reader.caption()
        assert f"{attention.sum():.0%}".replace("%", " %") in reader.caption()
    reader.page.keyboard.press("ArrowLeft")
    eventually(lambda: reader.shows(reply.trace.image_attention(1)))
    reader.button("Show the whole picture").click()
    eventually(lambda: reader.shows(np.ones(GRID)))


def test_a_patch_lights_where_it_looks_in_any_head(read, reply):
    reader = read()
    reader.go("Attention")
    reader.click((3, 2))
    eventually(lambda: reader.shows(reply.trace.vision_attention(0, (3, 2), 0)))
    table = reader.page.locator("canvas.px-pick")
    box = table.bounding_box()
    table.click(position={"x": box["width"] * 2.5 / 4, "y": box["height"] * 1.5 / 4})
    eventually(lambda: reader.shows(reply.trace.vision_attention(1, (3, 2), 2)))
    assert "Layer 1, head 2." in reader.caption()
    reader.click((0, 7))
    eventually(lambda: reader.shows(reply.trace.vision_attention(1, (0, 7), 2)))


def test_places_and_likeness_are_lit(read, mini):
    """How well places match by their angles alone, and which features are alike."""
    reader, patch = read(), (1, 2)
    number = patch[0] * GRID[1] + patch[1]
    angles = np.asarray(mini.vision_encoder.rope.angles([GRID]), float)
    match = np.cos(angles - angles[number]).mean(axis=1)
    reader.go("RoPE-2D")
    reader.click(patch)
    eventually(lambda: reader.shows((match - match.min()) / (1 - match.min())))
    features = mini.vision_encoder(mini.encode(QUESTION, [SHOWN]).images)
    reader.go("Projector")
    for kind, found in (("after", mini.projector(features)), ("before", features)):
        rows = np.asarray(found, float)
        rows = rows - rows.mean(axis=0)
        alike = rows @ rows[number] / np.linalg.norm(rows, axis=1) / np.linalg.norm(rows[number])
        reader.button(kind).click()
        eventually(lambda alike=alike: reader.shows(alike))


def test_the_decoder_shows_a_word_in_any_layer_and_head(read, reply):
    reader = read()
    reader.go("Decoder")
    reader.page.locator(".px-w").nth(2).click()
    reader.page.get_by_role("group", name="Layer").get_by_role("button", name="3").click()
    reader.page.get_by_role("group", name="Head").get_by_role("button", name="2").click()
    row = reply.trace.token_attention(2, 3, 2)
    eventually(lambda: reader.shows(reply.trace.image_attention(2, 3, 2)))
    most = int(row[: len(reply.trace.prompt.tokens)].argmax())
    assert f"on token {most + 1}, " in reader.caption()


def test_the_light_goes_from_word_to_word(read, reply):
    """Where motion is welcome; a word that is clicked meanwhile stays lit."""
    reader = read(reduced_motion="no-preference")
    reader.go("Answer")
    reader.button("Ask").click()
    eventually(lambda: reader.words() == ["a"])
    eventually(lambda: reader.words() == ["a", "purple"])
    eventually(lambda: "“purple” looks" in reader.caption())
    eventually(lambda: reader.words() == ["a", "purple", "star"])
    eventually(lambda: reader.shows(reply.trace.image_attention(2)))
    reader.button("Ask").click()
    reader.page.locator(".px-w").first.click()
    eventually(lambda: reader.words() == ["a", "purple", "star"])
    eventually(lambda: reader.shows(reply.trace.image_attention(0)))


def test_what_a_word_looked_at_is_hidden(read, mini, reply):
    """The patches with half of the greatest attention or more; and row ends say what they are."""
    reader = read()
    reader.go("Answer")
    reader.page.locator(".px-w").nth(1).click()
    reader.button("Hide the patches that this word looks at").click()
    attention = reply.trace.image_attention(1).ravel()
    hidden = [int(n) for n in np.flatnonzero(attention >= 0.5 * attention.max())]
    edits = [px.edits.MaskPatches(hidden)]
    broken = mini.generate(QUESTION, images=[SHOWN], edits=edits)
    cells = reader.page.locator(".px-compare td")
    eventually(lambda: cells.all_text_contents()[:2] == [SAID, broken.text])
    lost = float(re.match(r"([\d.]+) nats", cells.nth(2).text_content())[1])
    wanted = certainty(mini, QUESTION, reply, ()) - certainty(mini, QUESTION, reply, edits)
    assert lost == pytest.approx(wanted, rel=0.06)
    ends = reader.page.locator("canvas.px-ends")
    ends.hover(position={"x": 3, "y": 3})
    assert reader.caption().startswith("After row 1 stands [IMG_BREAK]")


def test_broken_answers_are_those_of_edits(read, mini):
    """What it says, and how much less likely the answer from before is."""
    reader, question = read(), "How many rows does the picture have?"
    reader.go("Break tokens")
    reader.button("Ask about the shape").click()
    reader.page.get_by_text("three", exact=True).first.wait_for()
    reader.button("taken away").click()
    cells = reader.page.locator(".px-compare td")
    plain = mini.generate(question, images=[SHOWN])
    edits = [px.edits.NoBreakTokens()]
    broken = mini.generate(question, images=[SHOWN], edits=edits)
    assert plain.text != broken.text
    eventually(lambda: cells.all_text_contents()[:2] == [plain.text, broken.text])
    lost = float(re.match(r"([\d.]+) nats", cells.nth(2).text_content())[1])
    wanted = certainty(mini, question, plain, ()) - certainty(mini, question, plain, edits)
    assert lost == pytest.approx(wanted, rel=0.06)  # two digits
    reader.button("as they are").click()
    eventually(lambda: reader.words() == ["three"])
    reader.page.get_by_text("Nothing is broken yet.").wait_for()


def certainty(model, question, reply, edits) -> float:
    """The log-probability of an answer and its end."""
    prompt, said = model.encode(question, [SHOWN]), [*reply.tokens, model.tokenizer.eos_id]
    logits = model.logits(replace(prompt, tokens=prompt.tokens + said), edits=edits)
    rows = np.asarray(logits[-len(said) - 1 : -1], np.float64)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return float(rows[np.arange(len(said)), said].sum())


def test_every_way_to_break_it_is_measured(read):
    reader = read()
    reader.go("Break it")
    cells = reader.page.locator(".px-compare td")

    def measured(act):
        act()
        reader.page.locator(".px-compare td", has_text="nats").wait_for()
        found = cells.all_text_contents()
        reader.button("Mend everything").click()
        reader.page.get_by_text("Nothing is broken yet.").wait_for()
        return found

    by_label = reader.page.get_by_label
    # An order drawn by chance may leave the answer as it is, three in a row do not.
    orders = [measured(lambda: by_label("Shuffle the patches").check()) for _ in range(3)]
    assert all(before == SAID for before, *_ in orders)
    assert any(now != SAID and not lost.startswith("−") for _, now, lost in orders)
    _, now, _ = measured(reader.button("Hide the patches that this word looks at").click)
    assert now != SAID
    reader.page.locator("summary").click()
    _, now, _ = measured(reader.button("Encoder, layer 0").click)
    assert now != SAID
    measured(reader.button("Decoder, layer 3, head 1").click)
    _, now, _ = measured(
        reader.page.get_by_role("group", name="Bits of a weight")
        .get_by_role("button", name="2")
        .click
    )
    measured(lambda: by_label("Squash to a square").check())
    assert reader.words() == SAID.split()
    by_label("Let two pictures see each other").check()
    reader.page.locator(".px-compare td", has_text="nats").wait_for()
    assert reader.page.locator(".px-strip button").count() == 2


def test_a_scene_is_arranged_by_hand(read):
    reader = read()
    reader.page.get_by_label("the letter K").click()
    reader.click((2, 3))  # the cell in row 2, column 2
    eventually(lambda: reader.words() == ["the", "letter", "K"])
    eventually(lambda: reader.caption() == "Row 2, column 2: the letter K.")
    reader.page.get_by_label("blue", exact=True).click()
    reader.page.get_by_label("a blue heart").click()
    reader.page.locator("canvas.px-patches").press("Enter")  # in the same cell
    eventually(lambda: reader.words() == ["a", "blue", "heart"])
    reader.page.locator(".px-card .px-done").wait_for()  # that was to be done at this stop
    reader.page.get_by_role("group", name="Columns").get_by_role("button", name="3").click()
    reader.page.get_by_label("Your question").fill("How many columns are there?")
    reader.page.keyboard.press("Enter")
    eventually(lambda: reader.words() == ["three"])
    reader.button("New scene").click()
    reader.page.get_by_text("That is right.").or_(
        reader.page.get_by_text("By the rules")
    ).wait_for()


def test_a_line_of_the_code_shows_its_tensor(read, reply):
    reader = read()
    reader.go("The code")
    lines = reader.page.locator(".px-code li")
    source = (live_page.STATIC / "network.js").read_text(encoding="utf-8")
    assert lines.count() == len(source.rstrip().split("\n"))
    marked = reader.page.locator(".px-code button").all_text_contents()
    assert len(marked) == source.count('see("') > 25
    reader.page.locator(".px-code button", has_text="const q = see").first.click()
    reader.page.get_by_text("vision.0.queries: 48 × 128").wait_for()
    reader.page.get_by_role("group", name="Layer").get_by_role("button", name="2").click()
    reader.page.get_by_text("vision.2.queries: 48 × 128").wait_for()
    reader.page.locator("canvas.px-tensor").hover(position={"x": 1, "y": 1})
    shown = reader.page.locator(".px-readout").text_content()
    queries = reader.page.evaluate(
        """async () => [...(await document.getElementById("page").model("tensor",
            { name: "whole", site: "vision.2.queries" })).tensor.data.slice(0, 1)]"""
    )
    number = shown.removeprefix("row 1, number 1: ").replace("−", "-")
    assert float(number) == pytest.approx(queries[0], rel=0.06)
    reader.page.locator(".px-code button", has_text='see("gate"').click()
    reader.button("Decoder").click()
    reader.page.get_by_text("text.2.gate: ").wait_for()


def test_the_tour_goes_through_all_stops(read):
    reader = read()
    step, title = reader.page.locator(".px-card .px-row span"), reader.page.locator(".px-card h2")
    for number, name in enumerate(STOPS[:8], 1):
        assert step.text_content() == f"Stop {number} of 8" and title.text_content() == name
        reader.page.locator(".px-card .px-strong").click()
    assert title.text_content() == "Break it" and not step.is_visible()
    for stop in STOPS:
        reader.go(stop)
        assert title.text_content() == stop
    reader.button("Guided tour").click()
    assert step.is_visible()


TRANSLATED = """
function translated(table) {
  for (const [key, words] of Object.entries(table)) {
    if (/Question$/.test(key)) continue;   // the model knows no other language
    if (typeof words === "string") table[key] = `¿${words.replace("¿", "")}`;
    else if (typeof words === "function") table[key] = (...given) => `¿${words(...given)}`;
    else translated(table[key]);
  }
}
translated(TEXT);
"""
SPOKEN = ".px-w, .px-chips, .px-code, .px-table td, .px-compare td, .px-thing, .px-colour"
"""What the model says and hears, and its code."""

LEFT = """(spoken) => {
  const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const said = (words) => { if (/[a-zA-Z]{3}/.test(words) && !words.includes("¿")) found.push(words); };
  while (walk.nextNode()) {
    const at = walk.currentNode.parentElement;
    if (!at.closest(`script, style, ${spoken}`)) said(at.textContent);
  }
  for (const at of document.querySelectorAll("[aria-label], [title], [placeholder]")) {
    if (!at.closest(spoken)) ["aria-label", "title", "placeholder"].forEach((name) => said(at.getAttribute(name) ?? ""));
  }
  said(document.title);
  return found;
}"""  # noqa: E501


def test_every_word_is_in_one_table(read, monkeypatch, tmp_path):
    """Translated, the page says nothing in English but what the model says and hears."""
    folder = shutil.copytree(live_page.STATIC, tmp_path / "live")
    table = (folder / "text.js").read_text(encoding="utf-8")
    for before in ("title", "opening", "noScript"):  # written into the page by Python
        table = table.replace(f'{before}: "', f'{before}: "¿')
    (folder / "text.js").write_text(table + TRANSLATED, encoding="utf-8")
    monkeypatch.setattr(live_page, "STATIC", folder)
    page = tmp_path / "live.html"
    assert main(["live", "-o", str(page)]) == 0
    reader, left = read(page), set()
    for stop in STOPS:
        reader.go(f"¿{stop}")
        reader.page.locator(".px-w").first.click()
        reader.click((1, 2))
        reader.page.wait_for_timeout(100)
        left |= set(reader.page.evaluate(LEFT, SPOKEN))
    assert not left


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_all_of_it(read, dark):
    reader = read(width=360, color_scheme="dark" if dark else "light")
    body = reader.page.locator("#page").evaluate("el => getComputedStyle(el).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", body)[:3])) < 200) == dark
    for stop in STOPS:
        reader.go(stop)
        wide = reader.page.evaluate("() => document.documentElement.scrollWidth")
        assert wide <= 360, stop


def test_the_keyboard_reaches_everything_and_focus_is_seen(read):
    reader = read()
    reader.go("Attention")
    canvas = reader.page.locator("canvas.px-patches")
    canvas.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        canvas.press(key)
    eventually(lambda: reader.caption().startswith("Patch row 2, column 2 looks most at"))
    assert reader.page.locator(".px-sight").get_attribute("aria-live") == "polite"
    reader.page.locator("canvas.px-pick").press("ArrowRight")
    eventually(lambda: "head 1." in reader.caption())
    nameless = reader.page.evaluate(
        """() => [...document.querySelectorAll("button, input, canvas[tabindex]")].filter((one) =>
            !(one.textContent || one.ariaLabel || one.labels?.length)).length"""
    )
    assert nameless == 0
    outline = "one => getComputedStyle(one).outlineWidth"
    assert reader.page.locator("canvas.px-pick").evaluate(outline) == "2px"


def test_another_model_in_another_layout_answers(read, tmp_path):
    """A random one with smaller patches and pictures; its answers have no end and no sense."""
    sizes = {"patch_size": 8, "image_size": 100}
    folder = make_hf(tmp_path / "theirs", vision=sizes)
    page = tmp_path / "theirs.html"
    assert main(["live", "-m", str(folder), "-o", str(page)]) == 0
    reader, model = read(page), px.load(folder, dtype="float32")
    assert reader.page.locator(".px-model").text_content().startswith("theirs · ")
    told = reader.page.evaluate("""() => document.getElementById("page").model("tensor",
        { name: "whole", site: "vision.embeddings" }).then(({ tensor }) => tensor.shape)""")
    assert told == [model.encode("", [SHOWN]).grids[0].patches, model.config.vision.hidden_size]
    reader.go("Break it")
    reader.button("taken away").click()
    reader.page.locator(".px-compare td", has_text="nats").wait_for()
    assert reader.page.evaluate("() => document.documentElement.scrollWidth") <= 1280
    reader.go("Picture")
    reader.page.get_by_label("the letter K").click()
    grid = model.encode("", [SHOWN]).grids[0]
    reader.click((0, grid.columns - 1), grid)
    eventually(lambda: reader.caption() == "Row 1, column 4: the letter K.")


def test_a_page_that_cannot_run_says_so(chromium, written, tmp_path):
    text = written.read_text(encoding="utf-8").replace("const answers = {", "const answers = ;{", 1)
    (tmp_path / "live.html").write_text(text, encoding="utf-8")
    reader = Reader(chromium, tmp_path / "live.html")
    reader.page.get_by_text("The page cannot run here: ").wait_for()
    assert reader.troubles
    reader.context.close()


# Faults ----------------------------------------------------------------------------------------

FAULTS = [
    ("easel.js", "light.to(bytesOf(values));", "", "nothing is lit"),
    ("stops.js", "row = own(found[layer][head])", "row = own(found[layer][0])", "another head"),
    ("page.js", "page.picture(), map = page.run().pieces[word.tokens[0]]",
     "page.picture(), map = page.run().pieces[0]", "a word"),
    ("maps.js", "Math.max(value, 0) / most", "(1 - Math.max(value, 0) / most)", "reversed"),
    ("runs.js", "prompt.tokens.length - 1 + token", "prompt.tokens.length + token", "off by one"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "right", "wrong", "what"), FAULTS)
def test_a_fault_is_seen(chromium, reply, tmp_path, monkeypatch, file, right, wrong, what):
    """One of the two ways in which the picture is lit has other colours than Python's numbers."""
    static = tmp_path / "live"
    shutil.copytree(live_page.STATIC, static)
    text = (static / file).read_text(encoding="utf-8")
    assert text.count(right) == 1, what
    (static / file).write_text(text.replace(right, wrong), encoding="utf-8")
    monkeypatch.setattr(live_page, "STATIC", static)
    page = tmp_path / "page.html"
    page.write_text(live_page.page(open_checkpoint(CHECKPOINT), "mini"), encoding="utf-8")
    reader = Reader(chromium, page).answered()
    reader.go("Answer")
    reader.page.locator(".px-w").nth(2).click()
    reader.page.wait_for_timeout(300)
    word = reader.shows(reply.trace.image_attention(2))
    reader.go("Attention")
    reader.click((3, 2))
    box = reader.page.locator("canvas.px-pick").bounding_box()
    reader.page.mouse.click(box["x"] + box["width"] * 2.5 / 4, box["y"] + box["height"] * 1.5 / 4)
    reader.page.wait_for_timeout(300)
    patch = reader.shows(reply.trace.vision_attention(1, (3, 2), 2))
    reader.context.close()
    assert not (word and patch), what


# WebKit ----------------------------------------------------------------------------------------


def test_webkit_answers_as_python_does(written, mini, tmp_path):
    needed_webkit()
    found = answers.Comparison()
    with webkit.WebKit(tmp_path) as browser:
        browser.open(written)
        browser.wait("return document.getElementById('page').dataset.ready")
        words = "return [...document.querySelectorAll('.px-w')].map((one) => one.textContent)"
        assert " ".join(browser.run(words)) == SAID
        for asked in islice(answers.questions(), 5):
            ask = f"return ({answers.ASK})(arguments[0])"
            answers.compare(mini, asked, lambda told, ask=ask: browser.run(ask, told), found)
        browser.click(".px-stops button:nth-child(4)", 0.5, 0.5)
        browser.click("canvas.px-patches", 2.5 / GRID[1], 3.5 / GRID[0])
        browser.wait("return document.querySelector('.px-sight').textContent.startsWith("
                     "'Patch row 4, column 3 looks most at')")  # fmt: skip
        assert browser.troubles() == []
    assert found.good, f"{found} {found.different}"
