"""What holds for each of the ten widgets in a real notebook: many on a page, pictures of them,
and what a notebook or a page shows without a kernel."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

KINDS = (
    "Ablation", "AnswerLens", "MaskView", "MemoryView", "PatchGrid", "QuantizationView",
    "RopeExplorer", "SequenceStrip", "VisionAttention", "Studio",
)  # fmt: skip
GRID = (8, 10)
SETUP = f"""
import base64
import pixtral_mlx as px
import pixtral_mlx_widgets as w
from pixtral_mlx.mini import scene
session = w.Session("mini", dtype="float32")
session.ask("Describe the picture.", images=[scene(3, 4, 5).image])
session.wait(60)
session.select(patch=(2, 3), token=4)
every = [getattr(w, kind)(session) for _ in range(TIMES) for kind in {KINDS}]
first = dict(zip({KINDS}, every))
first["Ablation"].edits = [px.edits.NoBreakTokens()]
first["Ablation"].run(); first["Ablation"].wait(60)
first["QuantizationView"].do_measure(); first["QuantizationView"].wait(60)
first["AnswerLens"].measure("knock", 4, 0)
first["MaskView"].add(scene(8, 2, 3).image)
first["MaskView"].broken = True
for one in every:
    display(one)
"""
ROOTS = ".px-widget:not(.px-part .px-widget)"
"""The thirty, without those inside of a Studio."""

DRAWN = """root => [...root.querySelectorAll('canvas')].every(one => {
    if (!one.clientWidth) return true;
    const data = one.getContext('2d').getImageData(0, 0, one.width, one.height).data;
    return new Set(new Uint32Array(data.buffer)).size > 1;
})"""

SEEN = """root => {
    const corner = root.getBoundingClientRect();
    const spots = [...root.querySelectorAll('canvas')].filter(one => one.clientWidth).map(one => {
        const box = one.getBoundingClientRect();
        const pen = one.getContext('2d');
        return [[0.21, 0.32], [0.52, 0.53], [0.83, 0.71], [0.1, 0.6]].map(([x, y]) => {
            const [left, top] = [Math.floor(x * one.width), Math.floor(y * one.height)];
            const around = [...pen.getImageData(left - 2, top - 2, 5, 5).data];
            return {
                x: box.left - corner.left + x * box.width, y: box.top - corner.top + y * box.height,
                colour: around.slice(48, 52), even: around.every((one, i) => one === around[i % 4]),
            };
        });
    });
    return {
        spots: spots.flat(), width: root.offsetWidth, height: root.offsetHeight,
        caption: root.querySelector(':scope > .px-caption').textContent,
        words: root.querySelector('.px-body').textContent,
    };
}"""
"""What a reader sees of a widget: its words, and colours of its canvases with their places."""


def opened(lab, name, times):
    """A notebook with so many widgets of each kind."""
    book = lab.notebook(name, [f"TIMES = {times}\n{SETUP}"])
    wanted = times * len(KINDS)
    book.page.wait_for_function(f"document.querySelectorAll('{ROOTS}').length === {wanted}")
    book.eventually("len(first['MaskView'].leak.get('features', ()))", 2)
    return book


@pytest.fixture(scope="module")
def page(lab):
    book = opened(lab, "every", 1)
    yield book
    book.close()


def root(page, kind, number=0):
    """The element of one of the widgets of a kind."""
    found = page.page.locator(ROOTS).nth(KINDS.index(kind) + number * len(KINDS))
    found.scroll_into_view_if_needed()
    return found


def drawn(page, element):
    """The element, once all its canvases have more than one colour."""
    page.page.wait_for_function(DRAWN, arg=element.element_handle())
    page.page.wait_for_timeout(400)
    return element


@pytest.fixture(scope="module")
def thirty(lab):
    book = opened(lab, "thirty", 3)
    yield book
    book.close()


def test_thirty_widgets_of_all_kinds_stay_usable(thirty):
    page = thirty
    problems = page.page.locator(".px-problem:visible")
    assert problems.count() == 0, problems.all_text_contents()
    last = root(page, "PatchGrid", 2).locator("canvas.px-patches")
    page.click_patch(last, (5, 7), GRID)
    page.eventually("{one.patch for one in every if 'patch' in one.shared} == {(5, 7)}", True)
    caption = root(page, "VisionAttention").locator(".px-caption")
    page.page.wait_for_function(
        "e => e.textContent.includes('patch row 6, column 8')", arg=caption.element_handle()
    )
    root(page, "AnswerLens", 2).locator(".px-word").nth(2).click()
    token = page.kernel("first['AnswerLens'].words[2]['tokens'][0]")
    page.eventually("[*{one.token for one in every if 'token' in one.shared}]", [token])
    # A pointer that moves over one of thirty waits for no other: frames with it beside frames idle.
    moving, idle = (frames(last, moves) for moves in (True, False))
    print(f"median frame {moving:.1f} ms with a moving pointer, {idle:.1f} ms without")
    assert moving < idle + 34  # two frames at 60 Hz


def test_a_kernel_that_was_started_again_is_told_of(thirty):
    thirty.page.evaluate("jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    thirty.page.wait_for_timeout(500)
    says_what_is_missing(thirty)


def frames(canvas, moves):
    """The median of sixty frames in milliseconds, in which the pointer moves, or does not."""
    return canvas.evaluate(
        """async (canvas, moves) => {
            const box = canvas.getBoundingClientRect();
            const spans = [];
            for (let i = 0; i < 60; i++) {
                const start = performance.now();
                if (moves) canvas.dispatchEvent(new PointerEvent('pointermove', {
                    clientX: box.left + (i + 0.5) / 60 * box.width,
                    clientY: box.top + (i + 0.5) / 60 * box.height,
                }));
                await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
                spans.push(performance.now() - start);
            }
            return spans.sort((a, b) => a - b)[30];
        }""",
        moves,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_what_is_displayed(page, kind):
    element = drawn(page, root(page, kind))
    page.run_code("w.view.page.png = None")  # so that no other browser can draw it
    png = page.kernel(f"base64.b64encode(first[{kind!r}].to_png()).decode()")
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    seen = element.evaluate(SEEN)
    assert picture.size == (2 * seen["width"], 2 * seen["height"])
    check_spots(picture, seen["spots"])
    assert any(spot["even"] for spot in seen["spots"])
    assert len(picture.getcolors(1 << 24)) > 30


def check_spots(picture, spots):
    """A picture at twice the size has the canvases' colours where the canvases are."""
    for spot in spots:
        if spot["even"] and spot["colour"][3] == 255:  # no line, no edge
            x, y = round(2 * spot["x"]), round(2 * spot["y"])
            around = picture.crop((x - 4, y - 4, x + 5, y + 5))
            colours = np.asarray(around).reshape(-1, 3).astype(int)
            assert np.abs(colours - spot["colour"][:3]).max(axis=1).min() < 12, spot


def test_without_a_kernel_each_shows_what_was_saved_and_says_what_was_not(page, lab):
    seen = {kind: drawn(page, root(page, kind)).evaluate(SEEN) for kind in KINDS}
    page.run_code("for one in every: one.keep()")
    page.page.wait_for_timeout(1500)
    page.save_with_widgets()
    stored = json.loads(page.path.read_text())
    copy = page.path.with_name("again.ipynb")
    copy.write_text(json.dumps(stored))
    again = lab.reopen(copy)
    try:
        for kind in KINDS:
            element = drawn(again, root(again, kind))
            now = element.evaluate(SEEN)
            assert now["caption"] == seen[kind]["caption"], kind
            assert now["words"] == seen[kind]["words"], kind
            assert len(now["spots"]) == len(seen[kind]["spots"]), kind
            for before, after in zip(seen[kind]["spots"], now["spots"], strict=True):
                assert np.abs(np.subtract(before["colour"], after["colour"])).max() < 8, kind
            assert element.locator(".px-problem:visible").count() == 0, kind
        says_what_is_missing(again)
    finally:
        again.close()


def says_what_is_missing(book):
    """Do something in each widget that needs the kernel: one sentence tells that it is gone."""
    clicks = {
        "Ablation": lambda e: e.get_by_role("button", name="Run without them").click(),
        "AnswerLens": lambda e: e.locator(".px-word").nth(1).click(),
        "MaskView": lambda e: e.get_by_role("button", name="add a picture").click(),
        "MemoryView": lambda e: e.locator("select").first.select_option("M2"),
        "PatchGrid": lambda e: e.locator("input[type=range]").fill("64"),
        "QuantizationView": lambda e: e.get_by_role("button", name="5", exact=True).click(),
        "RopeExplorer": lambda e: e.locator("input[type=range]").first.fill("11"),
        "VisionAttention": lambda e: e.get_by_role("button", name="rollout").click(),
        "Studio": lambda e: (
            e.locator(".px-question").fill("What?"), e.locator(".px-question").press("Enter"),
        ),
    }  # fmt: skip
    for kind, click in clicks.items():
        click(root(book, kind))
    for kind in clicks:
        book.page.wait_for_function(
            "e => [...e.querySelectorAll('.px-problem')].some(one => !one.hidden"
            " && /^No answer from the kernel: .* Run the cell/.test(one.textContent))",
            arg=root(book, kind).element_handle(), timeout=20000,
        )  # fmt: skip
