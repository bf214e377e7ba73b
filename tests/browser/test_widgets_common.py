"""What holds for all widgets: saved notebooks, many on one page, themes, restarted kernels."""

import json

import pytest

MANY = 30

SETUP = f"""
import pixtral_mlx_widgets as w
from pixtral_mlx.mini import scene
session = w.Session("mini", dtype="float32")
session.ask("How many rows are there?", images=[scene(3, 4, 5).image])
session.wait(60)
grids = [w.PatchGrid(session) for _ in range({MANY})]
for grid in grids:
    display(grid)
"""
GRID = (8, 10)


@pytest.fixture(scope="module")
def many(lab):
    opened = lab.notebook("many", [SETUP])
    yield opened
    opened.close()


def test_thirty_widgets_stay_usable(many):
    many.page.wait_for_function(
        f"document.querySelectorAll('.px-widget[data-ready]').length === {MANY}"
    )
    last = many.widget(MANY - 1)
    last.scroll_into_view_if_needed()
    canvas = last.locator("canvas.px-patches")
    many.click_patch(canvas, (2, 3), GRID)
    many.eventually("[list(g.patch or ()) for g in grids]", [[2, 3]] * MANY)
    # A frame in which the pointer moves over one of thirty: the median must keep up with 30 Hz.
    milliseconds = canvas.evaluate(
        """async canvas => {
            const box = canvas.getBoundingClientRect();
            const spans = [];
            for (let i = 0; i < 30; i++) {
                const start = performance.now();
                canvas.dispatchEvent(new PointerEvent('pointermove', {
                    clientX: box.left + (i + 0.5) / 30 * box.width, clientY: box.top + 9,
                }));
                await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
                spans.push(performance.now() - start);
            }
            return spans.sort((a, b) => a - b)[15];
        }"""
    )
    assert milliseconds < 250  # generous: the machine that runs the tests may be busy


def test_a_saved_notebook_shows_what_was_saved(lab):
    cell = SETUP.replace(f"range({MANY})", "range(1)")
    opened = lab.notebook("saved", [cell])
    opened.page.wait_for_function("document.querySelector('.px-widget[data-ready]')")
    opened.click_patch(opened.widget().locator("canvas.px-patches"), (5, 2), GRID)
    opened.eventually("list(grids[0].patch or ())", [5, 2])
    opened.page.wait_for_timeout(2500)  # what is shown is kept a second after the last question
    before = opened.patch_colour(opened.widget().locator("canvas.px-patches"), (2, 8), GRID)
    opened.save_with_widgets()
    opened.close()
    stored = json.loads(opened.path.read_text())
    states = stored["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    assert any("saved" in state["state"] for state in states.values())

    again = lab.reopen(opened.path)
    canvas = again.widget().locator("canvas.px-patches")
    canvas.wait_for()
    again.page.wait_for_timeout(1500)
    assert again.patch_colour(canvas, (2, 8), GRID) == before
    assert "8 rows × 10 columns" in again.widget().locator("table").text_content()
    again.widget().locator("input[type=range]").fill("64")  # was not asked before
    problem = again.widget().locator(".px-problem")
    again.page.wait_for_function(
        "/was not saved/.test(document.querySelector('.px-problem').textContent)"
    )
    assert "Run the cell" in problem.text_content()
    again.close()


def test_pages_work_without_a_network(lab, tmp_path):
    import pixtral_mlx_widgets as w
    from pixtral_mlx.mini import scene

    w.PatchGrid(scene(3, 4, 5).image).to_html(tmp_path / "page.html")
    page = lab.new_page()
    page.context.set_offline(True)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_selector("canvas.px-patches")
    page.wait_for_function("document.querySelector('canvas.px-patches').width > 100")
    page.locator("input[type=range]").fill("64")
    page.wait_for_function("/Not saved/.test(document.querySelector('.px-problem').textContent)")
    assert [a for a in asked if not a.startswith(("file:", "data:", "blob:"))] == []
    page.close()


def test_drawing_keeps_up_with_the_pointer_at_4096_patches(lab, tmp_path):
    from PIL import Image

    import pixtral_mlx_widgets as w

    w.PatchGrid(Image.new("RGB", (1024, 1024), "#446688")).to_html(tmp_path / "large.html")
    page = lab.new_page()
    page.goto((tmp_path / "large.html").as_uri())
    page.wait_for_function("document.querySelector('canvas.px-patches')?.width > 100")
    page.wait_for_timeout(500)
    spans = page.locator("canvas.px-patches").evaluate(
        """async canvas => {
            const box = canvas.getBoundingClientRect();
            const spans = [];
            for (let i = 0; i < 60; i++) {
                const start = performance.now();
                canvas.dispatchEvent(new PointerEvent('pointermove', {
                    clientX: box.left + (i + 0.5) / 60 * box.width,
                    clientY: box.top + (i + 0.5) / 60 * box.height,
                }));
                await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
                spans.push(performance.now() - start);
            }
            return spans.sort((a, b) => a - b);
        }"""
    )
    caption = page.locator(".px-caption").text_content()
    assert caption.startswith("Row 63, column 63: patch 4,095")
    print(f"median frame {spans[30]:.1f} ms, slowest {spans[-1]:.1f} ms")
    assert spans[30] < 150  # a frame takes 17 ms; the machine that runs the tests may be busy
    page.close()
