"""A notebook that was run by `notebooks/run.py`: widgets and their pictures without a kernel."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pixtral_mlx.mini import scene

reason = "the course needs the extra: pip install -e '.[lab]'"
nbformat = pytest.importorskip("nbformat", reason=reason)
pytest.importorskip("nbformat.sign", reason=reason)
pages = pytest.importorskip("pages", reason=reason)
run = pytest.importorskip("run", reason=reason)

SETUP = """
import pixtral_mlx_widgets as w
from pixtral_mlx.mini import scene
session = w.Session("mini", dtype="float32")
session.ask("Describe the picture.", images=[scene(3, 4, 5).image])
session.wait(60)
grid, lens = w.PatchGrid(session), w.AnswerLens(session)
grid
"""


@pytest.fixture(scope="module")
def saved(lab):
    cells = [
        nbformat.v4.new_code_cell(source, id=name)
        for name, source in (("first", SETUP), ("second", "lens"), ("third", "1 + 1"))
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    run.execute(notebook, draw=True)
    run.tidy(notebook)
    nbformat.validate(notebook)
    path = lab.folder / "saved.ipynb"
    nbformat.write(notebook, path)
    return path


def test_each_view_has_a_picture_and_its_state(saved):
    notebook = nbformat.read(saved, as_version=4)
    state = notebook.metadata.widgets[run.STATE]["state"]
    shown = list(run.views(notebook))
    assert [data[run.WIDGET]["model_id"] for _, data in shown] == ["first-0", "second-2"]
    assert [cell.id for cell in notebook.cells] == ["first", "second", "third"]
    assert len(state) == 4  # and their layouts, but nothing that is not shown
    for _, data in shown:
        png = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
        assert min(png.size) > 400 and len(png.getcolors(1 << 24)) > 100
        assert data["text/plain"].endswith("run this cell to see it and use it")


def test_opened_by_whoever_does_not_trust_it_the_pictures_are_shown(saved, lab):
    """With JupyterLab's own settings: of what may not run, the picture is seen."""
    book = lab.reopen(saved)
    try:
        images = book.page.locator(".jp-OutputArea-output img")
        book.expect(images).to_have_count(2)
        assert "Error displaying widget" not in book.page.content()
    finally:
        book.close()


def test_opened_again_the_widgets_are_shown_without_a_kernel(saved, lab):
    """With JupyterLab's own settings, and no cell run: the picture has its colours."""
    notary = nbformat.sign.NotebookNotary(data_dir=str(lab.folder / "data"))
    notary.sign(nbformat.read(saved, as_version=4))
    book = lab.reopen(saved)
    try:
        canvas = book.widget().locator("canvas.px-patches")
        book.page.wait_for_function("document.querySelector('canvas.px-patches')?.width > 100")
        book.page.wait_for_timeout(400)
        pixels = np.asarray(scene(3, 4, 5).image.convert("RGB").resize((160, 128)), float)
        for row, column in ((0, 6), (1, 4), (1, 7), (3, 7), (7, 3)):
            seen = book.patch_colour(canvas, (row, column), (8, 10))
            there = pixels[16 * row + 6, 16 * column + 6]
            assert np.abs(np.array(seen) - there).max() < 40, (row, column)
        book.expect(book.widget(1).locator(".px-word.px-chosen")).to_have_count(1)
        assert "Error displaying widget" not in book.page.content()
        assert book.page.locator(".px-problem:visible").count() == 0
    finally:
        notary.unsign(nbformat.read(saved, as_version=4))
        book.close()


def test_its_page_shows_the_pictures(saved, lab, tmp_path):
    (built,) = pages.build([saved], tmp_path)
    page = lab.new_page()
    page.goto(built.as_uri())
    sizes = page.evaluate("[...document.images].map(i => [i.naturalWidth, i.naturalHeight])")
    notebook = nbformat.read(saved, as_version=4)
    wanted = [
        Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).size
        for _, data in run.views(notebook)
    ]
    assert [tuple(size) for size in sizes] == wanted
    page.context.close()
