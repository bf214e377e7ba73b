"""The course's notebooks in a real JupyterLab: no error, and the widgets are drawn.

Each stored notebook is opened whole, but only the cells that lead to its widgets are run, since all
of them would take minutes more: tests/notebooks/test_notebooks.py runs them all, without a browser.
"""

import shutil

import pytest

reason = "the course needs the extra: pip install -e '.[lab]'"
nbformat = pytest.importorskip("nbformat", reason=reason)
run = pytest.importorskip("run", reason=reason)

CELLS = {
    "0": ["load", "studio", "live"],
    "1": ["load", "widget"],
    "2": ["load", "widget"],
    "3": ["load", "widget"],
    "4": ["load", "widget"],
    "5": ["load", "widget", "widget-again"],
    "6": ["load", "widget", "widget-again"],
    "7": ["load", "widget", "figure", "hand", "second", "ablation"],
    "8": ["load", "widget-12b", "widget"],
    "9": ["load", "widget"],
    "10": ["load", "widget", "where", "page"],
    "11": ["load", "widget"],
    "claims": ["load", "widget"],
}
"""By the notebook's first word: what is run, the widgets among them."""

LATER = {"lens"}
"""A widget that stands behind a training, which tests/notebooks runs."""

WITH_CANVAS = {"1", "2", "3", "4", "5", "6", "7", "claims"}
"""Notebooks whose widgets show a picture, a map or a strip at once."""

RUN_CELL = """async id => {
    const notebook = jupyterapp.shell.currentWidget.content;
    const index = notebook.widgets.findIndex(cell => cell.model.id === id);
    if (index < 0) throw new Error(`there is no cell ${id}`);
    notebook.activeCellIndex = index;
    notebook.deselectAll();
    await jupyterapp.commands.execute('notebook:run-cell');
    const outputs = notebook.activeCell.model.outputs.toJSON();
    return outputs.filter(o => o.output_type === 'error').map(o => `${o.ename}: ${o.evalue}`);
}"""
"""Run a cell by its id; what went wrong in it."""

DRAWN = """([id, canvas]) => {
    const notebook = jupyterapp.shell.currentWidget.content;
    const cell = notebook.widgets.find(cell => cell.model.id === id);
    const widget = cell.node.querySelector('.px-widget');
    if (!widget || widget.clientHeight < 50 || !widget.textContent.trim()) return false;
    return !canvas || [...widget.querySelectorAll('canvas')].some(one => {
        if (!one.width || !one.height || !one.clientWidth) return false;
        const data = one.getContext('2d').getImageData(0, 0, one.width, one.height).data;
        return new Set(new Uint32Array(data.buffer)).size > 2;
    });
}"""
"""Whether a cell's output is a widget, with a canvas of more than two colours if it should be."""


def widget_cells(path):
    """The ids of the cells whose stored output stands for a widget."""
    return {
        cell.id
        for cell in nbformat.read(path, as_version=4).cells
        for output in cell.get("outputs", ())
        if output.get("data", {})
        .get("text/plain", "")
        .endswith("run this cell to see it and use it")
    }


@pytest.fixture
def opened(lab, request):
    """The stored notebook, open, beside the modules that it imports."""
    shutil.copytree(run.FOLDER / "course", lab.folder / "course", dirs_exist_ok=True)
    path = lab.folder / request.param.name
    shutil.copy(request.param, path)
    notebook = lab.reopen(path)
    yield notebook
    notebook.close()


@pytest.mark.parametrize("opened", run.notebooks(), ids=lambda path: path.stem, indirect=True)
def test_a_notebook_draws_its_widgets(opened, lab):
    before = len(lab.messages)
    key = opened.path.stem.partition("-")[0]
    widgets = widget_cells(run.FOLDER / opened.path.name)
    assert widgets <= {*CELLS[key], *LATER}
    for cell in CELLS[key]:
        assert opened.page.evaluate(RUN_CELL, cell) == [], cell
        if cell in widgets:
            opened.page.wait_for_function(DRAWN, arg=[cell, key in WITH_CANVAS], timeout=30_000)
    if "live" in CELLS[key]:  # the model runs in the frame, without the kernel
        frame = opened.page.frame_locator("iframe")
        frame.locator("#page[data-ready]").wait_for(timeout=30_000)
        assert frame.locator(".px-w").all_text_contents() == ["a", "purple", "star"]
    if "page" in CELLS[key]:  # its keys work in the frame, and what needs review is chosen first
        frame = opened.page.frame_locator("iframe")
        assert frame.locator(".field.chosen").get_attribute("data-pointer") == "/rows"
        frame.locator(".field.chosen").press("ArrowDown")
        assert frame.locator(".field.chosen").get_attribute("data-pointer") == "/columns"
    assert opened.page.locator(".px-problem:visible").count() == 0
    assert [m for m in lab.messages[before:] if "px" in m or "widget" in m.lower()] == []
