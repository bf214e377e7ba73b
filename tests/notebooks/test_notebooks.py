"""The course: every notebook runs, says what its numbers say, and keeps its pictures."""

import re
from pathlib import Path

import pytest
from checkpoints import make_official

reason = "the course needs the extra: pip install -e '.[lab]'"
nbformat = pytest.importorskip("nbformat", reason=reason)
run = pytest.importorskip("run", reason=reason)

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"

SHOWN = {
    "0": ("Studio",),
    "1": ("PatchGrid",),
    "2": ("SequenceStrip",),
    "3": ("RopeExplorer",),
    "4": ("MaskView",),
    "5": ("VisionAttention",),
    "6": ("AnswerLens",),
    "7": ("AnswerLens", "Ablation"),
    "8": ("MemoryView",),
    "9": ("QuantizationView",),
    "10": ("AnswerLens",),
    "11": ("AnswerLens",),
    "claims": ("PatchGrid",),
}
"""The widgets that a notebook shows, by the beginning of its name."""

SOLUTIONS = {
    "bits-answer": "bits_answer = (4.5, 5)",
    "rebuild-answer": "def grid_of(tokens):\n"
    "    rows = tokens.count(BREAK) + tokens.count(END)\n"
    "    return rows, tokens.count(IMG) // rows",
    "shift-answer": "new_b = (12, 7)",
    "mask-answer": "may_see = may_see_own",
    "quiet-answer": "neighbour = question.images[0]",
    "grids-answer": "grids_answer = {(512, 512): (32, 32), (1024, 768): (48, 64), "
    "(1920, 1080): (36, 64), (500, 100): (7, 32), (2048, 40): (2, 64)}",
    "heads-answer": (
        "ends = distances.argmin(), distances.argmax()\n"
        "most_local, most_global = (divmod(int(n), heads) for n in ends)"
    ),
    "says-answer": (
        "there = about.spans[0].position(patch[0] - 1, patch[1] - 1)\n"
        "guess = reading.position_lens(there, last)[0][0].strip()"
    ),
    "settled-answer": (
        "settled_from = last\n"
        "while settled_from and lens_of_word[settled_from - 1] == lens_of_word[-1]:\n"
        "    settled_from -= 1"
    ),
    "kv-answer": "kv_answer = 2 * 40 * 8 * 128 * 2 * 4160",
    "speed-answer": "speed_answer = 273e9 / step_bytes(4)[0]",
    "ruler-answer": "ruler_answer = 3.5",
    "worst-answer": "worst_part = max(effects, key=effects.get)",
    "line-answer": (
        "inventions = sorted(one.confidence for one in said if one.invented)\n"
        "line_answer = inventions[-len(inventions) // 20] + 1e-9"
    ),
    "size-answer": "size_answer = 8 * (256 + 128)",
    "rank-answer": (
        "def agreement(*lists):\n"
        "    return np.corrcoef(*(np.argsort(np.argsort(one)) for one in lists))[0, 1]"
    ),
    "block-answer": (
        "drops = block_means(found, 2)\n"
        "missed_most = tuple(int(n) + 1 for n in np.unravel_index(drops.argmax(), drops.shape))"
    ),
}
"""What makes the checks content, by the id of the cell that holds the answer."""

OTHER_MODELS = ("1", "2", "3", "6", "8", "claims")
"""Notebooks also run on a random checkpoint: they use its sizes and token ids and compute by hand.
The others do too, in minutes, since its answers have no end."""

SECONDS = 300
"""At most, for one notebook on a busy machine; idle, each takes less than 40."""


def read(path):
    return nbformat.read(path, as_version=4)


def with_solutions(notebook):
    """After each exercise, the same once more with its solution."""
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if cell.id.endswith("-check"):
            answer = cell.id.replace("-check", "-answer")
            for kind, source in (("solution", SOLUTIONS[answer]), ("content", cell.source)):
                cells.append(nbformat.v4.new_code_cell(source, id=f"{answer}-{kind}"))
    notebook.cells = cells
    return notebook


@pytest.mark.parametrize("path", run.notebooks(), ids=lambda path: path.stem)
def test_a_notebook_runs(path, record_property):
    """Also with the solutions of its exercises, which its checks must accept."""
    notebook = with_solutions(read(path))
    seconds = run.execute(notebook)
    record_property("seconds", seconds)
    assert seconds < SECONDS
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", output.get("text")
        if cell.id.endswith("-content"):
            assert cell.outputs[0].data["text/plain"].startswith("✓ Right."), cell.id
    shown = {
        re.search(r"\b(\w+)(?: object|\()", output.data["text/plain"])[1]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if run.WIDGET in output.get("data", {})
    }
    assert shown >= set(SHOWN.get(path.stem.partition("-")[0], ()))


@pytest.mark.parametrize("begin", OTHER_MODELS)
def test_a_notebook_runs_on_another_model(begin, tmp_path):
    """One line is changed; sizes, token ids and the type of its numbers are others."""
    folder = tmp_path / "other"
    make_official(folder, tokenizer="spm", dtype="bfloat16")
    (path,) = NOTEBOOKS.glob(f"{begin}[-.]*ipynb")
    notebook = read(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = cell.source.replace('MODEL = "mini"\n', f"MODEL = {str(folder)!r}\n")
    run.execute(notebook)
    errors = [o for c in notebook.cells for o in c.get("outputs", ()) if o.output_type == "error"]
    assert not errors


@pytest.mark.parametrize("path", run.notebooks(), ids=lambda path: path.stem)
def test_a_stored_notebook_is_complete_and_clean(path):
    notebook = read(path)
    text = path.read_text()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert text.count('MODEL = \\"mini\\"\\n') == 1
    assert all(cell.execution_count for cell in code), "run: python notebooks/run.py"
    outputs = [output for cell in code for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error"]
    state = notebook.metadata.get("widgets", {}).get(run.STATE, {"state": {}})["state"]
    views = list(run.views(notebook))
    assert len(views) >= len(SHOWN.get(path.stem.partition("-")[0], ()))
    for _, data in views:
        assert data[run.WIDGET]["model_id"] in state and "image/png" in data
    for cell in code:
        for output in cell.outputs:
            output.get("data", {}).pop("image/png", None)
    notebook.metadata.pop("widgets", None)
    text = nbformat.writes(notebook)
    for private in (str(Path.home()), str(NOTEBOOKS.parent), "/home", "/Users", "/root", "/tmp"):
        assert not re.search(rf"(?<![\w.]){re.escape(private)}\b", text)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


def test_notebooks_lead_from_one_to_the_next():
    for path in run.notebooks():
        for name in re.findall(r"\]\(([^)\s]+\.ipynb)\)", path.read_text()):
            assert (NOTEBOOKS / name).exists() or re.match(r"\d-", name), (path.name, name)
