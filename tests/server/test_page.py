"""The page for people, in a real browser that asks a real server."""

import base64
import io
import re

import pytest
from browsers import FLAGS, needed_browser

QUESTION = "What do you see?"


@pytest.fixture(scope="module")
def chromium():
    """A browser that all tests of this file share."""
    path = needed_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


class Visitor:
    """A page of the server in a browser that has never been there.

    Attributes:
        troubles: errors of the console and of the script, violations of the policy among them.
    """

    def __init__(self, browser, server, **options):
        self.server, self.troubles = server, []
        size = {"width": 1280, "height": 800}
        self.context = browser.new_context(**{"viewport": size, **options})
        self.context.set_default_timeout(20_000)
        self.open()

    def open(self):
        self.page = self.context.new_page()
        self.page.on(
            "console", lambda m: self.troubles.append(m.text) if m.type == "error" else None
        )
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.goto(self.server.address)
        self.words = self.page.locator("[data-word]")
        self.box = self.page.get_by_label("Your question")
        self.sight = self.page.locator(".px-sight")
        self.problem = self.page.get_by_role("alert")
        self.answers = self.page.locator(".px-answer")

    def add(self, name: str, kind: str, data: bytes):
        file = {"name": name, "mimeType": kind, "buffer": data}
        self.page.locator("input[type=file]").first.set_input_files([file])

    def ask(self, text: str):
        self.box.fill(text)
        self.box.press("Enter")

    def answered(self, count: int = 1) -> str:
        """The text of the last of so many answers, when it is whole."""
        self.page.locator(".px-under:visible").nth(count - 1).wait_for()
        return self.answers.nth(count - 1).locator(".px-prose").text_content()


@pytest.fixture
def visit(chromium, server):
    """Opens the page in a browser of its own; nothing may go wrong in it unless a test says so."""
    opened = []

    def open_page(at=None, **options):
        opened.append(Visitor(chromium, at or server, **options))
        return opened[-1]

    yield open_page
    for visitor in opened:
        visitor.context.close()
        assert visitor.troubles == []


@pytest.fixture(scope="session")
def png(drawing):
    """The picture of `drawing` as a file."""
    return base64.b64decode(drawing[0].partition(",")[2])


def traced(server, messages) -> dict:
    """What the server itself says: its answer, where it looked, and the pictures."""
    return server.post({"messages": messages, "trace": "pictures"}).json()


def expected_colour(look, pixels, patch):
    """Of the middle of a patch: the picture's own colour, as strong as its light is, over grey."""
    _, columns = look["grid"]
    row, column = patch
    values = base64.b64decode(look["map"])
    light = (values[row * columns + column] / 255) ** 0.5
    r, g, b = pixels.getpixel((int((column + 0.4) * 16), int((row + 0.4) * 16)))
    dim = 0.4 * (0.299 * r + 0.587 * g + 0.114 * b)
    return [dim + (own - dim) * light for own in (r, g, b)]


def even(pixels, patch):
    """Whether the picture has no edge around the middle of a patch: the page draws the file, and
    the model's picture, made smaller, has other edges."""
    row, column = patch
    left, top = int((column + 0.4) * 16) - 1, int((row + 0.4) * 16) - 1
    around = pixels.crop((left, top, left + 3, top + 3)).getextrema()
    return all(high - low < 40 for low, high in around)


def colour_at(visitor, patch, grid):
    (row, column), (rows, columns) = patch, grid
    return visitor.page.locator("canvas.px-patches").evaluate(
        """(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(
            Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1).data].slice(0, 3)""",
        [(column + 0.4) / columns, (row + 0.4) / rows],
    )


def test_a_word_lights_the_picture_where_it_looked(visit, server, png, about):
    from PIL import Image

    visitor = visit(reduced_motion="reduce")
    visitor.add("scene.png", "image/png", png)
    visitor.ask(QUESTION)
    text = visitor.answered()
    found = traced(server, about(QUESTION))
    assert text == found["choices"][0]["message"]["content"]
    looks = found["choices"][0]["trace"]
    assert re.fullmatch(r"data:image/png;base64,.*", found["pictures"][0]["url"])
    pixels = Image.open(io.BytesIO(base64.b64decode(found["pictures"][0]["url"][22:])))
    seen = [look["token"].strip() for look in looks]
    for word in ("two", "three"):
        look = looks[seen.index(word)]
        visitor.words.get_by_text(word, exact=True).click()
        visitor.page.get_by_text(f"“{word}” looks most at patch row").wait_for()
        rows, columns = look["grid"]
        places = [(row, column) for row in range(rows) for column in range(columns)]
        places = [place for place in places if even(pixels, place)]
        assert len(places) >= 10
        colours = [colour_at(visitor, place, look["grid"]) for place in places]
        for place, colour in zip(places, colours, strict=True):
            wanted = expected_colour(look, pixels, place)
            assert colour == pytest.approx(wanted, abs=25), (word, place)
