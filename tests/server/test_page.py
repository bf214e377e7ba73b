"""The page for people, in a real browser that asks a real server."""

import base64
import io
import json
import re
from pathlib import Path

import pytest
import webkit
from browsers import FLAGS, needed_browser, needed_webkit
from pdfs import COLOURS, make_pdf
from PIL import Image
from views import EXTERNAL, eventually, in_node, scripts

from pixtral_mlx.interpret import words_of
from pixtral_mlx.server.page import STATIC

QUESTION, NEXT = "What do you see?", "How many rows are there?"
CHAT = "**/v1/chat/completions"
HOSTILE = '<img src=x onerror="document.title=1">'

PIECES = [
    ["A", " wide", " pic", "ture", ",", " two", " rows", "."],
    ["One", ".\n\n", "Two", "\n", "-", " three"],
    ["", " é", "t", "é"],
    ["日", "本", "語", "。", "です", " and", " more"],
    ["ส", "วั", "ส", "ดี"],
    ["  ", "x", " ", " ", "y", ""],
    ["\U0001f600", "\U0001f600", " ok", "!"],
    ["", "", "a"],
    [],
]
"""Tokens of answers, some of which end inside a character."""


def test_the_modules_in_node(tmp_path):
    samples = [
        {"pieces": pieces, "words": [[word.text, word.tokens] for word in words_of(pieces)]}
        for pieces in PIECES
    ]
    words = tmp_path / "words.json"
    words.write_text(json.dumps(samples), encoding="utf-8")
    file = Path(__file__).parent / "js" / "page.test.mjs"
    done = in_node(file, scripts(tmp_path / "static", STATIC), WORDS=str(words))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"pass [1-9]", done.stdout), "no test ran"


def test_what_the_page_may_do(server):
    found = server.http.get("/")
    assert found.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(
        part.split(" ", 1) for part in found.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert policy["connect-src"] == "'self'" and policy["img-src"] == "data: blob:"
    for kind in ("script-src", "style-src"):
        assert re.fullmatch(r"'sha256-[\w+/]{43}='", policy[kind]), policy
    assert found.headers["x-content-type-options"] == "nosniff"
    assert found.headers["referrer-policy"] == "no-referrer"
    assert not EXTERNAL.search(found.text)
    for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
        assert server.http.get("/", headers=headers).status_code == 403


# In a browser ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium(playwright):
    """A browser that all tests of this file share."""
    browser = playwright.chromium.launch(executable_path=needed_browser(), args=FLAGS)
    yield browser
    browser.close()


class Visitor:
    """The page of a server, in a browser that has never been there.

    Attributes:
        asked: the requests for answers.
        troubles: errors of the script and violations of the policy.
    """

    def __init__(self, browser, server, width=1280, **options):
        self.server, self.asked, self.troubles = server, [], []
        options = {"reduced_motion": "reduce", **options}
        size = {"width": width, "height": 800}
        self.context = browser.new_context(viewport=size, **options)
        self.context.set_default_timeout(20_000)
        self.open()

    def open(self):
        """In a tab of its own, which is the one that is looked at from then on."""
        self.page = self.context.new_page()
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("request", self._note)
        self.page.goto(self.server.address)
        self.words = self.page.locator("[data-word]")
        self.box = self.page.get_by_label("Your question")
        self.problem = self.page.get_by_role("alert")
        self.answers = self.page.locator(".px-prose")

    def _hear(self, message):
        refused = message.text.startswith("Failed to load resource")  # which a test asks for
        if message.type == "error" and not refused:
            self.troubles.append(message.text)

    def _note(self, request):
        if request.method == "POST":
            self.asked.append(request.post_data_json)

    def add(self, *files):
        """Choose files, each (name, kind, bytes)."""
        made = [{"name": name, "mimeType": kind, "buffer": data} for name, kind, data in files]
        self.page.locator("input[type=file]").first.set_input_files(made)

    def ask(self, text: str):
        self.box.fill(text)
        self.box.press("Enter")

    def answered(self, count: int = 1) -> str:
        """The text of the last of so many answers, when it is whole."""
        self.page.locator(".px-under:visible").nth(count - 1).wait_for()
        return self.answers.nth(count - 1).text_content()

    def holds(self, text):
        """The box has this in it, or soon has: what was kept is brought back from a database."""
        from playwright.sync_api import expect

        expect(self.box).to_have_value(text, timeout=20_000)

    def says(self, text: str):
        self.page.get_by_text(text).first.wait_for()

    def endless(self):
        """From now on answers never say their end token."""

        def more(route):
            body = route.request.post_data_json
            body |= {"logit_bias": {"2": -1_000_000}, "max_tokens": 8000}
            route.continue_(post_data=json.dumps(body))

        self.page.route(CHAT, more)

    def next_answer(self, **response):
        """What a server will answer that is not there."""
        self.page.route(CHAT, lambda route: route.fulfill(**response), times=1)

    def colours(self, grid) -> list[list[int]]:
        """Near the middle of each patch, row by row."""
        return self.page.locator("canvas.px-patches").evaluate(
            """(canvas, [rows, columns]) => {
                const pen = canvas.getContext('2d'), found = [];
                for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) {
                    const x = (c + 0.4) / columns * canvas.width;
                    const y = (r + 0.4) / rows * canvas.height;
                    found.push([...pen.getImageData(x, y, 1, 1).data].slice(0, 3));
                }
                return found;
            }""",
            grid,
        )


@pytest.fixture
def visit(chromium, server):
    """Opens the page; nothing may go wrong in its script."""
    opened = []

    def open_page(at=None, **options):
        opened.append(Visitor(chromium, at or server, **options))
        return opened[-1]

    yield open_page
    for visitor in opened:
        visitor.context.close()
        assert visitor.troubles == []


@pytest.fixture(scope="module")
def png(drawing):
    """The picture of `drawing` as a file to choose."""
    return "scene.png", "image/png", base64.b64decode(drawing[0].partition(",")[2])


@pytest.fixture
def said(server):
    """What the server answers to messages, with pictures and where it looked."""

    def ask(messages) -> dict:
        return server.post({"messages": messages, "trace": "pictures"}).json()

    return ask


def content(found) -> str:
    return found["choices"][0]["message"]["content"]


def events(*chunks) -> str:
    """A stream of a server."""
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


def expected_colours(look, picture) -> list[list[float] | None]:
    """Of each patch: the picture's own colour, as strong as its light is, over grey; None at the
    edge of a shape."""
    (rows, columns), values = look["grid"], base64.b64decode(look["map"])
    pixels = Image.open(io.BytesIO(base64.b64decode(picture["url"].partition(",")[2])))
    found = []
    for number, value in enumerate(values):
        row, column = divmod(number, columns)
        x = int((column + 0.4) / columns * pixels.width)
        y = int((row + 0.4) / rows * pixels.height)
        near = pixels.crop((x - 1, y - 1, x + 2, y + 2)).getextrema()
        if any(high - low > 6 for low, high in near):
            found.append(None)
            continue
        r, g, b = pixels.getpixel((x, y))
        dim = 0.4 * (0.299 * r + 0.587 * g + 0.114 * b)
        found.append([dim + (own - dim) * (value / 255) ** 0.5 for own in (r, g, b)])
    return found


def shows(visitor, look, picture) -> bool:
    """Whether a picture stands there under the light of a look."""
    seen, wanted = visitor.colours(look["grid"]), expected_colours(look, picture)
    pairs = [pair for pair in zip(seen, wanted, strict=True) if pair[1] is not None]
    assert len(pairs) >= 8
    return all(colour == pytest.approx(own, abs=8) for colour, own in pairs)


def test_a_word_lights_the_picture_where_it_looked(visit, png, about, said):
    visitor = visit()
    visitor.add(png)
    visitor.ask(QUESTION)
    text, found = visitor.answered(), said(about(QUESTION))
    assert text == content(found)
    (picture,), (choice,) = found["pictures"], found["choices"]
    words = words_of([look["token"] for look in choice["trace"]])
    for number in (0, len(words) // 2):
        word, look = words[number].text, choice["trace"][words[number].tokens[0]]
        visitor.words.nth(number).click()
        visitor.says(f"“{word}” looks most at patch row")
        eventually(lambda look=look: shows(visitor, look, picture))
    visitor.page.keyboard.press("ArrowRight")
    visitor.says(f"“{words[number + 1].text}” looks most")
    visitor.page.get_by_role("button", name="Show the whole picture").click()
    visitor.says("Click a word of the answer")
    look["map"] = base64.b64encode(b"\xff" * 24).decode()  # as light as can be, everywhere
    eventually(lambda: shows(visitor, look, picture))


def test_a_square_of_patches_is_called_one(visit, png, about, said):
    """As of models that merge patches."""
    visitor, found = visit(), said(about(QUESTION))
    (picture,), ((token, *_),) = found["pictures"], [found["choices"][0]["trace"]]
    delta = {"delta": {"content": token["token"]}, "trace": [token]}
    stream = events(
        {"choices": [], "pictures": [{**picture, "merge": 2}]},
        {"choices": [delta]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    )
    visitor.next_answer(body=stream, headers={"content-type": "text/event-stream"})
    visitor.add(png)
    visitor.ask(QUESTION)
    visitor.words.first.click()
    visitor.says(f"“{token['token']}” looks most at square row")
    visitor.page.get_by_text("Each square is one token of the model: 2 × 2 patches").wait_for()


def test_a_conversation_goes_on_is_kept_and_can_be_asked_anew(visit, png, about, said):
    visitor = visit()
    visitor.add(png)
    visitor.ask(QUESTION)
    first = visitor.answered()
    visitor.ask(NEXT)
    second = visitor.answered(2)
    answer = {"role": "assistant", "content": first}
    assert second == content(said([*about(QUESTION), answer, {"role": "user", "content": NEXT}]))
    visitor.says("known from before")
    assert [body["trace"] for body in visitor.asked] == ["pictures", "maps"]
    assert [message["role"] for message in visitor.asked[1]["messages"]] == [
        "user", "assistant", "user",
    ]  # fmt: skip

    visitor.page.reload()
    assert [visitor.answered(1), visitor.answered(2)] == [first, second]
    visitor.answers.first.locator("[data-word]").first.click()
    visitor.says(f"“{first.split()[0]}” looks most")

    visitor.page.get_by_role("button", name=f"Edit “{QUESTION}”").click()
    visitor.holds(QUESTION)
    visitor.ask(NEXT)  # instead
    visitor.page.locator(".px-turn").nth(1).wait_for(state="detached")
    assert visitor.answered() == content(said(about(NEXT)))
    assert len(visitor.asked[-1]["messages"]) == 1

    visitor.page.get_by_role("button", name="New conversation").click()
    visitor.says("Ask about a picture")
    visitor.page.reload()
    assert visitor.page.locator(".px-turn").count() == 0
    visitor.page.locator("summary").click()
    visitor.page.get_by_role("listitem").get_by_text(NEXT).click()
    assert visitor.answered() == content(said(about(NEXT)))
    assert visitor.page.evaluate("localStorage.length") == 0
    visitor.page.on("dialog", lambda dialog: dialog.accept())
    visitor.page.locator("summary").click()
    visitor.page.get_by_role("button", name=f"Delete “{NEXT}”").click()
    visitor.page.locator("summary").wait_for(state="hidden")


def test_stop_frees_the_place_on_the_server(visit, server):
    visitor = visit()
    visitor.endless()
    visitor.ask("Why?")
    lengths = set()  # of what is written, as it grows
    eventually(lambda: lengths.add(len(visitor.answers.first.text_content())) or len(lengths) > 3)
    assert server.metric("running") == 1
    visitor.page.get_by_role("button", name="Stop").click()
    visitor.says("Stopped.")
    eventually(lambda: not server.metric("running"), 5)
    kept = visitor.answers.first.text_content()
    visitor.page.unroute(CHAT)
    visitor.ask("And now?")
    visitor.page.locator(".px-turn").nth(1).wait_for()
    assert visitor.asked[-1]["messages"][1] == {"role": "assistant", "content": kept}


def test_the_light_follows_what_is_written_until_a_word_is_chosen(visit, png):
    visitor = visit(reduced_motion="no-preference")
    visitor.add(png)
    visitor.endless()
    visitor.ask(QUESTION)
    sight, said = visitor.page.locator(".px-sight"), set()
    eventually(lambda: said.add(sight.text_content()) or len(said) > 3)
    visitor.words.first.click()
    first = visitor.words.first.text_content()
    visitor.says(f"“{first}” looks most")
    words = visitor.words.element_handles()
    eventually(lambda: visitor.words.count() > len(words) + 3)
    # Those that stand there stay, so that clicks find them and a selection lasts.
    assert all(word.evaluate("word => word.isConnected") for word in words[:-1])
    assert sight.text_content().startswith(f"“{first}” looks most")
    visitor.page.get_by_role("button", name="Stop").click()
    visitor.says("Stopped.")
    assert sight.text_content().startswith(f"“{first}” looks most")


def test_the_pages_of_a_pdf_are_seen(visit):
    visitor = visit()
    visitor.add(("report.pdf", "application/pdf", make_pdf(3, (200, 16))))
    visitor.page.get_by_label("Pages of report.pdf").fill("2-3")
    visitor.endless()  # what it says of them does not matter
    visitor.ask(QUESTION)
    second = visitor.page.get_by_role("button", name="Picture 2: report.pdf, page 3")
    visitor.words.nth(3).wait_for()
    visitor.page.get_by_role("button", name="Stop").click()
    visitor.says("Stopped.")
    second.click()
    assert visitor.page.locator(".px-strip button").count() == 2
    eventually(lambda: visitor.colours([1, 1]) == [pytest.approx(COLOURS[2], abs=12)])


def test_a_key_is_asked_for_at_once_and_kept_in_the_tab(visit, start, png):
    visitor = visit(start(PIXTRAL_MLX_API_KEY="Zebra-1"))
    field = visitor.page.get_by_label("Key of this server")
    field.fill("Zebra-2")
    field.press("Enter")
    visitor.says("That is not the key of this server.")
    field.fill("Zebra-1")
    field.press("Enter")
    visitor.says("pixtral-mini")
    field.wait_for(state="hidden")
    visitor.add(png)
    visitor.ask(QUESTION)
    assert visitor.answered()
    visitor.page.reload()
    visitor.says("pixtral-mini")
    assert not field.is_visible()
    assert "Zebra" not in json.dumps(visitor.page.evaluate("({...localStorage})"))


def test_what_is_hostile_stays_text(visit, png):
    visitor = visit()
    name = f"{HOSTILE}.png"
    visitor.add((name, *png[1:]), (f"{HOSTILE}.txt", "text/plain", b"x"))
    visitor.says(f"{HOSTILE}.txt is neither a picture nor a PDF")
    token = f"**{HOSTILE}**\n| {HOSTILE} |\n```\n{HOSTILE}"
    look = {"confidence": 1, "image": 0, "share": 0.1, "grid": [1, 1], "map": "/w=="}
    for number, trace in enumerate(([{"token": token, **look}], []), start=1):
        delta = {"delta": {"content": token}, "trace": trace}
        body = events({"choices": [delta]}, {"choices": [{"delta": {}, "finish_reason": "stop"}]})
        visitor.next_answer(body=body, headers={"content-type": "text/event-stream"})
        visitor.ask(HOSTILE)
        assert visitor.answered(number).count(HOSTILE) == 3
    visitor.next_answer(status=400, json={"error": {"message": HOSTILE}})
    visitor.ask("And?")
    visitor.problem.get_by_text(HOSTILE).wait_for()
    visitor.page.reload()
    visitor.answered()
    visitor.page.locator("summary").click()
    assert visitor.page.locator(".px-menu").text_content().count(HOSTILE) == 1
    assert visitor.page.locator("img:not([src^='blob:']):not([src^='data:'])").count() == 0
    assert visitor.page.title() == "Pixtral"


def test_what_goes_wrong_is_one_line_and_no_question_is_lost(visit, png):
    visitor = visit()
    visitor.add(png)
    busy = iter([(429, "All places are taken"), (503, "The model is being opened")])

    def refuse(route):
        status, _ = next(busy, (None, None))
        if status is None:
            route.continue_()
        else:
            error = {"error": {"message": "no"}}
            route.fulfill(status=status, headers={"retry-after": "1"}, json=error)

    visitor.page.route(CHAT, refuse)
    visitor.ask(QUESTION)
    for reason in ("All places are taken", "The model is being opened"):
        visitor.page.locator(f".px-answer[data-waiting^='{reason}: asking again in']").wait_for()
    assert visitor.answered()
    visitor.page.unroute(CHAT)

    visitor.page.route("**/v1/**", lambda route: route.abort())
    visitor.add(("more.png", *png[1:]))
    visitor.ask(NEXT)
    visitor.says("The server does not answer")
    visitor.says("no server")
    visitor.holds(NEXT)
    assert visitor.page.get_by_role("button", name="Remove more.png").is_visible()
    assert visitor.page.locator(".px-turn").count() == 1
    visitor.page.wait_for_timeout(500)  # the browser's database writes in its own time
    visitor.page.reload()
    visitor.holds(NEXT)
    visitor.page.unroute("**/v1/**")
    visitor.box.press("Enter")
    assert visitor.answered(2) is not None


def test_pictures_are_dropped_and_pasted_lines_written_answers_copied(visit, png):
    visitor = visit(permissions=["clipboard-read", "clipboard-write"])
    for kind, event, field in (
        ("drop", "DragEvent", "dataTransfer"), ("paste", "ClipboardEvent", "clipboardData"),
    ):  # fmt: skip
        visitor.page.evaluate(
            """([kind, event, field, bytes]) => {
                const data = new DataTransfer();
                const options = { type: 'image/png' };
                data.items.add(new File([new Uint8Array(bytes)], `${kind}.png`, options));
                document.getElementById('page').dispatchEvent(new window[event](
                    kind, { [field]: data, bubbles: true, cancelable: true }));
            }""",
            [kind, event, field, [*png[2]]],
        )
        visitor.page.get_by_role("button", name=f"Remove {kind}.png").wait_for()
    visitor.page.get_by_role("button", name="Remove drop.png").click()
    visitor.box.press_sequentially("What do")
    visitor.box.press("Shift+Enter")
    visitor.box.press_sequentially("you see?")
    assert visitor.asked == []
    visitor.box.press("Enter")
    visitor.answered()
    text = visitor.asked[0]["messages"][0]["content"][-1]["text"]
    assert text == "What do\nyou see?" and len(visitor.asked[0]["messages"][0]["content"]) == 2
    visitor.page.get_by_role("button", name="Copy").click()
    visitor.says("Copied")
    copied = visitor.page.evaluate("navigator.clipboard.readText()")
    assert copied == visitor.answered()

    visitor.box.fill("Not yet asked")
    visitor.page.get_by_role("button", name="New conversation").click()
    visitor.holds("Not yet asked")
    visitor.page.locator("summary").click()
    visitor.page.get_by_role("listitem").get_by_text("What do").click()
    visitor.answered()
    visitor.holds("")
    visitor.page.locator("summary").click()
    visitor.page.get_by_role("listitem").get_by_text("Not yet asked").click()
    visitor.page.locator(".px-turn").wait_for(state="detached")
    visitor.holds("Not yet asked")


def test_two_tabs_that_go_on_with_one_conversation_lose_nothing(visit, png):
    visitor = visit()
    visitor.add(png)
    visitor.ask(QUESTION)
    visitor.answered()
    first = visitor.page
    visitor.open()
    visitor.answered()
    for page, text in ((first, NEXT), (visitor.page, "Why?")):
        page.get_by_label("Your question").fill(text)
        page.get_by_label("Your question").press("Enter")
        page.locator(".px-under:visible").nth(1).wait_for()
    visitor.page.locator(".px-menu li").nth(1).wait_for(state="attached")
    first.reload()
    first.locator(".px-turn").nth(1).wait_for()
    visitor.page.reload()
    visitor.page.locator(".px-turn").nth(1).wait_for()
    for page, text in ((first, NEXT), (visitor.page, "Why?")):
        assert page.locator(".px-asked .px-text").all_text_contents() == [QUESTION, text]
    first.on("dialog", lambda dialog: dialog.accept())
    first.locator("summary").click()
    first.locator("li:has([aria-current]) button").last.click()  # its picture is the other's too
    first.locator(".px-turn").first.wait_for(state="detached")
    visitor.page.reload()
    visitor.answered(2)
    visitor.page.locator("canvas.px-patches").wait_for()


def test_a_browser_that_keeps_no_more_says_so(visit, png):
    visitor = visit()
    visitor.page.evaluate(
        """() => { IDBObjectStore.prototype.put = () => {
            throw new DOMException('full', 'QuotaExceededError');
        }; }"""
    )
    visitor.ask("Why?")
    visitor.says("This browser does not keep this conversation")
    visitor.says("it is lost when the page is closed")


@pytest.mark.parametrize("width", [390, 1920])
def test_nothing_is_wider_than_the_screen(visit, png, width):
    visitor = visit(width=width, color_scheme="dark")
    fits = "[document.documentElement, document.body].every(e => e.scrollWidth <= innerWidth)"
    assert visitor.page.evaluate(fits)
    visitor.add((f"{'long' * 60}.png", *png[1:]))
    visitor.ask(f"{QUESTION} {'unbroken' * 40}")
    visitor.answered()
    assert visitor.page.evaluate(fits)
    picture, answer, box = (
        visitor.page.locator(name).first.bounding_box()
        for name in ("canvas.px-patches", ".px-prose", ".px-composer")
    )
    if width == 390:
        assert picture["y"] + picture["height"] < answer["y"]
    else:
        assert picture["x"] + picture["width"] < answer["x"]
    assert box["y"] + box["height"] <= 800
    paper = visitor.page.evaluate(
        "getComputedStyle(document.getElementById('page')).backgroundColor"
    )
    assert paper == "rgb(23, 24, 26)"


def test_safaris_engine_answers_and_keeps_the_conversation(server, tmp_path):
    """In a private window, where it takes no blobs into its database and says nothing of it."""
    needed_webkit()
    prose = "return document.querySelector('.px-turn .px-prose')?.textContent"
    with webkit.WebKit(tmp_path) as browser:
        browser.go(server.address)
        browser.wait("document.querySelector('.px-sample').click(); return true")
        browser.wait("return document.querySelector('.px-under:not([hidden])') !== null")
        answer = browser.run(prose)
        word = browser.wait(
            "const word = document.querySelectorAll('[data-word]')[1]; word.click();"
            "return word.textContent"
        )
        browser.wait(
            "return document.querySelector('.px-sight').textContent.startsWith(arguments[0])",
            f"“{word}” looks most at patch row",
        )
        browser.wait("return document.querySelectorAll('.px-menu li').length > 0")  # it is kept
        browser.go(server.address)
        assert browser.wait(prose) == answer
