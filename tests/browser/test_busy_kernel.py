""" "Run all" with slow cells: widgets wait, say so, and open on something worth seeing."""

CELLS = (
    """
import time
from pathlib import Path
import pixtral_mlx_widgets as w
from pixtral_mlx.mini import scene
session = w.Session("mini", dtype="float32")
session.ask("Describe the picture.", images=[scene(3, 4, 5).image])
session.wait(60)
every = [kind(session) for kind in (
    w.AnswerLens, w.Ablation, w.VisionAttention, w.MaskView, w.QuantizationView)]
for one in every:
    display(one)
while not Path({first!r}).exists():
    time.sleep(0.1)
""",
    "while not Path({second!r}).exists(): time.sleep(0.1)",
)
"""Both last as long as the test wants, the first from before its widgets are drawn; between them
the kernel is idle for a moment."""


def test_a_busy_kernel_is_waited_for_and_then_there_is_something_to_see(notebook, tmp_path):
    gates = {name: tmp_path / name for name in ("first", "second")}
    places = {name: str(path) for name, path in gates.items()}
    book = notebook(*(cell.format(**places) for cell in CELLS), run=False)
    book.start()
    lens, page = book.widget(0), book.page
    waits = lens.locator(".px-waiting-for")
    waits.wait_for()
    assert waits.inner_text().startswith("Waiting for the kernel")
    page.wait_for_timeout(9500)  # longer than a kernel that is idle is waited for
    prompts = page.locator(".jp-InputArea-prompt").all_inner_texts()
    assert any("*" in one for one in prompts), "the kernel is busy"
    assert page.locator(".px-problem:visible").all_inner_texts() == []
    assert waits.is_visible()
    for gate in gates.values():
        gate.touch()
    waits.wait_for(state="hidden")
    for number in range(5):
        book.widget(number).scroll_into_view_if_needed()
        page.wait_for_function(
            """root => [...root.querySelectorAll('canvas')].some(one => one.clientWidth
                && new Set(new Uint32Array(one.getContext('2d').getImageData(
                    0, 0, one.width, one.height).data.buffer)).size > 2)""",
            arg=book.widget(number).element_handle(),
        )
    opens = book.kernel("every[0].opening")
    words = book.kernel("every[0].words")
    word = next(one["text"] for one in words if opens["token"] in one["tokens"])
    assert lens.locator(".px-word.px-chosen").inner_text() == word
    captions = [book.widget(n).locator(".px-caption") for n in range(5)]
    book.expect(captions[2]).to_contain_text("mean of all heads: patch")
    book.expect(captions[3]).to_contain_text("2 pictures")
    book.expect(captions[4]).to_contain_text("matrices")
    assert page.locator(".px-problem:visible").all_inner_texts() == []
    assert book.kernel("[one.patch for one in every]") == [None] * 5
